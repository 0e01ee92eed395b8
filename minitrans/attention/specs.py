"""From what a user writes for `attention=` to the variants of a layer.

"full"                                            softmax attention, nothing changed
"rotary", {"name": "sliding_window", "window": 8} a row of `registry.VARIANTS`, with options
"package.module:MyAttention"                      a `Variant` of one's own, by the place of its class
MyAttention, lambda sizes: MyAttention(sizes, 3)  the class, or anything that makes one from `LayerSizes`
MyAttention(sizes)                                a variant: every layer gets a copy
["rotary", "qk_norm"]                             several, one after the other; at most one of them computes
{"layers": ["full", "rotary", ...]}               one a layer
{"layers": {"0": "full", "1-": "rotary"}}         by number, range of numbers or slice ("0::3"); "full" elsewhere
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch

from minitrans.attention.registry import VARIANTS, load
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.errors import nearest

VariantSpec = str | Mapping[str, Any] | Sequence[Any] | type[Variant] | Variant | Callable[[LayerSizes], Variant]

_NO_SPEC = (
    "attention must be a name, a mapping with a 'name', a list of these, or a minitrans.Variant: its class, an object of it, "
    "or a function from LayerSizes to one; got {!r}"
)


def build_variants(spec: VariantSpec, sizes: LayerSizes) -> list[Variant]:
    """The variants of one layer, made on the CPU whatever the default device: with real numbers in their parameters.

    Raises:
        ValueError: for an unknown name, or two mechanisms. TypeError: for wrong options, or what is no spec.
    """
    with torch.device("cpu"):
        variants = [_make(part, sizes) for part in _parts(spec)]
    mechanisms = [variant.name or type(variant).__name__ for variant in variants if variant.is_mechanism]
    if len(mechanisms) > 1:
        raise ValueError(f"only one variant of a layer can compute its attention, got {' and '.join(mechanisms)}")
    return variants


def of_layer(spec: VariantSpec, layer: int, layers: int) -> VariantSpec:
    """What `spec` says of one of so many layers. Raises ValueError where it does not fit their number."""
    if not (isinstance(spec, Mapping) and "layers" in spec):
        return spec
    chosen = spec["layers"]
    if not isinstance(chosen, Mapping):
        if len(chosen) != layers:
            raise ValueError(f"attention: 'layers' must list one attention a layer, {layers}, got {len(chosen)}")
        return cast("VariantSpec", chosen[layer])
    by_number: dict[int, VariantSpec] = {}
    for key, of_key in chosen.items():
        for number in _numbers(str(key), layers):
            if number in by_number:
                raise ValueError(f"attention: layer {number} is chosen twice, the second time by {key!r}")
            by_number[number] = of_key
    return by_number.get(layer, "full")


def check_spec(spec: VariantSpec) -> None:
    """Raises as `build_variants` would, as far as it can be told without the sizes of a layer."""
    if isinstance(spec, Mapping) and "layers" in spec:
        chosen = spec["layers"]
        if set(spec) != {"layers"} or isinstance(chosen, str) or not isinstance(chosen, Mapping | Sequence):
            raise TypeError(f"attention: expected {{'layers': a list or a mapping from numbers}}, got {dict(spec)!r}")
        for each in chosen.values() if isinstance(chosen, Mapping) else chosen:
            check_spec(each)
        return
    for part in _parts(spec):
        if isinstance(part, str | Mapping):
            _maker(part, None)


def stored_spec(spec: VariantSpec) -> Any:
    """What a configuration file says for it. Raises ValueError for a variant that only exists in this process."""
    if isinstance(spec, Mapping):
        return {key: stored_spec(value) if key == "layers" else value for key, value in spec.items()}
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [stored_spec(each) for each in spec]
    if isinstance(spec, str):
        return spec
    name = f"{getattr(spec, '__module__', None)}:{getattr(spec, '__qualname__', None)}"
    if isinstance(spec, type) and "<locals>" not in name and not name.startswith("__main__:"):
        return name
    hint = "attention={'name': 'sliding_window', 'window': 128}, or one given as 'package.module:Class'"
    raise ValueError(f"{spec!r} cannot be written into a configuration file: save with a named variant, such as {hint}")


def names_code(spec: Any) -> bool:
    """Whether a stored spec may name a class by its place, which loading would import."""
    if isinstance(spec, Mapping):
        return any(map(names_code, spec.values()))
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return any(map(names_code, spec))
    return isinstance(spec, str) and ":" in spec


def _parts(spec: VariantSpec) -> list[Any]:
    """The variants that a spec of one layer lists, "full" left out."""
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [part for each in spec for part in _parts(each)]
    if spec == "full" or (isinstance(spec, Mapping) and dict(spec) == {"name": "full"}):
        return []
    a_module = isinstance(spec, torch.nn.Module) and not isinstance(spec, Variant)
    if a_module or not (isinstance(spec, str | Mapping) or callable(spec)):
        raise TypeError(_NO_SPEC.format(spec))
    return [spec]


def _make(part: Any, sizes: LayerSizes) -> Variant:
    if isinstance(part, Variant):
        return copy.deepcopy(part)
    make, options = _maker(part, sizes)
    variant = make(sizes, **options)
    if not isinstance(variant, Variant):
        raise TypeError(_NO_SPEC.format(part))
    return variant


def _maker(part: Any, sizes: LayerSizes | None) -> tuple[Callable[..., Variant], dict[str, Any]]:
    """What makes a variant, and the options that it takes. Raises TypeError where it does not take them."""
    make, options = _named(part) if isinstance(part, str | Mapping) else (part, {})
    try:
        inspect.signature(make).bind(sizes, **options)
    except TypeError as error:
        named = isinstance(part, str | Mapping) or (isinstance(part, type) and issubclass(part, Variant))
        raise TypeError(_wrong_options(part, make, error) if named else _NO_SPEC.format(part)) from None
    return make, options


def _named(part: str | Mapping[str, Any]) -> tuple[Callable[..., Variant], dict[str, Any]]:
    """What makes the variant of this name, and its options."""
    options = {"name": part} if isinstance(part, str) else dict(part)
    name = options.pop("name", None)
    if name == "full":
        raise TypeError(f"attention 'full' has no options, got {', '.join(options)}")
    if name in VARIANTS:
        return cast("type[Variant]", load(VARIANTS[name])), options
    if isinstance(name, str) and ":" in name:
        try:
            return cast("Callable[..., Variant]", load(name)), options
        except (ImportError, AttributeError) as error:
            raise ValueError(f"attention: {name!r} cannot be imported: {error}") from None
    near = nearest(name, ["full", *VARIANTS])
    more = f"README has the table of {len(VARIANTS)}, and 'package.module:Class' is the place of a class"
    raise ValueError(f"unknown attention variant {name!r}; the nearest is {near}; {more}")


def _wrong_options(part: Any, make: Callable[..., Any], error: TypeError) -> str:
    known = [name for name in list(inspect.signature(make).parameters)[1:] if name not in ("args", "kwargs")]
    return f"attention {part!r}: {error}; its options: {', '.join(known) or 'none'}"


def _numbers(key: str, layers: int) -> range:
    """The layers of "3", "0-2", "4-" or "0::3". Raises ValueError for another key, or a layer that there is not."""
    first, colons, step = key.partition("::")
    if colons and first.isdecimal() and step.isdecimal() and int(step) > 0:
        return range(int(first), layers, int(step))
    first, dash, last = key.partition("-")
    if not first.isdecimal() or not (last.isdecimal() or last == ""):
        raise ValueError(f"attention: a layer is written '3', '0-2', '4-' or '0::3', got {key!r}")
    begin, end = int(first), int(last) if last else (layers - 1 if dash else int(first))
    if begin > end or end >= layers:
        raise ValueError(f"attention: there are layers 0 to {layers - 1}, got {key!r}")
    return range(begin, end + 1)
