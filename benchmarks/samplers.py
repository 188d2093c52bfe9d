"""All samplers of the host: the default against held steps, at equal calls, in the real ComfyUI.

python benchmarks/samplers.py [--comfyui TREE] [--samplers euler,heun] [--seeds 4] [--cfgs 1,3] [--steps 16]

The easy model at its training size, scheduler simple. PSNR on latents against the dense run of the same seed; each
seed has its own prompt. Results are saved after each sampler; the same command resumes, and one with more seeds adds
them. Samplers that add noise need many: there, single seeds differ by 10 dB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.host.harness import Job, load_tiny, sample
from lib.host.tables import samplers_markdown
from lib.results import read_json, write_json

MAX_PSNR = 200.0  # dB, for equal latents
MODES = ("default", "hold")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument(
        "--samplers",
        default="all",
        help="names with commas between them (default: all of the host's but the _gpu twins)",
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--cfgs", default="1,3", help="guidance scales with commas between them (default 1,3)")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--budget", type=float, default=0.5)
    return parser.parse_args()


def accelerated_by_node(model: Any, budget: float, mode: str) -> tuple[Any, Any]:
    """The MODEL that the node gives with these inputs, and the handle of its reports."""
    from astraea.engine.planning.plan import make_plan
    from astraea.engine.report import ReportHandle
    from astraea.host.sampling.patch_model import accelerate
    from astraea.nodes.accelerate_inputs import AccelerateInputs, choose_plan
    from astraea.schedules import whole_steps

    held = make_plan(whole_steps("held", budget), mode="hold", budget=budget)
    plan = held if mode == "hold" else choose_plan(AccelerateInputs("auto", budget))
    handle = ReportHandle()
    return accelerate(model, plan, handle), handle


def measure(model: Any, sampler: str, cfg: float, known: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """PSNR by mode and seed, the computed share and the report's notes. known: the row of fewer seeds, or {}."""
    from astraea.engine.metrics import psnr, value_range
    from astraea.tiny.training.testbeds import EASY

    found: dict[str, dict[str, Any]] = {mode: known.get(mode, {"psnr": []}) for mode in MODES}
    for number in range(len(found["hold"]["psnr"]), args.seeds):
        prompt = EASY.prompts[number % len(EASY.prompts)]
        positive, negative = EASY.context(prompt)[None], EASY.context("")[None]
        job = Job(EASY.latent_shape, positive, negative, args.seed + number, args.steps, cfg, sampler)
        dense, _ = sample(model, job)
        computed = args.budget
        for mode in MODES:
            fast, handle = accelerated_by_node(model, computed, mode)
            output, _ = sample(fast, job)
            found[mode]["psnr"].append(round(min(MAX_PSNR, psnr(output, dense, value_range(dense))), 2))
            computed = handle.last.computed_share  # held steps are as many as the default's
            found[mode] |= {"computed": round(computed, 4), "notes": list(handle.last.notes)}
    ahead = [ours - held for ours, held in zip(found["default"]["psnr"], found["hold"]["psnr"], strict=True)]
    return {"sampler": sampler, "cfg": cfg, "ahead": round(statistics.fmean(ahead), 2), **found}


def resumed(known: dict[str, Any] | None, settings: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """The known result if code and settings are the same, with this command added; else an empty one."""
    code = known["environment"].get("pack_code") if known else None
    if known is None or known["settings"] != settings or code != described["pack_code"]:
        return {"benchmark": "samplers", "environment": described, "settings": settings, "rows": []}
    if described["command"] not in known["environment"]["command"].splitlines():
        known["environment"]["command"] += "\n" + described["command"]
    return known


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    import comfy.samplers

    listed = [name for name in comfy.samplers.KSampler.SAMPLERS if not name.endswith("_gpu")]
    names = listed if args.samplers == "all" else args.samplers.split(",")
    settings = {"steps": args.steps, "budget": args.budget, "scheduler": "simple"}
    path = args.out / f"samplers-{host.version}.json"
    result = resumed(read_json(path), settings, environment(host, args, "cpu"))
    rows = {(row["sampler"], row["cfg"]): row for row in result["rows"]}
    model = load_tiny()
    for name in names:
        for cfg in map(float, args.cfgs.split(",")):
            known = rows.get((name, cfg), {})
            if known and len(known["hold"]["psnr"]) >= args.seeds:
                continue
            began = time.perf_counter()
            row = rows[name, cfg] = measure(model, name, cfg, known, args)
            means = ", ".join(f"{mode} {statistics.fmean(row[mode]['psnr']):.2f} dB" for mode in MODES)
            print(f"{name}, cfg {cfg:g}: {means} ({time.perf_counter() - began:.0f} s)", flush=True)
        write_json(path, result | {"rows": list(rows.values())})
        path.with_suffix(".md").write_text(samplers_markdown(result | {"rows": list(rows.values())}), "utf-8")
    print(f"\nwritten: {path} and .md")


if __name__ == "__main__":
    main()
