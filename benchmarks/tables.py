"""Writes the Markdown tables of all result files: `python benchmarks/tables.py`. Nothing is measured.

Standard library only.
"""

from __future__ import annotations

import json

from lib.attention.tables import attention_cpu_markdown, attention_markdown
from lib.host.tables import samplers_markdown, speed_cpu_markdown, speed_gpu_markdown, speed_models_markdown
from lib.quality.tables import placement_markdown, prior_markdown, quality_markdown, search_markdown
from lib.raylight.tables import scaling_measured_markdown
from lib.results import RESULTS
from lib.scaling.tables import scaling_markdown
from lib.sparse.speed_tables import WRITERS as SPARSE_SPEED
from lib.sparse.tables import sparse_markdown

WRITERS = {
    "quality": quality_markdown,
    "placement": placement_markdown,
    "placement-tokens": placement_markdown,
    "prior": prior_markdown,
    "search": search_markdown,
    "samplers": samplers_markdown,
    "speed_cpu": speed_cpu_markdown,
    "speed_models": speed_models_markdown,
    "speed_gpu": speed_gpu_markdown,
    "attention": attention_markdown,
    "sparse_quality": sparse_markdown,
    "scaling_model": scaling_markdown,
    "scaling": scaling_measured_markdown,
    **SPARSE_SPEED,
    "attention_cpu": attention_cpu_markdown,
}


def main() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        write = WRITERS.get(result.get("benchmark"))
        if write is not None:
            path.with_suffix(".md").write_text(write(result), "utf-8")
            print(path.with_suffix(".md").name)


if __name__ == "__main__":
    main()
