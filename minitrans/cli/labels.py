"""`classify` and `tag`: a class for a text, classes for its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitrans.cli import options
from minitrans.cli.guard import note
from minitrans.cli.options import Runtime
from minitrans.cli.reading import checked, given_texts
from minitrans.cli.writing import Row, json_numbers, progress, show

if TYPE_CHECKING:
    from torch import Tensor

    from minitrans.cli.loading import Loaded

Texts = Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, each in quotes.")]


def classify(
    model: options.Model,
    texts: Texts = None,
    file: options.TextFile = None,
    pair: Annotated[str | None, typer.Option(help="A second text that goes with each of the first.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many classes to show.")] = 5,
    as_json: options.AsJson = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionName = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = 32,
    threads: options.Threads = None,
) -> None:
    """Classify texts, or pairs of texts.

    Columns: text number, class, score. The score is a probability; of a regression model it is the value itself.

    Examples:

        minitrans classify "A gripping film." --model ./sentiment

        minitrans classify --file reviews.txt --model ./sentiment --top-k 1 --json
    """
    given = given_texts(texts, file)
    if pair is not None:
        checked(pair, "--pair")
    runtime = Runtime(
        model=model, device=device, dtype=dtype, attention=attention, backend=backend, batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    from minitrans.cli.loading import load

    loaded = load(runtime, "AutoModelForSequenceClassification")
    scores = text_scores(loaded, given, pair, batch_size)
    names = loaded.model.config.id2label or {}
    rows = []
    for number, row in enumerate(scores.tolist(), start=1):
        for label in sorted(range(len(row)), key=lambda index: (-row[index], index))[:top_k]:
            rows.append(json_numbers({"number": number, "label": names[label], "score": row[label]}))
    show(rows, as_json=as_json)


def text_scores(loaded: Loaded, texts: list[str], pair: str | None, batch_size: int) -> Tensor:
    """(len(texts), C): probabilities of the classes, of each for itself where a text may have several, or a plain value."""
    import torch

    from minitrans.embedding import length_sorted_batches

    model, tokenizer = loaded.model, loaded.tokenizer
    pairs = None if pair is None else [pair] * len(texts)
    encoded = tokenizer(texts, pairs, truncation=True, max_length=loaded.max_length)
    cut = sum(bool(encoded[row].overflowing) for row in range(len(texts)))
    if cut:
        note(f"cut to {loaded.max_length} tokens: {cut} of {len(texts)} texts")
    rows: list[dict[str, Any]] = [{name: encoded[name][row] for name in encoded} for row in range(len(texts))]
    logits = torch.empty(len(texts), model.config.num_labels, dtype=torch.float64)
    with progress("classifying", len(texts)) as advance, torch.inference_mode():
        for batch in length_sorted_batches([len(row["input_ids"]) for row in rows], batch_size):
            padded = tokenizer.pad([rows[index] for index in batch], return_tensors="pt").to(model.device)
            logits[batch] = model(**padded).logits.to("cpu", torch.float64)
            advance(len(batch))
    require_finite(logits)
    kind = model.config.problem_type
    if kind == "regression" or (kind is None and model.config.num_labels == 1):
        return logits
    return logits.sigmoid() if kind == "multi_label_classification" else logits.softmax(dim=-1)


def tag(
    model: options.Model,
    texts: Texts = None,
    file: options.TextFile = None,
    as_json: options.AsJson = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionName = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = 32,
    threads: options.Threads = None,
) -> None:
    """Mark words: names of people and places, parts of speech, whatever the model was trained for.

    A word has the class of its first token; B- and I- words of one class make one span; the class O is not shown.
    Columns: text number, class, first character, character after the last, score, text. Long texts run in windows.

    Examples:

        minitrans tag "Ada Lovelace was born in London." --model ./ner

        minitrans tag --file letters.txt --model ./ner --json
    """
    given = given_texts(texts, file)
    runtime = Runtime(
        model=model, device=device, dtype=dtype, attention=attention, backend=backend, batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    from minitrans.cli.loading import load
    from minitrans.cli.spans import tagged_words, word_spans

    loaded = load(runtime, "AutoModelForTokenClassification")
    names = dict(loaded.model.config.id2label or {})
    rows: list[Row] = []
    with progress("tagging", len(given)) as advance:
        for number, text in enumerate(given, start=1):
            for span in word_spans(tagged_words(loaded, text, names, batch_size)):
                place = {"number": number, "label": span.label, "start": span.start, "end": span.end}
                rows.append(json_numbers({**place, "score": span.score, "text": text[span.start : span.end]}))
            advance(1)
    show(rows, as_json=as_json)


def require_finite(logits: Tensor) -> None:
    """Raises ValueError for NaN and infinite scores, which no ranking survives."""
    if not bool(logits.isfinite().all()):
        raise ValueError("the model gives NaN or infinite numbers: its weights are broken, or overflow in this dtype")
