"""The rules and the engine, on tables made for the test: both directions, and every tensor accounted for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitrans import BertConfig, RobertaConfig
from minitrans.families import FAMILIES
from minitrans.models.auto import config_class
from minitrans.models.loading import family_of
from weights_convert.plan import Plan, TensorInfo, make_plan
from weights_convert.rules import (
    Alias,
    Concat,
    Drop,
    Refuse,
    Rename,
    Rule,
    Split,
    TableRow,
    Tied,
    Transpose,
    fill,
    inverse,
    match,
    movements,
)

FLOAT = torch.float32


def info(key: str, shape: tuple[int, ...] = (2,), dtype: torch.dtype = FLOAT) -> TensorInfo:
    return TensorInfo(key, dtype, shape, "file")


def plan_for(table: list[TableRow], sources: dict[str, tuple[int, ...]], targets: dict[str, tuple[int, ...]]) -> Plan:
    return make_plan(table, {key: info(key, shape) for key, shape in sources.items()}, targets)


@pytest.mark.parametrize(
    ("template", "key", "numbers"),
    [
        ("h.{layer}.w", "h.3.w", {"layer": 3}),
        ("h.{layer}.w", "h.10.w", {"layer": 10}),
        ("a.b", "a.b", {}),
        ("h.{layer}.w", "h.03.w", None),
        ("h.{layer}.w", "h.-1.w", None),
        ("h.{layer}.w", "h.².w", None),
        ("h.{layer}.w", "h.x.w", None),
        ("h.{layer}.w", "h.3.w.x", None),
        ("h.{layer}.w", "x.h.3.w", None),
        ("h.{layer}.w", "h.3.4.w", None),
        ("a.b", "aXb", None),
        ("{i}.{j}.{i}.w", "1.2.1.w", {"i": 1, "j": 2}),
        ("{i}.{j}.{i}.w", "1.2.3.w", None),
    ],
)
def test_a_template_matches_whole_segments_and_plain_numbers_only(
    template: str, key: str, numbers: dict[str, int] | None
) -> None:
    assert match(template, key) == numbers
    if numbers is not None:
        assert fill(template, numbers) == key


@pytest.mark.parametrize("template", ["h{layer}.w", "h.{layer.w", "h.{la yer}.w", "h.{layer}"])
def test_a_template_with_a_partial_placeholder_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        match(template, "h.1.w")


def test_a_name_of_a_million_characters_is_no_work() -> None:
    assert match("h.{layer}.w", "h." + "1" * 10**6 + ".w") is None
    assert match("h.{layer}.w", "." * 10**6) is None


@pytest.mark.parametrize(
    ("rule", "shapes"),
    [
        (Rename("a.w", "b.w"), [(3, 5)]),
        (Transpose("a.w", "b.w"), [(3, 5)]),
        (Split("f.w", ("q.w", "k.w", "v.w")), [(6, 5)]),
        (Split("f.w", ("q.w", "k.w", "v.w"), dim=1), [(5, 6)]),
        (Split("f.w", ("q.w", "k.w", "v.w"), dim=1, transpose=True), [(5, 6)]),
        (Concat(("q.w", "k.w"), "f.w"), [(3, 5), (3, 5)]),
        (Concat(("q.w", "k.w"), "f.w", dim=1), [(3, 5), (3, 5)]),
        (Concat(("q.w", "k.w"), "f.w", dim=0, transpose=True), [(3, 5), (3, 5)]),
    ],
)
def test_every_rule_and_its_inverse_give_back_the_tensors(rule: Rule, shapes: list[tuple[int, ...]]) -> None:
    tensors = [torch.randn(shape) for shape in shapes]
    moved = rule.apply(tensors)
    assert [tuple(tensor.shape) for tensor in moved] == rule.shapes(shapes)
    undone = rule.inverse()
    assert (undone.sources, undone.targets) == (rule.targets, rule.sources)
    assert undone.inverse() == rule
    back = undone.apply(moved)
    assert undone.shapes([tuple(tensor.shape) for tensor in moved]) == shapes
    assert all(torch.equal(one, other) for one, other in zip(back, tensors, strict=True))


def test_split_follows_the_reference_s_fused_projection() -> None:
    # GPT-2: c_attn.weight is (in, 3 * out), laid out q | k | v along dimension 1; a Linear wants (out, in).
    x, fused = torch.randn(7, 4), torch.randn(4, 6)
    parts = Split("c_attn.weight", ("q.weight", "k.weight", "v.weight"), dim=1, transpose=True).apply([fused])
    for index, part in enumerate(parts):
        assert part.shape == (2, 4)
        assert torch.equal(torch.nn.functional.linear(x, part), (x @ fused)[:, 2 * index : 2 * index + 2])


@pytest.mark.parametrize(
    ("rule", "shapes", "message"),
    [
        (Transpose("a.w", "b.w"), [(3,)], "expected a matrix to transpose"),
        (Split("f.w", ("q.w", "k.w", "v.w")), [(5, 6)], "expected dimension 0 to divide into 3 parts"),
        (Split("f.w", ("q.w", "k.w"), dim=1), [(4,)], "expected dimension 1 to divide"),
        (Split("f.w", ("q.w", "k.w"), transpose=True), [(4,)], "expected a matrix"),
        (Concat(("q.w", "k.w"), "f.w"), [(3, 5), (5, 3)], "expected parts of one shape"),
        (Concat(("q.w", "k.w"), "f.w", dim=1), [(3,), (3,)], "expected parts with a dimension 1"),
        (Concat(("q.w", "k.w"), "f.w", transpose=True), [(3,), (3,)], "expected a matrix"),
    ],
)
def test_shapes_that_cannot_be_moved_are_explained(rule: Rule, shapes: list[tuple[int, ...]], message: str) -> None:
    assert message in str(rule.shapes(shapes))


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_family_s_table_has_an_inverse(model_type: str, tied: bool) -> None:
    halves = {"encoder": BertConfig(), "decoder": RobertaConfig(is_decoder=True, add_cross_attention=True)}
    config: Any = config_class(model_type)(**(halves if model_type == "encoder-decoder" else {}))
    table = family_of(model_type).table(config.updated(tie_word_embeddings=tied))
    undone = inverse(table)
    assert [rule.inverse() for rule in undone] == [row for row in movements(table) if not isinstance(row, Alias)]


def test_two_rows_that_read_one_name_have_no_inverse() -> None:
    with pytest.raises(ValueError, match=r"no inverse.*a\.w"):
        inverse([Rename("a.w", "b.w"), Rename("a.w", "c.w")])


def test_every_fault_is_reported_together() -> None:
    table = [
        Rename("good.w", "g.w"),
        Rename("odd.w", "o.w"),
        Rename("whole.w", "i.w"),
        Rename("twice.w", "t.w"),
        Rename("again.w", "t.w"),
        Concat(("one.w", "two.w"), "both.w"),
        Split("fused.w", ("p.w", "q.w")),
        Drop("buffer.w", "a buffer"),
        Refuse("danger.w", "expected nothing of the kind"),
    ]
    sources = {
        key: info(key, (3,) if key == "fused.w" else (2,))
        for key in ("good.w", "odd.w", "twice.w", "again.w", "one.w", "fused.w", "buffer.w", "danger.w", "who.w")
    }
    sources["whole.w"] = info("whole.w", dtype=torch.int64)
    targets = dict.fromkeys(("g.w", "i.w", "t.w", "both.w", "p.w", "q.w", "nothing.w"), (2,)) | {"o.w": (4,)}
    plan = make_plan(table, sources, targets)
    assert [step.targets for step in plan.steps] == [("g.w",), ("t.w",)]
    assert plan.missing == ["nothing.w"]
    assert [(m.source.key, m.found, m.expected) for m in plan.mismatched] == [("odd.w", (2,), (4,))]
    assert plan.dropped == {"buffer.w": "a buffer"}
    assert plan.unknown == {"who.w": "no rule of this family knows the name"}
    text = "\n".join(plan.faults)
    assert len(plan.faults) == 5
    assert "again.w: expected one tensor for t.w, found also file: twice.w" in text
    assert "one.w: expected a tensor two.w beside it" in text
    assert "fused.w: expected dimension 0 to divide into 2 parts, found shape [3]" in text
    assert "whole.w: expected floating-point weights, found int64" in text
    assert "danger.w: expected nothing of the kind" in text


def test_a_known_name_that_the_model_lacks_is_not_a_fault() -> None:
    plan = plan_for([Rename("h.{layer}.w", "l.{layer}.w")], {"h.0.w": (2,), "h.1.w": (2,)}, {"l.0.w": (2,)})
    assert not plan.faults
    assert plan.unknown == {"h.1.w": "this model has no l.1.w"}


@pytest.mark.parametrize(
    ("stored", "served"), [(["a.w"], {"b.w": "a.w"}), (["b.w"], {"a.w": "b.w"}), (["a.w", "b.w"], {})]
)
def test_either_of_two_tied_keys_serves_both(stored: list[str], served: dict[str, str]) -> None:
    table = [Rename("a.w", "x.w"), Rename("b.w", "y.w"), Tied("a.w", "b.w")]
    plan = plan_for(table, dict.fromkeys(stored, (2,)), {"x.w": (2,), "y.w": (2,)})
    assert {target for step in plan.steps for target in step.targets} == {"x.w", "y.w"}
    assert plan.served_by == served
    assert not plan.missing
    assert not plan.unknown
    assert not plan.faults


@given(
    st.lists(st.text(max_size=12), unique=True, max_size=8),
    st.lists(st.sampled_from(["l.0.w", "l.1.w", "z"]), unique=True),
)
def test_nothing_is_lost(keys: list[str], wanted: list[str]) -> None:
    table = [Rename("h.{layer}.w", "l.{layer}.w"), Rename("z.z", "z"), Drop("d", "why")]
    names = [*keys, "h.0.w", "d"]
    plan = plan_for(table, dict.fromkeys(names, (2,)), dict.fromkeys(wanted, (2,)))
    used = {name for step in plan.steps for name in step.sources}
    assert used | plan.dropped.keys() | plan.unknown.keys() == set(names)
    filled = [target for step in plan.steps for target in step.targets]
    assert sorted(filled + plan.missing) == sorted(wanted)
