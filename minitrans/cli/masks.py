"""`fill-mask`: the words a language model expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from minitrans.cli import options
from minitrans.cli.options import Runtime
from minitrans.cli.reading import given_texts
from minitrans.cli.writing import Row, json_numbers, progress, show

if TYPE_CHECKING:
    from minitrans.cli.loading import Loaded


def fill_mask(
    model: options.Model,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts with the model's mask token in them.")
    ] = None,
    file: options.TextFile = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many words to show for a mask.")] = 5,
    as_json: options.AsJson = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionName = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
) -> None:
    """Guess masked words. Every mask is filled by itself, while the others stay.

    Columns: text number, mask number, probability, token, text with the token in its place.

    Examples:

        minitrans fill-mask "Paris is the [MASK] of France." --model bert-base-uncased

        minitrans fill-mask "Paris is the <mask> of France." --model roberta-base --top-k 3
    """
    given = given_texts(texts, file)
    runtime = Runtime(model=model, device=device, dtype=dtype, attention=attention, backend=backend, threads=threads)
    from minitrans.cli.loading import load

    loaded = load(runtime, "AutoModelForMaskedLM")
    rows: list[Row] = []
    with progress("filling", len(given)) as advance:
        for number, text in enumerate(given, start=1):
            rows += [{"number": number, **row} for row in guesses(loaded, text, top_k)]
            advance(1)
    show(rows, as_json=as_json)


def guesses(loaded: Loaded, text: str, top_k: int) -> list[Row]:
    """The most probable tokens for each mask of a text. Raises ValueError for a text without one, or too long."""
    import torch

    from minitrans.cli.labels import require_finite

    tokenizer, model = loaded.tokenizer, loaded.model
    mask = tokenizer.mask_token
    if mask is None or tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer of this model has no mask token")
    batch = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", verbose=False)
    places = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not places:
        raise ValueError(f"TEXT: expected the mask token of this model, {mask}, where a word is missing; found none")
    length = batch["input_ids"].shape[1]
    if length > loaded.max_length:
        raise ValueError(f"TEXT: expected at most {loaded.max_length} tokens, found {length}; shorten it")
    fields = {name: batch[name].to(model.device) for name in tokenizer.model_input_names if name in batch}
    with torch.inference_mode():
        logits = model(**fields).logits[0, places].to("cpu", torch.float64)  # (masks, V)
    require_finite(logits)
    best = logits.softmax(dim=-1).topk(min(top_k, len(tokenizer), logits.shape[1]))
    rows = []
    for number, place in enumerate(places):
        start, end = batch["offset_mapping"][0, place].tolist()
        for score, token in zip(best.values[number].tolist(), best.indices[number].tolist(), strict=True):
            word = tokenizer.decode([token]).strip()
            row = {"mask": number + 1, "score": score, "token": word, "filled": _filled(text, start, end, word)}
            rows.append(json_numbers(row))
    return rows


def _filled(text: str, start: int, end: int, word: str) -> str:
    """The text with a word in place of a mask; a WordPiece that continues a word is joined to what is before it."""
    before = text[:start]
    if word.startswith("##"):
        before, word = before.rstrip(), word.removeprefix("##")
    elif text[start:end][:1].isspace():  # a mask that swallows the space on its left
        word = f" {word}"
    return f"{before}{word}{text[end:]}"
