"""Contrastive search and DoLa against naive derivations, one text at a time; both the same in any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div

from minitrans.generation.dola import early_layers
from tests.generation.conftest import FAMILIES

PAD = 1


def naive_contrastive(
    model: Any, ids: list[int], count: int, width: int, alpha: float, ends: tuple[int, ...]
) -> list[int]:
    for _ in range(count):
        out = model(torch.tensor([ids]), output_hidden_states=True)
        likely, tokens = out.logits[0, -1].softmax(-1).topk(width)
        values = []
        for probability, token in zip(likely, tokens, strict=True):
            hidden = model(torch.tensor([[*ids, int(token)]]), output_hidden_states=True).hidden_states[-1][0]
            alike = cosine_similarity(hidden[-1:], hidden[:-1], dim=-1).max()
            values.append((1 - alpha) * probability - alpha * alike)
        ids = [*ids, int(tokens[torch.stack(values).argmax()])]
        if ids[-1] in ends:
            break
    return ids


def naive_dola(model: Any, ids: list[int], count: int, layers: list[int], ends: tuple[int, ...]) -> list[int]:
    for _ in range(count):
        out = model(torch.tensor([ids]), output_hidden_states=True)
        late = out.logits[0, -1].log_softmax(-1)
        early = [model.lm_head(out.hidden_states[layer][0, -1]).log_softmax(-1) for layer in layers]
        distances = []
        for each in early:
            middle = (late.exp() + each.exp()) / 2
            distances.append(kl_div(late, middle, reduction="sum") + kl_div(each, middle, reduction="sum"))
        scores = late - early[int(torch.stack(distances).argmax())]
        scores[late.exp() < 0.1 * late.exp().max()] = -torch.inf
        ids = [*ids, int(scores.argmax())]
        if ids[-1] in ends:
            break
    return ids


def batch(lengths: list[int]) -> tuple[Tensor, Tensor]:
    mask = torch.stack([torch.arange(5) >= 5 - length for length in lengths])
    ids = torch.randint(2, 23, mask.shape, generator=torch.Generator().manual_seed(4))
    return ids.masked_fill(~mask, PAD), mask.long()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["contrastive", "dola"])
def test_as_derived_naively_in_any_batch(pair: Callable[..., Any], family: str, seed: int, kind: str):
    model, (ids, mask) = pair(family, seed).ours, batch([2, 5, 3])
    ends = (3, 4)
    call = {"penalty_alpha": 0.4, "top_k": 4} if kind == "contrastive" else {"dola_layers": [0, 1]}
    written = model.generate(
        ids, attention_mask=mask, max_new_tokens=8, eos_token_id=list(ends), pad_token_id=PAD, **call
    )
    for row, prompt, real in zip(written.tolist(), ids.tolist(), mask.bool().tolist(), strict=True):
        text = [token for token, kept in zip(prompt, real, strict=True) if kept]
        with torch.no_grad():
            if kind == "contrastive":
                expected = naive_contrastive(model, text, 8, 4, 0.4, ends)[len(text) :]
            else:
                expected = naive_dola(model, text, 8, [0, 1], ends)[len(text) :]
        assert row[5:] == expected + [PAD] * (len(row) - 5 - len(expected))


def test_forbidden_tokens_are_never_chosen(pair: Callable[..., Any]):
    model, (ids, mask) = pair("bert", 1).ours, batch([5, 5])
    call = {"attention_mask": mask, "max_new_tokens": 8, "eos_token_id": None, "suppress_tokens": list(range(4, 23))}
    written = model.generate(ids, penalty_alpha=0.9, top_k=8, **call)
    assert int(written[:, 5:].max()) < 4


def test_a_cache_changes_nothing_for_contrasted_layers(pair: Callable[..., Any]):
    model, (ids, mask) = pair("gpt2", 2).ours, batch([2, 5])
    call = {
        "attention_mask": mask,
        "max_new_tokens": 8,
        "eos_token_id": None,
        "dola_layers": "high",
        "repetition_penalty": 1.2,
    }
    assert model.generate(ids, **call).tolist() == model.generate(ids, **call, use_cache=False).tolist()


def test_which_layers_are_early():
    assert early_layers("low", 12, is_tied=True) == [2, 4]
    assert early_layers("low", 12, is_tied=False) == [0, 2, 4]
    assert early_layers("high", 12, is_tied=True) == [6, 8, 10]
    assert early_layers("high", 48, is_tied=True) == list(range(28, 48, 2))
    assert early_layers("low", 48, is_tied=False) == list(range(0, 20, 2))
    assert early_layers([11, 3, 12], 12, is_tied=True) == [3, 11]
    with pytest.raises(ValueError, match="name numbers below 12"):
        early_layers([12], 12, is_tied=True)
