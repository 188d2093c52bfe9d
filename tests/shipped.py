"""Which files of this folder belong to the pack: what `.comfyignore` leaves. Standard library only.

Understands the part of the ignore syntax that the two files here use: names, paths from the root, `*`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
# Everyone who installs the pack downloads this much: the weights of one small model, of about 8 MB, and the code.
MAX_UPLOAD_BYTES = 14_000_000


def ignore_patterns(*files: Path) -> list[str]:
    """The patterns of ignore files, without comments and trailing slashes. A missing file has none."""
    lines = [line.strip() for file in files if file.is_file() for line in file.read_text("utf-8").splitlines()]
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def is_ignored(path: PurePosixPath, patterns: list[str]) -> bool:
    """Tell whether a pattern names `path` (relative to the root). Parents are the caller's matter."""
    return any(
        names_path(path.parts, pattern.lstrip("/").split("/")) if "/" in pattern else fnmatch(path.name, pattern)
        for pattern in patterns
    )


def names_path(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a pattern matches a path part by part: `*` does not reach into a folder."""
    return len(parts) == len(pattern) and all(map(fnmatch, parts, pattern))


def walk(root: Path, patterns: list[str]) -> Iterator[PurePosixPath]:
    """Files below `root` that no pattern ignores, relative to it, sorted within each folder."""
    for folder, names, files in os.walk(root):
        here = PurePosixPath(Path(folder).relative_to(root).as_posix())
        names[:] = sorted(name for name in names if not is_ignored(here / name, patterns))
        yield from (here / name for name in sorted(files) if not is_ignored(here / name, patterns))


def source_files(root: Path = ROOT) -> list[PurePosixPath]:
    """Every file a developer works on: all but what git ignores."""
    return list(walk(root, [".git", *ignore_patterns(root / ".gitignore")]))


def shipped_files(root: Path = ROOT) -> list[PurePosixPath]:
    """Every file a user gets."""
    return list(walk(root, [".git", *ignore_patterns(root / ".gitignore", root / ".comfyignore")]))


def copy_shipped(target: Path, root: Path = ROOT, suffix: str = "") -> None:
    """Copies the shipped files (those ending in `suffix`) to `target`."""
    for path in shipped_files(root):
        if path.name.endswith(suffix):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, target / path)
