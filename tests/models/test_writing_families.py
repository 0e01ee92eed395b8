"""Every family that writes and has no other test of it: token for token what the reference writes, in three searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minitrans.families import FAMILIES
from minitrans.models.auto import class_by_name
from tests.models.test_pairs import PAIRS, Pair, batch, exactly

ROTARY: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4,
    "intermediate_size": 20, "max_position_embeddings": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 5}
DECODERS: dict[str, dict[str, Any]] = {
    "mistral": WINDOW, "qwen2": {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}, "qwen3": {}, "llama": {},
}  # fmt: skip
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"repetition_penalty": 1.3, "min_new_tokens": 3},
    "beams": {"num_beams": 3, "length_penalty": 0.7, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
    "sampled": {"do_sample": True, "top_k": 9, "top_p": 0.9, "temperature": 1.4},
}


def both(family: str, folder: Path) -> tuple[Any, Any]:
    """The reference and ours, with the same random weights that say something else at every step."""
    if family in PAIRS:
        # the reference's cache has as many layers as the encoder
        layers = {"num_decoder_layers": 2} if family in ("t5", "mt5", "umt5") else {}
        pair = Pair(folder, family, "ForSeq2SeqLM", **layers)
        reference = pair.reference
    else:
        name = FAMILIES[family].class_name("ForCausalLM")
        kind = getattr(transformers, name)
        config = kind.config_class(**{**ROTARY, **DECODERS[family]})
        config._attn_implementation = "eager"
        torch.manual_seed(7)
        reference = kind(config).double()
    with torch.no_grad():
        for path, parameter in reference.named_parameters():
            if not path.endswith("embed_positions.weight"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    reference.save_pretrained(folder / "louder")
    ours = class_by_name(type(reference).__name__).from_pretrained(folder / "louder")
    return reference.eval(), ours.double()


@pytest.mark.parametrize("family", [*PAIRS, *DECODERS])
def test_what_is_written_is_the_references(tmp_path: Path, family: str) -> None:
    """With padding in the source of a pair; sampled from the same random numbers."""
    reference, ours = both(family, tmp_path)
    given = batch(family, left=False)
    if family in DECODERS:
        given = {"input_ids": given["input_ids"][:, :5], "attention_mask": torch.ones(4, 5, dtype=torch.long)}
    for name, search in SEARCHES.items():
        settings = {
            "max_new_tokens": 9,
            "suppress_tokens": [1],
            "forced_eos_token_id": 2,
            **search,
        }  # padding inside of a text has no place
        with exactly():
            torch.manual_seed(3)
            expected = reference.generate(**given, **settings)
        torch.manual_seed(3)
        got = ours.generate(**given, **settings)
        assert got.tolist() == expected.tolist(), name
        assert len({tuple(row) for row in expected.tolist()}) > 1
