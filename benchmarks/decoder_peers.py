"""What `benchmarks.cpu_decoders` compares: each provider as a function from prompts to new tokens, of one random model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

Rows = list[list[int]]
Run = Callable[..., Rows]  # (work) -> the new tokens of each text

# name -> class of the reference, its fields where they are not those of the published checkpoint of that name already
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "opus-mt-base": (
        "MarianMTModel",
        {
            "d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
            "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "max_position_embeddings": 512, "scale_embedding": True,
            "activation_function": "swish",
        },
    ),
    "t5-small": (
        "T5ForConditionalGeneration",
        {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "decoder_start_token_id": 0},
    ),
    "bart-base": (
        "BartForConditionalGeneration",
        {
            "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
            "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {}),
}  # fmt: skip
SPREAD = 0.08  # of random weights: large enough that texts vary


@dataclass(frozen=True)
class Work:
    """What every provider is given.

    Attributes:
        prompts: token ids.
        beams: 1 = greedy search.
        tokens: how many new ones each text gets.
    """

    prompts: Rows
    beams: int
    tokens: int

    def padded(self, pad: int, *, left: bool) -> dict[str, torch.Tensor]:
        """(B, T) ids and mask."""
        longest = max(map(len, self.prompts))
        ids, mask = [], []
        for row in self.prompts:
            fill = longest - len(row)
            ids.append([pad] * fill + row if left else row + [pad] * fill)
            mask.append([0] * fill + [1] * len(row) if left else [1] * len(row) + [0] * fill)
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def reference(name: str, folder: Path | None = None) -> Any:
    """The model of transformers, with random weights, or that of a folder."""
    import transformers

    if folder is not None:
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    kind, fields = MODELS[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    model = cls(cls.config_class(**fields)).eval()
    with torch.no_grad():
        for part in model.modules():
            for parameter in part.parameters(recurse=False):
                if parameter.dim() > 1 and parameter.requires_grad:  # not sinusoids
                    parameter.normal_(0, SPREAD / (1 + 3 * isinstance(part, torch.nn.Embedding)))
    return model


def generating(model: Any, told: dict[str, Any]) -> Run:
    """A model with the reference's `generate`; `streamer` gets the tokens as they come."""

    def run(work: Work, **streamer: Any) -> Rows:
        is_pair = told["is_pair"]
        inputs = work.padded(told["pad"], left=not is_pair)
        given: dict[str, Any] = {"max_new_tokens": work.tokens, "num_beams": work.beams, "do_sample": False}
        if told["eos"] is not None:
            given |= {"min_new_tokens": work.tokens, "eos_token_id": told["eos"]}
        if told["never"] is not None:
            given["bad_words_ids"] = [[told["never"]]]
        with torch.no_grad():
            found = model.generate(**inputs, **given, **streamer, pad_token_id=told["pad"])
        rows: Rows = found[:, 1 if is_pair else inputs["input_ids"].shape[1] :].tolist()
        return rows

    return run


def facts(model: Any) -> dict[str, Any]:
    """What a call to `generate` has to say of a model: Marian's files forbid padding, and texts end at a length only."""
    config = model.config
    is_pair = bool(config.is_encoder_decoder)
    pad = config.pad_token_id if config.pad_token_id is not None else config.eos_token_id
    never = config.pad_token_id if config.model_type == "marian" else None
    return {"is_pair": is_pair, "pad": pad, "eos": config.eos_token_id, "never": never}


def ours(model: Any, precision: str | None) -> Run:
    """minitrans, with the weights of the reference; prepared where there is a precision."""
    import minitrans
    from minitrans.cpu import prepare

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        kind = getattr(minitrans, type(model).__name__)
        own = kind.from_pretrained(folder).eval()
    return generating(own if precision is None else prepare(own, precision), facts(model))


def ctranslate2(model: Any, precision: str) -> Run:
    """CTranslate2, with the weights of the reference, tokens called by their numbers."""
    import ctranslate2 as library
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    model = copy.deepcopy(model)  # its weights are changed where they lie
    told = facts(model)
    config = model.config
    names = {"<pad>" if number == told["never"] else f"{number}": number for number in range(config.vocab_size)}
    first = config.decoder_start_token_id if told["is_pair"] else config.bos_token_id
    words = SimpleNamespace(
        get_vocab=lambda: dict(names), bos_token=str(first), eos_token=str(told["eos"]), unk_token=str(config.vocab_size - 2),
        pad_token=str(told["pad"]), additional_special_tokens=[], all_special_tokens=[],
        convert_ids_to_tokens=lambda ids: str(ids) if isinstance(ids, int) else [str(each) for each in ids],
        convert_tokens_to_ids=lambda tokens: int(tokens) if isinstance(tokens, str) else [int(each) for each in tokens],
    )  # fmt: skip
    spec = _MODEL_LOADERS[type(config).__name__](model, words)
    spec.validate()
    spec.optimize(quantization=precision)
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        kind = library.Translator if told["is_pair"] else library.Generator
        own = kind(folder, device="cpu", compute_type=precision, intra_threads=1, inter_threads=1)

    def run(work: Work) -> Rows:
        texts = [[str(each) for each in row] for row in work.prompts]
        given: dict[str, Any] = {"beam_size": work.beams}
        if told["is_pair"]:
            found = own.translate_batch(
                texts, max_decoding_length=work.tokens, min_decoding_length=work.tokens, max_input_length=0, **given
            )
            return [[int(each) for each in text.hypotheses[0]] for text in found]
        found = own.generate_batch(
            texts,
            max_length=work.tokens,
            min_length=work.tokens,
            include_prompt_in_result=False,
            sampling_topk=1,
            **given,
        )
        return [[int(each) for each in text.sequences[0]] for text in found]

    return run


PROVIDERS: dict[str, Callable[[Any], Run]] = {
    "transformers float32": lambda model: generating(model, facts(model)),
    "CTranslate2 float32": lambda model: ctranslate2(model, "float32"),
    "CTranslate2 int8": lambda model: ctranslate2(model, "int8"),
    "minitrans float32": lambda model: ours(model, None),
    "minitrans prepared float32": lambda model: ours(model, "float32"),
    "minitrans prepared bfloat16": lambda model: ours(model, "bfloat16"),
    "minitrans prepared int8": lambda model: ours(model, "int8"),
}
