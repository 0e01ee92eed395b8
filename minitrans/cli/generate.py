"""`generate`: how texts go on, word by word on a terminal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from minitrans.cli import options
from minitrans.cli.options import Runtime, takes_model
from minitrans.cli.text import given_texts, progress, show

Share = Annotated[float | None, typer.Option("--top-p", help="Draw among the likeliest tokens of so much probability.")]


@takes_model(batch_size=8)
def generate(
    runtime: Runtime,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts to go on with, each in quotes.")
    ] = None,
    file: options.TextFile = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", "-n", min=1, help="How many tokens; default: the checkpoint's, or 20."),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw tokens at random instead of taking the likeliest.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 likely tokens become likelier; implies --sample.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=0, help="Draw among so many; implies --sample.")
    ] = None,
    top_p: Share = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text; implies --sample.")] = None,
    beams: Annotated[int, typer.Option(min=1, help="Search for the likeliest text with so many beams.")] = 1,
    count: Annotated[int, typer.Option("--count", min=1, help="How many continuations of each text.")] = 1,
    stop: Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End where this is written.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write on: what may follow a text, by a causal language model.

    One text is printed word by word as it is written. Of several, columns: text number, text with its continuation.

    Examples:

        minitrans generate "Once upon a time" -m ./stories -n 50

        minitrans generate --file prompts.txt -m ./stories --top-p 0.9 --seed 1
    """
    given = given_texts(texts, file)
    drawn: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    drawn = {name: value for name, value in drawn.items() if value is not None}
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "num_beams": beams, "num_return_sequences": count, "stop_strings": stop or None,
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if value not in (None, 1) or name == "max_new_tokens"}
    settings = {name: value for name, value in settings.items() if value is not None}
    if sample or drawn:
        settings |= {"do_sample": True, **drawn}
    from minitrans.cli.loading import load_pipeline
    from minitrans.cli.screen import Screen

    pipe = load_pipeline(runtime, "text-generation")
    if len(given) == count == beams == 1 and not as_json:
        pipe(given[0], **settings, streamer=Screen(pipe.tokenizer, skip_special_tokens=True))
        return
    with progress("writing", len(given)) as advance:
        found = pipe(given, progress=advance, **settings)
    rows = [
        {"number": number, "text": one["generated_text"]} for number, each in enumerate(found, start=1) for one in each
    ]
    show(rows, as_json=as_json)
