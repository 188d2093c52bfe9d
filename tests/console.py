"""What dev.py runs and prints: commands below headings, notices, the summary. Standard library only."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One line of the summary."""

    what: str
    host: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""

    def __add__(self, other: Row) -> Row:
        return replace(
            self,
            passed=self.passed + other.passed,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
            seconds=self.seconds + other.seconds,
            note=self.note or other.note,
        )


class Output:
    """Whether jobs run side by side, so that the lines of each are collected and printed together."""

    collected = False
    lock = threading.Lock()


def call(command: Iterable, **options) -> int:
    """Runs a command with this terminal; returns its exit status."""
    sys.stdout.flush()
    options.setdefault("cwd", ROOT)
    return subprocess.call([str(part) for part in command], **options)


def call_under(title: str, command: Iterable, **options) -> int:
    """As `call`, below a heading; of jobs that run side by side, heading and lines come when it is done."""
    if not Output.collected:
        heading(title)
        return call(command, **options)
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    done = subprocess.run([str(part) for part in command], **options)
    with Output.lock:
        heading(title)
        print(done.stdout, flush=True)
    return done.returncode


def heading(text: str) -> None:
    print(f"\n=== {text} {'=' * max(3, 100 - len(text))}")


def print_notices(notices: list[str]) -> None:
    for notice in notices:
        print("\n" + "!" * 106)
        print("\n".join(f"!!  {line}" for line in notice.splitlines()))
        print("!" * 106)


def print_summary(rows: list[Row]) -> int:
    """Prints the table and, as the last line, the totals; returns the exit status."""
    heading("summary")
    print(f"{'tier':<14}{'ComfyUI':<10}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
    for row in rows:
        print(
            f"{row.what:<14}{row.host:<10}{row.passed:>8}{row.failed:>8}{row.skipped:>8}{row.seconds:>9.1f}  {row.note}"
        )
    total = sum(rows, Row("total"))
    print(f"\n{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return int(total.failed > 0)
