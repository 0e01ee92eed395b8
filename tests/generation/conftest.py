"""Tiny random decoders, the reference's and ours with the same weights, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import minitrans
from minitrans.checkpoints.verification import without_float32
from minitrans.generation.call import Request, room
from minitrans.generation.decoding import Running
from minitrans.generation.job import Job, Written
from minitrans.generation.noise import noise_of
from minitrans.generation.processing import in_turn
from minitrans.generation.search import search_of
from minitrans.generation.text import Prompts

VOCABULARY = 23
PAD = 1
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 60, "is_decoder": True, "type_vocab_size": 2, "layer_norm_eps": 1e-6, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 60, "pad_token_id": PAD,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
    "head_dim": 4, "intermediate_size": 20, "max_position_embeddings": 60, "pad_token_id": PAD, "bos_token_id": 0,
    "eos_token_id": 2,
}  # fmt: skip
CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_LLAMA, "query_pre_attn_scalar": 4, "sliding_window": 6}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "bert": ("BertConfig", "BertLMHeadModel", _SIZES),
    "roberta": ("RobertaConfig", "RobertaForCausalLM", _SIZES),
}


FAMILIES = sorted(CLASSES)


@dataclass(frozen=True)
class Pair:
    """A reference model and ours."""

    family: str
    reference: Any
    ours: Any

    def of_reference(self, ids: Tensor, mask: Tensor | None = None, **settings: Any) -> Any:
        """What the reference writes; RoBERTa is told the positions that its own forward gives (it forgets them here)."""
        if self.family == "roberta":
            real = torch.ones_like(ids) if mask is None else mask
            settings["position_ids"] = (real.cumsum(1) - 1).clamp(min=0) + PAD + 1
        mask = torch.ones_like(ids) if mask is None else mask
        return self.reference.generate(ids, attention_mask=mask, **settings)


@cache
def build(family: str, seed: int = 0, **changes: Any) -> Pair:
    config_name, model_name, sizes = CLASSES[family]
    fields = {**sizes, **changes}
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        config = getattr(transformers, config_name)(**fields)
        config._attn_implementation = "eager"
        reference = getattr(transformers, model_name)(config).double().eval()
        with torch.no_grad():
            for parameter in reference.parameters():  # fresh weights say nearly the same at every step
                parameter.add_(torch.randn_like(parameter) * 0.4)
    reference.forward = without_float32()(reference.forward)
    ours = getattr(minitrans, model_name)(getattr(minitrans, config_name)(**fields)).double().eval()
    ours.load_reference_state_dict(reference.state_dict())
    return Pair(family, reference, ours)


@cache
def one_layer(family: str, seed: int) -> Any:
    """A model of ours alone, quickly made."""
    config_name, model_name, sizes = CLASSES[family]
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": 1}
    model = getattr(minitrans, model_name)(getattr(minitrans, config_name)(**{**sizes, **depth})).double().eval()
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=numbers, dtype=parameter.dtype) * 0.4)
    return model


@pytest.fixture(scope="session")
def pair() -> Callable[..., Pair]:
    return build


class Table:
    """A model without weights: the scores after a text are random numbers, drawn anew for each text.

    Attributes:
        vocabulary: V.
        seed: of all numbers.
        read: how many tokens it has read in all its calls.
    """

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.vocabulary, self.seed, self.read = vocabulary, seed, 0

    def scores(self, text: tuple[int, ...]) -> Tensor:
        """(V) after a text."""
        numbers = torch.Generator().manual_seed(hash((self.seed, text)) % 2**31)
        return torch.randn(self.vocabulary, dtype=torch.float64, generator=numbers) * 1.5

    def __call__(self, tokens: Tensor, *, mask: Tensor | None, keep: int, **others: Any) -> Any:
        self.read += tokens.numel()
        real = torch.ones_like(tokens) if mask is None else mask
        rows = []
        for row, kept in zip(tokens, real, strict=True):
            text = tuple(row[kept.bool()].tolist())
            rows.append(torch.stack([self.scores(text[: len(text) - back]) for back in reversed(range(keep))]))
        return SimpleNamespace(logits=torch.stack(rows), past_key_values=None, hidden_states=None)

    def search(self, ids: Tensor, real: Tensor | None = None, **settings: Any) -> Written:
        """What the search that the settings mean writes after these prompts (B, T)."""
        request = Request.of(settings)
        prompts = Prompts(ids, torch.ones_like(ids, dtype=torch.bool) if real is None else real)
        run = Running(self, prompts.text(room(request.settings, prompts.lengths, None)), use_cache=False)
        noise = noise_of(request.settings.seed, None, len(ids), ids.device)
        process = in_turn(each for _, each in request.processors(prompts))
        return search_of(request.asked, {})(run, Job(request.settings, process, request.ended(), noise))


@pytest.fixture(scope="session")
def table() -> type[Table]:
    return Table
