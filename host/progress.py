"""A progress bar on the running node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import comfy.model_management
import comfy.utils

Item = TypeVar("Item")


def with_bar(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield the items while a bar fills on the node that runs; raises the host's interrupt when the user cancels."""
    bar = comfy.utils.ProgressBar(count)
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)
