"""A model of one video over several GPUs: what the bytes that are sent, and the work that splits, would make of it.

python benchmarks/scaling_model.py

No GPU takes part and nothing is measured: all inputs are in lib/scaling/inputs.py, each with its source. Standard
library only. Writes results/scaling_model.json and .md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.results import RESULTS, write_json
from lib.scaling.predict import result
from lib.scaling.tables import scaling_markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    args = parser.parse_args()
    found = result()
    path = args.out / "scaling_model.json"
    write_json(path, found)
    path.with_suffix(".md").write_text(scaling_markdown(found), "utf-8")
    print(f"written: {path} and .md")


if __name__ == "__main__":
    main()
