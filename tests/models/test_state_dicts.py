"""State dicts of the reference's models and of ours, whoever saved them: by torch.save, a trainer, accelerate, a wrapper."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import minitrans
from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES, bodies
from tests.models.conftest import with_global_tokens
from tests.tiny import NEEDED, exactly

SIZES: Any = {
    "vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 33, "type_vocab_size": 2, "embedding_size": 12, "num_hidden_groups": 2, "inner_group_num": 2, "layer_norm_eps": 1e-6,
    "relative_attention": False, "position_biased_input": True, "pos_att_type": [],
    "num_key_value_heads": 1, "head_dim": 6,
}  # fmt: skip
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])
CLASSES = [
    (model_type, row.class_name(head)) for model_type, row in FAMILIES.items() for head in row.heads
    if head != "ForCausalLM" and model_type in bodies()
]  # fmt: skip
transformers.logging.disable_progress_bar()


def pair(class_name: str) -> tuple[Any, Any]:
    """A random model of the reference, and ours with other random weights."""
    cls = getattr(transformers, class_name)
    known = cls.config_class()
    sizes = {name: size for name, size in SIZES.items() if hasattr(known, name)}
    sizes |= NEEDED.get(cls.config_class.model_type, {})
    torch.manual_seed(3)
    with exactly(cls):
        reference = cls(cls.config_class(**sizes)).double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    ours = getattr(minitrans, class_name)
    if ours.config_class.pad_token_id is None:
        sizes["pad_token_id"] = reference.config.pad_token_id = 1
    fields = {ours.config_class.own_names.get(name, name): size for name, size in sizes.items()}
    known_here = ours.config_class.__dataclass_fields__
    return reference, ours(ours.config_class(**{k: v for k, v in fields.items() if k in known_here})).double().eval()


def numbers(model: Any) -> torch.Tensor:
    ids = IDS[:, None].repeat(1, 2, 1) if "MultipleChoice" in type(model).__name__ else IDS
    with torch.no_grad(), exactly(type(model)):
        result: torch.Tensor = model(**with_global_tokens(model, {"input_ids": ids}))[0]
    return result


@pytest.mark.parametrize(("model_type", "class_name"), CLASSES)
def test_the_reference_s_state_dict_of_every_class(model_type: str, class_name: str):
    reference, ours = pair(class_name)
    state, other = reference.state_dict(), copy.deepcopy(ours)
    assert str(ours.load_state_dict(state)) == "<All keys matched successfully>"
    with torch.inference_mode():
        report = other.load_reference_state_dict(state)
    assert [row.target for row in report.rows] == list(other.state_dict())
    with torch.inference_mode():
        loaded = type(ours).from_pretrained(config=reference.config, state_dict=state, dtype="float64")
    for model in (ours, other, loaded):
        torch.testing.assert_close(numbers(model), numbers(reference), rtol=1e-10, atol=1e-12)
        assert not any(parameter.is_inference() for parameter in model.parameters())


def write_as_a_tool_does(state: dict[str, torch.Tensor], folder: Path, form: str) -> None:
    """No config.json; of a tie, what comes second is left out of safetensors, as accelerate does."""
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
        return
    seen: dict[int, str] = {}
    once = {name: tensor for name, tensor in state.items() if seen.setdefault(tensor.data_ptr(), name) == name}
    if form == "safetensors":
        save_file(once, folder / "model.safetensors")
        return
    weight_map = {name: f"model-{number % 2 + 1:05d}-of-00002.safetensors" for number, name in enumerate(once)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for file in set(weight_map.values()):
        save_file({name: tensor for name, tensor in once.items() if weight_map[name] == file}, folder / file)


@pytest.mark.parametrize(("model_type", "class_name"), CLASSES)
@pytest.mark.parametrize("form", ["safetensors", "bin", "shards"])
def test_a_folder_with_our_names(model_type: str, class_name: str, form: str, tmp_path: Path):
    _, ours = pair(class_name)
    write_as_a_tool_does(ours.state_dict(), tmp_path, form)
    again = type(ours).from_pretrained(tmp_path, config=ours.config)
    assert not again.load_report.fresh
    assert not again.load_report.unknown
    assert again.config.tie_word_embeddings == ours.config.tie_word_embeddings
    assert torch.equal(numbers(again), numbers(ours))
    assert "the tensors have our own names: a training tool saved the state dict" in again.load_report.notes


@pytest.mark.parametrize("kept", ["lm_head.decoder.weight", "bert.embeddings.word_embeddings.weight"])
def test_a_tie_that_is_said_once_is_kept(kept: str):
    _, ours = pair("BertForMaskedLM")
    names = {"lm_head.decoder.weight", "bert.embeddings.word_embeddings.weight"} - {kept}
    state = {name: tensor for name, tensor in ours.state_dict().items() if name not in names}
    again = type(ours).from_pretrained(config=ours.config, state_dict=state)
    assert again.lm_head.decoder.weight is again.get_input_embeddings().weight
    assert torch.equal(numbers(again), numbers(ours))


def test_a_tie_that_is_broken_is_loaded_as_two_where_there_is_room_and_refused_where_there_is_none():
    _, ours = pair("BertForMaskedLM")
    for state in (dict(ours.state_dict()), pair("BertForMaskedLM")[0].state_dict()):
        own = "lm_head.decoder.weight" in state
        key = "lm_head.decoder.weight" if own else "cls.predictions.decoder.weight"
        state = {**state, key: state[key] + 1}
        again = type(ours).from_pretrained(config=ours.config, state_dict=state)
        assert again.config.tie_word_embeddings is False
        assert torch.equal(again.lm_head.decoder.weight, state[key])
        with pytest.raises(CheckpointError, match=r"from_pretrained\(..., state_dict=...\) does that"):
            ours.load_reference_state_dict(state)
        if not own:
            with pytest.raises(RuntimeError, match=r"from_pretrained\(..., state_dict=...\) does that"):
                ours.load_state_dict(state)


def test_our_own_state_dict_is_left_alone():
    _, ours = pair("AlbertForMaskedLM")
    state = ours.state_dict()
    before = dict(state)
    assert str(ours.load_state_dict(state)) == "<All keys matched successfully>"
    assert list(state) == list(before)
    found = ours.load_state_dict(
        {"lm_head.dense.bias": state["lm_head.dense.bias"], "mine": torch.ones(1)}, strict=False
    )
    assert found.unexpected_keys == ["mine"]


def test_layers_beyond_the_last_are_unexpected():
    reference, ours = pair("BertModel")
    state = dict(reference.state_dict())
    state["encoder.layer.7.attention.self.query.weight"] = torch.zeros(24, 24)
    assert ours.load_state_dict(state, strict=False).unexpected_keys == ["encoder.layer.7.attention.self.query.weight"]


def test_what_does_not_fit_is_told_by_torch_in_our_names():
    reference, ours = pair("BertForSequenceClassification")
    state = reference.state_dict()
    del state["bert.encoder.layer.1.output.dense.bias"]
    state["classifier.weight"] = torch.zeros(5, 24)
    state["bert.encoder.layer.0.attention.self.query.weight"] = torch.zeros(3, 3)
    state["mine"] = torch.zeros(1)
    with pytest.raises(RuntimeError) as caught:
        ours.load_state_dict(state)
    told = str(caught.value)
    assert 'Missing key(s) in state_dict: "bert.encoder.layer.1.feed_forward.down.bias"' in told
    assert 'Unexpected key(s) in state_dict: "mine"' in told
    assert "size mismatch for classifier.weight" in told
    assert "size mismatch for bert.encoder.layer.0.attention.query.weight" in told
    with pytest.raises(
        CheckpointError, match="layer.1.feed_forward.down.bias: expected a tensor encoder.layer.1.output.dense.bias"
    ):
        ours.load_reference_state_dict(state)


@pytest.mark.parametrize("strict", [True, False])
def test_whole_numbers_are_no_weights(strict: bool):
    """Quantised tensors, under the names of those they were made from."""
    reference, ours = pair("BertModel")
    state = dict(reference.state_dict())
    state["encoder.layer.0.attention.self.query.weight"] = torch.zeros(24, 24, dtype=torch.int8)
    with pytest.raises(RuntimeError, match="self.query.weight: expected floating-point weights, found int8"):
        ours.load_state_dict(state, strict=strict)
    with pytest.raises(CheckpointError, match="self.query.weight: expected floating-point weights, found int8"):
        ours.load_reference_state_dict(state, strict=strict)


def test_another_head_s_tensors_are_unexpected_and_buffers_are_not():
    reference, ours = pair("BertForPreTraining")[0], pair("BertForMaskedLM")[1]
    state = reference.state_dict()
    state["bert.embeddings.position_ids"] = torch.arange(33)[None]
    found = ours.load_state_dict(state, strict=False)
    assert found.missing_keys == []
    assert set(found.unexpected_keys) == {
        "cls.seq_relationship.weight", "cls.seq_relationship.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias",
    }  # fmt: skip
    assert not ours.load_reference_state_dict(state).unknown


def test_a_body_leaves_the_head_to_strictness():
    state, ours = pair("BertModel")[0].state_dict(), pair("BertForSequenceClassification")[1]
    with pytest.raises(RuntimeError, match='Missing key.*"classifier.weight", "classifier.bias"'):
        ours.load_state_dict(state)
    with pytest.raises(
        CheckpointError, match="classifier.weight: expected a tensor, found none .strict=False leaves it"
    ):
        ours.load_reference_state_dict(state)
    before = ours.classifier.weight.clone()
    assert ours.load_reference_state_dict(state, strict=False).fresh == ["classifier.weight", "classifier.bias"]
    assert torch.equal(ours.classifier.weight, before)
    assert torch.equal(
        ours.bert.encoder.layer[0].attention.query.weight, state["encoder.layer.0.attention.self.query.weight"]
    )


class Net(nn.Module):
    """What people build around a body."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.ModuleList([body])
        self.top = nn.Linear(24, 2)


@pytest.mark.parametrize("class_name", ["BertModel", "DistilBertModel", "AlbertModel", "ElectraForMaskedLM"])
def test_the_state_dict_of_a_module_around_the_reference_s(class_name: str):
    reference, ours = pair(class_name)
    net = Net(ours)
    state = Net(reference).state_dict()
    assert str(net.load_state_dict(state)) == "<All keys matched successfully>"
    torch.testing.assert_close(numbers(net.trunk[0]), numbers(reference))
    assert torch.equal(net.top.weight, state["top.weight"])


def test_assigned_tensors_are_the_state_dict_s_own():
    reference, ours = pair("BertModel")
    state = reference.state_dict()
    ours.load_state_dict(state, assign=True)
    stored = state["encoder.layer.0.attention.self.query.weight"]
    assert ours.encoder.layer[0].attention.query.weight.data_ptr() == stored.data_ptr()


def test_what_accelerate_s_save_model_writes(tmp_path: Path):
    accelerate = pytest.importorskip("accelerate")
    _, ours = pair("BertForMaskedLM")
    for size in ("10GB", "8KB"):
        folder = tmp_path / size
        accelerate.Accelerator(cpu=True).save_model(ours, folder, max_shard_size=size)
        again = minitrans.BertForMaskedLM.from_pretrained(folder, config=ours.config)
        assert torch.equal(numbers(again), numbers(ours))
        again.save_pretrained(folder)
        whole = transformers.BertForMaskedLM.from_pretrained(folder)
        torch.testing.assert_close(numbers(whole.eval()), numbers(ours))
        assert "cls.predictions.bias" in load_file(folder / "model.safetensors")


@pytest.mark.parametrize("change", ["a reference's beside ours", "neither's"])
def test_names_of_both_are_read_as_the_reference_s(change: str):
    reference, ours = pair("BertModel")
    state: dict[str, Any] = dict(reference.state_dict())
    extra: Callable[[], dict[str, Any]] = {
        "a reference's beside ours": lambda: {
            "encoder.layer.0.attention.query.weight": torch.zeros(24, 24, dtype=torch.float64)
        },
        "neither's": lambda: {"mine.weight": torch.zeros(1)},
    }[change]
    report = ours.load_reference_state_dict({**state, **extra()})
    assert set(report.unknown) == set(extra())
    torch.testing.assert_close(numbers(ours), numbers(reference))
