"""What enters the first block of a BERT-like model (M9, M10, R2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.embeddings import Embeddings

Error = Callable[[Tensor, Tensor], float]
Randomized = Callable[[nn.Module], nn.Module]

# pairwise different: B=2, T=3, D=7, V=11, 5 positions, 4 types
IDS, POSITIONS, TYPES = (
    torch.tensor(rows) for rows in ([[3, 10, 1], [1, 9, 9]], [[2, 4, 0], [1, 3, 3]], [[0, 3, 1], [2, 0, 0]])
)


def make(randomized: Randomized, **options: Any) -> Embeddings:
    module = randomized(Embeddings(11, 7, max_positions=5, type_vocab_size=4, **options))
    assert isinstance(module, Embeddings)
    return module


def formula(module: Embeddings, words: Tensor, eps: float) -> Tensor:
    types, positions = module.token_type_embeddings.weight[TYPES], module.position_embeddings.weight[POSITIONS]
    x = words + types + positions
    return F.layer_norm(x, (7,), module.LayerNorm.weight, module.LayerNorm.bias, eps)


@pytest.mark.parametrize("eps", [1e-12, 0.1])
def test_equals_the_formula(eps: float, randomized: Randomized, error: Error) -> None:
    module = make(randomized, eps=eps)
    got, expected = module(IDS, POSITIONS, TYPES), formula(module, module.word_embeddings.weight[IDS], eps)
    assert error(got, expected) <= 1e-14
    upstream = torch.randn_like(got)
    leaves = list(module.parameters())
    for one, other in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert error(one, other) <= 1e-12


def test_without_a_table_of_positions_and_without_a_bias(randomized: Randomized, error: Error) -> None:
    module = randomized(Embeddings(11, 7, eps=0.1, norm_bias=False))
    assert [name for name, _ in module.named_parameters()] == ["word_embeddings.weight", "LayerNorm.weight"]
    words, weight = module.parameters()
    assert error(module(IDS, POSITIONS + 100, TYPES), F.layer_norm(words[IDS], (7,), weight, None, 0.1)) <= 1e-14


def test_sums_words_types_positions_in_that_order_bit_by_bit(randomized: Randomized) -> None:
    """M9: addition is not associative, the order decides the last bits."""
    module = make(randomized).float()
    seen: list[Tensor] = []
    module.LayerNorm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = torch.randint(11, (2, 400))
    positions, types = torch.randint(5, (2, 400)), torch.randint(4, (2, 400))
    module(ids, positions, types)
    words = module.word_embeddings.weight[ids]
    places, kinds = module.position_embeddings.weight[positions], module.token_type_embeddings.weight[types]
    assert torch.equal(seen[0], words + kinds + places)
    assert not torch.equal(seen[0], words + places + kinds)  # so the assertion above means something
    assert not torch.equal(seen[0], words + (kinds + places))


def test_vectors_may_stand_for_ids(randomized: Randomized) -> None:
    module = make(randomized)
    words = module.word_embeddings.weight[IDS]
    assert torch.equal(module(words, POSITIONS, TYPES), module(IDS, POSITIONS, TYPES))


def test_the_padding_row_gets_no_gradient_from_the_lookup(randomized: Randomized) -> None:
    """M10, and R2 for positions; without a padding index every row does."""
    module = make(randomized, padding_idx=1, position_padding_idx=2)
    module(IDS, POSITIONS, TYPES).square().sum().backward()

    def rows(table: nn.Embedding) -> list[int]:
        assert table.weight.grad is not None
        return table.weight.grad.abs().sum(-1).nonzero().flatten().tolist()

    assert rows(module.word_embeddings) == [3, 9, 10]
    assert rows(module.position_embeddings) == [0, 1, 3, 4]
    assert rows(module.token_type_embeddings) == [0, 1, 2, 3]
    every = make(randomized)
    every(IDS, POSITIONS, TYPES).square().sum().backward()
    assert rows(every.word_embeddings) == [1, 3, 9, 10]
    assert rows(every.position_embeddings) == [0, 1, 2, 3, 4]


def test_the_padding_row_still_learns_through_a_tied_decoder(randomized: Randomized) -> None:
    """M10, its second half."""
    module = make(randomized, padding_idx=1)
    (module(IDS, POSITIONS, TYPES) @ module.word_embeddings.weight.T).square().sum().backward()
    assert module.word_embeddings.weight.grad is not None
    assert module.word_embeddings.weight.grad[1].abs().max() > 0


def test_fresh_padding_row_is_zero() -> None:
    module = Embeddings(11, 7, max_positions=5, type_vocab_size=4, padding_idx=1, position_padding_idx=2)
    assert module.word_embeddings.weight[1].eq(0).all()
    assert module.position_embeddings.weight[2].eq(0).all()


def test_dropout_comes_after_the_norm(randomized: Randomized) -> None:
    module = make(randomized, dropout=0.5)
    dropped, plain = module(IDS, POSITIONS, TYPES), module.eval()(IDS, POSITIONS, TYPES)
    kept = dropped != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.allclose(dropped[kept], 2 * plain[kept])


def test_packed_tokens_have_one_axis_less(randomized: Randomized) -> None:
    module = make(randomized)
    flat = module(IDS.flatten(), POSITIONS.flatten(), TYPES.flatten())
    assert torch.equal(flat, module(IDS, POSITIONS, TYPES).flatten(0, 1))


def test_parameter_names_are_public() -> None:
    assert list(Embeddings(11, 7, max_positions=5, type_vocab_size=4).state_dict()) == [
        "word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.weight",
        "LayerNorm.bias",
    ]  # fmt: skip
