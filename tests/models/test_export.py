"""Graphs of models: traced, exported, compiled and in ONNX they keep the mask as an input, and stay true in other sizes."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import minitrans
from minitrans import NotSupportedError, PackedLayout, Transformer, TransformerConfig
from minitrans.attention import dispatch
from minitrans.attention.backend_selection import select_backend
from minitrans.attention.mask import AttentionMask
from minitrans.attention.rules import AttentionRules
from minitrans.cpu import prepare
from minitrans.layers.cache import Cache

# pairwise different: H=3, D=12, F=19, V=37, L=2
SIZES: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 19,
    "embedding_size": 7, "max_position_embeddings": 40,
}  # fmt: skip
BODIES = [
    "BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel", "DistilBertModel", "AlbertModel", "ElectraModel",
    "MPNetModel", "RobertaPreLayerNormModel", "DebertaV2Model", "LongformerModel", "NystromformerModel", "BigBirdModel",
]  # fmt: skip
HEADS = [
    "BertForMaskedLM", "RobertaForSequenceClassification", "XLMRobertaForTokenClassification", "CamembertForCausalLM",
    "DistilBertForQuestionAnswering", "AlbertForPreTraining", "ElectraForPreTraining", "MPNetForMultipleChoice",
    "RobertaPreLayerNormForCausalLM", "BertLMHeadModel", "BertForNextSentencePrediction",
]  # fmt: skip
# other lengths, other numbers of rows, without padding, with a row of nothing but padding
BATCHES: list[tuple[int, int, list[int]]] = [
    (2, 5, [5, 5]), (2, 5, [4, 2]), (3, 7, [5, 7, 3]), (1, 4, [3]), (1, 1, [1]), (4, 30, [30, 1, 21, 0]),
]  # fmt: skip
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}

pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*lru_cache.*:UserWarning",
    # the tracer, where gradients are on
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    "ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning",
)


def build(name: str, dtype: torch.dtype = torch.float64, **fields: Any) -> Any:
    kind = getattr(minitrans, name)
    known = {item.name for item in dataclasses.fields(kind.config_class)}
    decodes = name.endswith(("CausalLM", "LMHeadModel"))
    fields = {**SIZES, **({"is_decoder": True, "use_cache": False} if decodes else {}), **fields}
    named = {kind.config_class.own_names.get(field, field): value for field, value in fields.items()}
    torch.manual_seed(0)
    net = kind(kind.config_class(**{field: value for field, value in named.items() if field in known}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net.to(dtype).eval()


def batch(name: str, rows: int, length: int, lengths: list[int], pad: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 100 + length)
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(4, 37, (rows, length), generator=generator).masked_fill(mask == 0, pad)
    if name.endswith("Choice"):
        ids, mask = (each[:, None].repeat(1, 2, 1) for each in (ids, mask))
        ids[:, 1] = ids[:, 1].flip(0)
        mask[:, 1] = mask[:, 1].flip(0)
    return ids, mask


class Plain(nn.Module):
    """Tensors in, one tensor out: the first of the output's."""

    def __init__(self, net: nn.Module, **options: Any) -> None:
        super().__init__()
        self.net, self.options = net, options
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.net(input_ids, attention_mask, return_dict=False, **self.options)[0]
        return out


def check(graph: Any, net: Any, name: str, tolerance: float, batches: Any = tuple(BATCHES)) -> None:
    """That the graph gives the model's numbers on all batches."""
    for rows, length, lengths in batches:
        ids, mask = batch(name, rows, length, lengths, net.config.pad_token_id)
        expected, got = Plain(net)(ids, mask), graph(ids, mask)
        assert got.shape == expected.shape
        assert float((got - expected).abs().max()) <= tolerance, (rows, length, lengths)


def trace(net: Any, name: str, rows: int = 2, length: int = 5, **options: Any) -> Any:
    """Made with a mask of all ones."""
    return torch.jit.trace(Plain(net, **options), batch(name, rows, length, [length] * rows, net.config.pad_token_id))


# --- torch.jit.trace ---


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", [*BODIES, *HEADS])
@torch.no_grad()
def test_a_trace_keeps_the_mask(name: str, dtype: torch.dtype) -> None:
    net = build(name, dtype)
    check(trace(net, name), net, name, TOLERANCES[dtype])


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["BertModel", "MPNetModel", "BertLMHeadModel"])
def test_of_each_backend(name: str, backend: str, grad: bool) -> None:
    net = build(name)
    net.set_attention("full", backend)
    with torch.set_grad_enabled(grad):
        check(trace(net, name), net, name, 1e-10)


@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "MPNetModel", "BertLMHeadModel", "RobertaForCausalLM"])
@torch.no_grad()
def test_a_trace_of_one_token(name: str) -> None:
    """What one row or one token leaves out (that a token sees none after it, above all) is in the graph."""
    net = build(name)
    check(trace(net, name, 1, 1), net, name, 1e-10)


@pytest.mark.parametrize("name", ["BertModel", "BertLMHeadModel"])
@pytest.mark.parametrize(
    "attention",
    [
        {"name": "sliding_window", "window": 2}, {"name": "dilated", "window": 2, "dilation": 2}, "rotary", "qk_norm",
        {"name": "softcap", "cap": 5.0}, "sink", "talking_heads", "sigmoid",
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_trace_of_variants(name: str, attention: Any) -> None:
    net = build(name)
    net.set_attention(attention)
    check(trace(net, name), net, name, 1e-10)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@torch.no_grad()
def test_a_trace_of_relative_positions(kind: str) -> None:
    net = build("BertModel", position_embedding_type=kind)
    check(trace(net, "BertModel"), net, "BertModel", 1e-10)


@pytest.mark.parametrize("name", ["BertModel", "AlbertModel", "MPNetModel"])
@torch.no_grad()
def test_a_traced_graph_refuses_what_is_too_long(name: str) -> None:
    graph = trace(build(name), name)
    with pytest.raises((RuntimeError, IndexError), match="out of range"):
        graph(*batch(name, 2, 41, [41, 41], 0))


@pytest.mark.parametrize("backend", ["flex", "online_softmax", "triton"])
@torch.no_grad()
def test_backends_whose_trace_would_keep_sizes(backend: str) -> None:
    net = build("BertModel", torch.float32)
    net.set_attention("full", backend)
    with pytest.raises(
        NotSupportedError, match=f"'{backend}' does not support torch.jit.trace; supported by: eager, sdpa"
    ):
        trace(net, "BertModel")


@torch.no_grad()
def test_auto_leaves_our_kernels_out_of_a_trace() -> None:
    """On a CUDA device, where padding makes "auto" choose them; a meta tensor that says it is one stands for it."""

    class OnCuda(Tensor):
        device = torch.device("cuda")

    chosen = []

    def choose(x: Tensor) -> Tensor:
        there = x.as_subclass(OnCuda)
        mask = AttentionMask(key_padding=torch.ones(1, 1, dtype=torch.bool))
        chosen.append(select_backend(AttentionRules(mask), there, there).name)
        return x + 1

    torch.jit.trace(choose, torch.ones(1, 1, 1, 1), check_trace=False)
    assert chosen == ["sdpa"]


@torch.no_grad()
def test_lengths_are_not_traced_nor_exported() -> None:
    net = build("BertModel", torch.float32)
    given = batch("BertModel", 2, 5, [4, 2], 0)
    fast = prepare(net)
    for module, message in (
        (Plain(net, padding="remove"), "without padding cannot be traced or exported; use padding='keep'"),
        (Plain(fast), "a prepared model does not go with torch.jit.trace or torch.export"),
    ):
        module(*given)
        with pytest.raises(NotSupportedError, match=message):
            torch.jit.trace(module, given)
        with pytest.raises(NotSupportedError, match=message):
            torch.export.export(module, given)

    def packed(ids: Tensor) -> Tensor:
        out: Tensor = net(ids, layout=PackedLayout.from_lengths([3, 2])).last_hidden_state
        return out

    with pytest.raises(NotSupportedError, match="without padding cannot be traced"):
        torch.jit.trace(packed, torch.arange(5))


@torch.no_grad()
def test_a_large_padded_batch_is_traced_with_its_padding() -> None:
    """Outside of a trace, "auto" would leave it out."""
    net = build("BertModel", max_position_embeddings=512)
    ids, mask = batch("BertModel", 16, 400, [400] + [3] * 15, 0)
    assert net(ids, mask, unpack=False).packing is not None
    graph = torch.jit.trace(Plain(net), (ids, mask), check_trace=False)
    check(graph, net, "BertModel", 1e-10)


class Step(nn.Module):
    """A step of a decoder whose past comes and goes as tensors, as graphs want it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = Cache([past[0:2], past[2:4]])
        out = self.net(ids, mask, past_key_values=cache, use_cache=True, return_dict=True)
        return (out.logits, *(tensor for layer in out.past_key_values for tensor in layer))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("traced", [(5, 6), (0, 1), (0, 5), (2, 5)])
@pytest.mark.parametrize("name", ["BertLMHeadModel", "RobertaForCausalLM"])
def test_a_traced_step_of_a_decoder(name: str, traced: tuple[int, int], grad: bool) -> None:
    """Traced with one past and one number of tokens, right with all others; a past may be empty."""
    net = build(name)
    ids, mask = batch(name, 2, 9, [9, 9], net.config.pad_token_id)

    def past(tokens: int) -> list[Tensor]:
        full = [tensor for layer in net(ids, mask, use_cache=True).past_key_values for tensor in layer]
        return [tensor[:, :, :tokens] for tensor in full]

    with torch.set_grad_enabled(grad):
        start, stop = traced
        graph = torch.jit.trace(Step(net), (ids[:, start:stop], mask[:, :stop], *past(start)))
        hidden = mask.clone()
        hidden[0, 0] = 0
        for start, stop in ((0, 1), (0, 6), (5, 6), (4, 9), (1, 3)):
            inputs = (ids[:, start:stop], hidden[:, :stop], *past(start))
            for got, expected in zip(graph(*inputs), Step(net)(*inputs), strict=True):
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


# --- the Transformer of 2017 ---

SOURCE = torch.tensor([[5, 9, 14, 3, 22, 7, 2], [11, 4, 8, 2, 6, 6, 6]])
PADDED = SOURCE.masked_fill(torch.tensor([[False] * 7, [False] * 4 + [True] * 3]), 0)
TARGET = torch.tensor([[1, 6, 13, 20, 17], [1, 10, 21, 3, 4]])


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = TransformerConfig(
            vocab_size=23,
            width=12,
            num_encoder_layers=2,
            num_decoder_layers=3,
            num_heads=3,
            hidden_width=19,
            max_length=11,
        )
        self.net = Transformer(config).double()
        self.eval()

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        logits: Tensor = self.net(source, target).logits
        return logits


def check_pairs(graph: Any, model: Pairs) -> None:
    for source, target in (
        (PADDED, TARGET),
        (PADDED[:, :3], TARGET[:, :2]),
        (PADDED.repeat(3, 1), TARGET.repeat(3, 1)),
    ):
        torch.testing.assert_close(graph(source, target), model(source, target), rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_trace_of_the_transformer() -> None:
    model = Pairs()
    graph = torch.jit.trace(model, (SOURCE, TARGET))
    check_pairs(graph, model)
    with pytest.raises(RuntimeError, match="index 11 is out of bounds"):
        graph(PADDED, TARGET.repeat(1, 3))


def test_an_export_of_the_transformer() -> None:
    model, rows = Pairs(), Dim("rows")
    shapes = ({0: rows, 1: Dim("source", max=11)}, {0: rows, 1: Dim("target", max=11)})
    check_pairs(torch.export.export(model, (SOURCE, TARGET), dynamic_shapes=shapes).module(), model)


def test_one_graph_of_the_transformer() -> None:
    torch.compiler.reset()
    model = Pairs()
    check_pairs(torch.compile(model, fullgraph=True, backend="aot_eager"), model)


# --- torch.export ---


def export(net: Any, name: str) -> Any:
    given = batch(name, 2, 5, [5, 5], net.config.pad_token_id)
    sizes = {0: Dim.DYNAMIC, given[0].dim() - 1: Dim.DYNAMIC}
    return torch.export.export(net, given, dynamic_shapes={"input_ids": sizes, "attention_mask": sizes})


@pytest.mark.parametrize(
    "name",
    ["BertModel", "MPNetModel", "RobertaForCausalLM"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in (*BODIES[1:], *HEADS) if name != "MPNetModel"],
)
def test_an_export_keeps_the_mask_and_the_sizes(name: str) -> None:
    net = build(name)
    graph = export(net, name).module()
    # torch.export takes sizes of 1 for constants, so none is among those that it promises
    check(lambda *given: graph(*given)[0], net, name, 1e-10, [case for case in BATCHES if case[0] > 1])
    if net.base_model.longest is None:  # there is no length that an export could promise
        return
    with pytest.raises((RuntimeError, AssertionError), match="40|38"):
        graph(*batch(name, 2, 41, [41, 41], 0))


def test_an_exported_graph_returns_outputs_and_is_saved() -> None:
    net = build("BertLMHeadModel", use_cache=True, output_hidden_states=True, output_attentions=True)
    file = io.BytesIO()
    torch.export.save(export(net, "BertLMHeadModel"), file)
    file.seek(0)
    given = batch("BertLMHeadModel", 3, 7, [5, 7, 3], 0)
    got, expected = torch.export.load(file).module()(*given), net(*given)
    assert type(got) is type(expected)
    assert list(got) == ["logits", "past_key_values", "hidden_states", "attentions"]
    assert isinstance(got.past_key_values, Cache)
    assert got.past_key_values.get_seq_length() == 7
    for ours, theirs in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("capacity", [None, 16], ids=["growing", "static"])
@torch.no_grad()
def test_an_exported_step_of_a_decoder(capacity: int | None) -> None:
    """The cache is an argument and a result of the graph, of any length."""
    net = build("BertLMHeadModel")
    ids, _ = batch("BertLMHeadModel", 2, 9, [9, 9], 0)

    def past(tokens: int) -> Cache:
        cache = Cache.growing(2) if capacity is None else Cache.static(2, capacity)
        filled = net(ids[:, :tokens], past_key_values=cache, use_cache=True).past_key_values
        return pytree.tree_map(torch.clone, filled)  # type: ignore[no-any-return]  # no views: their sizes are constants

    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    shapes = {"input_ids": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "past_key_values": [sizes] * 4, "use_cache": None}
    options = {"past_key_values": past(5), "use_cache": True}
    graph = torch.export.export(net, (ids[:, 5:8].clone(),), options, dynamic_shapes=shapes).module()
    for start, stop in ((5, 8), (3, 9), (6, 8)):
        options = {"past_key_values": past(start), "use_cache": True}
        got, expected = graph(ids[:, start:stop], **options), net(ids[:, start:stop], **options)
        torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=1e-10)
        assert (got.past_key_values.get_seq_length(), got.past_key_values.capacity) == (stop, capacity)


# --- torch.compile ---


@pytest.mark.parametrize("name", ["BertModel", "RobertaForMaskedLM", "BertLMHeadModel"])
def test_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a padding mask, with one of all ones, without; also where the compiler is the first to want a backend."""
    monkeypatch.setattr(dispatch, "_LOADED", {})
    torch.compiler.reset()
    net = build(name)
    graph = torch.compile(net, fullgraph=True, backend="aot_eager")
    for lengths in ([4, 2], [5, 5]):
        ids, mask = batch(name, 2, 5, lengths, net.config.pad_token_id)
        for given in ((ids, mask), (ids,)):
            got, expected = graph(*given), net(*given)
            assert type(got) is type(expected)
            assert got.keys() == expected.keys()
            torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-10)
    got[0].sum().backward()


def test_reading_an_output_inside_a_graph() -> None:
    net = build("BertForMaskedLM")

    def step(ids: Tensor) -> tuple[Tensor, ...]:
        out = net(ids, labels=ids)
        loss, logits = out.to_tuple()
        assert "loss" in out
        assert list(out) == ["loss", "logits"]
        return loss + out["loss"], logits, out.get("logits"), *out[:1]

    torch.compiler.reset()
    ids, _ = batch("BertForMaskedLM", 2, 5, [5, 5], 0)
    for got, expected in zip(torch.compile(step, fullgraph=True, backend="aot_eager")(ids), step(ids), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_decoding() -> None:
    torch.compiler.reset()
    net = build("BertLMHeadModel")
    graph = torch.compile(net, backend="aot_eager")
    ids, _ = batch("BertLMHeadModel", 2, 5, [5, 5], 0)
    whole = net(ids).logits
    caches = [Cache.growing(2), Cache.static(2, 8)]
    for place in range(5):
        for number, cache in enumerate(caches):
            out = graph(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            torch.testing.assert_close(out.logits, whole[:, place : place + 1], rtol=0, atol=1e-10)
            caches[number] = out.past_key_values


# --- ONNX ---

ONNX = ["BertModel", "RobertaForCausalLM", "MPNetModel", "AlbertForPreTraining", "MPNetForMultipleChoice"]


def check_onnx(path: Path, net: Any, name: str) -> None:
    """That ONNX Runtime gives the model's numbers, and refuses what is too long."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask"]

    def graph(ids: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0])

    check(graph, net, name, 1e-5)
    with pytest.raises(Exception, match="out of data bounds"):
        graph(*batch(name, 2, 45, [45, 45], 0))


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")  # what that one calls
@pytest.mark.parametrize("name", ONNX)
def test_onnx_by_tracing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    net = build(name, torch.float32)
    given = batch(name, 2, 5, [5, 5], net.config.pad_token_id)
    sizes = {0: "rows", given[0].dim() - 1: "length"}
    torch.onnx.export(
        Plain(net), given, str(tmp_path / "model.onnx"), dynamo=False, input_names=["input_ids", "attention_mask"],
        dynamic_axes={"input_ids": sizes, "attention_mask": sizes},
    )  # fmt: skip
    check_onnx(tmp_path / "model.onnx", net, name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ONNX)
def test_onnx_by_export(name: str, tmp_path: Path) -> None:
    """Of the model itself: its output is a pytree."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    net = build(name, torch.float32)
    given = batch(name, 2, 5, [5, 5], net.config.pad_token_id)
    sizes = {0: "rows", given[0].dim() - 1: "length"}
    torch.onnx.export(
        net, given, str(tmp_path / "model.onnx"), dynamo=True, verbose=False,
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
    )  # fmt: skip
    check_onnx(tmp_path / "model.onnx", net, name)
