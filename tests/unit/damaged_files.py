"""Contents of files as anybody may have written them: valid ones, and what becomes of them by changes of all kinds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzzing import Generator, some_levels, some_schedule

from astraea.schedules import serialise, uniform, whole_steps
from astraea.schedules.format import MAX_BYTES

SLOWEST = 4.0  # seconds that one case may take; placing steps takes up to one, reading a file a thousandth of that
SOUND = [serialise(each) for each in (whole_steps("whole", 0.4), uniform("tokens", 0.3, (1.0, 0.7, 0.4)))]
HAS_FIFOS = hasattr(os, "mkfifo")


# --- what is written --------------------------------------------------------------------------------------------------


class Raw(str):
    """A piece of JSON text that stands for itself."""


class Key:
    """A key of an object; two of the same text can stand in one object."""

    def __init__(self, text: str):
        self.text = text


ODD_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "5e-324", "1e-300", "1e308", "-1", "-0.0", "1e6")
ODD_NUMBERS += ("9" * 400, "9" * 5000, "0", "1", "2", "1.0000001", "0.9999999", "1e29", "9" * 30, "1_0", "0x1", "01")
ODD_WORDS = ("", "x" * 10_000, "\0", "../../etc/passwd", "con", "NUL.json", "\udc80", "\ud800", "a\nb", "é", "💥" * 50)


def odd_value(rng: Generator) -> Any:
    kind = rng.randrange(8)
    if kind < 3:
        return Raw(rng.choice(ODD_NUMBERS))
    if kind == 3:
        return rng.choice([True, False, None])
    if kind == 4:
        return rng.choice(ODD_WORDS)
    if kind == 5:
        return rng.choice([[], {}, [[]], [1.0], {"cfg": 1.0}, [None] * 50])
    if kind == 6:
        return Raw("[" * 5 + "]" * 5) if rng.random() < 0.7 else nested(rng)
    return rng.choice([rng.random(), rng.uniform(-1e3, 1e3), rng.randrange(-5, 2000), str(rng.random())])


def nested(rng: Generator) -> Raw:
    depth = rng.choice([9, 50, 500, 900, 2000, 50_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    return Raw(opening * depth + ("1" if opening != "[" else "") + closing * rng.choice([depth, depth, 0]))


def written(value: Any) -> str:
    """JSON text, as `json.dumps` writes it but for `Raw` and `Key`."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        pairs = ((key.text if isinstance(key, Key) else key, item) for key, item in value.items())
        return "{" + ", ".join(f"{json.dumps(key)}: {written(item)}" for key, item in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every `(container, index or key)` within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for index, item in list(items):
        yield value, index
        yield from places(item)


def change(rng: Generator, value: Any) -> None:
    """Changes one thing of plain values, in place."""
    found = list(places(value))
    if not found:
        return
    # As often among what stands at the top as anywhere: points are many.
    container, index = rng.choice(found if rng.random() < 0.5 else [f for f in found if f[0] is value] or found)
    kind = rng.randrange(6)
    if kind < 3:
        container[index] = odd_value(rng)
    elif kind == 3:
        del container[index]
    elif isinstance(container, dict):
        item = container[index]
        if kind == 4:
            del container[index]
        container[Key(getattr(index, "text", index) if kind == 5 else rng.choice(ODD_WORDS))] = (
            item if rng.random() < 0.5 else odd_value(rng)
        )
    else:
        container.insert(index, container[index] if kind == 4 else odd_value(rng))


def damaged(rng: Generator, content: bytes) -> bytes:
    """Bytes changed without regard to what they say."""
    kind, place = rng.randrange(10), rng.randrange(len(content) + 1)
    end = min(len(content), place + rng.choice([1, 1, 4, 100]))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + content[end:]
    if kind == 2:
        return content[:end] + content[place:]
    if kind == 3:
        return (
            content[:place] + rng.choice([b"\xff\xfe", b"\x80", b"\xed\xa0\x80", b"\0", b"\xc0\xaf"]) + content[place:]
        )
    if kind == 4:
        return b"\xef\xbb\xbf" + content
    if kind == 5:
        return content.decode("utf-8", "replace").encode(
            rng.choice(["utf-16", "utf-32", "utf-7", "latin-1"]), "replace"
        )
    if kind == 6:
        return rng.choice([b"", b" ", b"\n" * 1000, b" " * (MAX_BYTES + 1), content * 3, content + b" " * MAX_BYTES])
    flipped = bytearray(content or b" ")
    for _ in range(rng.choice([1, 1, 3, 20])):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


# --- schedules --------------------------------------------------------------------------------------------------------


def some_content(rng: Generator) -> bytes:
    """A schedule file, most often changed."""
    source = rng.choice(SOUND) if rng.random() < 0.4 else serialise(some_schedule(rng))
    content = source.encode()
    if rng.random() < 0.6:
        data = json.loads(source)
        for _ in range(rng.choice([1, 1, 2, 5])):
            change(rng, data)
        content = written(data).encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        content = damaged(rng, content)
    return content


def some_run(rng: Generator) -> list[float]:
    """The noise levels of a run, those of most samplers and others."""
    steps = rng.choice([1, 2, 3, 4, 8, 20, 30, 50, rng.randrange(1, 100)])
    levels = [*some_levels(rng, steps), 0.0]
    if rng.random() < 0.3:
        begin = rng.randrange(steps)
        levels = levels[begin : begin + 1 + rng.randrange(1, steps + 1)]  # a part of it, as of two experts
    return levels


ODD_NAMES = ("con.json", "nul.json", ".json", "..json", "a b.json", "é.json", "x" * 200 + ".json", "-.json", "a.JSON")


def put_file(rng: Generator, folder: Path, name: str) -> Path:
    """Something in a folder: most often a file with a schedule or what is left of one."""
    path, kind = folder / name, rng.randrange(14)
    if path.exists() or path.is_symlink():
        return path
    if kind == 0:
        path.mkdir()
    elif kind == 1 and HAS_FIFOS:
        os.mkfifo(path)
    elif kind == 2 and HAS_FIFOS:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/full", "/dev/null", "/dev/tty", "/dev/stdin", "/proc/self/mem"]))
    elif kind == 3 and HAS_FIFOS:
        path.symlink_to(rng.choice([path.name, "absent.json", ".", "x" * 300, "\udcff"]))
    elif kind == 4:
        with path.open("wb") as file:
            file.write(b"{")
            file.truncate(2**33)  # takes no room where files may have holes
    else:
        path.write_bytes(some_content(rng))
    return path
