"""`translate` and `summarize`: a text from a text, by a pair."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from minitrans.cli import options
from minitrans.cli.errors import note
from minitrans.cli.options import Runtime, takes_model
from minitrans.cli.text import given_texts, progress, show

Texts = Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, each in quotes.")]
NewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", "-n", min=1, help="How many tokens; default: the checkpoint's, or 20.")
]
Beams = Annotated[int | None, typer.Option(min=1, help="Search with so many beams; default: the checkpoint's, or 1.")]

Truncate = Annotated[
    bool, typer.Option("--truncate", help="Cut texts that are too long for the model, and say how many.")
]


@takes_model(batch_size=8)
def translate(
    runtime: Runtime,
    texts: Texts = None,
    file: options.TextFile = None,
    direction: Annotated[
        str | None, typer.Option(metavar="XX_to_YY", help="Of models that are told by a prefix, such as T5.")
    ] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="CODE", help="Language of the texts.")] = None,
    target: Annotated[str | None, typer.Option("--to", metavar="CODE", help="Language to translate into.")] = None,
    max_new_tokens: NewTokens = None,
    beams: Beams = None,
    truncate: Truncate = False,
    as_json: options.AsJson = False,
) -> None:
    """Translate texts. Columns: text number, translation.

    Examples:

        minitrans translate "A house." -m Helsinki-NLP/opus-mt-en-de

        minitrans translate --file texts.txt -m ./t5 --direction en_to_de --beams 4
    """
    told: dict[str, Any] = {
        "direction": direction and f"translation_{direction}",
        "src_lang": source,
        "tgt_lang": target,
    }
    told |= {"truncation": truncate, "max_new_tokens": max_new_tokens, "num_beams": beams}
    _write(runtime, "translation", texts, file, as_json, **told)


@takes_model(batch_size=8)
def summarize(
    runtime: Runtime,
    texts: Texts = None,
    file: options.TextFile = None,
    max_new_tokens: NewTokens = None,
    beams: Beams = None,
    truncate: Truncate = False,
    as_json: options.AsJson = False,
) -> None:
    """Summarize texts. Columns: text number, summary.

    Examples:

        minitrans summarize --file articles.txt -m ./bart -n 60 --beams 4
    """
    told = {"truncation": truncate, "max_new_tokens": max_new_tokens, "num_beams": beams}
    _write(runtime, "summarization", texts, file, as_json, **told)


def _write(runtime: Runtime, task: str, texts: list[str] | None, file: Any, as_json: bool, **settings: Any) -> None:
    given = given_texts(texts, file)
    settings = {name: value for name, value in settings.items() if value is not None}
    from minitrans.cli.loading import load_pipeline

    pipe = load_pipeline(runtime, task)
    with progress("writing", len(given)) as advance:
        found = pipe(given, progress=advance, **settings)
    if pipe.truncated:
        note(f"cut to {pipe.max_length} tokens: {pipe.truncated} of {len(given)} texts")
    rows = [{"number": number, "text": next(iter(each.values()))} for number, each in enumerate(found, start=1)]
    show(rows, as_json=as_json)
