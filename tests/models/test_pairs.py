"""Encoder-decoders, number for number: every family and head against the reference, in float64, and against themselves.

The tolerances are those of `test_parity.py`. The reference computes some of T5 in float32 whatever the dtype; `exactly` does not.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import minitrans
from minitrans.checkpoints import verify
from minitrans.checkpoints.verification import without_float32
from minitrans.families import FAMILIES, families_with
from minitrans.generation.settings import NAMES
from minitrans.layers.cache import Cache
from minitrans.models import joined_pair
from minitrans.models.auto import class_by_name
from weights_convert.families import joined_pair as weights_of_joined_pair

PAIRS = families_with("ForSeq2SeqLM")
CASES = [(family, head) for family in PAIRS for head in FAMILIES[family].heads if head != "ForTokenClassification"]
V, B, S, T = 37, 4, 9, 7
BART: dict[str, Any] = {
    "vocab_size": V, "d_model": 12, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 3,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 19, "decoder_ffn_dim": 11, "max_position_embeddings": 24, "dropout": 0.1,
    "attention_dropout": 0.1, "activation_dropout": 0.1, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
    "classifier_dropout": 0.1, "decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": V, "d_model": 14, "d_kv": 5, "d_ff": 19, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "dropout_rate": 0.1, "classifier_dropout": 0.1,
    "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
BERT: dict[str, Any] = {
    "model_type": "bert", "vocab_size": V, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 19, "max_position_embeddings": 24, "pad_token_id": 1,
}  # fmt: skip
AS_DECODER = {"is_decoder": True, "add_cross_attention": True}
START = {"pad_token_id": 1, "decoder_start_token_id": 3, "eos_token_id": 2}
# the sizes, and other settings of the family that change numbers
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "t5": (T5, {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 1, "tie_word_embeddings": False}),
    "mt5": (T5, {"feed_forward_proj": "relu", "tie_word_embeddings": False}),
    "umt5": (T5, {"feed_forward_proj": "gated-silu", "num_decoder_layers": 1}),
    "bart": (BART, {"scale_embedding": True, "activation_function": "relu", "tie_word_embeddings": False}),
    "mbart": (BART, {"scale_embedding": True, "activation_function": "relu"}),
    "marian": (BART, {"scale_embedding": True, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 41}),
    "pegasus": (BART, {"scale_embedding": True}),
    "encoder-decoder": (
        {
            "encoder": BERT,
            **START,
            "decoder": {**BERT, **AS_DECODER, "model_type": "roberta", "hidden_size": 16, "num_attention_heads": 2},
        },
        {
            "encoder": {**BERT, "model_type": "roberta", "max_position_embeddings": 27, "hidden_act": "relu"},
            "decoder": {
                **AS_DECODER,
                "model_type": "gpt2",
                "vocab_size": V,
                "n_embd": 12,
                "n_layer": 3,
                "n_head": 2,
                "n_positions": 24,
                "tie_word_embeddings": False,
            },
        },
    ),
    "m2m_100": (BART, {"scale_embedding": False, "activation_function": "gelu"}),
}


def others(family: str, head: str) -> dict[str, Any]:
    """The other settings; the reference cannot compute the loss of a decoder alone with a vocabulary of its own."""
    return {**FIELDS[family][1], **({"decoder_vocab_size": V} if (family, head) == ("marian", "ForCausalLM") else {})}


@contextmanager
def exactly() -> Iterator[None]:
    """The reference does not round to float32, and draws no number for a layer that is not left out (S5)."""
    with without_float32(), pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Version v4.12.0 introduces", FutureWarning)
        patch.setattr(torch, "rand", lambda *size: torch.ones(*size))
        yield


def sinusoids(rows: int, width: int, *, like_tensor2tensor: bool) -> Tensor:
    """S6, S7 number by number in float64: the reference rounds its tables to float32."""
    half, table = width // 2, torch.zeros(rows, width, dtype=torch.float64)
    for place in range(rows):
        for column in range(half):
            exponent = column / (half - 1) if like_tensor2tensor else 2 * column / width
            angle = place / 10000**exponent
            table[place, column], table[place, half + column] = math.sin(angle), math.cos(angle)
    if like_tensor2tensor:
        table[1] = 0.0
    return table


class Pair:
    """A reference model and ours with its weights, float64, train mode."""

    def __init__(self, folder: Path, family: str, head: str, **changes: Any) -> None:
        name = FAMILIES[family].class_name(head)
        kind = getattr(transformers, name)
        config = kind.config_class(**{**FIELDS[family][0], **changes})
        config._attn_implementation = "eager"
        torch.manual_seed(7)
        self.reference = kind(config).double().train()
        if changes.get("tie_word_embeddings") is False and head == "ForSeq2SeqLM":
            self.reference.lm_head.weight = nn.Parameter(
                self.reference.lm_head.weight.clone() + 0.3
            )  # it ties T5 in any case
        with torch.no_grad():
            for path, module in self.reference.named_modules():
                if path.endswith("embed_positions") and family not in ("bart", "mbart"):
                    tables = [*module.parameters(), *module.buffers()]
                    tables[0].requires_grad_(False).copy_(
                        sinusoids(*tables[0].shape, like_tensor2tensor=family == "m2m_100")
                    )
            for parameter in self.reference.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            if hasattr(self.reference, "final_logits_bias"):
                self.reference.final_logits_bias.normal_()
        self.folder = folder
        self.reference.save_pretrained(folder)
        self.ours = class_by_name(name).from_pretrained(folder).train()
        self.ours.set_attention("full", "eager")


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Pair]:
    return lambda *case, **changes: Pair(tmp_path / "reference", *case, **changes)


def batch(family: str, *, left: bool = True) -> dict[str, Tensor]:
    """With padding on the left too, but for decoders: what sees nothing means nothing."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, V, (B, S), generator=generator)
    mask = torch.ones(B, S, dtype=torch.long)
    mask[1, 6:] = 0
    ids[:, 4:6] = 2  # two end tokens in every row, of which the last stands for it
    if left:
        mask[2, :3] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def labels(head: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    target = torch.randint(4, V, (B, T), generator=generator)
    target[1, 5:] = -100
    return {
        "Model": {"decoder_input_ids": target.clamp(min=1)},
        "ForSeq2SeqLM": {"labels": target},
        "ForSequenceClassification": {"labels": torch.tensor([0, 1, 1, 0])},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([0, 3, -2, 99]),
            "end_positions": torch.tensor([2, 3, 5, 8]),
        },
        "ForCausalLM": {
            "labels": torch.randint(4, V, (B, S), generator=generator),
            "encoder_hidden_states": torch.randn(B, T, 12, dtype=torch.float64, generator=generator),
            "encoder_attention_mask": (target != -100).long(),
            "use_cache": False,  # the reference makes one of as many layers as the encoder has
        },
    }[head]


def run(model: Any, inputs: dict[str, Any]) -> tuple[Any, Tensor]:
    torch.manual_seed(11)
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    if out.get("loss") is not None:
        return out, out["loss"]
    return out, (out[0].flatten() * torch.linspace(-1, 1, out[0].numel(), dtype=torch.float64)).sum()


@pytest.mark.parametrize("other", [False, True], ids=["plain", "other settings"])
@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)
def test_forward_loss_and_gradients(pair: Any, error: Any, family: str, head: str, other: bool) -> None:
    """In train mode, with dropout drawn from the same seed, padding on both sides, every hidden state and gradient.

    T1, T2, T3 and T4 of T5 and S1, S2, S3, S5, S6 of BART and its kin: the sizes and settings are such that each moves a number.
    """
    models = pair(family, head, **(others(family, head) if other else {}))
    inputs = {**batch(family, left=head != "ForCausalLM"), **labels(head)}
    with exactly():
        expected, theirs = run(models.reference, inputs)
        theirs.backward()
    got, mine = run(models.ours, inputs)
    mine.backward()
    assert error(mine, theirs) <= 1e-10
    assert set(got.keys()) | {"past_key_values"} == set(expected.keys()) | {"past_key_values"}
    compare(got, expected, error, without=("attentions",))  # the reference returns them after dropout
    mapped = gradients(models)
    floor = 1e-4 * max(float(each.abs().max()) for _, _, each in mapped)
    for name, own, reference in mapped:
        assert error(own, reference, floor) <= 1e-10, name


def compare(got: Any, expected: Any, error: Any, without: tuple[str, ...] = (), within: float = 1e-10) -> None:
    """Every tensor of the two outputs."""
    for name in got.keys():  # noqa: SIM118
        if name != "past_key_values" and not name.endswith(without or "\0"):
            ours, theirs = got[name], expected[name]
            for one, another in zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]:
                assert error(one, another) <= within, name


def gradients(models: Pair) -> list[tuple[str, Tensor, Tensor]]:
    """By the names of the reference: ours travel there as a state dict does, with gradients in the place of weights."""
    carrier = copy.deepcopy(models.ours)
    with torch.no_grad():
        for parameter, own in zip(carrier.parameters(), models.ours.parameters(), strict=True):
            parameter.copy_(torch.zeros_like(own) if own.grad is None else own.grad)
    carrier.save_pretrained(models.folder.parent / "gradients")
    ours = load_file(models.folder.parent / "gradients" / "model.safetensors")
    found = []
    for name, parameter in models.reference.named_parameters():
        if name in ours and parameter.requires_grad and (parameter.grad is not None or "shared" not in name):
            found.append((name, ours[name], torch.zeros_like(parameter) if parameter.grad is None else parameter.grad))
    learnt = {name for name, each in models.reference.named_parameters() if each.grad is not None}
    missing = learnt - {name for name, _, _ in found}
    assert not missing
    return found


@pytest.mark.parametrize("other", [False, True], ids=["plain", "other settings"])
@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)
def test_files_and_attentions_both_ways(
    pair: Any, error: Any, tmp_path: Path, family: str, head: str, other: bool
) -> None:
    """What we save is what the reference saves, tensor for tensor."""
    models = pair(family, head, **(others(family, head) if other else {}))
    models.ours.save_pretrained(tmp_path / "ours")
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (models.folder, tmp_path / "ours"))
    for name in list(theirs):
        computed = "embed_positions" in name and family not in ("bart", "mbart")
        if computed or (
            name.endswith("shared.weight") and family == "bart" and other
        ):  # S6; a table that nothing reads
            theirs.pop(name), ours.pop(name, None)
    assert sorted(theirs) == sorted(ours)
    assert [name for name, tensor in theirs.items() if not torch.equal(tensor, ours[name])] == []
    again = type(models.ours).from_pretrained(tmp_path / "ours")
    assert again.config == models.ours.config
    assert all(torch.equal(tensor, models.ours.state_dict()[name]) for name, tensor in again.state_dict().items())
    back = type(models.reference).from_pretrained(tmp_path / "ours", dtype=torch.float64, attn_implementation="eager")
    inputs = {**batch(family, left=head != "ForCausalLM"), **labels(head), "output_attentions": True}
    with exactly(), torch.no_grad():
        one, another = models.reference.eval()(**inputs), back.eval()(**inputs)
    # the reference makes its sinusoids in float32: half a unit of their last place, 6e-8, through three layers
    compare(another, one, error, within=1e-6 if family in ("marian", "pegasus", "m2m_100") else 0.0)
    if not other:
        assert (found := verify(tmp_path / "ours")).equal, found.summary()
    with torch.no_grad():
        got = models.ours.eval()(**inputs)
    assert sum(name.endswith("attentions") for name in got.keys()) == (2 if head == "ForCausalLM" else 3)  # noqa: SIM118
    compare(got, one, error)


@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)
def test_state_dicts(pair: Any, tmp_path: Path, family: str, head: str) -> None:
    """The reference's, and ours as a training tool leaves it, without a configuration."""
    models = pair(family, head)
    fresh = type(models.ours)(models.ours.config.copy()).double()
    fresh.load_state_dict(models.reference.state_dict())
    assert all(torch.equal(tensor, models.ours.state_dict()[name]) for name, tensor in fresh.state_dict().items())
    seen: dict[int, str] = {}
    once = {name: each for name, each in fresh.state_dict().items() if seen.setdefault(each.data_ptr(), name) == name}
    save_file(once, tmp_path / "model.safetensors")
    again = type(fresh).from_pretrained(tmp_path, config=fresh.config)
    assert not again.load_report.fresh
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)
def test_the_positional_order_is_the_reference_s(family: str, head: str) -> None:
    name = FAMILIES[family].class_name(head)
    theirs, ours = (
        [
            each.name
            for each in inspect.signature(kind.forward).parameters.values()
            if each.kind is each.POSITIONAL_OR_KEYWORD
        ]
        for kind in (getattr(transformers, name), class_by_name(name))
    )
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("capacity", [None, 12], ids=["growing", "static"])
@pytest.mark.parametrize("family", PAIRS)
@torch.no_grad()
def test_step_by_step_equals_all_at_once(pair: Any, error: Any, family: str, capacity: int | None) -> None:
    model = pair(family, "ForSeq2SeqLM").ours.eval()
    source, target = batch(family), labels("Model")["decoder_input_ids"]
    whole = model(**source, decoder_input_ids=target).logits
    memory = model.encode(**source)
    layers = model.pair.decoder.num_layers
    cache, parts = Cache.growing(layers) if capacity is None else Cache.static(layers, capacity), []
    for start, stop in ((0, 3), (3, 4), (4, T)):
        step = model(
            attention_mask=source["attention_mask"], encoder_outputs=memory, decoder_input_ids=target[:, start:stop],
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache = step.past_key_values
        parts.append(step.logits)
    assert error(torch.cat(parts, dim=1), whole) <= 1e-12


@pytest.mark.parametrize("family", PAIRS)
@torch.no_grad()
def test_a_row_alone_is_the_row_in_a_batch(pair: Any, error: Any, family: str) -> None:
    """Padding of the source moves nothing, and is not computed where it is left out."""
    model = pair(family, "ForSeq2SeqLM").ours.eval()
    source, target = batch(family, left=False), labels("Model")["decoder_input_ids"]
    for padding in ("keep", "remove"):
        whole = model(**source, decoder_input_ids=target, padding=padding).logits
        alone = model(source["input_ids"][1:2, :6], decoder_input_ids=target[1:2]).logits
        assert error(whole[1:2], alone) <= 1e-12


@pytest.mark.parametrize("family", PAIRS)
def test_surgery(pair: Any, family: str) -> None:
    model = pair(family, "ForSeq2SeqLM").ours.eval()
    source, target = batch(family), labels("Model")["decoder_input_ids"]
    before = model(**source, decoder_input_ids=target).logits
    model.set_attention("sigmoid")
    assert not torch.allclose(model(**source, decoder_input_ids=target).logits, before)
    model.set_attention("full")
    torch.testing.assert_close(model(**source, decoder_input_ids=target).logits, before)
    if family == "encoder-decoder":
        with pytest.raises(minitrans.NotSupportedError, match="each half has its own vocabulary"):
            model.resize_token_embeddings(V + 3)
        return
    model.resize_token_embeddings(V + 3)
    after = model(**source, decoder_input_ids=target).logits
    torch.testing.assert_close(after[..., :V], before[..., :V])
    assert after.shape[-1] == V + 3
    with pytest.raises(ValueError, match="heads of a pair are not pruned"):
        model.prune_heads({0: [1]})
    with pytest.raises(TypeError, match="no argument 'labls'|labls"):
        model(**source, decoder_input_ids=target, labls=target)


def test_what_the_decoder_reads() -> None:
    """S4: BART begins with the end token, mBART with the target's language, T5 with padding; without any it is an error."""
    ids = torch.tensor([[5, 6, 2, 30], [7, 2, 31, -100]])
    model: Any = minitrans.BartModel(minitrans.BartConfig(**BART))
    assert model.shift_right(ids).tolist() == [[2, 5, 6, 2], [2, 7, 2, 31]]
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="set model.config.decoder_start_token_id"):
        model.shift_right(ids)
    many: Any = minitrans.MBartModel(minitrans.MBartConfig(**BART))
    assert many.shift_right(ids).tolist() == [[30, 5, 6, 2], [31, 7, 2, 31]]
    five: Any = minitrans.T5Model(minitrans.T5Config(**T5))
    assert five.shift_right(ids).tolist() == [[1, 5, 6, 2], [1, 7, 2, 31]]
    with pytest.raises(ValueError, match="give decoder_input_ids"):
        five(ids.clamp(min=0))


def test_a_target_may_have_a_vocabulary_of_its_own(pair: Any, error: Any) -> None:
    """Ids beyond those of the source are read and scored; a decoder of the same file has that vocabulary."""
    models = pair("marian", "ForSeq2SeqLM", **FIELDS["marian"][1])
    target = torch.tensor([[1, 40, 38, 5]]).expand(B, -1)
    source = batch("marian")
    with exactly(), torch.no_grad():
        expected, got = (
            model.eval()(**source, decoder_input_ids=target).logits for model in (models.reference, models.ours)
        )
    assert error(got, expected) <= 1e-10
    alone = minitrans.MarianForCausalLM.from_pretrained(models.folder)
    assert not alone.load_report.fresh
    memory = models.ours.encode(**source).last_hidden_state
    again = alone(target, encoder_hidden_states=memory, encoder_attention_mask=source["attention_mask"]).logits
    assert error(again + models.ours.final_logits_bias, got) <= 1e-12


def test_the_decoder_alone_writes(pair: Any, tmp_path: Path) -> None:
    """Token for token as the reference, with a memory and without; from the file of a pair too."""
    for family in families_with("ForCausalLM"):
        if family not in PAIRS:
            continue
        models = pair(family, "ForCausalLM", decoder_layers=2)
        prompt = torch.tensor([[2, 7, 9], [2, 30, 11]])
        memory = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for given in ({}, {"encoder_hidden_states": memory}):
            settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2, **given}
            # with a memory the reference puts its keys into the cache of the text
            without = {"use_cache": not given, "attention_mask": torch.ones_like(prompt)}
            expected = models.reference.eval().generate(prompt, **without, **settings)
            assert models.ours.eval().generate(prompt, **settings).tolist() == expected.tolist()
        whole = models.ours(prompt).logits
        first = models.ours(prompt[:, :2], use_cache=True)
        step = models.ours(prompt[:, 2:], past_key_values=first.past_key_values).logits
        torch.testing.assert_close(step, whole[:, 2:], rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="a decoder alone: set is_decoder=False, is_encoder_decoder=True"):
            class_by_name(FAMILIES[family].class_name("Model")).from_pretrained(models.folder)
        assert type(minitrans.AutoModelForCausalLM.from_pretrained(models.folder)) is type(models.ours)


def joined(folder: Path, kind: str) -> Path:
    """A tiny checkpoint of the reference to join."""
    fields = {key: value for key, value in BERT.items() if key != "model_type"}
    fields = {name: value for name, value in fields.items() if kind != "GPT2LMHeadModel" or name == "vocab_size"}
    cls = getattr(transformers, kind)
    torch.manual_seed(len(kind))
    own = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 24} if kind == "GPT2LMHeadModel" else {}
    cls(cls.config_class(**fields, **own)).save_pretrained(folder / kind)
    return folder / kind


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("BertForMaskedLM", "BertForMaskedLM"), ("RobertaModel", "GPT2LMHeadModel")]
)
@torch.no_grad()
def test_two_checkpoints_are_joined(tmp_path: Path, error: Any, encoder: str, decoder: str) -> None:
    """Only what crosses is fresh; the reference opens what is saved, with the same numbers, and writes the same."""
    first, second = joined(tmp_path, encoder), joined(tmp_path, decoder)
    model = minitrans.EncoderDecoderModel.from_encoder_decoder_pretrained(
        first, second, decoder_start_token_id=3, pad_token_id=1
    )
    assert all("cross_attention" in name for name in model.load_report.fresh if "pooler" not in name)
    assert any("cross_attention" in name for name in model.load_report.fresh)
    whole = minitrans.AutoModelForCausalLM.from_pretrained(
        second, **({} if "GPT2" in decoder else {"is_decoder": True})
    )
    alone = {name.split(".", 1)[1]: each for name, each in whole.state_dict().items() if not name.startswith("lm_head")}
    ours = model.decoder.state_dict()
    assert all(torch.equal(each, ours[name]) for name, each in alone.items())
    assert (model.enc_to_dec_proj is None) == ("GPT2" not in decoder)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    model.double().save_pretrained(tmp_path / "pair")
    reference = transformers.EncoderDecoderModel.from_pretrained(
        tmp_path / "pair", attn_implementation="eager"
    ).double()
    again = minitrans.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "pair")
    assert type(again) is minitrans.EncoderDecoderModel
    source = batch("encoder-decoder", left=False)
    kinds = {"token_type_ids": torch.ones_like(source["input_ids"])} if encoder == "BertForMaskedLM" else {}
    target = labels("ForSeq2SeqLM")
    with exactly():
        expected = reference(**source, **kinds, **target)
    compare(again(**source, **kinds, **target), expected, error)
    for beams in (1, 3):
        settings: dict[str, Any] = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False}
        with exactly():
            theirs = reference.generate(**source, **kinds, **settings)
        assert again.generate(**source, **kinds, **settings).tolist() == theirs.tolist()


def test_what_a_joined_pair_refuses() -> None:
    assert list(joined_pair.HALVES) == list(weights_of_joined_pair.HALVES)
    with pytest.raises(TypeError, match="give two folders or names on the hub"):
        minitrans.EncoderDecoderModel.from_encoder_decoder_pretrained()
    bert = {name: value for name, value in BERT.items() if name != "model_type"}
    sides = {"encoder": minitrans.BertConfig(**bert), "decoder": minitrans.BertConfig(**bert, **AS_DECODER)}
    for fields, words in (
        ({"encoder": sides["decoder"]}, "encoder must be no decoder"),
        ({"decoder": sides["encoder"]}, "decoder must be a decoder with cross-attention"),
        ({"encoder": minitrans.ElectraConfig(**bert)}, "the halves of a pair must be of bert, .*, got 'electra'"),
        ({"vocab_size": 5}, "vocab_size must be the decoder's, 37, got 5"),
        ({"encoder": {**bert, "model_type": "perceiver"}}, "must be of bert, roberta, .*, got 'perceiver'"),
    ):
        with pytest.raises(ValueError, match=words):
            minitrans.EncoderDecoderConfig(**{**sides, **fields})


@pytest.mark.parametrize(
    ("family", "tied"), [("t5", True), ("t5", False), ("mt5", False), ("umt5", True), ("bart", True)]
)
@torch.no_grad()
def test_T4_three_tables_and_a_head_that_differ(tmp_path: Path, error: Any, family: str, tied: bool) -> None:
    """Each keeps its own, whatever the configuration says, here and in the reference, and in what is saved."""
    name, prefix = FAMILIES[family].class_name("ForSeq2SeqLM"), "model." if family == "bart" else ""
    kind = getattr(transformers, name)
    kind(kind.config_class(**FIELDS[family][0])).double().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for place in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        tensors[prefix + place] = torch.randn_like(tensors[prefix + "shared.weight"])
    tensors["lm_head.weight"] = torch.randn_like(tensors[prefix + "shared.weight"])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "tie_word_embeddings": tied}))
    model = class_by_name(name).from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    inputs = {**batch(family, left=False), "decoder_input_ids": labels("Model")["decoder_input_ids"]}
    for folder in (tmp_path, tmp_path / "saved"):
        reference = kind.from_pretrained(folder, attn_implementation="eager").double().eval()
        again = class_by_name(name).from_pretrained(folder)
        with exactly():
            expected = reference(**inputs).logits
        for ours in (model, again):
            assert error(ours(**inputs).logits, expected) <= 1e-10
    with pytest.raises(ValueError, match="a table of tokens each"):
        model.resize_token_embeddings(V + 1)


@pytest.mark.parametrize("family", [family for family in PAIRS if family != "encoder-decoder"])
def test_what_generation_begins_with_where_files_are_silent(family: str) -> None:
    """The defaults of the classes, forced ends among them."""
    name = FAMILIES[family].class_name("ForSeq2SeqLM")
    theirs = transformers.GenerationConfig.from_model_config(getattr(transformers, name).config_class()).to_dict()
    config = class_by_name(name).config_class(**FIELDS[family][0])
    silent = type(config)()
    told = {key: silent.get(key) for key in NAMES if silent.get(key) is not None}
    standard = transformers.GenerationConfig().to_dict()
    expected = {key: value for key, value in theirs.items() if value != standard.get(key) and key in NAMES}
    start = {"decoder_start_token_id": 0} if family == "t5" else {}  # where the reference would ask for it
    assert told == {**start, **expected, "use_cache": True}


HALF: dict[str, dict[str, float]] = {  # what is made so large that float16 does not hold what comes of it
    "t5": {"SelfAttention.o.weight": 8e3}, "umt5": {"EncDecAttention.o.weight": 8e3}, "mt5": {"wi_1.weight": 30.0, "wo.weight": 8e3},
    "bart": {"final_layer_norm.weight": 4e4}, "marian": {"final_layer_norm.weight": 4e4},
    "mbart": {"encoder.layers.0.fc2.bias": 65000.0}, "pegasus": {"fc1.weight": 2.0, "fc2.weight": 1.2e4},
    "m2m_100": {"fc1.weight": 2.0, "fc2.weight": 1.2e4},
}  # fmt: skip


@pytest.mark.parametrize("halved", [False, True], ids=["loaded", "halved"])
@pytest.mark.parametrize("family", HALF)
@torch.no_grad()
def test_what_float16_does_not_hold(tmp_path: Path, family: str, halved: bool) -> None:
    """T3, S2: within a unit of the last place or two, where T5 keeps a projection in float32 (loaded) and where it does not (halved)."""
    name = FAMILIES[family].class_name("Model")
    torch.manual_seed(0)
    made = getattr(transformers, name)(getattr(transformers, name).config_class(**FIELDS[family][0]))
    for path, parameter in made.named_parameters():
        for ending, scale in HALF[family].items():
            if path.endswith(ending):
                parameter.fill_(scale) if path.endswith("bias") else parameter.normal_().mul_(scale)
    made.save_pretrained(tmp_path)
    dtype = torch.float32 if halved else torch.float16
    reference = getattr(transformers, name).from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager").eval()
    ours = class_by_name(name).from_pretrained(tmp_path, dtype=dtype)
    ours.set_attention("full", "eager")
    if halved:
        reference, ours = reference.half(), ours.half()
    inputs = {
        **batch(family, left=False),
        "decoder_input_ids": torch.randint(3, V, (B, 5)),
        "output_hidden_states": True,
    }
    expected, got = reference(**inputs), ours(**inputs)
    reached = False
    for which in ("encoder_hidden_states", "decoder_hidden_states"):
        for one, another in zip(got[which], expected[which], strict=True):
            assert one.dtype == another.dtype
            torch.testing.assert_close(one, another, rtol=2**-9, atol=2**-9, equal_nan=True)
            reached |= bool((one.abs() == 64512.0).any())  # 65,504 less a margin, rounded
    assert reached or not halved


def test_layers_are_left_out_in_training_only() -> None:
    """S5."""
    torch.manual_seed(0)
    model: Any = minitrans.BartModel(minitrans.BartConfig(**{**BART, "encoder_layerdrop": 0.5, "dropout": 0.0}))
    ids = batch("bart")["input_ids"]
    outs = [
        model.train()(ids, decoder_input_ids=ids, output_hidden_states=True).encoder_hidden_states for _ in range(20)
    ]
    kept = [not torch.equal(states[0], states[1]) for states in outs]
    assert any(kept)
    assert not all(kept)
    states = model.eval()(ids, decoder_input_ids=ids, output_hidden_states=True).encoder_hidden_states
    assert not torch.equal(states[0], states[1])
