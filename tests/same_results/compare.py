"""Compares the results of two commits to the bit, for changes that must not change any result.

python tests/same_results/compare.py --comfyui TREE BEFORE [AFTER]   commits or folders; AFTER: this working tree
python tests/same_results/compare.py --comfyui TREE --record FILE    writes digests of this working tree, or of BEFORE

Makes the same list of runs (runs.py) with both, in the real ComfyUI on one core of the CPU, prints a table
of digests and ends with status 1 where any differs. A commit is checked out into a temporary git worktree. The test
tests/host/test_same_results.py compares a part of the list with the files in recorded/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
sys.path[0] = str(TESTS)  # instead of this folder, whose modules are a package's
from hosts import HOW_TO, Host, find_hosts, host_at  # noqa: E402
from same_results.digests import verdict  # noqa: E402
from same_results.runs import RUNS  # noqa: E402

PACK = "astraea_same_results"
SHOWN_DIGITS = 12
ONE_CORE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
OUTER_VARIABLES = ("PYTHONPATH", "ASTRAEA_ATTENTION", "ASTRAEA_CACHE_DIR")
Results = Mapping[str, Mapping[str, Any]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", help="a commit, or a folder that holds the pack")
    parser.add_argument("after", nargs="?", default=str(ROOT), help="the same (default: this working tree)")
    parser.add_argument("--comfyui", type=Path, metavar="TREE", help="ComfyUI folder (default: the first one found)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write digests, of BEFORE or this working tree")
    parser.add_argument("--only", default="", metavar="TEXT", help="only runs whose name contains this")
    parser.add_argument("--digests-of", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)  # in the process it starts
    parser.add_argument("--digests-to", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not (args.before or args.record or args.digests_of):
        parser.error("name a commit or folder to compare with, or --record FILE")
    return args


def chosen_host(tree: Path | None) -> Host:
    """Return the host to run in. Exits with instructions if there is none."""
    if tree is not None:
        return host_at(tree.expanduser().resolve())
    found = find_hosts()
    if not found:
        sys.exit(f"No ComfyUI was found.\n{HOW_TO}")
    return found[0]


@contextlib.contextmanager
def checkout(named: str) -> Iterator[Path]:
    """The folder that is named, or a temporary worktree of the commit that is named."""
    if (Path(named) / "__init__.py").is_file():
        yield Path(named).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="astraea-same-results-") as above:
        folder = Path(above) / "pack"
        added = _git("worktree", "add", "--detach", str(folder), named)
        if added.returncode:
            sys.exit(f"'{named}' is neither a folder with the pack nor a commit:\n{added.stderr.strip()}")
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)


def digests(folder: Path, host: Host, only: str) -> dict[str, Any]:
    """Facts and digests of the pack in `folder`, made in a process of the host's own Python."""
    environment = {name: value for name, value in os.environ.items() if name not in OUTER_VARIABLES} | ONE_CORE
    with tempfile.TemporaryDirectory(prefix="astraea-same-results-") as scratch:
        environment["ASTRAEA_CACHE_DIR"] = str(Path(scratch) / "cache")
        file = Path(scratch) / "digests.json"
        options = ["--comfyui", str(host.tree), "--only", only, "--digests-of", str(folder), "--digests-to", str(file)]
        done = subprocess.run([str(host.python), __file__, *options], env=environment)
        if done.returncode or not file.is_file():
            sys.exit(f"The runs with the pack in {folder} ended with status {done.returncode}.")
        return json.loads(file.read_text("utf-8"))


def make_digests(args: argparse.Namespace) -> None:
    """Make the runs in this process, which is one of the host's Python, and write what comes out."""
    from same_results.facts import facts
    from same_results.sampling import Maker, load_pack, nodes_of, repeatable, start_comfyui

    start_comfyui(args.comfyui)
    with repeatable():
        maker = Maker(nodes_of(load_pack(args.digests_of, PACK)), args.digests_of)
    found = {}
    for run in RUNS:
        if args.only in run.name:
            began = time.monotonic()
            result = maker.make(run)
            found[run.name] = result.as_dict()
            print(f"{time.monotonic() - began:6.1f} s  {run.name}  {result.failure}", flush=True)
    args.digests_to.write_text(json.dumps({"facts": facts(), "runs": found}), "utf-8")


def table(before: Results, after: Results) -> list[tuple[str, ...]]:
    """Run, digest before, digest after, share computed, verdict."""
    rows = []
    for name in dict.fromkeys((*before, *after)):
        pair = before.get(name, {}), after.get(name, {})
        shown = (each.get("latents", "-")[:SHOWN_DIGITS] for each in pair)
        share = pair[1].get("computed_share")
        rows.append((name, *shown, "-" if share is None else f"{share:.1%}", verdict(*pair)))
    return rows


def steps_are_compared(before: Results, after: Results, name: str) -> bool:
    """Tell whether both sides of a run have step facts, or neither: a model without acceleration has no report."""
    return bool(before.get(name, {}).get("steps")) == bool(after.get(name, {}).get("steps"))


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    heading = ("run", "before", "after", "computed", "")
    widths = [max(len(row[place]) for row in (heading, *rows)) for place in range(len(heading))]
    for row in (heading, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def record(args: argparse.Namespace, host: Host) -> None:
    """Write the digests of the commit or folder that is named, or of this working tree."""
    with checkout(args.before or str(ROOT)) as folder:
        made = digests(folder, host, args.only)
        described = _git(
            "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*", folder=folder
        ).stdout.strip()
    failed = [name for name, run in made["runs"].items() if run.get("failure")]
    if failed:
        sys.exit(f"Nothing is recorded: these runs fail: {', '.join(failed)}")
    args.record.write_text(json.dumps({"commit": described, **made}, indent=1) + "\n", "utf-8")
    print(f"written: {args.record}")


def compare(args: argparse.Namespace, host: Host) -> int:
    """Print the table; returns the exit status."""
    with checkout(args.before) as first, checkout(args.after) as second:
        before, after = digests(first, host, args.only), digests(second, host, args.only)
    rows = table(before["runs"], after["runs"])
    print_rows(rows)
    differing = sum(row[-1] != "same" for row in rows)
    print(f"\n{len(rows)} runs in ComfyUI {host.version}: " + (f"{differing} DIFFER" if differing else "all the same"))
    if unknown := [row[0] for row in rows if not steps_are_compared(before["runs"], after["runs"], row[0])]:
        print(f"What the steps computed could not be read from the reports of {len(unknown)} runs: {unknown[0]}, ...")
    return int(bool(differing) or not rows)


def main() -> int:
    args = arguments()
    if args.digests_of:
        make_digests(args)
        return 0
    host = chosen_host(args.comfyui)
    if args.record:
        record(args, host)
        return 0
    return compare(args, host)


if __name__ == "__main__":
    sys.exit(main())
