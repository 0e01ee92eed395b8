"""What was seen at each step, and prompts that are vectors: as the reference has them, for every search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.checkpoints.verification import without_float32
from tests.generation.conftest import FAMILIES
from tests.generation.test_pairs import CLASSES as PAIRS
from tests.generation.test_pairs import models, sources

PAD = 1
ASKED = {"return_dict_in_generate": True, "output_attentions": True, "output_hidden_states": True}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}
OURS_ONLY: dict[str, dict[str, Any]] = {
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "forced": {"num_beams": 4, "force_words_ids": [[7, 8]]},
    "contrastive": {"penalty_alpha": 0.4, "top_k": 4},
    "dola": {"dola_layers": [0, 1]},
}


def close(mine: Any, theirs: Any) -> None:
    """The same nest of tuples of equal tensors."""
    if isinstance(theirs, tuple):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            close(one, other)
    else:
        torch.testing.assert_close(mine, theirs.double(), rtol=1e-7, atol=1e-7)  # it rounds to float32 in places


def prompts(rows: int = 2) -> Tensor:
    return torch.randint(2, 23, (rows, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("search", SEARCHES)
def test_steps_are_the_references(pair: Callable[..., Any], family: str, search: str):
    both, ids = pair(family, 1), prompts()
    call = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": PAD, **SEARCHES[search], **ASKED}
    torch.default_generator.manual_seed(0)
    expected = both.of_reference(ids, **call)
    torch.default_generator.manual_seed(0)
    got = both.ours.generate(ids, **call)
    assert got.sequences.tolist() == expected.sequences.tolist()
    close(got.hidden_states, expected.hidden_states)
    if family != "gemma2":  # its cache of a window drops keys, ours hides them
        close(got.attentions, expected.attentions)
    assert got.cross_attentions is got.encoder_attentions is got.decoder_hidden_states is None


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("search", SEARCHES)
def test_steps_of_pairs_are_the_references(family: str, search: str):
    (reference, ours), (ids, mask) = models(family, 1), sources([3, 6, 5])
    call = {"attention_mask": mask, "max_new_tokens": 5, "eos_token_id": None, "forced_eos_token_id": None}
    call |= {**SEARCHES[search], **ASKED}
    torch.default_generator.manual_seed(0)
    with without_float32():
        expected = reference.generate(ids, **call)
    torch.default_generator.manual_seed(0)
    got = ours.generate(ids, **call)
    assert got.sequences.tolist() == expected.sequences.tolist()
    rows = mask.bool()
    for name in ("decoder_hidden_states", "decoder_attentions", "cross_attentions"):
        close(got[name], expected[name])
    for mine, theirs in zip(got.encoder_hidden_states, expected.encoder_hidden_states, strict=True):
        close(mine[rows], theirs[rows])
    for mine, theirs in zip(got.encoder_attentions, expected.encoder_attentions, strict=True):
        close(mine.transpose(1, 2)[rows], theirs.transpose(1, 2)[rows])


@pytest.mark.parametrize("search", [*SEARCHES, *OURS_ONLY])
def test_steps_of_any_search_are_those_of_its_texts(pair: Callable[..., Any], search: str):
    """Scores are made of the last hidden states, whatever the search does with them; texts that ended are zeros."""
    model, ids = pair("gpt2", 2).ours, prompts(3)
    call = {"max_new_tokens": 6, "eos_token_id": [3, 4, 5], "pad_token_id": PAD, "seed": 1, "output_logits": True}
    search_call = {**SEARCHES, **OURS_ONLY}[search]
    got = model.generate(ids, **{**call, **search_call, **ASKED})
    assert len(got.hidden_states) == len(got.attentions) == len(got.logits)
    for states, logits in zip(got.hidden_states, got.logits, strict=True):
        there = states[-1][:, -1].abs().sum(-1) > 0
        assert there.any()
        scores = model.lm_head(states[-1][:, -1])
        if search != "dola":
            torch.testing.assert_close(scores[there], logits[there], rtol=1e-12, atol=1e-12)
    if "num_beams" not in search_call:
        row = got.sequences[0][None]
        whole = model(row, output_hidden_states=True).hidden_states[-1][0]
        steps = torch.cat([states[-1][0] for states in got.hidden_states])
        ended = steps.abs().sum(-1) == 0
        torch.testing.assert_close(steps[~ended], whole[: len(steps)][~ended], rtol=1e-10, atol=1e-10)


def test_a_draft_has_no_steps(pair: Callable[..., Any]):
    with pytest.raises(ValueError, match="a draft reads several tokens at once: leave output_attentions"):
        pair("bert").ours.generate(prompts(), prompt_lookup_num_tokens=2, **ASKED)


@pytest.mark.filterwarnings("ignore:Passing `.*` with `inputs_embeds`")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("search", [*SEARCHES, *OURS_ONLY])
def test_a_prompt_may_be_vectors(pair: Callable[..., Any], family: str, search: str):
    model, ids = pair(family, 1).ours, prompts()
    call = {"max_new_tokens": 5, "eos_token_id": [3, 4], "pad_token_id": PAD, "seed": 1, "num_return_sequences": 1}
    call |= {**SEARCHES, **OURS_ONLY}[search]
    expected = model.generate(ids, **call)
    vectors = (model.base_model.embeddings.rows if family == "gemma2" else model.get_input_embeddings())(ids)
    assert model.generate(inputs_embeds=vectors, **call).tolist() == expected[:, 4:].tolist()
    assert model.generate(ids, inputs_embeds=vectors, **call).tolist() == expected.tolist()
    if search != "contrastive":
        assert model.generate(inputs_embeds=vectors, use_cache=False, **call).tolist() == expected[:, 4:].tolist()
    if search in SEARCHES:
        more = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "eos_token_id": None, "seed": None}
        call = {name: value for name, value in {**call, **more}.items() if value is not None}
        settings = {**call, "attention_mask": torch.ones_like(ids), "eos_token_id": None}
        torch.default_generator.manual_seed(0)
        theirs = (
            pair(family, 1).reference.generate(inputs_embeds=vectors.detach(), **settings)
            if family != "roberta"
            else None
        )
        torch.default_generator.manual_seed(0)
        mine = model.generate(inputs_embeds=vectors, **settings)
        assert theirs is None or mine.tolist() == theirs.tolist()  # it forgets RoBERTa's positions


def test_vectors_in_any_batch(pair: Callable[..., Any]):
    """Padding on either side, a seed of each prompt; what users see of the prompt is nothing."""
    model = pair("bert", 1).ours
    ids, vectors = prompts(3), model.get_input_embeddings()(prompts(3)).detach()
    call = {"max_new_tokens": 6, "eos_token_id": [3, 4], "pad_token_id": PAD, "do_sample": True}
    lengths, seen = [2, 4, 3], []
    alone = [model.generate(ids[row : row + 1, :n], seed=row, **call)[0, n:].tolist() for row, n in enumerate(lengths)]
    for side in ("left", "right"):
        places = torch.arange(6)
        mask = torch.stack([places >= 6 - n if side == "left" else places < n for n in lengths])
        padded = torch.full((3, 6, vectors.shape[2]), 7.0, dtype=vectors.dtype)
        for row, n in enumerate(lengths):
            padded[row, mask[row]] = vectors[row, :n]
        own = [lambda given, scores: seen.append(given.shape) or scores]
        found = model.generate(
            inputs_embeds=padded, attention_mask=mask.long(), seed=[0, 1, 2], logits_processor=own, **call
        ).tolist()
        for row, new in zip(found, alone, strict=True):
            assert row == new + [PAD] * (len(row) - len(new))
    assert seen[0] == (3, 0)


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_source_may_be_vectors(family: str, side: str):
    ours, (ids, mask) = models(family, 1)[1], sources([3, 6, 5], side)
    call = {"attention_mask": mask, "max_new_tokens": 6}
    vectors = ours.get_input_embeddings()(ids)
    for search in ({}, {"num_beams": 3}):
        assert (
            ours.generate(inputs_embeds=vectors, **call, **search).tolist()
            == ours.generate(ids, **call, **search).tolist()
        )


def test_vectors_that_are_none(pair: Callable[..., Any]):
    model, ids = pair("bert").ours, prompts()
    vectors = model.get_input_embeddings()(ids)
    for call, words in (
        ({"inputs_embeds": vectors[0]}, r"inputs_embeds must be \(B, T, D\) = \(\?, D\), got \(4, 12\)"),
        ({"inputs_embeds": vectors, "input_ids": ids[:, :3]}, r"= \(2, 3, D\), got \(2, 4, 12\)"),
        ({"inputs_embeds": vectors, "prompt_lookup_num_tokens": 3}, "a draft reads token ids: leave inputs_embeds out"),
        ({"inputs_embeds": vectors, "guidance_scale": 1.5}, "guidance_scale needs negative_prompt_ids"),
        ({"inputs_embeds": vectors[..., :5]}, r"inputs_embeds must be \(B, T, D=12\)"),
    ):
        with pytest.raises(ValueError, match=words):
            model.generate(**call)
