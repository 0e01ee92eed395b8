"""What a configuration says of rotary positions, in the reference's words; see `attention.rotary_scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minitrans.attention.rotary_scaling import wrong_description
from minitrans.models.config import Rule

# of a configuration whose property `rope` is a description
RULE: Rule = (
    ("rope",), lambda rope, c: wrong_description(rope) is None, lambda c: str(wrong_description(c.rope)),
)  # fmt: skip

# keys that mean something else in every family
OLD_KEYS: dict[str, tuple[tuple[object, ...], str]] = dict.fromkeys(
    ("rope_theta", "rope_scaling"), ((), "say it in rope_parameters: an object with rope_theta and rope_type")
)


def described(given: Mapping[str, Any] | None, longest: int, base: float | None = None) -> dict[str, Any]:
    """The description that `ScaledRotary` takes.

    Args:
        given: `rope_parameters` of the configuration, its part for this kind of layer, or the older `rope_scaling`.
        longest: `max_position_embeddings`.
        base: where it says none; None = 10000.
    """
    given = given or {}
    given = given if isinstance(given, Mapping) else {"rope_type": given}  # which is none that is known
    kind = given.get("rope_type", given.get("type", "default"))
    defaults = {"original_max_position_embeddings": longest} if kind in ("yarn", "llama3") else {}
    theta = given.get("rope_theta") or base or 10000.0
    return {**defaults, **given, "rope_type": kind, "rope_theta": theta, "max_position_embeddings": longest}
