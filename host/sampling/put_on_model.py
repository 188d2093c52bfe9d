"""Plans on a MODEL: an attachment among its options, with wrappers of the same key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Wrappers = Sequence[tuple[str, Any]]  # the host's kind of each, and the function


def put_on_model(model: Any, key: str, attachment: Any, wrappers: Wrappers) -> None:
    """Put an attachment and its wrappers on the MODEL itself, which must have none of this key."""
    model.model_options.setdefault("transformer_options", {})[key] = attachment
    for kind, wrapper in wrappers:
        model.add_wrapper_with_key(kind, key, wrapper)


def take_off_model(model: Any, key: str, wrappers: Wrappers) -> Any:
    """Take them off the MODEL itself, and leave nothing; returns the attachment, None where there was none."""
    for kind, _ in wrappers:
        model.remove_wrappers_with_key(kind, key)
        if not model.wrappers.get(kind, True):  # hosts compare the kinds of wrappers of two clones
            del model.wrappers[kind]
    return model.model_options.get("transformer_options", {}).pop(key, None)
