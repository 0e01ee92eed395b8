"""The 2017 Transformer against torch's own `nn.Transformer` parts, against formulas, and at work on a small task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans import Transformer, TransformerConfig
from minitrans.attention.context import Context
from minitrans.attention.mask import AttentionMask
from minitrans.layers.multi_head_attention import MultiHeadAttention

PAD, BOS, EOS = 0, 1, 2
TOLERANCE = 1e-10


# pairwise different: B=2, S=7, T=5, H=3, D=12, K=4, F=19, V=23, L=2 and 3
SMALL: dict[str, Any] = {
    "vocab_size": 23, "width": 12, "num_encoder_layers": 2, "num_decoder_layers": 3, "num_heads": 3,
    "hidden_width": 19, "max_length": 11,
}  # fmt: skip


def small(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**{**SMALL, "dropout": 0.0, **changes}))
    with torch.no_grad():  # fresh biases and norms are 0 and 1, which would hide a wrong one
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.double()


def ids(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


SOURCE = ids([5, 9, 14, 3, 22, 7, 2], [11, 4, 8, 2, PAD, PAD, PAD])
SOURCE_LEFT = ids([5, 9, 14, 3, 22, 7, 2], [PAD, PAD, 8, 2, 4, 5, 6])
SOURCE_FULL = ids([5, 9, 14, 3, 22, 7, 2], [11, 4, 8, 2, 4, 5, 6])
TARGET = ids([BOS, 6, 13, 20, 17], [BOS, 10, 21, PAD, PAD])
TARGET_FULL = ids([BOS, 6, 13, 20, 17], [BOS, 10, 21, 3, 4])
LABELS = ids([6, 13, 20, 17, EOS], [10, 21, EOS, PAD, PAD])


class TorchTransformer(nn.Module):
    """The same model of torch's layers; no final norms: with the norms after the sums the paper has none."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "d_model": config.width, "nhead": config.num_heads, "dim_feedforward": config.hidden_width, "dropout": 0.0,
            "activation": "relu", "batch_first": True, "norm_first": False, "dtype": torch.float64,
        }  # fmt: skip
        self.embedding = nn.Embedding(config.vocab_size, config.width, dtype=torch.float64)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**options), config.num_encoder_layers, norm=None, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**options), config.num_decoder_layers, norm=None
        )
        self.width = config.width

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        memory = self.encoder(self.embed(source), src_key_padding_mask=source == PAD)
        states = self.decoder(
            self.embed(target), memory, tgt_mask=causal, tgt_key_padding_mask=target == PAD,
            memory_key_padding_mask=source == PAD,
        )  # fmt: skip
        logits: Tensor = states @ self.embedding.weight.T
        return logits

    def embed(self, tokens: Tensor) -> Tensor:
        table = torch.empty(tokens.shape[1], self.width, dtype=torch.float64)
        for position in range(tokens.shape[1]):  # section 3.5, entry by entry
            for column in range(self.width):
                angle = torch.tensor(position / 10000 ** (2 * (column // 2) / self.width), dtype=torch.float64)
                table[position, column] = angle.cos() if column % 2 else angle.sin()
        embedded: Tensor = self.embedding(tokens) * self.width**0.5 + table
        return embedded


ATTENTION = {"self_attn": "attention", "multihead_attn": "cross_attention"}
REST = {
    "linear1": "feed_forward.up", "linear2": "feed_forward.down", "self_attn.out_proj": "attention.output",
    "multihead_attn.out_proj": "cross_attention.output",
}  # fmt: skip
NORMS = {
    "encoder": ("attention_LayerNorm", "feed_forward_LayerNorm"),
    "decoder": ("attention_LayerNorm", "cross_attention_LayerNorm", "feed_forward_LayerNorm"),
}


def as_torch(tensors: dict[str, Tensor], like: TorchTransformer) -> dict[str, Tensor]:
    """Our tensors (parameters or gradients) under torch's names."""
    found = {}
    for name in dict(like.named_parameters()):
        stack, _, rest = name.partition(".layers.")
        index, _, rest = rest.partition(".")
        inner, _, kind = rest.rpartition(".")
        if name == "embedding.weight":
            found[name] = tensors[name]
        elif kind.startswith("in_proj_"):  # torch keeps query, key and value in one matrix
            prefix, suffix = f"{stack}.{index}.{ATTENTION[inner]}", kind.removeprefix("in_proj_")
            found[name] = torch.cat([tensors[f"{prefix}.{part}.{suffix}"] for part in ("query", "key", "value")])
        elif inner.startswith("norm"):
            found[name] = tensors[f"{stack}.{index}.{NORMS[stack][int(inner[-1]) - 1]}.{kind}"]
        else:
            found[name] = tensors[f"{stack}.{index}.{REST[inner]}.{kind}"]
    return found


def twins(**changes: Any) -> tuple[Transformer, TorchTransformer]:
    model = small(**changes)
    reference = TorchTransformer(model.config)
    reference.load_state_dict(as_torch(dict(model.state_dict()), reference))
    return model, reference


def error(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("target", [TARGET, TARGET_FULL], ids=["target padded", "target full"])
@pytest.mark.parametrize(
    "source", [SOURCE, SOURCE_LEFT, SOURCE_FULL], ids=["source padded right", "source padded left", "source full"]
)
def test_equals_torch_forward_and_gradients(source: Tensor, target: Tensor, train: bool) -> None:
    model, reference = twins()
    model.train(train)
    reference.train(train)
    real = target != PAD
    logits, expected = model(source, target).logits[real], reference(source, target)[real]
    assert error(logits, expected) <= TOLERANCE

    weights = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    ours = as_torch({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, reference)
    assert len(ours) == len(list(reference.parameters()))
    assert sum(tensor.numel() for tensor in ours.values()) == sum(p.numel() for p in model.parameters())
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        scale = parameter.grad.abs().max()
        if name.endswith("in_proj_bias"):  # the bias of the keys has no effect: its gradient is rounding, on both sides
            width = model.config.width
            assert ours[name][width : 2 * width].abs().max() <= TOLERANCE * scale, name
        assert (ours[name] - parameter.grad).abs().max() <= TOLERANCE * scale, name


def test_loss_is_label_smoothing_over_real_labels() -> None:
    model = small(label_smoothing=0.17)
    output = model(SOURCE, labels=LABELS)
    logarithms = output.logits.log_softmax(dim=-1)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(2):
        for place, label in enumerate(LABELS[row].tolist()):
            if label != PAD:
                smooth = torch.full((23,), 0.17 / 23, dtype=torch.float64)
                smooth[label] += 1 - 0.17
                total -= (smooth * logarithms[row, place]).sum()
                count += 1
    assert count == 8
    assert error(output.loss, total / count) <= TOLERANCE


def test_labels_are_shifted_right_where_no_target_is_given() -> None:
    model = small()
    shifted = ids([BOS, 6, 13, 20, 17], [BOS, 10, 21, EOS, PAD])
    without, given = model(SOURCE, labels=LABELS), model(SOURCE, shifted, labels=LABELS)
    assert torch.equal(without.logits, given.logits)
    assert torch.equal(without.loss, given.loss)
    assert model(SOURCE, shifted).loss is None


def test_padding_changes_nothing_at_real_tokens() -> None:
    model = small()
    alone = model(SOURCE[1:, :4], TARGET[1:, :3]).logits
    assert error(model(SOURCE, TARGET).logits[1:, :3], alone) <= TOLERANCE


def test_one_matrix_serves_three_ways() -> None:
    model = small()
    shaped = [name for name, p in model.named_parameters() if p.shape == (23, 12)]
    assert shaped == ["embedding.weight"]
    # its gradient is the sum over the three uses: give each use a copy of its own and add up
    model(SOURCE, TARGET).logits.square().sum().backward()
    tied = model.embedding.weight.grad
    copies = [model.embedding.weight.detach().clone().requires_grad_() for _ in range(3)]

    def embedder(copy: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda tokens: F.embedding(tokens, copy) * 12**0.5 + model.positions(torch.arange(tokens.shape[1]))

    model._embed = embedder(copies[0])
    memory = model.encode(SOURCE)
    x = embedder(copies[1])(TARGET)
    causal = AttentionMask(causal=True)
    for block in model.decoder:
        x = block(x, Context(mask=causal, memory=memory.output, memory_mask=memory.mask))
    (x @ copies[2].T).square().sum().backward()
    parts = [copy.grad for copy in copies]
    assert all(part is not None and part.abs().max() > 0 for part in parts)
    assert tied is not None
    assert error(tied, sum(parts)) <= TOLERANCE


def test_initialisation_and_size_are_the_papers() -> None:
    with torch.device("meta"):
        base = Transformer(TransformerConfig())
    blocks = 6 * (4 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512 + 2 * 2 * 512)
    decoders = blocks + 6 * (4 * (512 * 512 + 512) + 2 * 512)
    assert sum(p.numel() for p in base.parameters()) == blocks + decoders + 37000 * 512  # the paper: 65 million

    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**{**SMALL, "vocab_size": 500, "width": 96, "hidden_width": 200}))
    assert (model.embedding.weight.std() * 96**0.5).item() == pytest.approx(1.0, abs=0.02)
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name:
            assert parameter.eq(1.0 if name.endswith("weight") else 0.0).all(), name
        elif name.endswith("bias"):
            assert parameter.eq(0.0).all(), name
        elif name != "embedding.weight":
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.98 * bound <= parameter.abs().max() <= bound, name
    assert [block.cross_attention is None for block in model.encoder] == [True, True]
    assert [block.cross_attention is None for block in model.decoder] == [False, False, False]


def test_positions_are_exact_in_float64_though_the_model_was_made_in_float32() -> None:
    model = Transformer(TransformerConfig(**SMALL))
    assert model.positions.table.dtype == torch.float32
    angle = torch.tensor(10.0, dtype=torch.float64)
    assert abs(model.double().positions.table[10, 0] - angle.sin()) <= 1e-15
    assert "positions.table" not in model.state_dict()


def test_forward_changes_nothing() -> None:
    model = small(dropout=0.3).eval()
    state, generator = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    model(SOURCE, TARGET)
    model.greedy_decode(SOURCE, 3)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_dropout_is_where_the_paper_has_it() -> None:
    """Section 5.4: on each sub-layer's output and on the sums; not on probabilities, not inside the feed-forward."""
    model = small(dropout=0.25)
    calls = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, _, __, name=name: calls.append((name, module.p)))
    model(SOURCE, TARGET)
    active = [name for name, probability in calls if probability == 0.25]
    assert active.count("dropout") == 2
    assert all(active.count(f"encoder.{layer}.dropout") == 1 for layer in range(2))
    assert all(active.count(f"decoder.{layer}.dropout") == 2 for layer in range(3))
    blocks = [f"encoder.{layer}" for layer in range(2)] + [f"decoder.{layer}" for layer in range(3)]
    assert all(active.count(f"{block}.feed_forward_dropout") == 1 for block in blocks)
    assert len(active) == 2 + 2 * 2 + 3 * 3
    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    assert {module.dropout_p for module in attentions} == {0.0}


def test_int32_ids_serve_too() -> None:
    model = small()
    wide, narrow = model(SOURCE, labels=LABELS), model(SOURCE.int(), labels=LABELS.int())
    assert torch.equal(wide.loss, narrow.loss)


def test_a_source_of_nothing_but_padding_gives_numbers() -> None:
    model = small()
    source = SOURCE.clone()
    source[1] = PAD
    output = model(source, labels=LABELS)
    output.loss.backward()
    assert output.logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_parameter_names_are_public() -> None:
    attention = [f"{name}.{kind}" for name in ("query", "key", "value", "output") for kind in ("weight", "bias")]
    norm_and_feed = [
        f"{name}.{kind}"
        for name in ("attention_LayerNorm", "feed_forward.up", "feed_forward.down", "feed_forward_LayerNorm")
        for kind in ("weight", "bias")
    ]
    block = [f"attention.{name}" for name in attention] + norm_and_feed
    cross = [f"cross_attention.{name}" for name in attention] + [
        f"cross_attention_LayerNorm.{k}" for k in ("weight", "bias")
    ]
    expected = {"embedding.weight"}
    expected |= {f"encoder.{layer}.{name}" for layer in range(2) for name in block}
    expected |= {f"decoder.{layer}.{name}" for layer in range(3) for name in block + cross}
    assert set(small().state_dict()) == expected
