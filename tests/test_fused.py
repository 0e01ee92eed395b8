"""A fused model computes what it computed before, through the kernels; what they do not serve is refused by name."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from minitrans_kernels import dropout_mask
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import minitrans
from benchmarks.imports import graph
from minitrans import NotSupportedError, fuse, fused
from minitrans.attention.context import Context
from minitrans.cpu import prepare
from minitrans.layers.block import Block
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm, RMSNorm

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "initializer_range": 0.3,
}  # fmt: skip
DISTIL = {"vocab_size": 61, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "initializer_range": 0.3}
MODERN = SIZES | {"local_attention": 4, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
NARROW = SIZES | {"embedding_size": 16}
# a masked language model of every family, and BERT in what else it can be
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", SIZES),
    "bert, relu": ("BertForMaskedLM", SIZES | {"hidden_act": "relu"}),
    "bert, tanh": ("BertForMaskedLM", SIZES | {"hidden_act": "gelu_new"}),
    "bert, untied": ("BertForMaskedLM", SIZES | {"tie_word_embeddings": False}),
    "roberta": ("RobertaForMaskedLM", SIZES),
    "roberta, norms first": ("RobertaPreLayerNormForMaskedLM", SIZES),
    "distilbert": ("DistilBertForMaskedLM", DISTIL),
    "albert": ("AlbertForMaskedLM", NARROW),
    "electra": ("ElectraForMaskedLM", NARROW),
    "mpnet": ("MPNetForMaskedLM", SIZES),
    "deberta": ("DebertaV2ForMaskedLM", SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "longformer": ("LongformerForMaskedLM", SIZES | {"attention_window": 4}),
    "big bird": ("BigBirdForMaskedLM", SIZES | {"attention_type": "original_full"}),
    "nystromformer": ("NystromformerForMaskedLM", SIZES),
    "modernbert": ("ModernBertForMaskedLM", MODERN),
    "nomic": ("NomicBertForMaskedLM", SIZES),
    "roformer": ("RoFormerForMaskedLM", NARROW),
    "fnet": ("FNetForMaskedLM", {key: value for key, value in SIZES.items() if key != "num_attention_heads"}),
    "classifier": ("BertForSequenceClassification", SIZES),
    "pre-training": ("BertForPreTraining", SIZES),
    "decoder": ("BertLMHeadModel", SIZES | {"is_decoder": True, "add_cross_attention": True}),
    "decoder, norms first": ("RobertaPreLayerNormForCausalLM", SIZES | {"is_decoder": True, "add_cross_attention": True}),
}  # fmt: skip

KEEP_PADDING = ("pre-training", "decoder", "decoder, norms first", "nystromformer", "fnet")


def build(name: str, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Any:
    kind, sizes = MODELS[name]
    torch.manual_seed(0)
    cls = getattr(minitrans, kind)
    rates = {
        "attention_dropout": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "dropout": dropout,
        "hidden_dropout_prob": dropout,
    }
    known = {key: rate for key, rate in rates.items() if key in cls.config_class.__dataclass_fields__}
    model = cls(cls.config_class(**sizes, **known)).to(dtype)
    for parameter in model.parameters():  # biases and norms too
        parameter.data += 0.1 * torch.randn(parameter.shape, dtype=dtype)
    return model


def batch(name: str) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    mask = (torch.arange(9) < torch.tensor([9, 4, 7])[:, None]).long()
    ids = torch.randint(3, 61, mask.shape, generator=draw) * mask + (1 - mask)
    labels = torch.where((torch.rand(mask.shape, generator=draw) < 0.5) & (mask > 0), ids, -100)
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if name == "classifier":
        given["labels"] = torch.tensor([0, 1, 1])
    if name == "pre-training":
        given["next_sentence_label"] = torch.tensor([0, 1, 1])
    if name.startswith("decoder"):
        given["encoder_hidden_states"] = torch.randn(3, 5, 24, dtype=torch.float64, generator=draw)
    return given


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padding", ["keep", "remove"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_numbers(name: str, training: bool, padding: str) -> None:
    if padding == "remove" and name in KEEP_PADDING:
        pytest.skip("these keep their padding")
    plain = build(name).train(training)
    model = fuse(copy.deepcopy(plain))
    given = batch(name) | {"padding": padding, "output_hidden_states": True}
    before, after = plain(**given), model(**given)
    names = [key for key in before.keys() if key in after.keys()]  # noqa: SIM118
    assert "loss" in names
    assert set(before.keys()) - set(names) == (
        {"logits"} if training and "ForMaskedLM" in type(plain).__name__ else set()
    )
    torch.testing.assert_close([after[key] for key in names], [before[key] for key in names], rtol=0.0, atol=1e-12)
    found, expected = gradients(model, after["loss"]), gradients(plain, before["loss"])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", ["bert", "roberta", "albert"])
def test_embeddings(name: str) -> None:
    """Rows of padding get no gradient, and vectors may come in the place of ids."""
    plain = build(name).base_model.embeddings
    model = fuse(copy.deepcopy(build(name))).base_model.embeddings
    ids, types = torch.tensor([[5, 0, 1, 7], [0, 9, 1, 1]]), torch.tensor([[0, 0, 1, 1], [1, 0, 0, 0]])
    types, positions = types % model.token_type_embeddings.num_embeddings, torch.tensor([[2, 3, 1, 4]])
    vectors = torch.randn(2, 4, plain.word_embeddings.embedding_dim, dtype=torch.float64)
    for given in (ids, vectors):
        before, after = plain(given, positions, types), model(given, positions, types)
        torch.testing.assert_close(after, before, rtol=0.0, atol=1e-12)
        found, expected = gradients(model, after.pow(3).sum()), gradients(plain, before.pow(3).sum())
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-11, msg=key)


def test_the_transformer_of_2017() -> None:
    config = minitrans.TransformerConfig(
        vocab_size=31, width=24, num_encoder_layers=2, num_decoder_layers=2, num_heads=3, hidden_width=40, dropout=0.0
    )
    plain = minitrans.Transformer(config).double()
    model = fuse(copy.deepcopy(plain))
    source, labels = torch.randint(3, 31, (2, 7)), torch.randint(3, 31, (2, 5))
    before, after = plain(source, labels=labels), model(source, labels=labels)
    torch.testing.assert_close([after.loss, after.logits], [before.loss, before.logits], rtol=0.0, atol=1e-12)
    assert torch.equal(plain.eval().greedy_decode(source, 4), model.eval().greedy_decode(source, 4))


class Operators(TorchDispatchMode):
    """Counts the operators of the kernels, and notes the largest tensor that any operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "minitrans_kernels":
            self.calls[func.name().partition("::")[2]] += 1
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            self.largest = max(self.largest, value.numel() if isinstance(value, Tensor) else 0)
        return result


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", {"embedding_layer_norm": 1, "layer_norm": 4, "bias_gelu": 3, "masked_lm_loss": 1}),
        ("bert, relu", {"embedding_layer_norm": 1, "layer_norm": 4, "masked_lm_loss": 1}),
        ("roberta, norms first", {"embedding_layer_norm": 1, "layer_norm": 2, "bias_gelu": 3, "masked_lm_loss": 1}),
        ("decoder", {"embedding_layer_norm": 1, "layer_norm": 6, "bias_gelu": 3}),
        ("classifier", {"embedding_layer_norm": 1, "layer_norm": 4, "bias_gelu": 2}),
    ],
)
def test_the_kernels_are_what_runs(name: str, expected: dict[str, int]) -> None:
    with Operators() as seen:
        loss = fuse(build(name)).train()(**batch(name)).loss
    assert seen.calls == expected
    with Operators() as seen:
        loss.backward()
    assert seen.calls == {f"{operator}_backward": count for operator, count in expected.items()}


def test_logits_are_not_held_in_training() -> None:
    model = fuse(build("bert", dtype=torch.float32)).train()
    model.resize_token_embeddings(4000)
    ids = torch.randint(3, 61, (60, 9))
    labels = torch.where(torch.arange(540).view(60, 9) % 7 == 0, ids, -100)
    with Operators() as seen:
        out = model(input_ids=ids, labels=labels)
    assert out.logits is None
    assert seen.largest < 540 * 4000
    out.loss.backward()
    assert model.eval()(input_ids=ids, labels=labels).logits.shape == (60, 9, 4000)


def test_wrong_labels_are_refused_as_before() -> None:
    model, given = fuse(build("bert")).train(), batch("bert")
    for labels, error, message in (
        (given["labels"] + 61, ValueError, r"labels must be in \[0, 61\) or -100"),
        (given["labels"].float(), TypeError, "labels must be integers"),
        (given["labels"][:, :3], ValueError, r"labels must have shape \(3, 9\), got \(3, 3\)"),
    ):
        with pytest.raises(error, match=message):
            model(**given | {"labels": labels})
    assert model(**given | {"labels": torch.full_like(given["labels"], -100)}).loss.isnan()


def test_dropout_follows_the_generator_of_torch() -> None:
    model, given = fuse(build("bert", dropout=0.3)).train(), batch("bert")

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return [model(**given).loss.item() for _ in range(3)]

    found = losses(5)
    assert len(set(found)) == 3
    assert losses(5) == found
    assert losses(6) != found
    model.eval()
    assert losses(5)[0] == losses(6)[2]


def test_dropout_takes_what_the_mask_of_the_seed_says() -> None:
    model = build("bert", dropout=0.4).train()
    plain, embeddings = copy.deepcopy(model.bert.embeddings).eval(), fuse(model).bert.embeddings
    ids, positions, types = (
        torch.randint(0, 61, (2, 5)),
        torch.arange(5).expand(2, 5),
        torch.zeros(2, 5, dtype=torch.int64),
    )
    torch.manual_seed(3)
    found = embeddings(ids, positions, types)
    torch.manual_seed(3)
    kept = dropout_mask((10, 24), 0.4, torch.randint(2**62, (1,))).view(2, 5, 24).double()
    torch.testing.assert_close(found, plain(ids, positions, types) * kept / 0.6, rtol=0.0, atol=1e-12)

    block = model.bert.encoder.layer[0]
    x = torch.randn(1, 7, 24, dtype=torch.float64)
    torch.manual_seed(3)
    found = block(x, Context())
    torch.manual_seed(3)
    first, second = (dropout_mask((7, 24), 0.4, torch.randint(2**62, (1,))).double() / 0.6 for _ in range(2))
    middle = block.attention_LayerNorm(x + block.attention(x, Context(), None).output * first)
    expected = block.feed_forward_LayerNorm(middle + block.feed_forward(middle) * second)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)


def test_recomputation_draws_the_same_dropout() -> None:
    block = fuse(build("bert", dropout=0.4).bert.encoder).layer[0].train()
    context, x = Context(), torch.randn(1, 7, 24, dtype=torch.float64, requires_grad=True)

    def gradient(run: Any) -> Tensor:
        torch.manual_seed(3)
        return torch.autograd.grad(run(x).sum(), x)[0]

    kept = gradient(lambda x: block(x, context).square())
    again = gradient(lambda x: checkpoint(lambda x: block(x, context).square(), x, use_reentrant=False))
    assert torch.equal(kept, again)


def test_parameters_names_and_files_stay(tmp_path: Path) -> None:
    model = build("bert", dtype=torch.float32)
    before = dict(model.named_parameters())
    names = list(model.state_dict())
    assert fuse(model) is model
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = minitrans.BertForMaskedLM.from_pretrained(tmp_path)
    assert type(again) is minitrans.BertForMaskedLM
    given = batch("bert")
    torch.testing.assert_close(again(**given).logits, model.eval()(**given).logits)


def test_twice_changes_nothing_more() -> None:
    model = fuse(build("albert"))
    kinds = [type(module) for module in model.modules()]
    assert [type(module) for module in fuse(model).modules()] == kinds
    assert "FusedBlock" in str(model)


def test_what_is_done_to_models_can_be_done_to_a_fused_one() -> None:
    plain, given = build("bert").eval(), batch("bert")
    model = fuse(copy.deepcopy(plain))
    for each in (plain, model):
        each.set_attention({"name": "sliding_window", "window": 2})
        each.prune_heads({0: [1]})
    torch.testing.assert_close(model(**given).logits, plain(**given).logits, rtol=0.0, atol=1e-12)
    half = copy.deepcopy(model).bfloat16()(**given)
    assert half.logits.dtype == torch.bfloat16
    assert (half.logits.double() - plain(**given).logits).abs().max() < 0.5


def test_an_adapter_put_in_later_is_heard() -> None:
    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * super().forward(x)

    plain = build("bert").train()
    model = fuse(copy.deepcopy(plain))
    for each in (plain, model):
        network, head = each.bert.encoder.layer[0].feed_forward, each.lm_head
        for owner, name in ((network, "up"), (network, "down"), (head, "dense"), (head, "decoder")):
            old = getattr(owner, name)
            new = Twice(old.in_features, old.out_features, dtype=torch.float64)
            new.load_state_dict(old.state_dict())
            setattr(owner, name, new)
    given = batch("bert")
    torch.testing.assert_close(model(**given).loss, plain(**given).loss, rtol=0.0, atol=1e-12)


def test_autocast() -> None:
    plain = build("bert", dtype=torch.float32).train()
    model = fuse(copy.deepcopy(plain))
    given = batch("bert")
    with torch.autocast("cpu", torch.bfloat16):
        before, after = plain(**given).loss, model(**given).loss
    torch.testing.assert_close(after, before.float(), rtol=0.02, atol=0.0)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norms", [(RMSNorm, LayerNorm), (LayerNorm, RMSNorm)], ids=["RMSNorm first", "RMSNorm last"])
def test_blocks_of_other_parts(norms: tuple[type[nn.Module], ...], bias: bool, gated: bool, norm_first: bool) -> None:
    torch.manual_seed(0)
    network = FeedForward(24, 40, gated=gated, bias=bias)
    plain = Block(MultiHeadAttention(24, 3), network, [kind(24) for kind in norms], norm_first=norm_first).double()
    model, x = fuse(copy.deepcopy(plain)), torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    before, after = plain(x, Context()), model(x, Context())
    torch.testing.assert_close(after, before, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(y.square().sum(), x)[0] for y in (after, before)), rtol=0, atol=1e-11
    )


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_a_fused_block_compiles_in_one_graph() -> None:
    block = fuse(build("bert", dropout=0.1, dtype=torch.float32).bert.encoder).layer[0].train()
    x = torch.randn(2, 5, 24)
    context = Context()
    run = torch.compile(lambda x: block(x, context), fullgraph=True, backend="aot_eager")
    block(x, context)  # the backend is loaded when it is first used
    run(x).sum().backward()
    block.eval()
    torch.testing.assert_close(run(x), block(x, context))


def odd_block() -> nn.Module:
    class Strange(Block):
        pass

    model = build("bert")
    model.bert.encoder.layer[1].__class__ = Strange
    return model


def odd_norm() -> nn.Module:
    model = build("bert")
    model.bert.encoder.layer[0].attention_LayerNorm = nn.LayerNorm(24)
    return model


def odd_embeddings() -> nn.Module:
    model = build("bert")
    model.bert.embeddings.LayerNorm = nn.Identity()
    return model


def odd_table() -> nn.Module:
    model = build("bert")
    model.bert.embeddings.word_embeddings.max_norm = 1.0
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            odd_block,
            r"^BertForMaskedLM cannot be fused: bert.encoder.layer.1 is a Strange, only Block itself is served$",
        ),
        (
            odd_norm,
            r"bert.encoder.layer.0 has a torch.nn.modules.normalization.LayerNorm, only LayerNorm and RMSNorm of minitrans",
        ),
        (
            odd_embeddings,
            r"bert.embeddings is a Embeddings with a Identity, only Embeddings with a LayerNorm is served",
        ),
        (odd_table, r"bert.embeddings has a table that is no plain nn.Embedding"),
        (lambda: nn.Linear(3, 3), r"^Linear cannot be fused: it has no Block$"),
        (lambda: prepare(build("classifier", dtype=torch.float32).bert.eval()), r"it has no Block"),
    ],
)
def test_what_is_not_served_is_named_and_nothing_changed(make: Any, message: str) -> None:
    model = make()
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(NotSupportedError, match=message):
        fuse(model)
    assert [type(module) for module in model.modules()] == kinds


def test_a_fused_model_is_not_prepared_for_the_cpu() -> None:
    with pytest.raises(NotSupportedError, match="only a Block of attention and feed-forward is served"):
        prepare(fuse(build("classifier", dtype=torch.float32)).bert.eval())


def test_nothing_on_the_way_of_a_reader_knows_of_it() -> None:
    assert {module for module, targets in graph().items() if fused.__name__ in targets} <= {"minitrans"}
