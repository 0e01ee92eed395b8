"""The benchmark of decoders on a CPU: its rows, and that what writes something else is not timed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import cpu_decoders, decoder_peers
from benchmarks.decoder_peers import Work


def test_share_until_the_first_other_token() -> None:
    assert cpu_decoders.until_different([[1, 2, 3, 9]], [[1, 2, 3, 4]]) == 1, "the last is left out"
    assert (
        cpu_decoders.until_different([[1, 9, 3, 4, 5], [1, 2, 3, 4]], [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
        == (0.25 + 1) / 2
    )


def test_prompts_differ_in_length() -> None:
    assert list(map(len, cpu_decoders.prompts_of(99, 3))) == [8, 10, 12]
    padded = Work([[5], [6, 7]], 1, 2).padded(0, left=True)
    assert padded["input_ids"].tolist() == [[0, 5], [6, 7]]
    assert padded["attention_mask"].tolist() == [[0, 1], [1, 1]]


def test_what_writes_other_tokens_is_not_timed() -> None:
    def broken(work: Work) -> Any:
        raise RuntimeError("no such operator\nand more")

    built = {
        "transformers float32": lambda work: [[1, 2, 3]],
        "CTranslate2 float32": lambda work: [[1, 7, 3]],
        "minitrans prepared int8": lambda work: [[1, 7, 3]],
        "CTranslate2 int8": broken,
    }
    first, wrong, low, failed = cpu_decoders.measure("any", built, Work([[5]], 1, 3), 1)
    assert (first["same"], first["ratio"], first["tokens_per_second"]["runs"]) == (1, 1, 1)
    assert (wrong["same"], wrong["reason"], "tokens_per_second" in wrong) == (0.5, "it writes other tokens", False)
    assert (low["same"], low["ratio"] > 0, low["ratio_ctranslate2"]) == (0.5, True, None)
    assert failed["reason"] == "RuntimeError: no such operator"


@pytest.mark.slow
def test_its_rows(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 99, "eos_token_id": 2, "bos_token_id": 1}
    monkeypatch.setitem(decoder_peers.MODELS, "gpt2", ("GPT2LMHeadModel", tiny))
    only = "transformers float32,minitrans float32,minitrans prepared float32"
    found = command(
        cpu_decoders, "--model", "gpt2", "--texts", 2, "--tokens", 4, "--repeats", 1, "--only", only, "--long", 70
    )
    assert [(row["beams"], row["provider"]) for row in found["rows"]] == [
        (beams, name) for beams in (1, 4) for name in only.split(",")
    ]
    assert all(row["same"] == 1 for row in found["rows"])
    assert {len(ms) for ms in found["long_text"]["ms"].values()} == {2}
    bytes_of = found["long_text"]["static_cache_bytes"]
    assert bytes_of["held"] == bytes_of["computed"] == 2 * 1 * 2 * 70 * 8 * 4
