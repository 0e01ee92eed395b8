"""Which language a file speaks, and the same table for ours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from weights_convert.families import albert, bert, distilbert, mpnet
from weights_convert.families.family import Family
from weights_convert.names import bare_names
from weights_convert.own_names import languages, own_module_names, own_table
from weights_convert.rules import Drop, Rename, Split, Tied

CONFIG = SimpleNamespace(tie_word_embeddings=True, num_hidden_groups=2, inner_group_num=2)


@pytest.mark.parametrize(
    ("family", "names", "expected"),
    [
        (bert, ["encoder.layer.11.attention.self.query.weight"], (True, False)),
        (bert, ["encoder.layer.11.attention.query.weight"], (False, True)),
        (bert, ["embeddings.word_embeddings.weight", "classifier.bias", "mine.7.x"], (False, False)),
        (bert, ["cls.predictions.transform.dense.weight", "lm_head.dense.weight"], (True, True)),
        (bert, ["lm_head.decoder.weight", "cls.predictions.bias"], (False, True)),
        (distilbert, ["encoder.layer.0.attention.query.weight"], (False, True)),
        (albert, ["encoder.layer.3.attention.query.weight"], (False, True)),
        (albert, ["encoder.albert_layer_groups.1.albert_layers.1.attention.query.weight"], (True, False)),
        (mpnet, ["encoder.layer.0.attention.attn.q.weight"], (True, False)),
        (bert, [], (False, False)),
    ],
)
def test_languages(family: SimpleNamespace, names: list[str], expected: tuple[bool, bool]) -> None:
    table: Family = family.FAMILY
    assert languages(table.table(CONFIG), names) == expected


def test_the_table_with_our_names_on_both_sides() -> None:
    table = (
        Rename("words.weight", "table.weight"),
        Rename("out.weight", "head.weight"),
        Split("h.{layer}.qkv", ("l.{layer}.q", "l.{layer}.k")),
        Tied("out.weight", "words.weight", switch="tied"),
        Tied("out.bias", "bias"),
        Drop("out.weight", "why"),
        Drop("positions", "a buffer"),
    )
    assert own_table(table) == (
        Rename("table.weight", "table.weight"),
        Rename("head.weight", "head.weight"),
        Rename("l.{layer}.q", "l.{layer}.q"),
        Rename("l.{layer}.k", "l.{layer}.k"),
        Tied("head.weight", "table.weight", switch="tied"),
        Drop("head.weight", "why"),
        Drop("positions", "a buffer"),
    )


def test_what_a_tool_put_into_a_module() -> None:
    names = [
        "encoder.layer.0.attention.self.query.lora_A.weight",
        "encoder.layer.12.output.dense.base_layer.weight",
        "encoder.layer.0.attention.query.lora_A.weight",  # ours
        "encoder.layer.0.attention.output.lora_A.weight",  # ours, and the beginning of a name of theirs
        "classifier.modules_to_save.weight",  # the same here and there
        "mine.lora_A.weight",
    ]
    assert own_module_names(bert.FAMILY.table(CONFIG), names) == {
        names[0]: "encoder.layer.0.attention.query.lora_A.weight",
        names[1]: "encoder.layer.12.feed_forward.down.base_layer.weight",
    }
    # A1: each block of each group has a row of its own; and "pooler" is a module of theirs, "pooler.dense" one of ours
    names = [
        "encoder.albert_layer_groups.1.albert_layers.0.ffn.lora_B.weight",
        "pooler.dense.lora_A.weight",
        "pooler.lora_A.weight",
    ]
    assert own_module_names(albert.FAMILY.table(CONFIG), names) == {
        names[0]: "encoder.layer.2.feed_forward.up.lora_B.weight",
        names[2]: "pooler.dense.lora_A.weight",
    }


def test_the_first_expression_that_occurs_in_a_key_counts() -> None:
    names, faults = bare_names(
        ["model.blocks.3.w", "y"], ("toy",), {r"blocks\.(\d)": r"h.\1", r"^y$": "z", "h": "never"}
    )
    assert (names, faults) == ({"h.3.w": "model.blocks.3.w", "z": "y"}, [])
    _, faults = bare_names(["x", "y"], ("toy",), {"y": "x"})
    assert faults == ["x: expected one key for this tensor, found also y"]
    with pytest.raises(ValueError, match="key_mapping: expected regular expressions and replacements, got '.'"):
        bare_names(["x"], ("toy",), {"(": ""})
