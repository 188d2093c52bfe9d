"""One video over several GPUs by raylight, dense and with Astraea in its workers: seconds, speed-ups, bytes sent.

python benchmarks/scaling.py --comfyui TREE --raylight FOLDER --gpus 8 --size 14b --preset 720p
python benchmarks/scaling.py --small          a trial on the CPU, two workers, about two minutes

Needs raylight, and in ComfyUI's Python ray, xfuser 0.4.5 and yunchang. The predictions are printed first. Weights are
random unless --model names a file: they tell speed, not quality. Writes results/scaling-<GPU>.json and .md; a trial
only prints, unless --out names a folder. Ctrl-C ends the workers and keeps what was measured. ASTRAEA_RAYLIGHT_LOG=1
shows what the workers print.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.raylight import needs, weights
from lib.raylight.cluster import ATTENTION_ON_CPU, Cluster, Division
from lib.raylight.predict import predictions
from lib.raylight.rows import minutes_of_all, rows_of
from lib.raylight.setting import DENSE, Setting, counts, division_of, in_words
from lib.raylight.tables import prediction_table, scaling_measured_markdown
from lib.results import RESULTS, read_json, write_json
from lib.scaling.model import Clip, Network

PRESETS = {"480p": (832, 480), "720p": (1280, 720)}
DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2", "bf16", "fp16")  # of raylight's loader
MAX_REASON_LENGTH = 300


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.set_defaults(out=None)
    add = parser.add_argument
    add("--raylight", type=Path, metavar="FOLDER", help="raylight's folder (default: the one in custom_nodes)")
    add("--gpus", type=int, nargs="+", help="all numbers that divide this one, or a list (default: all GPUs)")
    add("--ulysses", type=int, help="Ulysses degree of the most GPUs (default: what ring and cfg leave)")
    add("--ring", type=int, default=1, help="ring degree (default 1)")
    add("--cfg-degree", type=int, default=1, help="2: each half of the GPUs has one conditioning (default 1)")
    add("--attention", help="xFuser's attention over several GPUs (default TORCH_FLASH, raylight's own default)")
    add("--model", type=Path, metavar="FILE", help="weights of Wan 2.1 or 2.2, text to video, as safetensors")
    add("--size", choices=sorted(weights.SIZES), default="14b", help="size of the random weights (default 14b)")
    add("--weight-dtype", choices=DTYPES, default="default", help="type in which raylight loads the weights")
    add("--preset", choices=sorted(PRESETS), default="480p", help="size of the clip (default 480p)")
    add("--width", type=int, help="instead of the preset's, with --height; multiples of 16")
    add("--height", type=int)
    add("--frames", type=int, help="4 n + 1 (default 81)")
    add("--steps", type=int, help="default 20")
    add("--cfg", type=float, default=5.0, help="above 1, two conditionings are computed (default 5)")
    add("--repeats", type=int, default=2, help="runs of each way (default 2)")
    add("--small", action="store_true", help="a small model and clip on the CPU; --gpus is the number of workers")
    args = parser.parse_args()
    if (args.width is None) != (args.height is None):
        parser.error("--width and --height go together")
    args.frames, args.steps = args.frames or (9 if args.small else 81), args.steps or (8 if args.small else 20)
    args.attention = args.attention or (ATTENTION_ON_CPU if args.small else "TORCH_FLASH")
    if args.small and args.width is None:
        args.width = args.height = 128
    too_small = min(args.ring, args.cfg_degree, args.repeats, args.ulysses or 1, *(args.gpus or [1])) < 1
    if too_small or args.steps < 4 or args.frames % 4 != 1 or (args.width or 16) % 16 or (args.height or 16) % 16:
        parser.error("degrees, GPUs and repeats are at least 1, steps 4; frames 4 n + 1; width, height multiples of 16")
    return args


def start(args: argparse.Namespace) -> Any:
    """Start ComfyUI in its own Python, once all that is needed is there; names raylight's folder in the arguments.

    Where the script is run anew for that, the new process ends its workers at Ctrl-C: it must not be ended before.
    """
    host = process.chosen_host(args.comfyui)
    if Path(sys.executable) != host.python and process.STARTED not in os.environ:
        signal.signal(signal.SIGINT, lambda *_: None)  # the new process gets the signal, too
        return process.start_gpu(args)
    needs.check_packages()
    args.raylight = needs.raylight_folder(args.raylight, host.tree)
    needs.check_attention(args.attention)
    if args.small:
        args.gpus = args.gpus or [2]
    else:
        args.gpus = args.gpus or [needs.gpus_here()]
        needs.check_gpus(max(args.gpus))
    return process.start_gpu(args)


def setting_of(args: argparse.Namespace) -> Setting:
    """Setting of the measurement. Exits for a file of another model."""
    name = "small" if args.small else args.size
    network = weights.network_of(weights.size_named(name), f"{weights.SIZE_NAMES[name]}, random weights")
    if args.model is not None:
        try:
            network = weights.network_in(args.model.expanduser())
        except ValueError as error:
            sys.exit(str(error))
    width, height = (args.width, args.height) if args.width else PRESETS[args.preset]
    clip = Clip(f"{width} × {height}" if args.width else args.preset, args.frames, height, width)
    return Setting(network, clip, args.steps, args.cfg, itemsize=4 if args.small else 2)


def divisions_of(args: argparse.Namespace, setting: Setting) -> tuple[list[Division], list[dict[str, Any]]]:
    """The divisions to measure, and why others are not. Exits if the degrees do not fit the most GPUs."""
    most = max(args.gpus)
    if args.ulysses is not None and args.ulysses * args.ring * args.cfg_degree != most:
        sys.exit(f"Ulysses {args.ulysses} × ring {args.ring} × cfg {args.cfg_degree} are not {most} GPUs.")
    found, left_out = [], []
    for gpus in counts(args.gpus):
        try:
            found.append(division_of(gpus, setting, ring=args.ring, cfg=args.cfg_degree, attention=args.attention))
        except ValueError as error:
            left_out.append({"gpus": gpus, "reason": str(error)})
            print(f"Left out, {in_words(gpus)}: {error}.", flush=True)
    if not found or (args.ulysses is not None and found[-1].gpus != most):
        sys.exit("Nothing is left to measure." if not found else f"{in_words(most)} cannot be measured so.")
    return found, left_out


def setting_values(args: argparse.Namespace, setting: Setting, divisions: Sequence[Division]) -> dict[str, Any]:
    clip = setting.clip
    return {
        "model": setting.network.name,
        "clip": f"{clip.width} × {clip.height}, {clip.frames} frames",
        "tokens": clip.tokens,
        "steps": setting.steps,
        "cfg": setting.cfg,
        "attention": args.attention,
        "weight_dtype": args.weight_dtype,
        "repeats": args.repeats,
        "seed": args.seed,
        "layouts": {str(division.gpus): division.name for division in divisions},
    }


def result_path(args: argparse.Namespace, gpu: str | None, setting: dict[str, Any]) -> Path | None:
    """Path of the result; results of other settings are kept. None: a trial that only prints."""
    folder = args.out or (None if args.small else RESULTS)
    if folder is None:
        return None
    slug = re.sub(r"[^a-z0-9]+", "-", (gpu or "small").lower()).strip("-")
    for number in itertools.count(1):
        path = folder / f"scaling-{slug}{f'-{number}' if number > 1 else ''}.json"
        earlier = read_json(path)
        if earlier is None or earlier.get("setting") == setting:
            return path
    raise AssertionError


def model_file(args: argparse.Namespace, network: Network) -> Path:
    """The file of the weights: the one named, or random ones, which go with ComfyUI's temporary folder."""
    if args.model is not None:
        return args.model.expanduser().resolve()
    import folder_paths

    folder = Path(folder_paths.base_path, "models", "diffusion_models")
    folder.mkdir(parents=True, exist_ok=True)
    size = weights.WanSize(network.dim, network.feed_forward, network.layers)
    return weights.write_random(size, folder, small=args.small, seed=args.seed)


def measure(
    args: argparse.Namespace,
    folders: tuple[Path, Path],
    setting: Setting,
    divisions: Sequence[Division],
    result: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Measure by one division after another into the result. folders: of raylight and ComfyUI.

    What fails is left out with its reason. The workers are ended in any case, also at Ctrl-C.
    """
    from lib.raylight.measure import Job, Session

    path = model_file(args, setting.network)
    needs.check_memory(max(division.gpus for division in divisions), path.stat().st_size)
    job = Job(setting, weights.in_folder(path), args.weight_dtype, args.repeats, args.seed)
    layouts = {division.gpus: division.name for division in divisions}

    def keep() -> None:
        if sum(map(len, session.runs.values())) == 1:
            gpus, _ = next(iter(session.runs))
            first = session.runs[gpus, DENSE.name][0]["seconds"]
            minutes = minutes_of_all(first, gpus, result["predictions"], args.repeats)
            print(f"about {minutes:.0f} minutes for all runs; loading and warming up come on top", flush=True)
        result["rows"] = rows_of(session.runs, result["predictions"], layouts)
        result["dense_psnr"] = session.dense_psnr
        save()

    cluster = Cluster(*folders, on_cpu=args.small)
    session = Session(cluster, job, keep)
    try:
        for division in divisions:
            print(f"{in_words(division.gpus)}, {division.name}: workers start and load the model …", flush=True)
            try:
                session.measure(division)
            except Exception as error:
                traceback.print_exc()
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:MAX_REASON_LENGTH].rstrip(".")
                result["left_out"].append({"gpus": division.gpus, "reason": reason})
                save()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C would leave workers behind
        cluster.close()


def main() -> None:
    args = arguments()
    host = start(args)
    setting = setting_of(args)
    divisions, left_out = divisions_of(args, setting)
    device = "cpu" if args.small else "cuda"
    found = environment(host, args, device)
    result: dict[str, Any] = {
        "benchmark": "scaling",
        "environment": found,
        "machine": needs.machine(args.raylight, on_gpus=not args.small),
        "setting": setting_values(args, setting, divisions),
        "predictions": predictions(setting, divisions, found["gpu"] or ""),
        "rows": [],
        "dense_psnr": {},
        "left_out": left_out,
        "finished": False,
    }
    path = result_path(args, found["gpu"], result["setting"])

    def save() -> None:
        if path is not None:
            write_json(path, result)
            path.with_suffix(".md").write_text(scaling_measured_markdown(result), "utf-8")

    values = result["setting"]
    print(f"{values['model']}; {values['clip']}, {values['tokens']} tokens; {setting.steps} steps, cfg {setting.cfg:g}")
    print(f"\nPredicted, before anything is measured:\n\n{prediction_table(result['predictions'])}", flush=True)
    save()
    try:
        measure(args, (args.raylight, host.tree), setting, divisions, result, save)
        result["finished"] = True
        save()
    except KeyboardInterrupt:
        print("\nInterrupted; the workers have ended.")
    print(f"\n{scaling_measured_markdown(result)}")
    if path is not None:
        print(f"written: {path} and .md")
    if not result["finished"] or result["left_out"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
