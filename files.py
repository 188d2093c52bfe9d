"""Files of any origin: opened only if they are regular ones, and replaced as a whole."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from pathlib import Path

# Without these flags opening a FIFO waits for its other end, and a terminal becomes the process's own.
_NEVER_WAITS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
MAX_DIGITS = 30  # of an integer


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file, or a link to one, and return its descriptor, which is the caller's to close.

    flags: as for `os.open`; a file that O_CREAT makes has the mode that the umask leaves. Raises OSError, for a FIFO,
    folder, socket or device too, and never waits.
    """
    descriptor = os.open(path, flags | _NEVER_WAITS, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """Read a regular file, of a larger one the first `most` + 1 bytes. Raises OSError."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(min(os.fstat(file.fileno()).st_size, most) + 1)


def bounded_int(digits: str) -> int:
    """Parse an integer from a file. Raises ValueError for one too long for any float."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text file in UTF-8, whole or not at all, with what the umask leaves of the mode. Raises OSError."""
    partial = path.with_name(f"{uuid.uuid4().hex}.part")
    try:
        with open(partial, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
