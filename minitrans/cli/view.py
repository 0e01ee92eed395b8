"""`view` and `attention`: what heads look at, as a page for a browser or in the terminal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from minitrans.cli import options
from minitrans.cli.options import Runtime, attention_spec, takes_model
from minitrans.files import atomic_write, require_writable

Text = Annotated[str, typer.Argument(help="A text, in quotes.")]
Layer = Annotated[int, typer.Option(help="Which layer to print, from 0; -1 is the last.")]
Head = Annotated[int | None, typer.Option(help="Which head to print, from 0; default: the mean of all.")]


@takes_model()
def view(
    runtime: Runtime,
    text: Text,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The page to write.")] = "view.html",
    target: Annotated[str | None, typer.Option(help="What the decoder of a pair is given.")] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_JSON", help="Show the model with this attention swapped in, too."),
    ] = None,
    terminal: Annotated[bool, typer.Option(help="Print one layer instead.")] = False,
    layer: Layer = -1,
    head: Head = None,
    force: options.Force = False,
) -> None:
    """Write a page that shows all heads of all layers on a text, for any browser, without a network.

    Click a head to see it large; hover to see who looks at whom. A language model shows what each layer would say.

    Examples:

        minitrans view "The cat sat." --model bert-base-uncased --out cat.html

        minitrans view "The cat sat." -m ./bert --compare sigmoid
    """
    if terminal:
        _print(runtime, text, layer, head)
        return
    path = Path(out)
    require_writable(path, force=force)
    from minitrans.looking.view import page

    tokenizer, model, batch, tokens = _given(runtime, text, target)
    others = {}
    if compare is not None:
        swapped: Any = copy.deepcopy(model)
        swapped.set_attention(attention_spec(compare, "--compare"))
        others[compare] = swapped
    html = page(
        model, batch, tokens, name=runtime.model, text=text, others=others,
        word=lambda number: str(tokenizer.convert_ids_to_tokens(number)),
    )  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    typer.echo(f"{out}: {len(html) / 1e6:.2f} MB")


@takes_model()
def attention(runtime: Runtime, text: Text, layer: Layer = -1, head: Head = None) -> None:
    """Print what one head, or the mean of a layer, looks at.

    Examples:

        minitrans attention "The cat sat." -m bert-base-uncased --layer 3
    """
    _print(runtime, text, layer, head)


def _print(runtime: Runtime, text: str, layer: int, head: int | None) -> None:
    from rich.console import Console

    from minitrans.cli.heat_map import heat_map, legend
    from minitrans.cli.text import ascii_only
    from minitrans.looking.view import patterns

    _, model, batch, tokens = _given(runtime, text, None)
    (pattern,) = patterns(model, batch).values()
    layers, heads = pattern.shape[:2]
    if not -layers <= layer < layers:
        raise ValueError(f"--layer: expected 0 to {layers - 1}, got {layer}")
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"--head: expected 0 to {heads - 1}, got {head}")
    shown = pattern[layer].mean(0) if head is None else pattern[layer, head]
    screen = Console(highlight=False)
    plain = ascii_only(screen)
    screen.print(heat_map(screen, shown.tolist(), tokens[""], plain=plain))
    screen.print(legend(screen, plain=plain))


def _given(runtime: Runtime, text: str, target: str | None) -> tuple[Any, Any, Any, dict[str, list[str]]]:
    """Tokenizer, model, batch of one text, and the tokens of each half."""
    from minitrans.cli.errors import note
    from minitrans.cli.loading import load_whole
    from minitrans.cli.text import checked

    loaded = load_whole(runtime)
    tokenizer, model = loaded.tokenizer, loaded.model
    limit: dict[str, Any] = {"truncation": True, "max_length": loaded.max_length, "return_tensors": "pt"}
    batch = dict(tokenizer(checked(text, "TEXT"), **limit).to(model.device))
    if batch["input_ids"].shape[1] == loaded.max_length:
        note(f"cut to {loaded.max_length} tokens, if it was longer")
    tokens = {"": tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())}
    if getattr(model.config, "is_encoder_decoder", False):
        if target is None:
            raise ValueError(
                "a pair is shown on a page: give minitrans view its decoder's text with --target, no --terminal"
            )
        made = tokenizer(text_target=checked(target, "--target"), **limit).to(model.device)["input_ids"]
        batch["decoder_input_ids"] = made
        tokens = {"encoder": tokens[""], "decoder": tokenizer.convert_ids_to_tokens(made[0].tolist())}
    elif target is not None:
        raise ValueError("--target: the model has no decoder beside its encoder")
    return tokenizer, model, batch, tokens
