"""Files saved by an earlier version still load: schedules, records of searches, workflows.

The files in tests/saved_by_f407c59 were written by that commit in ComfyUI 0.33.0. "tiny search" and the shorter record:
Astraea Search on the easy model, latents (1, 16, 3, 8, 8), 8 steps, cfg 3, euler, seed 1, budgets 0.5 and 0.35, 2
cases, quick. The longer record: `python search --latent 16 5 16 16 --steps 6 --cfg 1 --effort 16 --cases 2 --budgets
0.5`, with small clips. "curved forecast": Astraea Schedule Save. The workflows are two of that commit's own.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from pack_nodes import ROOT, new_maker, pack_nodes

from astraea.schedules import load
from astraea.search.evaluation.run_log import RunLog

SAVED = ROOT / "tests" / "saved_by_f407c59"
SCHEDULES = sorted((SAVED / "schedules").glob("*.json"))
RECORDS = sorted((SAVED / "search").glob("*.jsonl"))
WORKFLOWS = sorted((SAVED / "workflows").glob("*.json"))
FORECAST = {"onset": 0.015, "reach": 2.0, "response": 1.0, "swing": 0.0}
# Former widgets behind all others: the editor passes over values without a widget.
FORMER_WIDGETS = {"AstraeaDemoView": 1}
NODE_IDS = {"AstraeaAccelerate", "AstraeaSearch", "AstraeaReport", "AstraeaCompare", "AstraeaDemoPrompt"}


def content_of(path: Path) -> dict[str, Any]:
    """Content of a loaded schedule under the names in its file. Only this function knows the attributes."""
    schedule = load(path)
    return {
        "name": schedule.name,
        "family": schedule.family,
        "mode": schedule.mode,
        "points": [list(point) for point in schedule.points],
        "provenance": dict(schedule.provenance),
        "forecast": vars(schedule.forecast),
    }


def outcomes_of(path: Path) -> tuple[int, int]:
    """Number of outcomes read from the record of a search, and of lines that were passed over."""
    record = RunLog(path, path.stem)
    return len(record), record.skipped


@pytest.fixture
def user_folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder of a user, for schedules and records of searches."""
    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path))
    for kind in ("schedules", "search"):
        (tmp_path / "astraea" / kind).mkdir(parents=True)
    yield tmp_path / "astraea"
    folder_paths.set_user_directory(before)
    comfy.model_management.unload_all_models()


def ids(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", SCHEDULES, ids=ids(SCHEDULES))
def test_a_saved_schedule_is_what_its_file_says(path: Path) -> None:
    said = json.loads(path.read_text("utf-8"))
    stated = {key: said[key] for key in ("name", "family", "mode", "points", "provenance")}
    assert content_of(path) == {**stated, "forecast": FORECAST}, "settings of former forecasts mean nothing today"


@pytest.mark.parametrize("path", SCHEDULES, ids=ids(SCHEDULES))
def test_a_saved_schedule_is_saved_again_as_it_was(path: Path, user_folder: Path) -> None:
    shutil.copy(path, user_folder / "schedules")
    maker = new_maker()
    schedule, *_ = maker.call("AstraeaScheduleLoad", schedule_name=path.stem)
    maker.call("AstraeaScheduleSave", schedule=schedule, name="again", overwrite=False)
    again = json.loads((user_folder / "schedules" / "again.json").read_text("utf-8"))
    was = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key != "forecast"}
    assert again == {**was, "name": "again"}


@pytest.mark.parametrize("path", RECORDS, ids=ids(RECORDS))
def test_outcomes_of_a_search_with_former_forecasts_are_set_aside(path: Path) -> None:
    heading, *outcomes = path.read_text("utf-8").splitlines()
    assert '"format"' in heading
    assert outcomes_of(path) == (0, len(outcomes))


def test_a_search_begins_anew_beside_a_record_of_former_forecasts(user_folder: Path, load_tiny: Any) -> None:
    """Its identity is the same, but the engine computes other results today; nothing of the record is lost."""
    record = RECORDS[0]
    shutil.copy(record, user_folder / "search")
    maker = new_maker()
    model = load_tiny()
    (positive,) = maker.call("AstraeaDemoPrompt", text="a big red circle moving right over a blue ground")
    (negative,) = maker.call("AstraeaDemoPrompt", text="")
    maker.call(
        "AstraeaSearch",
        model=model,
        positive=positive,
        negative=negative,
        latent={"samples": torch.zeros(1, 16, 3, 8, 8)},
        steps=8,
        cfg=3.0,
        sampler_name="euler",
        scheduler="simple",
        first_seed=1,
        budgets="0.5, 0.35",
        effort="quick (10 dense runs)",
        cases=2,
        name="again",
    )
    (after,) = (user_folder / "search").glob("*.jsonl")
    lines, before = after.read_text("utf-8").splitlines(), record.read_text("utf-8").splitlines()
    assert after.name == record.name
    assert lines[: len(before)] == before
    assert len(lines) > len(before)


def own_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in workflow["nodes"] if node["type"].startswith("Astraea")]


def refusal(widget: Any, value: Any) -> str:
    """Reason why a widget cannot hold a value, "" if it can."""
    kind = widget.io_type
    if kind in ("INT", "FLOAT"):
        number = isinstance(value, int if kind == "INT" else (int, float)) and not isinstance(value, bool)
        return "" if number and widget.min <= value <= widget.max else f"outside {widget.min}...{widget.max}"
    if kind == "COMBO":
        return "" if value in widget.options else f"not one of {widget.options}"
    return "" if isinstance(value, bool if kind == "BOOLEAN" else str) else f"not a {kind}"


def test_the_saved_workflows_have_most_of_the_nodes() -> None:
    assert {node["type"] for path in WORKFLOWS for node in own_nodes(json.loads(path.read_text("utf-8")))} >= NODE_IDS


@pytest.mark.parametrize("path", WORKFLOWS, ids=ids(WORKFLOWS))
def test_the_nodes_of_a_saved_workflow_take_their_values_and_links(path: Path) -> None:
    known = pack_nodes()
    for node in own_nodes(json.loads(path.read_text("utf-8"))):
        schema = known[node["type"]].define_schema()
        widgets = [each for each in schema.inputs if each.io_type in ("INT", "FLOAT", "COMBO", "STRING", "BOOLEAN")]
        sockets = {each.id: each.io_type for each in schema.inputs if each not in widgets}
        values = node.get("widgets_values") or []
        check = known[node["type"]].validate_inputs
        checked = inspect.signature(check).parameters  # what the node checks itself, as the host does not then
        pairs = [(widget, value) for widget, value in zip(widgets, values, strict=False) if widget.id not in checked]
        refused = {widget.id: refusal(widget, value) for widget, value in pairs}
        assert {name: reason for name, reason in refused.items() if reason} == {}, node["type"]
        assert len(values) <= len(widgets) + FORMER_WIDGETS.get(node["type"], 0), node["type"]
        assert {each["name"]: each["type"] for each in node["inputs"]}.items() <= sockets.items(), node["type"]
        assert [each["type"] for each in node["outputs"]] == [each.io_type for each in schema.outputs], node["type"]
        given = {widget.id: value for widget, value in zip(widgets, values, strict=False) if widget.id in checked}
        assert not given or check(**given) is True, node["type"]
