"""Every way to say which attention a layer has, and every way to say it wrong."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from minitrans.attention.mask import AttentionMask
from minitrans.attention.registry import VARIANTS
from minitrans.attention.specs import build_variants, check_spec, names_code, of_layer, stored_spec
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.attention.variants.dilated import Dilated
from minitrans.attention.variants.qk_norm import QueryKeyNorm
from minitrans.attention.variants.rotary import Rotary
from minitrans.attention.variants.sigmoid import Sigmoid
from minitrans.attention.variants.sink import Sink
from minitrans.attention.variants.sliding_window import SlidingWindow
from minitrans.lab.specs import read_subjects

SIZES = LayerSizes(48, 6, 3, 8, layer=2, longest=20)


class Own(Variant):
    def __init__(self, sizes: LayerSizes, *, share: float = 0.5) -> None:
        super().__init__(sizes)
        self.share = nn.Parameter(torch.full((sizes.heads,), share))

    def restrict(self, mask: AttentionMask, bias: Any, sizes: Any) -> tuple[AttentionMask, Any]:
        return mask, bias


class Outer:
    class Inner(Own):
        pass


class Kwargs(Variant):
    def __init__(self, sizes: LayerSizes, **options: Any) -> None:
        super().__init__(sizes)


def only(spec: Any) -> Variant:
    (variant,) = build_variants(spec, SIZES)
    return variant


@pytest.fixture
def place() -> str:
    """Of the class `Own`, importable by its name."""
    sys.modules.setdefault(Own.__module__, sys.modules[__name__])
    return f"{Own.__module__}:Own"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_is_a_variant_of_that_name(name: str) -> None:
    variant = only(read_subjects([name])[0].spec)  # with options where it needs some
    assert variant.name == name
    assert variant.sizes == SIZES


@pytest.mark.parametrize("spec", ["full", {"name": "full"}, [], ["full", {"name": "full"}]])
def test_full_is_no_variant_at_all(spec: Any) -> None:
    assert build_variants(spec, SIZES) == []


def test_names_and_options() -> None:
    window = only({"name": "sliding_window", "window": 6})
    assert isinstance(window, SlidingWindow)
    assert window.window == 6
    rotary = only({"name": "rotary", "base": 500.0, "layout": "interleaved"})
    assert isinstance(rotary, Rotary)
    assert (rotary.base, rotary.layout) == (500.0, "interleaved")


def test_a_spec_is_left_as_it_was() -> None:
    spec = {"name": "sliding_window", "window": 6}
    for _ in range(2):
        only(spec)
    assert spec == {"name": "sliding_window", "window": 6}


def test_lists_keep_their_order_and_may_be_nested() -> None:
    kinds = [type(each) for each in build_variants(["sink", ["rotary", "full", "qk_norm"], Own], SIZES)]
    assert kinds == [Sink, Rotary, QueryKeyNorm, Own]


def test_classes_factories_and_places(place: str) -> None:
    assert type(only(Own)) is Own
    made = only(lambda sizes: Own(sizes, share=float(sizes.layer)))
    assert made.share.tolist() == [2.0] * 6
    for spec, share in ((place, 0.5), ({"name": place, "share": 0.25}, 0.25)):
        variant: Any = only(spec)
        assert type(variant).__qualname__ == "Own"
        assert variant.share.tolist() == [share] * 6


def test_an_object_is_copied_for_every_layer() -> None:
    given = Own(SIZES, share=0.75)
    first, second = only(given), only(given)
    assert len({id(given), id(first), id(second)}) == 3
    with torch.no_grad():
        first.share += 1
    assert given.share.tolist() == second.share.tolist() == [0.75] * 6


def test_numbers_are_real_whatever_the_default_device() -> None:
    with torch.device("meta"):
        variant: Any = only("qk_norm")
    assert variant.query_weight.tolist() == [1.0] * 8


def test_layers_one_by_one_and_by_number() -> None:
    listed = {"layers": ["full", "rotary", ["sink", "rotary"]]}
    assert [of_layer(listed, layer, 3) for layer in range(3)] == listed["layers"]
    numbered = {"layers": {"0": "sink", "2-3": "rotary", 5: "sigmoid", "6-": {"name": "dilated"}}}
    assert [of_layer(numbered, layer, 8) for layer in range(8)] == [
        "sink", "full", "rotary", "rotary", "full", "sigmoid", {"name": "dilated"}, {"name": "dilated"},
    ]  # fmt: skip
    for spec in ("rotary", ["rotary", "sink"], {"name": "dilated"}, Own):
        assert of_layer(spec, 4, 8) is spec
    check_spec(listed)
    check_spec(numbered)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["full"] * 2, r"'layers' must list one attention a layer, 3, got 2"),
        ({"0-1": "sink", "1": "full"}, r"layer 1 is chosen twice, the second time by '1'"),
        ({"3": "sink"}, r"there are layers 0 to 2, got '3'"),
        ({"1-5": "sink"}, r"there are layers 0 to 2, got '1-5'"),
        ({"2-1": "sink"}, r"there are layers 0 to 2, got '2-1'"),
        ({"first": "sink"}, r"a layer is written '3', '0-2', '4-' or '0::3', got 'first'"),
        ({"-1": "sink"}, r"a layer is written '3', '0-2', '4-' or '0::3', got '-1'"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_layer({"layers": layers}, 0, 3)


@pytest.mark.parametrize("spec", [{"layers": "rotary"}, {"layers": 3}, {"layers": ["full"], "name": "rotary"}])
def test_layers_of_another_kind_are_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match=r"expected \{'layers': a list or a mapping from numbers\}"):
        check_spec(spec)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (
        "fall",
        ValueError,
        "unknown attention variant 'fall'; the nearest is 'full'; README has the table of .*is the place of a class",
    ),
    ({"window": 4}, ValueError, "unknown attention variant None; the nearest is"),
    ("slidng_window", ValueError, "the nearest is 'sliding_window'"),
    ({"name": "full", "windw": 4}, TypeError, "attention 'full' has no options, got windw"),
    (
        "sliding_window",
        TypeError,
        "attention 'sliding_window': missing a required argument: 'window'; its options: window",
    ),
    ({"name": "rotary", "theta": 9.0}, TypeError, "unexpected keyword argument 'theta'; its options: base, layout"),
    ({"name": "sigmoid", "sizes": 1}, TypeError, "multiple values for argument 'sizes'; its options: bias"),
    ("no.such.module:Own", ValueError, "'no.such.module:Own' cannot be imported: No module named 'no'"),
    ("minitrans.attention.variants.rotary:Missing", ValueError, "cannot be imported: .*has no attribute 'Missing'"),
    (
        7,
        TypeError,
        "attention must be a name, a mapping with a 'name', a list of these, or a minitrans.Variant.* got 7",
    ),
    (["rotary", None], TypeError, "attention must be a name, .*got None"),
]


@pytest.mark.parametrize(("spec", "error", "message"), WRONG)
def test_what_is_no_variant_is_refused(spec: Any, error: type[Exception], message: str) -> None:
    for refuses in (
        lambda: build_variants(spec, SIZES),
        lambda: check_spec(spec),
        lambda: check_spec({"layers": [spec]}),
    ):
        with pytest.raises(error, match=message):
            refuses()


class Stranger:
    def __init__(self, sizes: LayerSizes | None = None) -> None:
        pass

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        return q


@pytest.mark.parametrize(
    "spec", [lambda q, k, v: q, lambda sizes: sizes, Stranger, Stranger(), nn.Linear(2, 2), type("Bare", (), {})]
)
def test_what_makes_no_variant_is_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match=r"attention must be a name, .* a function from LayerSizes to one; got "):
        build_variants(spec, SIZES)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "sliding_window", "window": 3}, "window must be an even number of at least 2, got 3"),
        ({"name": "dilated", "dilation": 0}, "dilation must be a number of at least 1, got 0"),
        ({"name": "dilated", "window": 1}, "window must be an even number of at least 2, got 1"),
        ({"name": "softcap", "cap": 0.0}, "cap must be more than 0, got 0.0"),
        ({"name": "rotary", "layout": "other"}, "unknown rotary layout 'other'; known: halves, interleaved"),
        (
            ["sigmoid", "rotary", "talking_heads"],
            "only one variant of a layer can compute its attention, got sigmoid and talking",
        ),
    ],
)
def test_impossible_options_are_refused_where_it_is_built(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_variants(spec, SIZES)
    check_spec(spec)  # as far as it goes without sizes


def test_options_that_any_may_have() -> None:
    check_spec(Kwargs)
    assert type(only(Kwargs)) is Kwargs


def test_what_a_file_says_of_a_spec(place: str) -> None:
    for spec in (
        "rotary", {"name": "dilated", "window": 4}, ["rotary", {"name": "sink", "learned": False}],
        {"layers": {"0": "sink", "1-": ["rotary"]}}, {"name": place, "share": 0.1},
    ):  # fmt: skip
        assert stored_spec(spec) == spec
    assert stored_spec([Own, "sink"]) == [place, "sink"]
    inner = stored_spec(Outer.Inner)
    assert type(only(inner)).__qualname__ == "Outer.Inner"
    assert stored_spec({"layers": [Own, "full"]}) == {"layers": [place, "full"]}


def test_what_lives_in_this_process_alone_is_not_stored() -> None:
    class Local(Own):
        pass

    for spec in (Own(SIZES), Local, lambda sizes: Own(sizes), ["rotary", Local]):
        with pytest.raises(ValueError, match="cannot be written into a configuration file"):
            stored_spec(spec)


def test_what_names_code(place: str) -> None:
    for spec in (place, {"name": place}, ["rotary", place], {"layers": {"0": [place]}}):
        assert names_code(spec)
    for spec in ("rotary", {"name": "dilated", "window": 4}, ["rotary", "sink"], {"layers": ["full"]}, None):
        assert not names_code(spec)


def test_mechanisms_are_known_by_their_hook() -> None:
    assert Sigmoid(SIZES).is_mechanism
    assert not Dilated(SIZES).is_mechanism
