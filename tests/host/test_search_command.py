"""The command `python search`: what it saves and prints, how it resumes, and errors in one line."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import comfy.model_management
import comfy.sd
import pytest
import torch
from safetensors.torch import save_file
from sampling import conditioning

from astraea.errors import ScheduleError, SearchError
from astraea.host.folders import user_schedule_folder, user_search_folder
from astraea.host.search import session
from astraea.host.search.cli import main as command
from astraea.host.search.cli.main import main
from astraea.host.search.cli.options import parse
from astraea.limits import MAX_NAME_LENGTH
from astraea.schedules import Schedule, load, save
from astraea.search.problem.budgets import SO_FAR, check_search_name, name_for
from hosts import current_host

pytestmark = pytest.mark.newest_host

SEARCH = Path(__file__).resolve().parents[2] / "search"
SHAPE = ["--latent", "16", "2", "8", "8"]
SMALL = [*SHAPE, "--steps", "6", "--effort", "4", "--cases", "2", "--budgets", "0.6"]
WITHOUT_SIGNALS = pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")


@pytest.fixture(autouse=True)
def _unloaded():
    yield
    comfy.model_management.unload_all_models()


@pytest.fixture
def folders(tmp_path):
    """Options for folders of this test."""
    return ["--out", str(tmp_path / "out"), "--run-log", str(tmp_path / "log")]


def logged(folder):
    """Lines of the folder's only run log, without the heading."""
    (run_log,) = folder.glob("*.jsonl")
    return run_log.read_text("utf-8").splitlines()[1:]


def test_a_search_saves_what_it_found_and_a_second_one_measures_nothing(tmp_path, folders, capsys):
    assert main([*SMALL, *folders]) == 0
    first, runs = capsys.readouterr().out, logged(tmp_path / "log")
    schedule = load(tmp_path / "out" / "searched-0.60.json")
    assert schedule.provenance["found"].startswith("searched: ")
    assert "interrupted" not in schedule.provenance["found"]
    assert schedule.provenance["search"]["effort"] == 4.0
    assert schedule.provenance["sampling"]["latent"] == [1, 16, 2, 8, 8]
    assert schedule.provenance["promise"]["psnr_db"] > 0.0
    assert schedule.mean_budget <= 0.6 * 1.005
    assert f"{len(runs)} candidate runs, 0 of them taken from before" in first
    assert str(tmp_path / "out" / "searched-0.60.json") in first.splitlines()[-1]
    assert len(runs) >= 2

    assert main([*SMALL, *folders]) == 0
    assert f"{len(runs)} candidate runs, {len(runs)} of them taken from before" in capsys.readouterr().out
    assert logged(tmp_path / "log") == runs
    again = load(tmp_path / "out" / "searched-0.60.json")
    assert (again.points, again.forecast, again.mode) == (schedule.points, schedule.forecast, schedule.mode)


def test_without_folders_it_saves_where_the_nodes_look(capsys):
    assert main([*SMALL, "--name", "from a shell"]) == 0
    assert (user_schedule_folder() / "from a shell-0.60.json").is_file()
    assert str(user_search_folder()) in capsys.readouterr().out


def test_small_clips_are_run_first_unless_unwanted(tmp_path, folders, capsys):
    large = ["--latent", "16", "5", "16", "16", "--steps", "8", "--effort", "16", "--budgets", "0.5", "--cases", "2"]
    assert main([*large, *folders]) == 0
    printed = capsys.readouterr().out
    assert "(budget 0.5, small clips)" in printed
    cases = load(tmp_path / "out" / "searched-0.50.json").provenance["search"]["small_clips"]
    assert cases >= 16
    small = [line for line in logged(tmp_path / "log") if '"key":"small ' in line]
    assert len(small) > 2 * cases

    assert main([*large, *folders]) == 0
    printed = capsys.readouterr().out
    runs = len(logged(tmp_path / "log"))
    assert f"{runs} candidate runs, {runs} of them taken from before" in printed

    assert main([*large, *folders, "--effort", "8", "--no-proxy"]) == 0
    assert "small clips" not in capsys.readouterr().out
    assert "small_clips" not in load(tmp_path / "out" / "searched-0.50.json").provenance["search"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: workers were NOT TESTED")
def test_two_workers_find_what_one_process_finds(tmp_path):
    """With the same overhead of partial steps: measured, it depends on the clock."""
    for name, options in (("one", []), ("two", ["--workers", "2"])):
        out = ["--out", str(tmp_path / name), "--run-log", str(tmp_path / name / "log")]
        assert main([*SMALL, "--effort", "6", "--partial-step-overhead", "0.3", *out, *options]) == 0
    one, two = (load(tmp_path / name / "searched-0.60.json") for name in ("one", "two"))
    assert (one.points, one.forecast, one.mode) == (two.points, two.forecast, two.mode)
    assert one.provenance["search"] == two.provenance["search"]
    assert one.provenance["figures"] == two.provenance["figures"]
    assert len(logged(tmp_path / "one" / "log")) == len(logged(tmp_path / "two" / "log"))


def test_the_papers_search_is_a_method(tmp_path, folders, capsys):
    """Through the same flow: run log, saved schedules, table."""
    assert main([*SMALL, *folders, "--method", "paper"]) == 0
    provenance = load(tmp_path / "out" / "searched-0.60.json").provenance
    assert provenance["found"] == "searched: the paper's evolutionary search (arXiv 2506.05096, section 3.3)"
    runs = len(logged(tmp_path / "log"))
    assert f"{runs} candidate runs, 0 of them taken from before" in capsys.readouterr().out
    assert main([*SMALL, *folders, "--method", "paper"]) == 0
    assert f"{runs} candidate runs, {runs} of them taken from before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new"),
    [(["--memo", "here"], ["--run-log", "here"]), (["--small-clips"], ["--proxy"])]
    + [(["--no-small-clips"], ["--no-proxy"]), (["--floor", "0.4"], ["--partial-step-overhead", "0.4"])],
)
def test_former_names_of_options_still_work(old, new):
    assert parse(old) == parse(new)


@pytest.mark.parametrize("finished_before", [False, True])
def test_what_was_found_before_an_interrupt_is_saved(tmp_path, folders, monkeypatch, capsys, finished_before):
    if finished_before:
        assert main([*SMALL, *folders]) == 0
        shutil.rmtree(tmp_path / "log")

    class Interrupted(command.ConsoleView):
        def update(self, progress):
            if progress.best:
                raise KeyboardInterrupt

    monkeypatch.setattr(command, "ConsoleView", Interrupted)
    assert main([*SMALL, *folders]) == 130
    stopped = tmp_path / "out" / ("searched-0.60 so far.json" if finished_before else "searched-0.60.json")
    assert "interrupted after" in load(stopped).provenance["found"]
    assert len(list((tmp_path / "out").iterdir())) == 1 + finished_before
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.join([str(SEARCH), *SMALL, *folders, "--", *sys.argv[1:]]) in last


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_that_cannot_be_saved_keeps_no_other_from_it(tmp_path, folders, monkeypatch, capsys, finished):
    def failing(schedule, folder, **options):
        if "0.60" in schedule.name:
            raise ScheduleError("The schedule cannot be written to 'there' (No space left on device).")
        return save(schedule, folder, **options)

    class Interrupted(command.ConsoleView):
        def update(self, progress):
            if len(progress.best) == 2 and not finished:
                raise KeyboardInterrupt

    for module in (session, command):
        monkeypatch.setattr(module, "save", failing, raising=False)
    monkeypatch.setattr(command, "ConsoleView", Interrupted)
    assert main([*SMALL, "--effort", "8", "--budgets", "0.6,0.4", *folders]) == (2 if finished else 130)
    errors = capsys.readouterr().err
    assert "'searched-0.60': The schedule cannot be written to 'there' (No space left on device)." in errors
    assert len(errors.strip().splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["searched-0.40.json"]


@pytest.mark.parametrize("length", [1, 60, 61, 68, 69, 80])
def test_the_command_takes_the_names_that_the_node_takes(length, capsys):
    name = "x" * length
    try:
        taken = check_search_name(name) == name
    except SearchError as error:
        taken = False
        message = str(error)
    if taken:
        assert parse(["--name", name]).name == name
        longest = Schedule(name_for(name, 0.95) + SO_FAR, ((1.0, 1.0),)).name
        assert len(longest) <= MAX_NAME_LENGTH
        return
    with pytest.raises(SystemExit):
        parse(["--name", name])
    assert message in capsys.readouterr().err
    with pytest.raises(ScheduleError):
        Schedule(name_for(name, 0.95) + SO_FAR, ((1.0, 1.0),))


@WITHOUT_SIGNALS
def test_ctrl_c_ends_a_process_with_what_it_found(tmp_path, folders, capsys):
    options = [*SMALL, "--effort", "500", *folders]
    flags = ["--cpu", "--base-directory", str(tmp_path)]
    command = [sys.executable, str(SEARCH), "--comfyui", str(current_host().tree), *options, "--", *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in a shell's background would hand down that the signal is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        end = time.monotonic() + 60.0
        while time.monotonic() < end and process.poll() is None:
            if list((tmp_path / "log").glob("*.jsonl")) and len(logged(tmp_path / "log")) >= 4:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30.0)
    finally:
        process.kill()
    assert process.returncode == 130, out + errors
    assert "Traceback" not in errors
    assert "interrupted after" in load(tmp_path / "out" / "searched-0.60.json").provenance["found"]
    assert out.splitlines()[-1].startswith("Stopped. To go on: ")
    # Another process knows the same search again.
    assert main([*SMALL, *folders]) == 0
    assert " 0 runs known" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budgets", "0.5,0.09"], "outside 0.1...0.95"),
        (["--budgets", "0.5,0.502"], "listed twice"),
        (["--steps", "1"], "whole number of 2 or more"),
        (["--cfg", "nan"], "not a number"),
        (["--partial-step-overhead", "1.5"], "share of 0 to 1"),
        (["--floor", "1.5"], "share of 0 to 1"),
        (["--method", "random"], "--method"),
        (["--name", "../up"], "name"),
        (["--prompts", "absent.txt"], "absent.txt"),
        (["--lora", "style"], "NAME:STRENGTH"),
        (["--sampler", "leap"], "sampler 'leap' is unknown"),
        (["--width", "64"], "leave one out"),
        (["--address", "auto"], "--workers"),
        (["--model", "wan.safetensors"], "--clip"),
        (["--model", "absent.safetensors", "--clip", "absent.safetensors", "--prompt", "a"], "no 'absent.safetensors'"),
        (["--clip", __file__, "--prompt", "a", "--model", __file__], "cannot be loaded"),
        (["--out", __file__], "Nothing can be written"),
        (["--unknown"], "unrecognized"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(folders, capsys, options, message):
    try:
        status = main([*SMALL, *folders, *options])
    except SystemExit as exit_:
        status = exit_.code
    errors = capsys.readouterr().err.strip()
    assert status == 2
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("size", ["--width", "--height", "--frames"])
def test_half_a_size_is_refused_for_the_demo_model_too(capsys, size):
    with pytest.raises(SystemExit) as ended:
        main([size, "64"])
    assert ended.value.code == 2
    assert "how large is the video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tree", "flags", "message"),
    [("nowhere", [], "is no ComfyUI folder"), ("", ["--", "--cpu", "--unheard-of"], "--unheard-of")],
)
def test_without_a_comfyui_that_starts_it_says_why(tree, flags, message):
    command = [sys.executable, str(SEARCH), "--comfyui", tree or str(current_host().tree), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


class WordsForClip:
    """Stands in for a text encoder, of which there is no small one."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        return conditioning(text)


def test_a_model_with_its_text_encoder_lora_and_shift(tmp_path, folders, tiny_model_path, monkeypatch):
    monkeypatch.setattr(comfy.sd, "load_clip", lambda *_, **__: WordsForClip())
    lora = tmp_path / "style.safetensors"
    key = "diffusion_model.blocks.0.ffn.0"
    weight = comfy.sd.load_diffusion_model(str(tiny_model_path)).model.diffusion_model.blocks[0].ffn[0].weight
    down, up = torch.ones(2, weight.shape[1]) / 100, torch.ones(weight.shape[0], 2) / 100
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, lora)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\na blue ring\n", "utf-8")
    found = {}
    for name, strength in (("with", "0.8"), ("other", "0.5")):
        options = ["--model", str(tiny_model_path), "--clip", str(tiny_model_path), "--prompts", str(prompts)]
        size = ["--width", "64", "--height", "48", "--frames", "5", "--shift", "5", "--lora", f"{lora}:{strength}"]
        assert main([*SMALL[5:], *folders, *options, *size, "--name", name]) == 0
        found[name] = load(tmp_path / "out" / f"{name}-0.60.json").provenance
    sampling = found["with"]["sampling"]
    assert (sampling["shift"], sampling["latent"], sampling["cfg"]) == (5.0, [1, 16, 2, 6, 8], 6.0)
    assert found["with"]["cases"] == 2
    assert found["with"]["search"]["identity"] != found["other"]["search"]["identity"]
