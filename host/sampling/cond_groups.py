"""Groups the rows of a model call by conditioning, from the host's options of the call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

from torch import Tensor

from ...engine.blocks.interface import RowGroup

# Options that do not change what a call computes: its step, its position in the model, and notes that models make.
IGNORED = {
    "activations_shape",
    "block",
    "block_index",
    "block_type",
    "callback",
    "cond_or_uncond",
    "context_window",
    "img_slice",
    "multigpu_thread_device",
    "original_shape",
    "sample_sigmas",
    "sigmas",
    "total_blocks",
    "transformer_index",
    "uuids",
}
MAX_DEPTH = 6
MAX_DISTINCT_VALUES = 3  # of an option in a run; one that changes at every step has more


def cond_groups(x: Tensor, transformer_options: dict[str, Any]) -> tuple[RowGroup, ...]:
    """Return one group per conditioning in the call; none where the host names no conditionings (it then runs in full).

    The key of a group holds everything that changes the prediction besides latents and timestep: the conditioning's id
    and role, the latent's size, the context window, every replacement and patch of other nodes, all plain values among
    the options, and the device. Rows of equal keys share their state from step to step.
    """
    ids, roles = transformer_options.get("uuids"), transformer_options.get("cond_or_uncond")
    if not ids or not roles or len(ids) != len(roles) or x.shape[0] % len(ids):
        return ()
    rows = x.shape[0] // len(ids)
    shared = (tuple(x.shape[2:]), _window(transformer_options), options_key(transformer_options), str(x.device))
    seen: Counter = Counter()
    groups = []
    for number, (identity, role) in enumerate(zip(ids, roles, strict=True)):
        repeat = seen[identity, role]
        seen[identity, role] += 1
        groups.append(RowGroup((identity, role, repeat, *shared), slice(number * rows, (number + 1) * rows)))
    return tuple(groups)


def options_key(transformer_options: dict[str, Any]) -> tuple:
    """Return the options that change what a call computes: `(name, value)`, sorted by name."""
    plain = {
        name: value
        for name, value in transformer_options.items()
        if name not in IGNORED and not str(name).startswith("astraea")
    }
    frozen = _frozen(plain, 0)
    return frozen if isinstance(frozen, tuple) else ()


class OptionWatch:
    """Watches for options that change at every step: no state can be found again for their calls."""

    def __init__(self) -> None:
        self._values: dict[str, set[Hashable]] = {}
        self._sigmas: set[float] = set()

    def add(self, sigma: float, transformer_options: dict[str, Any]) -> None:
        self._sigmas.add(sigma)
        for name, value in options_key(transformer_options):
            self._values.setdefault(name, set()).add(value)

    def note(self) -> str:
        """Return a remark that names the options that change at every step; "" without any."""
        most = max(MAX_DISTINCT_VALUES, len(self._sigmas) // 2)
        names = [name for name, values in self._values.items() if len(values) > most]
        if not names:
            return ""
        return f"another node's {', '.join(names)} changes from step to step: its calls can reuse nothing"


def _window(transformer_options: dict[str, Any]) -> tuple[int, ...] | None:
    indices = getattr(transformer_options.get("context_window"), "index_list", None)
    return tuple(indices) if indices is not None else None


def _frozen(value: Any, depth: int) -> Hashable:
    """Return plain values as they are and functions by identity; anything else, tensors above all, counts as None."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        items = ((str(name), _frozen(item, depth + 1)) for name, item in value.items())
        return tuple(sorted((item for item in items if item[1] is not None), key=lambda item: item[0]))
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(map(str, value)))
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item, depth + 1) for item in value)
    if callable(value):
        # The name, too: an id alone may be that of an object that is gone.
        return getattr(value, "__qualname__", type(value).__qualname__), id(value)
    return None
