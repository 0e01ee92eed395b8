"""What is hidden has the shares of the papers, falls on whole words where it should, and follows from the generator alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from minitrans.layers.losses import IGNORED
from minitrans.models.bert import BertConfig, BertForMaskedLM, BertForPreTraining
from minitrans.training.data.source import Sentence
from minitrans.training.objectives.masked import Masked, spans, tokens, whole_words
from minitrans.training.objectives.pre_training import PRE_TRAINING

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
VOCABULARY, MASK = 1000, 4


class Tokens:
    """Of a tokenizer, what masks and the reference's collator look at."""

    mask_token, mask_token_id, pad_token_id, all_special_ids = "[MASK]", MASK, 0, (0, 1, 2, 3, 4)

    def __len__(self) -> int:
        return VOCABULARY

    def convert_tokens_to_ids(self, token: str) -> int:
        return MASK


TOKENIZER: Any = Tokens()


@pytest.fixture(scope="module")
def model() -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **SIZES))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(length: int, seed: int = 0) -> dict[str, list[int]]:
    """Words of 1 to 4 tokens between two special ones."""
    ids = torch.randint(5, VOCABULARY, (length,), generator=seeded(seed)).tolist()
    starts = (torch.rand(length, generator=seeded(seed + 1)) < 0.4).int().tolist()
    return {"input_ids": [2, *ids, 3], "word_starts": [1, 1, *starts[1:], 1]}


def within(count: int, share: float, of: int) -> bool:
    """Three standard deviations of a binomial."""
    return abs(count - share * of) <= 3 * (of * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("choose", [tokens(), whole_words(), spans()])
def test_shares_are_those_of_the_paper(choose: Any, model: BertForMaskedLM):
    example, objective = text(20_000), Masked(model, TOKENIZER, choose)
    ids = torch.tensor(example["input_ids"])
    made = objective.prepare(example, seeded(3))
    chosen = made["labels"] != IGNORED
    assert torch.equal(made["labels"][chosen], ids[chosen])
    assert torch.equal(made["input_ids"][~chosen], ids[~chosen])
    assert not chosen[0] and not chosen[-1]  # noqa: PT018
    number = int(chosen.sum())
    clustered = 1.0 if choose.__qualname__.startswith("tokens") else 2.5  # tokens that share a word's fate
    assert abs(number - 3000) <= 3 * clustered * (20_000 * 0.15 * 0.85) ** 0.5
    masked, kept = (int((made["input_ids"][chosen] == wanted).sum()) for wanted in (MASK, ids[chosen]))
    units = number if not choose.__qualname__.startswith("spans") else number // 8
    assert abs(masked / number - 0.8) <= 3 * (0.8 * 0.2 / units) ** 0.5
    assert abs(kept / number - 0.1) <= 3 * (0.1 * 0.9 / units) ** 0.5 + 1 / VOCABULARY


def test_the_same_as_the_reference_in_rates_and_words(model: BertForMaskedLM):
    """Of the collator: 15 % and 80/10/10, and with offsets which words there are."""
    offsets = [(0, 0), (0, 2), (2, 5), (6, 7), (8, 9), (9, 12), (0, 0), (0, 3), (3, 4), (0, 0)]
    special = [1, 0, 0, 0, 0, 0, 1, 0, 0, 1]
    collator = transformers.DataCollatorForLanguageModeling
    theirs, _ = collator._calc_word_ids_and_prob_mask(np.array([offsets]), np.array([special]))
    seen: list[torch.Tensor] = []

    def look(starts: torch.Tensor, free: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append((starts.long().cumsum(0) - 1).masked_fill(~free, -1))
        return torch.full((len(free),), -1)

    starts = [
        int(start != before) for (start, _), before in zip(offsets, [-1, *(end for _, end in offsets)], strict=False)
    ]
    Masked(model, TOKENIZER, look).prepare(
        {"input_ids": [9] * 10, "word_starts": starts, "special_tokens_mask": special}, seeded(0)
    )
    ours = seen[0]
    assert torch.equal(ours[:, None] == ours, torch.tensor(theirs[0][:, None] == theirs[0]))
    hidden, labels = collator(tokenizer=TOKENIZER, seed=1).torch_mask_tokens(
        torch.full((40, 500), 7), special_tokens_mask=torch.zeros(40, 500)
    )
    mine = [Masked(model, TOKENIZER).prepare({"input_ids": [7] * 500}, seeded(row)) for row in range(40)]
    for found, of_labels in (
        (hidden, labels),
        (torch.stack([m["input_ids"] for m in mine]), torch.stack([m["labels"] for m in mine])),
    ):
        chosen = of_labels != IGNORED
        number = int(chosen.sum())
        assert within(number, 0.15, 20_000)
        assert within(int((found[chosen] == MASK).sum()), 0.8, number)
        assert within(int(((found[chosen] != MASK) & (found[chosen] != 7)).sum()), 0.1, number)


@pytest.mark.parametrize("choose", [whole_words(0.3), spans(1.0)])
def test_words_are_hidden_whole(choose: Any, model: BertForMaskedLM):
    example = text(400)
    chosen = Masked(model, TOKENIZER, choose).prepare(example, seeded(0))["labels"] != IGNORED
    words = torch.tensor(example["word_starts"]).cumsum(0)
    for word in words.unique():
        assert len(chosen[words == word].unique()) == 1
    behind_special = {"input_ids": [2, 7, 8, 3], "word_starts": [1, 0, 0, 1]}  # where offsets show no gap
    always = whole_words(1.0) if choose.__qualname__.startswith("whole") else choose
    assert Masked(model, TOKENIZER, always).prepare(behind_special, seeded(0))["labels"].tolist() == [-100, 7, 8, -100]


def test_lengths_of_spans_are_geometric(model: BertForMaskedLM):
    """Words of one token, and few spans, so that they seldom meet."""
    free = torch.ones(100_000, dtype=torch.bool)
    found = spans(0.02)(free, free, seeded(0))
    lengths = torch.bincount(found[found >= 0])
    expected = 0.8 ** torch.arange(10) / (0.8 ** torch.arange(10)).sum()
    for length in range(1, 11):
        assert within(int((lengths == length).sum()), float(expected[length - 1]), len(lengths))
    number = found[found >= 0]
    assert bool((number[1:] - number[:-1] != 0).sum() == len(lengths) - 1)  # each in one piece


def test_what_is_hidden_follows_from_the_generator(model: BertForMaskedLM):
    objective, example = Masked(model, TOKENIZER), text(60)
    one, same, other = (objective.prepare(example, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one["input_ids"], same["input_ids"])
    assert not torch.equal(one["labels"], other["labels"])
    assert "word_starts" not in one
    with pytest.raises(ValueError, match="needs a mask_token"):
        Masked(model, SimpleNamespace(mask_token_id=None))
    with pytest.raises(ValueError, match=r"shares must not be negative, nor more than 1 together, got 0\.8 and 0\.3"):
        Masked(model, TOKENIZER, random=0.3)


def test_recipes_are_rows_of_one_table(wordpiece: Any):
    """BERT's pairs with two losses, and RoBERTa's full sentences with one, by the same pieces."""
    documents = [[Sentence([number, number + 1, 7], [1, 0, 1]) for number in range(5, 20, step)] for step in (1, 2)]
    config = BertConfig(vocab_size=len(wordpiece), **SIZES)
    for name, kind in {"bert": BertForPreTraining, "roberta": BertForMaskedLM, "spanbert": BertForMaskedLM}.items():
        recipe = PRE_TRAINING[name]
        source, model = recipe.source(documents, wordpiece, 16), kind(config).double().eval()
        objective = recipe.objective(model, wordpiece)
        batch = objective.collate([objective.prepare(source[at], seeded(at)) for at in range(4)])
        losses = objective.losses(model, batch)
        assert losses.shape == objective.items(batch).shape == ((2,) if name == "bert" else (1,))
        mean = (losses / objective.items(batch)).sum()
        torch.testing.assert_close(model(**batch).loss, mean, rtol=1e-12, atol=0)
    assert PRE_TRAINING["bert"].static
    assert not PRE_TRAINING["roberta"].static
