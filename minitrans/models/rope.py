"""What a configuration says of rotary positions, in the reference's words, and the variant of attention that it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minitrans.attention.variant import LayerSizes
from minitrans.attention.variants.rotary import Rotary

# what `rope_type` says -> the scaling of `Rotary`
SCALINGS = {"default": None, "linear": "linear"}
WORDS = f"an object with a rope_theta above 1 and a rope_type of {', '.join(SCALINGS)} (with a factor of at least 1)"

# keys that mean something else in every family
OLD_KEYS: dict[str, tuple[tuple[object, ...], str]] = dict.fromkeys(
    ("rope_theta", "rope_scaling"), ((), "say it in rope_parameters: an object with rope_theta and rope_type")
)


def is_known(parameters: object) -> bool:
    """Whether it is what WORDS says."""
    if not isinstance(parameters, Mapping):
        return False
    base, factor = parameters.get("rope_theta"), parameters.get("factor", 1.0)
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (base, factor))
    return numbers and base > 1 and factor >= 1 and _kind(parameters) in SCALINGS  # type: ignore[operator]


def rotary(sizes: LayerSizes, parameters: Mapping[str, Any], **options: Any) -> Rotary:
    """The variant.

    Args:
        sizes: of the block.
        parameters: `rope_parameters` of the configuration, or its part for this kind of layer.
        options: layout and fraction of `Rotary`.
    """
    scaling: Any = SCALINGS[_kind(parameters)]
    base, factor = parameters["rope_theta"], parameters.get("factor", 1.0)
    return Rotary(sizes, base=base, scaling=scaling, factor=factor if scaling else 1.0, **options)


def _kind(parameters: Mapping[str, Any]) -> Any:
    return parameters.get("rope_type", parameters.get("type", "default"))
