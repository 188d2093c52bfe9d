"""The budgets that a search is asked for, as text, and the names that schedules found for them get."""

from __future__ import annotations

import math
import re

from ..errors import SearchError
from ..limits import MAX_NAME_LENGTH, MIN_BUDGET
from ..schedules import check_new_name

MAX_BUDGET, MAX_BUDGETS = 0.95, 8
SO_FAR = " so far"  # ends the name of what an interrupted search leaves beside a finished one's schedule


def name_for(name: str, budget: float) -> str:
    """Budgets are told apart by two decimals."""
    return f"{name}-{budget:.2f}"


def check_search_name(name: str) -> str:
    """The name, if schedules can be saved under it with a budget behind it. Raises ScheduleError or SearchError."""
    longest = MAX_NAME_LENGTH - len(name_for("", MAX_BUDGET) + SO_FAR)
    if len(check_new_name(name)) > longest:
        raise SearchError(f"The name has {len(name)} characters; only {longest} leave room for the budget behind it.")
    return name


def parse_budgets(text: str) -> tuple[float, ...]:
    """The budgets of a list such as "0.5, 0.4", in its order. Raises SearchError with the entry that is wrong."""
    entries = [entry for entry in re.split(r"[,;\s]+", text.strip()) if entry]
    if not entries:
        raise SearchError('There is no budget to search for. Write for example "0.5, 0.4, 0.3".')
    if len(entries) > MAX_BUDGETS:
        raise SearchError(f"{len(entries)} budgets are too many for one search; at most {MAX_BUDGETS} are possible.")
    budgets = [_budget(entry) for entry in entries]
    names = [name_for("", budget) for budget in budgets]
    twice = next((name[1:] for name in names if names.count(name) > 1), None)
    if twice:
        raise SearchError(f"The budget {twice} is listed twice (budgets are told apart by two decimals).")
    return tuple(budgets)


def _budget(entry: str) -> float:
    try:
        budget = float(entry)
    except ValueError:
        raise SearchError(
            f"'{entry}' is not a budget. Write numbers with a decimal point, separated by commas, for example "
            '"0.5, 0.4, 0.3".'
        ) from None
    if not (math.isfinite(budget) and MIN_BUDGET <= budget <= MAX_BUDGET):
        raise SearchError(
            f"The budget {entry} is outside {MIN_BUDGET}...{MAX_BUDGET}. It is the share of the model's work to do: "
            "with 0.4, 40 % of it. Decimals are written with a point: 0.5, not 0,5."
        )
    return budget
