"""One page, of its own, that shows all heads of a model on a text: no network, and nothing of the text is obeyed."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.looking.heads import statistics_of
from minitrans.looking.lens import Lens
from minitrans.looking.look import look
from minitrans.looking.sites import sites_of

MOST_TOKENS = 1024  # what a browser draws at once
SAID = 3  # words of the lens a place


def page(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    tokens: Mapping[str, Sequence[str]],
    *,
    name: str = "",
    text: str = "",
    others: Mapping[str, nn.Module] | None = None,
    word: Callable[[int], str] | None = None,
) -> str:
    """The HTML of all attention of a model on one text.

    Args:
        model: any that `look` takes, whose attention has a pattern.
        batch: one text, as the forward takes it.
        tokens: what to write at rows and columns: {"": tokens}, or {"encoder": ..., "decoder": ...} of a pair.
        name: of the model, for the title.
        text: for the title.
        others: models to show beside it on the same batch, by name, as after a swap.
        word: the token of an id; with it, what each layer of a language model would say is shown too.

    Raises:
        ValueError: for more than one text, too long a one, or a model without patterns.
    """
    longest = max(map(len, tokens.values()))
    if longest > MOST_TOKENS:
        raise ValueError(f"a page shows at most {MOST_TOKENS} tokens, got {longest}")
    maps = []
    for title, each in {"": model, **(others or {})}.items():
        maps += [{**found, "name": f"{found['name']} · {title}".strip(" ·")} for found in _maps(each, batch, tokens)]
    data: dict[str, Any] = {"model": name, "text": text, "maps": maps, "lens": None}
    if word is not None and hasattr(model, "lm_head") and len(tokens) == 1:
        data["lens"] = {"tokens": list(*tokens.values()), "layers": _lens(model, batch, word)}
    # what could end the element that holds it, or be taken for the end of a line, is written by its number
    text_of_data = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    template = Path(__file__).with_name("view.html").read_text(encoding="utf-8")
    return template.replace("@DATA@", text_of_data)


@torch.no_grad()
def patterns(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{"pattern": (L, H, T, S)} of one text, and those of the halves and the crossing of a pair.

    Raises:
        ValueError: for several texts, or a model without patterns.
    """
    if any(len(each) != 1 for each in batch.values() if each.dim()):
        raise ValueError("one text at a time")
    names = dict.fromkeys(site.full_name for site in sites_of(model) if site.full_name.endswith("pattern"))
    if not names:
        raise ValueError("there is no pattern to show: this attention does not weigh tokens by tokens")
    with look(model, list(names), to="cpu") as seen:
        model(**batch)
    return {name: seen.stack(name)[:, 0].float() for name in names}


def _maps(model: nn.Module, batch: Mapping[str, Tensor], tokens: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    maps = []
    for name, pattern in patterns(model, batch).items():
        half, crosses = name.split(".")[0] if "." in name else "", "cross_" in name
        rows, columns = tokens[half], tokens["encoder" if crosses else half]
        layers, heads = pattern.shape[:2]
        # as bytes: 0.002 off at most, and an eighth of the size
        levels = (pattern.clamp(0, 1) * 255).round().to(torch.uint8).numpy().tobytes()
        maps.append({
            "name": name.replace("pattern", "attention").replace("cross_", "cross-").replace(".", " "), "layers": layers,
            "heads": heads, "rows": list(rows), "columns": list(columns), "square": not crosses,
            "statistics": {of: _rounded(values.tolist()) for of, values in statistics_of(pattern).items()},
            "packed": base64.b64encode(gzip.compress(levels, mtime=0)).decode(),
        })  # fmt: skip
    return maps


def _rounded(rows: list[list[float]]) -> list[list[float]]:
    return [[round(x, 2) for x in row] for row in rows]


@torch.no_grad()
def _lens(model: nn.Module, batch: Mapping[str, Tensor], word: Callable[[int], str]) -> list[Any]:
    """By layer and place: the likeliest words and their shares."""
    shares, ids = Lens(model)(**batch)[:, 0].softmax(-1).topk(SAID)  # (L, T, SAID)
    return [
        [[[word(i) for i in place], [round(p, 3) for p in share]] for place, share in zip(*layer, strict=True)]
        for layer in zip(ids.tolist(), shares.tolist(), strict=True)
    ]
