"""Reads the list of budgets that a user types, and names the schedules found for them."""

from __future__ import annotations

import math
import re

from ...errors import SearchError
from ...limits import MAX_NAME_LENGTH, MIN_BUDGET
from ...schedules import check_new_name

MAX_BUDGET, MAX_BUDGETS = 0.95, 8
SO_FAR = " so far"  # suffix of a schedule of an interrupted search, if a finished search saved one of the same name


def name_for(name: str, budget: float) -> str:
    """Return the name of a schedule; budgets that agree in two decimals share a name."""
    return f"{name}-{budget:.2f}"


def check_search_name(name: str) -> str:
    """Return the name if schedules can be saved as name and budget. Raises ScheduleError or SearchError."""
    longest = MAX_NAME_LENGTH - len(name_for("", MAX_BUDGET) + SO_FAR)
    if len(check_new_name(name)) > longest:
        raise SearchError(f"The name has {len(name)} characters; at most {longest} fit, as the budget is appended.")
    return name


def parse_budgets(text: str) -> tuple[float, ...]:
    """Parse a list such as "0.5, 0.4"; keeps its order. Raises SearchError that names the wrong entry."""
    entries = [entry for entry in re.split(r"[,;\s]+", text.strip()) if entry]
    if not entries:
        raise SearchError('There is no budget to search for. Write for example "0.5, 0.4, 0.3".')
    if len(entries) > MAX_BUDGETS:
        raise SearchError(f"{len(entries)} budgets are too many for one search; at most {MAX_BUDGETS} are possible.")
    budgets = [_parse_budget(entry) for entry in entries]
    names = [name_for("", budget) for budget in budgets]
    twice = next((name[1:] for name in names if names.count(name) > 1), None)
    if twice:
        raise SearchError(f"The budget {twice} is listed twice: schedules are named by two decimals.")
    return tuple(budgets)


def _parse_budget(entry: str) -> float:
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
            "0.4 means 40 % of it. Write decimals with a point: 0.5, not 0,5."
        )
    return budget
