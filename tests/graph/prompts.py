"""Small prompts in API format: the tiny model, accelerated, with a report."""

from __future__ import annotations

from typing import Any


def accelerated(steps: int = 12, **settings: Any) -> dict[str, Any]:
    """A prompt whose only output is the report of node "accelerate"; `settings` replace that node's inputs."""
    accelerate = {"model": ["loader", 0], "schedule": "auto", "budget": 0.4, "target_speedup": 0.0} | settings
    sampler = {"seed": 1, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {
        "model": ["accelerate", 0],
        "positive": ["words", 0],
        "negative": ["words", 0],
        "latent_image": ["size", 0],
    }
    return {
        "loader": node("AstraeaDemoModel"),
        "words": node("AstraeaDemoPrompt", text="a small green ring spinning over a black ground"),
        "size": node("EmptyHunyuanLatentVideo", width=128, height=128, length=9, batch_size=1),
        "accelerate": node("AstraeaAccelerate", **accelerate),
        "sampler": node("KSampler", **sampler, **links),
        "report": node("AstraeaReport", report=["accelerate", 1], samples=["sampler", 0]),
    }


def sparse(steps: int = 8, **settings: Any) -> dict[str, Any]:
    """A prompt whose only output is the report of node "sparse"; `settings` replace that node's inputs."""
    prompt = accelerated(steps)
    del prompt["accelerate"]
    inputs = {"model": ["loader", 0], "density": 0.5, "dense_start": 0.1, "min_tokens": 0, "kernel": "own"} | settings
    prompt["sparse"] = node("AstraeaSparseAttention", **inputs)
    prompt["sampler"]["inputs"]["model"] = ["sparse", 0]
    prompt["report"]["inputs"]["report"] = ["sparse", 1]
    return prompt


def search(steps: int = 12, **settings: Any) -> dict[str, Any]:
    """A prompt whose only output is node "search", on small clips; `settings` replace that node's inputs."""
    inputs = {
        "model": ["loader", 0],
        "positive": ["words", 0],
        "negative": ["words", 0],
        "latent": ["size", 0],
        "steps": steps,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "first_seed": 1,
        "budgets": "0.5, 0.3",
        "effort": "quick (10 clips)",
        "cases": 2,
        "name": "searched",
    }
    return {
        "loader": node("AstraeaDemoModel"),
        "words": node("AstraeaDemoPrompt", text="a small green ring spinning over a black ground"),
        "size": node("EmptyHunyuanLatentVideo", width=96, height=96, length=9, batch_size=1),
        "search": node("AstraeaSearch", **(inputs | settings)),
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
