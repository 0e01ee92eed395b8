"""The 2017 Transformer writing: the cache, greedy decoding, and a small task that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minitrans import Transformer, TransformerConfig
from minitrans.layers.multi_head_attention import MultiHeadAttention

PAD, BOS, EOS = 0, 1, 2
TOLERANCE = 1e-10
SOURCE = torch.tensor([[5, 9, 14, 3, 22, 7, 2], [11, 4, 8, 2, PAD, PAD, PAD]])
TARGET = torch.tensor([[BOS, 6, 13, 20, 17], [BOS, 10, 21, 3, 4]])


# pairwise different: B=2, S=7, T=5, H=3, D=12, K=4, F=19, V=23, L=2 and 3
SMALL: dict[str, Any] = {
    "vocab_size": 23, "width": 12, "num_encoder_layers": 2, "num_decoder_layers": 3, "num_heads": 3,
    "hidden_width": 19, "max_length": 11, "dropout": 0.0,
}  # fmt: skip


def small() -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig(**SMALL)).double()


def error(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_cached_decoding_equals_all_at_once(backend: str) -> None:
    model = small()
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.set_attention("full", backend)
    memory = model.encode(SOURCE)
    whole, _ = model.decode(TARGET, memory)
    past, steps = None, []
    for start, stop in ((0, 1), (1, 3), (3, 5)):
        logits, past = model.decode(TARGET[:, start:stop], memory, past)
        steps.append(logits)
    assert past is not None
    assert past.get_seq_length() == 5
    assert error(torch.cat(steps, dim=1), whole) <= TOLERANCE


def uncached(model: Transformer, source: Tensor, most: int) -> Tensor:
    """Greedy decoding as one would write it first: one row, the whole target anew at each step."""
    rows = []
    for row in source:
        written: list[int] = []
        while len(written) < most and EOS not in written:
            logits = model(row[None], torch.tensor([[BOS, *written]])).logits[0, -1]
            logits[PAD] = -torch.inf
            written.append(int(logits.argmax()))
        rows.append(written)
    longest = max(map(len, rows))
    return torch.tensor([written + [PAD] * (longest - len(written)) for written in rows])


@torch.no_grad()
def test_greedy_decoding_equals_the_uncached_loop(reverser: Transformer) -> None:
    torch.manual_seed(1)
    source, _ = reversals(12)
    written = reverser.greedy_decode(source, 6)
    assert (
        len({int((row != PAD).sum()) for row in written}) >= 3
    )  # rows end at different steps: the test means something
    assert torch.equal(written, uncached(reverser, source, 6))
    assert torch.equal(reverser.greedy_decode(source, 4), uncached(reverser, source, 4))  # some are cut off
    for seed in (3, 6):  # models that learned nothing rarely end
        torch.manual_seed(seed)
        model = Transformer(TransformerConfig(**{**SMALL, "vocab_size": 6})).double().eval()
        source = torch.randint(3, 6, (5, 7))
        source[1, 4:] = PAD
        assert torch.equal(model.greedy_decode(source, 9), uncached(model, source, 9))


@torch.no_grad()
def test_greedy_decoding_stops_at_the_end_token_and_never_writes_padding() -> None:
    model = small().eval()
    memory_of = model.decode

    def scripted(target: Tensor, *rest: Any) -> Any:  # row 0 ends at once, row 1 at its third token
        logits, past = memory_of(target, *rest)
        step = past.get_seq_length()
        logits = torch.zeros_like(logits)
        logits[0, -1, EOS if step == 1 else 5] = 1.0
        logits[1, -1, EOS if step == 3 else 7] = 1.0
        logits[..., PAD] = 2.0
        return logits, past

    model.decode = scripted
    assert model.greedy_decode(SOURCE, 9).tolist() == [[EOS, PAD, PAD], [7, 7, EOS]]
    assert model.greedy_decode(SOURCE, 2).tolist() == [[EOS, PAD], [7, 7]]


def reversals(size: int) -> tuple[Tensor, Tensor]:
    """Sources of 2 to 5 tokens, and the same tokens from right to left."""
    source = torch.randint(3, 13, (size, 5))
    lengths = torch.randint(2, 6, (size, 1))
    source[torch.arange(5) >= lengths] = PAD
    labels = torch.zeros(size, 6, dtype=torch.long)
    for row, length in enumerate(lengths.flatten().tolist()):
        labels[row, :length] = source[row, :length].flip(0)
        labels[row, length] = EOS
    return source, labels


@pytest.fixture(scope="module")
def reverser() -> Transformer:
    """A model that was taught to reverse in a few seconds."""
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=13, width=32, num_encoder_layers=1, num_decoder_layers=1, num_heads=4, hidden_width=64,
        max_length=8, dropout=0.0,
    )  # fmt: skip
    model = Transformer(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98), eps=1e-9)
    for _ in range(500):
        source, labels = reversals(64)
        optimizer.zero_grad()
        model(source, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def test_learns_to_reverse(reverser: Transformer) -> None:
    torch.manual_seed(2)
    source, labels = reversals(200)
    written = reverser.greedy_decode(source, 6)
    right = (F.pad(written, (0, 6 - written.shape[1])) == labels).all(dim=1).double().mean()
    assert right >= 0.95


def test_cache_counts_towards_the_longest_target() -> None:
    model = small()
    memory = model.encode(SOURCE)
    past = model.decode(TARGET.repeat(1, 2), memory)[1]
    past = model.decode(TARGET[:, :1], memory, past)[1]
    with pytest.raises(ValueError, match="have 12 tokens"):
        model.decode(TARGET[:, :1], memory, past)
