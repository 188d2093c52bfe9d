"""Measures budgets on your own workflow, model and prompts, through a running ComfyUI.

python benchmarks/own_workflow.py workflow_api.json --budgets 0.5 0.4 0.3 --seeds 4 [--prompts prompts.txt]
    [--easycache 0.1 0.2] [--server http://127.0.0.1:8188]

The workflow is one that runs, exported with "Export (API)". Every prompt and seed is sampled as it is and under every
budget, by the nodes of this pack; nothing is decoded or saved. PSNR is taken on latents against the run as it is;
seconds are those that the model took. Standard library only.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.markdown import table

Prompt = dict[str, dict[str, Any]]
SEED_INPUTS = ("seed", "noise_seed")
ACCELERATING = ("AstraeaAccelerate", "EasyCache", "LazyCache")
POLL_SECONDS = 0.5


class Unsuitable(ValueError):
    """The workflow cannot be measured; the message says why."""


@dataclass
class Measured:
    """All runs under one setting: decibels and paired ratios of seconds against the run as it is."""

    name: str
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    speedup: list[float] = field(default_factory=list)


def links(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of the inputs that are linked, and the nodes they come from."""
    for name, value in node["inputs"].items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            yield name, value[0]


def upstream(prompt: Prompt, start: Iterable[str]) -> set[str]:
    """The nodes themselves and all that they depend on."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += [origin for _, origin in links(prompt[number])]
    return found


def final_sampler(prompt: Prompt) -> str:
    """The sampler that no other one follows. Raises Unsuitable if there is none, or more than one."""
    samplers = [number for number, node in prompt.items() if "latent_image" in dict(links(node))]
    before = {n for number in samplers for n in upstream(prompt, [number]) - {number}}
    last = [number for number in samplers if number not in before]
    if len(last) != 1:
        found = ", ".join(last) or "none"
        raise Unsuitable(f"The workflow must end in one sampler (a node with a latent_image); found: {found}.")
    return last[0]


def model_sites(prompt: Prompt, final: str) -> list[str]:
    """Samplers and guiders up to the final sampler: the nodes whose `model` is to be accelerated."""
    inside = upstream(prompt, [final])
    already = {prompt[number]["class_type"] for number in inside} & set(ACCELERATING)
    if already:
        raise Unsuitable(f"Take {', '.join(sorted(already))} out of the workflow first: it is to be measured in full.")
    guiders = {origin for number in inside for name, origin in links(prompt[number]) if name == "guider"}
    samplers = {number for number in inside if "latent_image" in dict(links(prompt[number]))}
    sites = [number for number in prompt if number in guiders | samplers and "model" in dict(links(prompt[number]))]
    if not sites:
        raise Unsuitable("No sampler or guider of the workflow has a linked model.")
    return sites


def accelerate(budget: float) -> dict[str, Any]:
    return {"schedule": "auto", "budget": budget, "target_speedup": 0.0}


def branch(prompt: Prompt, final: str, tag: str, budget: float, easycache: float | None = None) -> tuple[Prompt, str]:
    """New nodes that sample once more with the models wrapped, and the id of their final sampler.

    What does not depend on the models (loaders, text, noise) is shared with the workflow. At budget 1 the node changes
    nothing but keeps the time.
    """
    sites = model_sites(prompt, final)
    inside = upstream(prompt, [final])
    renamed = {n: f"{tag}-{n}" for n in inside if upstream(prompt, [n]) & set(sites)}
    made: Prompt = {}
    for number, name in renamed.items():
        node = made[name] = copy.deepcopy(prompt[number])
        for key, origin in links(prompt[number]):
            if origin in renamed:
                node["inputs"][key] = [renamed[origin], prompt[number]["inputs"][key][1]]
        if number in sites:
            model = node["inputs"]["model"]
            if easycache is not None:
                settings = {"reuse_threshold": easycache, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
                made[f"{name}-cache"] = {"class_type": "EasyCache", "inputs": {"model": model, **settings}}
                model = [f"{name}-cache", 0]
            inputs = {"model": model, **accelerate(budget)}
            made[f"{name}-model"] = {"class_type": "AstraeaAccelerate", "inputs": inputs}
            node["inputs"]["model"] = [f"{name}-model", 0]
            report = {"report": [f"{name}-model", 1], "samples": [renamed[final], 0]}
            made[f"{name}-report"] = {"class_type": "AstraeaReport", "inputs": report}
    return made, renamed[final]


def comparison(prompt: Prompt, budget: float, easycache: float | None = None) -> Prompt:
    """A prompt that samples the workflow as it is and under a setting, and compares the two."""
    final = final_sampler(prompt)
    dense, dense_final = branch(prompt, final, "dense", 1.0)
    own, own_final = branch(prompt, final, "own", budget, easycache)
    latents = {"latents_a": [dense_final, 0], "latents_b": [own_final, 0]}
    compare = {"compare": {"class_type": "AstraeaCompare", "inputs": latents}}
    shared = {number: prompt[number] for number in upstream(prompt, [final]) if f"own-{number}" not in own}
    return {**shared, **dense, **own, **compare}


def with_seed(prompt: Prompt, shift: int) -> Prompt:
    """A copy in which every seed is so much higher."""
    made = copy.deepcopy(prompt)
    for node in made.values():
        for name in SEED_INPUTS:
            if isinstance(node["inputs"].get(name), int):
                node["inputs"][name] += shift
    return made


def with_text(prompt: Prompt, text: str) -> Prompt:
    """A copy with another positive prompt. Raises Unsuitable where there is not exactly one text to replace."""
    roots = {
        origin
        for node in prompt.values()
        for name, origin in links(node)
        if name in ("positive", "cond1") or (name == "conditioning" and "model" in node["inputs"])
    }
    texts = {n for n in _texts(prompt, roots) if isinstance(prompt[n]["inputs"].get("text"), str)}
    if len(texts) != 1:
        raise Unsuitable(f"The workflow must have one text that leads to 'positive'; found: {sorted(texts) or 'none'}.")
    made = copy.deepcopy(prompt)
    made[texts.pop()]["inputs"]["text"] = text
    return made


def _texts(prompt: Prompt, roots: Iterable[str]) -> set[str]:
    """Like `upstream`, but follows a node with both conditionings only along the positive one."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += [origin for name, origin in links(prompt[number]) if name not in ("negative", "cond2")]
    return found


class Server:
    """A running ComfyUI."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def run(self, prompt: Prompt) -> dict[str, Any]:
        """Queue a prompt, wait for it, return the outputs of its nodes. Raises RuntimeError with what was refused."""
        number = self._ask("/prompt", {"prompt": prompt})["prompt_id"]
        while not (entry := self._ask(f"/history/{number}").get(number)):
            time.sleep(POLL_SECONDS)
        if entry["status"]["status_str"] != "success":
            failed = dict(entry["status"]["messages"]).get("execution_error", {})
            raise RuntimeError(f"{failed.get('node_type', 'interrupted')}: {failed.get('exception_message', '')}")
        return entry["outputs"]

    def forget(self) -> None:
        """Drop cached results, which would be shown without a time, and keep the models loaded."""
        self._ask("/free", {"free_memory": True, "unload_models": False})

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"ComfyUI refused the workflow: {error.read().decode(errors='replace')}") from error
        except urllib.error.URLError as error:
            raise RuntimeError(f"No ComfyUI answers at {self.url} ({error.reason}).") from error


def read_outputs(outputs: dict[str, Any]) -> dict[str, Any]:
    """PSNR and SSIM, and of each branch that was run (not taken from ComfyUI's cache) the model's seconds."""
    figures = re.search(r"PSNR ([\d.]+) dB, SSIM ([\d.]+)", outputs["compare"]["text"][0])
    found: dict[str, Any] = {"psnr": math.inf, "ssim": 1.0}
    if figures:
        found = {"psnr": float(figures[1]), "ssim": float(figures[2])}
    for tag in ("dense", "own"):
        reports = [o["text"][0] for n, o in outputs.items() if n.startswith(f"{tag}-") and n.endswith("-report")]
        if reports:
            found[tag] = sum(float(re.search(r"([\d.]+) s in the model", text)[1]) for text in reports)
    return found


def measure(server: Server, prompts: Sequence[Prompt], budgets: Sequence[float], caches: Sequence[float]) -> list:
    settings: list[tuple[str, float, float | None]] = [(f"budget {budget:g}", budget, None) for budget in budgets]
    settings += [(f"EasyCache {threshold:g}", 1.0, threshold) for threshold in caches]
    results = [Measured(name) for name, _, _ in settings]
    server.forget()
    server.run(comparison(with_seed(prompts[0], -1), min(budgets)))  # loads the models and warms up
    for number, prompt in enumerate(prompts, 1):
        dense = 0.0
        for (name, budget, threshold), result in zip(settings, results, strict=True):
            found = read_outputs(server.run(comparison(prompt, budget, threshold)))
            dense = found.get("dense", dense)  # run once for each prompt, then cached
            result.psnr.append(found["psnr"])
            result.ssim.append(found["ssim"])
            result.seconds.append(found["own"])
            result.speedup.append(dense / max(found["own"], 1e-9))
            print(f"{number}/{len(prompts)} {name}: {found['psnr']:.1f} dB, {result.speedup[-1]:.2f}x", flush=True)
    return results


def markdown(results: Sequence[Measured]) -> str:
    header = ["", "PSNR", "least…most", "SSIM", "speed-up", "least…most", "seconds in the model"]
    lines = []
    for result in results:
        extents = [f"{min(v):.{d}f}…{max(v):.{d}f}" for v, d in ((result.psnr, 1), (result.speedup, 2))]
        psnr, ssim, speedup = (statistics.fmean(v) for v in (result.psnr, result.ssim, result.speedup))
        seconds = statistics.fmean(result.seconds)
        lines.append([result.name, f"{psnr:.1f}", extents[0], f"{ssim:.4f}", f"{speedup:.2f}x", extents[1], seconds])
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path, help='a workflow exported with "Export (API)"')
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.4, 0.3])
    parser.add_argument("--easycache", type=float, nargs="*", default=[], metavar="THRESHOLD", help="to compare with")
    parser.add_argument("--seeds", type=int, default=2, help="so many seeds for every prompt")
    parser.add_argument("--prompts", type=Path, help="a text file, one positive prompt a line (default: as it is)")
    parser.add_argument("--out", type=Path, help="where to write all figures as JSON")
    args = parser.parse_args()
    try:
        workflow = json.loads(args.workflow.read_text("utf-8"))
        if "nodes" in workflow:
            raise Unsuitable('This is a workflow as the editor saves it; export it with "Export (API)".')
        texts = args.prompts.read_text("utf-8").splitlines() if args.prompts else []
        changed = [with_text(workflow, text) for text in dict.fromkeys(texts) if text.strip()] or [workflow]
        prompts = [with_seed(prompt, seed) for prompt in changed for seed in range(args.seeds)]
        results = measure(Server(args.server), prompts, args.budgets, args.easycache)
    except (Unsuitable, RuntimeError, OSError, json.JSONDecodeError) as error:
        raise SystemExit(str(error)) from error
    print("\n" + markdown(results))
    if args.out:
        args.out.write_text(json.dumps([vars(result) for result in results], indent=1), "utf-8")


if __name__ == "__main__":
    main()
