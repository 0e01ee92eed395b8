"""Attention swapped into whole models: by layer, there and back, with parameters of its own, saved and loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import minitrans
from minitrans import AttentionResult, BertConfig, BertForMaskedLM, BertModel, LayerSizes, NotSupportedError, Variant
from minitrans.attention.packed import by_sequence
from minitrans.attention.registry import VARIANTS, load

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 20,
    "max_position_embeddings": 24,
}  # fmt: skip
IDS = torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])


def trial(name: str) -> str | dict[str, Any]:
    """The row, so that it shows on texts of a few tokens."""
    options = load(VARIANTS[name]).trial
    return {"name": name, **options} if options else name


SPECS: dict[str, Any] = {
    **{name: trial(name) for name in VARIANTS if name != "sliding_window"},
    "sliding_window": {"name": "sliding_window", "window": 4},
    "composed": ["rotary", "qk_norm", {"name": "dilated", "window": 2}, {"name": "sink", "initial": 0.5}],
    "by number": {"layers": {"0": "sink", "1-": ["rotary", "talking_heads"]}},
    "one a layer": {"layers": ["full", "sigmoid", {"name": "sliding_window", "window": 2}]},
}


class Mean(Variant):
    """Everybody looks at everybody alike, a little."""

    name = "mean"

    def __init__(self, sizes: LayerSizes, *, share: float = 0.5) -> None:
        super().__init__(sizes)
        self.share = nn.Parameter(torch.full((), share))

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: Any) -> AttentionResult:
        return AttentionResult(self.share * value.mean(dim=2, keepdim=True).expand_as(query))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def model(cls: Any = BertForMaskedLM, **changes: Any) -> Any:
    config = cls.config_class(**{**SIZES, **changes})
    made = cls(config).eval()
    for parameter in made.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def scattered(made: nn.Module) -> list[str]:
    """Random numbers in the parameters of variants; their names."""
    own = [(name, parameter) for name, parameter in made.named_parameters() if ".variants." in name]
    for _, parameter in own:
        parameter.mul_(0.05).add_(torch.randn_like(parameter) * 0.3)  # some begin far out, at softmax attention
    return [name for name, _ in own]


@pytest.mark.parametrize("kind", SPECS)
def test_into_a_checkpoint_saved_loaded_and_back(kind: str, tmp_path: Path) -> None:
    spec = SPECS[kind]
    model().save_pretrained(tmp_path / "full")
    full = BertForMaskedLM.from_pretrained(tmp_path / "full")
    expected = full(IDS, MASK).logits

    swapped = BertForMaskedLM.from_pretrained(tmp_path / "full", attention=spec)
    own = [name for name, _ in swapped.named_parameters() if ".variants." in name]
    assert swapped.load_report.fresh == own
    names = {name for name, _ in swapped.named_parameters()} - set(own)
    assert all(torch.equal(swapped.get_parameter(name), full.get_parameter(name)) for name in names)
    scattered(swapped)
    changed = swapped(IDS, MASK).logits
    if kind != "document":  # one text is one document
        assert (changed - expected).abs().max() > 1e-4

    report = swapped.save_pretrained(tmp_path / "swapped")
    assert report.notes == []
    assert json.loads((tmp_path / "swapped" / "config.json").read_text())["attention"] == spec
    again = BertForMaskedLM.from_pretrained(tmp_path / "swapped")
    assert again.config.attention == spec
    assert again.load_report.fresh == []
    assert torch.equal(again(IDS, MASK).logits, changed)

    for back in (again, BertForMaskedLM.from_pretrained(tmp_path / "swapped", attention="full")):
        back.set_attention("full")
        assert not any(".variants." in name for name in back.state_dict())
        assert torch.equal(back(IDS, MASK).logits, expected)
    full.set_attention(spec)
    full.load_state_dict(swapped.state_dict(), strict=True)
    assert torch.equal(full(IDS, MASK).logits, changed)


@pytest.mark.parametrize("cls", [minitrans.RobertaModel, minitrans.AlbertModel, minitrans.DistilBertModel, minitrans.MPNetModel, minitrans.ElectraModel, minitrans.DebertaV2Model])  # fmt: skip
def test_every_family_takes_parameters_of_variants(cls: Any, tmp_path: Path) -> None:
    names = {ours: cls.config_class.own_names.get(ours, ours) for ours in SIZES}
    made = cls(cls.config_class(**{names[name]: value for name, value in SIZES.items()})).eval()
    made.set_attention("talking_heads")
    assert scattered(made)
    made.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert again.load_report.fresh == []
    assert torch.equal(again(IDS, MASK)[0], made(IDS, MASK)[0])


@pytest.mark.parametrize("kind", SPECS)
def test_padding_left_out_gives_the_same(kind: str) -> None:
    made = model(BertModel).double()
    made.set_attention(SPECS[kind])
    scattered(made)
    kept = made(IDS, MASK, padding="keep").last_hidden_state * MASK[..., None]
    removed = made(IDS, MASK, padding="remove").last_hidden_state
    alone = made(IDS[1:, :5]).last_hidden_state[0]
    assert (kept - removed).abs().max() <= 1e-12
    assert (removed[1, :5] - alone).abs().max() <= 1e-12


def test_every_layer_has_its_own_of_an_object() -> None:
    made = model(BertModel)
    given = Mean(LayerSizes(16, 4, 4, 4))
    made.set_attention(given)
    own = [block.attention.variants[0] for block in made.encoder.layer]
    assert len({id(each) for each in (given, *own)}) == 4
    made.set_attention(lambda sizes: Mean(sizes, share=float(sizes.layer)))
    assert [float(block.attention.variants[0].share) for block in made.encoder.layer] == [0.0, 1.0, 2.0]
    assert made.encoder.layer[1].attention.variants[0].sizes == LayerSizes(16, 4, 4, 4, layer=1, longest=24)


def test_a_class_by_its_place_is_saved_but_loaded_only_if_asked_for(tmp_path: Path) -> None:
    place = f"{Mean.__module__}:Mean"
    sys.modules.setdefault(Mean.__module__, sys.modules[__name__])
    made = model(attention={"name": place, "share": 0.25})
    made.save_pretrained(tmp_path)
    with pytest.raises(
        minitrans.CheckpointError, match=r"attention: expected a name that minitrans knows .* attention="
    ):
        BertForMaskedLM.from_pretrained(tmp_path)
    for cls in (BertForMaskedLM, minitrans.AutoModelForMaskedLM):
        again = cls.from_pretrained(tmp_path, attention={"name": place, "share": 0.75})
        assert torch.equal(again(IDS).logits, made(IDS).logits)  # the file's numbers, not the option's
    made.set_attention(lambda sizes: Mean(sizes))
    with pytest.raises(ValueError, match="cannot be written into a configuration file"):
        made.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").iterdir())


def test_auto_asks_the_attention_whether_it_takes_packed_batches() -> None:
    made = model(BertModel)
    made.set_attention(Mean)
    wide = torch.ones(64, 24, dtype=torch.long)
    wide[1:, 3:] = 0
    ids = torch.ones_like(wide)
    kept = made(ids, wide).last_hidden_state  # 1,323 cells of padding times 16: not worth it
    made.padding = "auto"
    large = model(BertModel, hidden_size=64)
    large.set_attention(Mean)
    assert large(ids, wide).packing is None  # worth it, and not done
    assert large(ids, wide, unpack=False).packing is None
    large.set_attention("sigmoid")
    assert large(ids, wide, unpack=False).packing is not None
    assert kept.shape == (64, 24, 16)
    large.set_attention(Mean)
    with pytest.raises(NotSupportedError, match="does not support packed batches; use padding='keep'"):
        large(ids, wide, padding="remove")
    packed = minitrans.pack([{"input_ids": [1, 2, 3]}, {"input_ids": [4]}])
    with pytest.raises(NotSupportedError, match="does not support packed batches; pad it, with padding='keep'"):
        large(**packed)


def test_a_mechanism_can_be_made_to_take_packed_batches() -> None:
    class Packed(Mean):
        def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: Any) -> AttentionResult:
            return by_sequence(super().compute, query, key, value, rules)

        def supports(self, rules: Any, query: Tensor) -> str | None:
            return None

    made = model(BertModel)
    made.set_attention(Packed)
    removed = made(IDS, MASK, padding="remove").last_hidden_state
    assert torch.equal(removed[1, :5], made(IDS[1:, :5]).last_hidden_state[0])


def test_a_swap_can_set_its_own_dropout(tmp_path: Path) -> None:
    made = model(attention_probs_dropout_prob=0.3)
    made.set_attention("sigmoid", dropout=0.0)
    assert {block.attention.dropout_p for block in made.bert.encoder.layer} == {0.0}
    assert made.config.attention_probs_dropout_prob == 0.0
    made.save_pretrained(tmp_path)
    assert BertForMaskedLM.from_pretrained(tmp_path).bert.encoder.layer[0].attention.dropout_p == 0.0
    distil = minitrans.DistilBertModel(
        minitrans.DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=2, hidden_dim=8)
    )
    distil.set_attention("full", dropout=0.2)
    assert distil.config.attention_dropout == distil.encoder.layer[0].attention.dropout_p == 0.2


def test_a_failed_swap_swaps_nothing() -> None:
    made = model(BertModel)
    before = made(IDS).last_hidden_state
    for spec in ({"layers": {"0": "sink", "7": "sink"}}, {"layers": ["sink"]}, ["sigmoid", "talking_heads"]):
        with pytest.raises(ValueError, match="layers|only one variant"):
            made.set_attention(spec)
    with pytest.raises(NotSupportedError, match="'sigmoid' is a mechanism of its own: it has no backend 'sdpa'"):
        made.set_attention("sigmoid", "sdpa")
    assert torch.equal(made(IDS).last_hidden_state, before)
    assert made.config.attention == "full"


def test_a_backend_given_at_load_keeps_the_numbers_of_variants(tmp_path: Path) -> None:
    made = model(BertModel)
    made.set_attention("sink")
    scattered(made)
    made.save_pretrained(tmp_path)
    eager = BertModel.from_pretrained(tmp_path, backend="eager", dtype="float64")
    assert {block.attention.backend for block in eager.encoder.layer} == {"eager"}
    assert (eager(IDS).last_hidden_state - made.double()(IDS).last_hidden_state).abs().max() <= 1e-12


def test_softcap_reaches_every_backend() -> None:
    made = model(BertModel).double()
    full = made(IDS, MASK).last_hidden_state
    found = {}
    for backend in ("eager", "flex", "online_softmax", "triton", "auto"):
        made.set_attention({"name": "softcap", "cap": 0.2}, backend)
        found[backend] = made(IDS, MASK).last_hidden_state[MASK.bool()]
    assert (found["eager"] - full[MASK.bool()]).abs().max() > 1e-3
    assert all((each - found["eager"]).abs().max() <= 1e-12 for each in found.values())
    made.set_attention({"name": "softcap", "cap": 0.2}, "sdpa")
    with pytest.raises(
        NotSupportedError, match="'sdpa' does not support softcap; supported by: eager, flex, online_softmax, triton"
    ):
        made(IDS)


def test_pruned_heads_come_first() -> None:
    made = model(BertModel, pruned_heads={1: (0, 2)}, attention="sink")
    assert made.encoder.layer[1].attention.variants[0].logit.shape == (2,)
    made(IDS)
    with pytest.raises(ValueError, match="prune the heads first, then swap"):
        made.prune_heads({0: [1]})


def test_config_is_checked_where_it_is_made() -> None:
    with pytest.raises(TypeError, match=r"sliding_window.*windw.*its options: window"):
        BertConfig(**SIZES, attention={"name": "sliding_window", "windw": 2})
    with pytest.raises(ValueError, match="unknown attention variant 'rotray'; the nearest is 'rotary'"):
        BertConfig(**SIZES, attention={"layers": {"0": ["rotray"]}})


def test_l1_a_window_is_a_row_of_window_plus_one_keys() -> None:
    """L1."""
    made = model(BertModel)
    made.set_attention({"name": "sliding_window", "window": 4})
    weights = made(IDS, output_attentions=True).attentions[0]  # (B, H, T, S)
    assert (weights[0, 0] > 0).sum(-1).tolist() == [3, 4, 5, 5, 5, 5, 5, 4, 3]


def test_what_a_mask_means() -> None:
    """M1: any number that is not zero attends; M4: without a mask ids of padding are tokens like others."""
    made = model(BertModel, pad_token_id=3)
    half = made(IDS, MASK * 0.5).last_hidden_state
    assert torch.equal(half, made(IDS, MASK).last_hidden_state)
    padded = IDS.clone()
    padded[1, 5:] = 3
    without = made(padded).last_hidden_state
    assert torch.equal(without, made(padded, torch.ones_like(MASK)).last_hidden_state)
    assert (without - made(padded, MASK).last_hidden_state)[1, :5].abs().max() > 1e-3
