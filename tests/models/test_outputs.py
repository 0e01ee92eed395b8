"""Outputs read like a dataclass, a tuple and a mapping; what maps over tensors in containers finds those inside."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.utils import _apply_to_tensors
from torch.nn.parallel import scatter_gather
from torch.nn.parallel.distributed import _find_tensors
from torch.utils import _pytree as pytree

from minitrans import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertLMHeadModel, BertModel
from minitrans.layers.cache import Cache
from minitrans.models import outputs
from minitrans.models.backbone import EncoderOutput
from minitrans.models.outputs import CausalOutput, HeadOutput, LogitsOutput, ModelOutput, PreTrainingOutput

SIZES: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 19,
    "max_position_embeddings": 16,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 14, 3, 22], [11, 4, 8, 2, 7]])
KINDS = [
    EncoderOutput, LogitsOutput, CausalOutput, PreTrainingOutput, outputs.SentenceOrderOutput, outputs.SpanOutput,
]  # fmt: skip


def logits(loss: Tensor | None = None) -> LogitsOutput:
    return LogitsOutput(loss, torch.arange(6.0).view(2, 3), hidden_states=(torch.ones(2, 4), torch.zeros(2, 4)))


def filled(kind: type[ModelOutput]) -> ModelOutput:
    """One with a tensor of its own in every entry that holds tensors."""
    entries = {
        item.name: (torch.full((2, 1), 1.0 + number), torch.full((2, 1), -1.0 - number))
        if item.name in ("hidden_states", "attentions", "cross_attentions")
        else torch.full((2, 3), 1.0 + number)
        for number, item in enumerate(dataclasses.fields(kind))
        if item.name not in ("packing", "past_key_values")
    }
    return kind(**entries)


def model(kind: type[Any] = BertModel, **fields: Any) -> Any:
    torch.manual_seed(0)
    return kind(BertConfig(**{**SIZES, **fields})).double().eval()


def decoded() -> CausalOutput:
    net = model(BertLMHeadModel, is_decoder=True, add_cross_attention=True)
    memory = torch.randn(2, 3, 12, dtype=torch.float64)
    out: CausalOutput = net(IDS, encoder_hidden_states=memory, output_attentions=True, output_hidden_states=True)
    return out


# --- a mapping, a tuple and a dataclass ---


def test_names_and_values_of_what_is_there() -> None:
    out = logits()
    assert isinstance(out, Mapping)
    assert isinstance(out, dict)
    assert list(out) == list(out.keys()) == [name for name, _ in out.items()] == ["logits", "hidden_states"]
    assert all(ours is theirs for ours, theirs in zip(out.values(), (out.logits, out.hidden_states), strict=True))
    assert "logits" in out
    assert "loss" not in out, "None is not there"
    assert "nothing" not in out
    assert out.logits not in out, "names are in it, as in a dict"
    assert out.get("logits") is out.logits is out["logits"] is out[0]
    assert out.get("loss") is None
    assert out.get("loss", 7) == 7
    assert out.get("nothing", 7) == 7
    with pytest.raises(KeyError, match="loss"):
        out["loss"]
    for plain in (dict(out), dict(**out), out.copy(), out | {}, {} | out, {**out}):
        assert plain.keys() == {"logits", "hidden_states"}
    for name, arguments in {"pop": ["logits"], "update": [{}], "clear": [], "__delitem__": ["logits"]}.items():
        with pytest.raises(TypeError, match="assigned by name"):
            getattr(out, name)(*arguments)


def test_positions_slices_and_iteration() -> None:
    loss = torch.tensor(2.0)
    out = logits(loss)
    assert len(out) == 3
    assert out[0] is loss
    assert out[1] is out.logits
    assert out[-1] is out.hidden_states
    assert out[:2] == (loss, out.logits)
    first, second, third = out.to_tuple()
    assert (first, second, third) == out[:]
    assert [out[name] for name in out] == [first, second, third]
    assert logits()[0].shape == (2, 3), "what is None has no place"


def test_entries_keep_their_order() -> None:
    names = {kind.__name__: list(filled(kind)) for kind in KINDS}
    rest = ["hidden_states", "attentions"]
    assert names == {
        "EncoderOutput": ["last_hidden_state", "pooler_output", *rest, "cross_attentions"],
        "LogitsOutput": ["loss", "logits", *rest],
        "CausalOutput": ["loss", "logits", *rest, "cross_attentions"],
        "PreTrainingOutput": ["loss", "prediction_logits", "seq_relationship_logits", *rest],
        "SentenceOrderOutput": ["loss", "prediction_logits", "sop_logits", *rest],
        "SpanOutput": ["loss", "start_logits", "end_logits", *rest],
    }
    assert list(decoded()) == ["logits", "past_key_values", *rest, "cross_attentions"]


def test_a_dataclass_still() -> None:
    out = logits(torch.tensor(1.0))
    assert repr(out).startswith("LogitsOutput(loss=tensor(1.), logits=tensor(")
    changed = dataclasses.replace(out, loss=None)
    assert list(changed) == ["logits", "hidden_states"]
    assert changed.logits is out.logits
    for copied in (pickle.loads(pickle.dumps(out)), copy.copy(out), copy.deepcopy(out)):
        assert type(copied) is LogitsOutput
        assert torch.equal(copied.logits, out.logits)
        assert copied.keys() == out.keys()
    out.loss = None
    assert "loss" not in out


# --- pytrees ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_of_pytrees(kind: type[ModelOutput]) -> None:
    out = filled(kind)
    leaves, spec = pytree.tree_flatten(out)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    assert len(leaves) == sum(len(value) if isinstance(value, tuple) else 1 for value in out.values())
    doubled = pytree.tree_map(lambda leaf: leaf * 2, out)
    assert type(doubled) is kind
    assert doubled.keys() == out.keys()
    assert torch.equal(doubled.attentions[1], out.attentions[1] * 2)
    assert torch.equal(doubled[0], out[0] * 2)
    again = pytree.tree_unflatten(leaves, pytree.treespec_loads(pytree.treespec_dumps(spec)))
    assert all(ours is theirs for ours, theirs in zip(pytree.tree_leaves(again), leaves, strict=True))
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(out)[0]]
    assert paths[0] == f".{next(iter(out))}"
    assert ".hidden_states[1]" in paths


def test_leaves_of_any_kind() -> None:
    """Tree functions put shapes, names and None where tensors were."""
    out = logits()
    shapes = pytree.tree_map(lambda leaf: tuple(leaf.shape), out)
    assert pytree.tree_map(lambda _: None, out).to_tuple() == ((None, None),)
    assert shapes.logits == (2, 3)
    assert EncoderOutput((1, 2)).last_hidden_state == (1, 2)  # type: ignore[arg-type]


def test_an_output_of_ones_own() -> None:
    @dataclasses.dataclass(repr=False)
    class Scored(HeadOutput):
        score: Tensor | None = None

    out = pytree.tree_map(lambda leaf: leaf + 1, Scored(score=torch.zeros(2), attentions=(torch.zeros(1),)))
    assert type(out) is Scored
    assert out.score.tolist() == [1, 1]
    assert list(out) == ["score", "attentions"]


def test_the_tensors_of_a_cache_are_leaves() -> None:
    out = decoded()
    past = out.past_key_values
    assert past is not None
    named = {pytree.keystr(path): leaf for path, leaf in pytree.tree_flatten_with_path(out)[0]}
    first = past.layers[0]
    for number, tensor in enumerate((first.self_attention.key, first.self_attention.value, first.cross_attention.key)):
        assert torch.equal(named[f".past_key_values[{number}]"], tensor)
    assert len(pytree.tree_leaves(past)) == 2 * 4
    assert all(leaf.dtype == torch.float32 for leaf in pytree.tree_leaves(pytree.tree_map(Tensor.float, out)))


@pytest.mark.parametrize("capacity", [None, 12])
@torch.no_grad()
def test_a_mapped_cache_goes_on_as_the_other(capacity: int | None) -> None:
    """And on its own: what is appended to the one, the other does not see."""
    net = model(BertLMHeadModel, is_decoder=True)
    whole = net(IDS).logits
    cache = Cache.growing(2) if capacity is None else Cache.static(2, capacity)
    past = net(IDS[:, :3], past_key_values=cache).past_key_values
    spec = pytree.tree_structure(past)
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
    for mapped in (pytree.tree_map(lambda leaf: leaf, past), pytree.tree_map(torch.clone, past), copy.deepcopy(past)):
        assert mapped.get_seq_length() == 3
        assert mapped.capacity == capacity
        net(IDS.flip(1)[:, 3:], past_key_values=mapped)
        for start in (past, mapped):
            torch.testing.assert_close(net(IDS[:, 3:], past_key_values=start).logits, whole[:, 3:], rtol=0, atol=1e-12)
    empty = pytree.tree_map(lambda leaf: leaf, cache)
    assert (empty.get_seq_length(), empty.capacity, len(empty.layers)) == (0, capacity, 2)


# --- what gathers, moves and converts outputs ---


@pytest.fixture
def gather(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """DataParallel's, with the one part that only GPUs have (`comm.gather` in `Gather`) done by `torch.cat`."""

    class OnCpu:
        @staticmethod
        def apply(device: str, dim: int, *parts: Tensor) -> Tensor:
            return torch.cat([part[None] if part.dim() == 0 else part for part in parts], dim)  # as `Gather.forward`

    monkeypatch.setattr(scatter_gather, "Gather", OnCpu)
    return lambda *parts: scatter_gather.gather(list(parts), "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_data_parallel_gathers_every_entry(gather: Callable[..., Any], kind: type[ModelOutput]) -> None:
    out = filled(kind)
    for names in ([*out], [*out][:1], [*out][1:], [*out][::2]):
        if "last_hidden_state" not in names and kind is EncoderOutput:
            continue
        some = kind(**{name: out[name] for name in names})
        got = gather(some, pytree.tree_map(lambda leaf: leaf + 0.5, some), some)
        assert type(got) is kind
        assert list(got) == names
        for ours, leaf in zip(pytree.tree_leaves(got), pytree.tree_leaves(some), strict=True):
            assert torch.equal(ours, torch.cat([leaf, leaf + 0.5, leaf]))


def test_data_parallel_gathers_what_models_return(gather: Callable[..., Any]) -> None:
    net = model(BertForSequenceClassification)
    labels = torch.tensor([0, 1])
    whole = net(IDS, labels=labels, output_hidden_states=True)
    parts = [net(IDS[row : row + 1], labels=labels[row : row + 1], output_hidden_states=True) for row in range(2)]
    got = gather(*parts)
    torch.testing.assert_close(got.logits, whole.logits)
    torch.testing.assert_close(got.loss.mean(), whole.loss)
    torch.testing.assert_close(got.hidden_states[2], whole.hidden_states[2])
    assert gather(*(net(IDS[row : row + 1]) for row in range(2))).keys() == {"logits"}
    assert gather(*(model()(IDS[row : row + 1]) for row in range(2))).keys() == {"last_hidden_state", "pooler_output"}


@torch.no_grad()
def test_data_parallel_gathers_caches(gather: Callable[..., Any]) -> None:
    net = model(BertLMHeadModel, is_decoder=True)
    got = gather(*(net(IDS[row : row + 1, :3]) for row in range(2)))
    assert list(got) == ["logits", "past_key_values"]
    expected = net(IDS).logits[:, 3:]
    torch.testing.assert_close(net(IDS[:, 3:], past_key_values=got.past_key_values).logits, expected)


def test_parts_that_differ_are_not_gathered(gather: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="same number of keys"):
        gather(logits(), LogitsOutput(logits=torch.ones(2, 3)))


def apply_as_accelerate(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    """accelerate's `recursively_apply`, by which it moves, converts and gathers outputs."""
    if isinstance(data, (tuple, list)):
        return type(data)(apply_as_accelerate(function, each) for each in data)
    if isinstance(data, Mapping):
        return type(data)({name: apply_as_accelerate(function, each) for name, each in data.items()})  # type: ignore[call-arg]
    return function(data) if isinstance(data, Tensor) else data


@pytest.mark.parametrize("kind", KINDS)
def test_accelerate_converts(kind: type[ModelOutput]) -> None:
    out = filled(kind)
    got = apply_as_accelerate(lambda tensor: tensor.double() * 3, out)
    assert type(got) is kind
    assert got.keys() == out.keys()
    for ours, theirs in zip(pytree.tree_leaves(got), pytree.tree_leaves(out), strict=True):
        assert torch.equal(ours, theirs.double() * 3)


def test_accelerate_itself() -> None:
    operations = pytest.importorskip("accelerate.utils.operations")
    out = pytree.tree_map(Tensor.bfloat16, decoded())
    got = operations.convert_to_fp32(operations.send_to_device(out, "cpu"))
    assert got.keys() == out.keys()
    assert got.logits.dtype == got.hidden_states[0].dtype == torch.float32
    assert isinstance(got.past_key_values, Cache)
    assert operations.find_batch_size(out) == 2


def test_torchs_own_wrappers_find_the_tensors() -> None:
    """DistributedDataParallel looks for the outputs that want gradients, FSDP puts hooks on them."""
    out = model(BertForMaskedLM)(IDS, labels=IDS, output_attentions=True)
    found = list(_find_tensors(out))
    assert {id(tensor) for tensor in found} == {id(leaf) for leaf in pytree.tree_leaves(out)}
    doubled = _apply_to_tensors(lambda tensor: tensor * 2, out)
    assert type(doubled) is LogitsOutput
    assert torch.equal(doubled.logits, out.logits * 2)
    assert torch.equal(doubled.attentions[0], out.attentions[0] * 2)
