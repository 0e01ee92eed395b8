"""`demo`: real weights through our own blocks, from the conversion to the proof."""

from __future__ import annotations

import json
import math
import shlex
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from minitrans.cli import options
from minitrans.cli.options import Runtime
from minitrans.cli.text import ascii_only, bar, borderless, busy, checked
from minitrans.files import printable

if TYPE_CHECKING:
    from minitrans.checkpoints.verification import Verification
    from minitrans.cli.demo_steps import AttentionMap, Ranked, Speed
    from weights_convert.report import ConversionReport


class Page:
    """What the demo prints on; with --json it stays empty."""

    def __init__(self, *, silent: bool) -> None:
        self.console = Console(highlight=False, quiet=silent)
        self.plain = ascii_only(self.console)

    def title(self, text: str) -> None:
        """A heading, an empty line above."""
        self.console.print(Text(f"\n{text}", style="bold cyan"))

    def line(self, text: str, style: str = "") -> None:
        """A paragraph; nothing in it is markup."""
        self.console.print(Text(text, style=style))

    def command(self, text: str) -> None:
        """A line to paste, which is never broken."""
        self.console.print(Text(f"  minitrans {text}"), soft_wrap=True)


def demo(
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="FOLDER", help="Another checkpoint of an encoder.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FOLDER", help="Keep the converted checkpoint here.")
    ] = None,
    query: Annotated[str | None, typer.Option(metavar="TEXT", help="Rank the sentences for this text.")] = None,
    sentence: Annotated[str | None, typer.Option(metavar="TEXT", help="Show the attention in this sentence.")] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Layer of the attention map, from 0.")] = None,
    head: Annotated[int | None, typer.Option(min=0, help="Head of the attention map, from 0.")] = None,
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Show a real pretrained model at work: convert it, rank sentences by meaning, look into it, time it, prove it equal.

    Takes all-MiniLM-L6-v2 from the package of the extra `demo`; nothing is downloaded.

    Examples:

        minitrans demo

        minitrans demo --query "Dinner is served." --layer 0 --head 2

        minitrans demo --out ./minilm
    """
    start = time.perf_counter()
    for name, text in (("--query", query), ("--sentence", sentence)):
        if text is not None:
            checked(text, name)
    page = Page(silent=as_json)
    with busy("starting"):
        from minitrans.checkpoints.conversion import convert
        from minitrans.cli import demo_steps as steps
        from minitrans.cli.loading import checked_device, chosen_backend, load
        from minitrans.embedding import Encoder, read_recipe

        source = model if model is not None else str(steps.demo_folder())
        checked_device(device)
        place = steps.place_in(source, layer, head)
    with ExitStack() as stack:
        folder = (
            Path(out) if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "converted"
        )
        with busy("converting"):
            report = convert(source, folder, force=force, local_files_only=True)
        show_conversion(page, source, report)

        loaded = load(Runtime(model=str(folder), device=device, threads=threads))
        encoder = Encoder.of(loaded.model, loaded.tokenizer, read_recipe(source))
        ranked = steps.rank(encoder, query or steps.QUERY, steps.SENTENCES)
        show_ranking(page, query or steps.QUERY, ranked)

        attention = steps.attention_map(loaded, sentence or steps.SENTENCE, *place)
        show_attention(page, attention, *place)

        with busy("measuring"):
            speed = steps.measure_speed(encoder, steps.SENTENCES)
        backend = chosen_backend(loaded.model).name
        show_speed(page, speed, device, str(loaded.model.dtype).removeprefix("torch."), backend)

        with busy("comparing with transformers, in float64"):
            proof = steps.prove(folder)
        states = [] if isinstance(proof, str) else steps.hidden_states(proof)
        show_proof(page, proof, states)
    seconds = time.perf_counter() - start
    show_next(page, seconds, out or model)
    if as_json:
        found: dict[str, Any] = {
            "model": source,
            "tensors": len(report.rows),
            "ranking": [asdict(item) for item in ranked],
            "attention": {"layer": place[0], "head": place[1], **asdict(attention)},
            "speed": {**asdict(speed), "device": device, "backend": backend},
            "equality": proof if isinstance(proof, str) else {**dict(states), "gradients": proof.worst("gradient")},
            "seconds": seconds,
        }
        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
    if not isinstance(proof, str) and not proof.equal:
        raise typer.Exit(1)


def show_conversion(page: Page, source: str, report: ConversionReport) -> None:
    """Every tensor's way from the file into the model."""
    from minitrans.checkpoints.folding import fold_table, folded

    page.title(f"1. Convert {printable(report.rows[0].dtype)} weights: every tensor is accounted for")
    tensors = folded(((row.target, row.sources[0]), row.shape) for row in report.rows)
    page.console.print(fold_table(("in minitrans", "in the file"), tensors))
    numbers = sum(math.prod(row.shape) for row in report.rows if row.tied_to is None)
    page.line(f"{len(report.rows)} tensors, {numbers / 1e6:.1f} million numbers, from {_end(source)}", "dim")
    for key, why in report.dropped.items():
        page.line(f"dropped {printable(key)}: {printable(why)}", "dim")


def show_ranking(page: Page, query: str, ranked: list[Ranked]) -> None:
    """The sentences, the closest first, with a bar."""
    page.title("2. Rank sentences by meaning, not by words")
    page.line(f'"{printable(query)}"')
    table = borderless("cosine", "", "shared words", "", right=["cosine", "shared words"])
    for item in ranked:
        table.add_row(f"{item.score:.2f}", bar(item.score, plain=page.plain), f"{item.shared}", Text(item.text))
    page.console.print(table)


def show_attention(page: Page, attention: AttentionMap, layer: int, head: int) -> None:
    """The map of one head, and its strongest links in words."""
    from minitrans.cli.heat_map import heat_map, legend

    page.title(f"3. Look inside: layer {layer}, head {head} (both counted from 0)")
    page.console.print(heat_map(page.console, attention.weights, attention.tokens, plain=page.plain))
    page.console.print(Text("each row: where this token looks  ", style="dim") + legend(page.console, plain=page.plain))
    links = (f'"{row}" looks at "{column}" {p:.0%}' for row, column, p in attention.strongest())
    page.line(f"strongest: {', '.join(links)}")


def show_speed(page: Page, speed: Speed, device: str, dtype: str, backend: str) -> None:
    """Two numbers and what they were measured with."""
    import torch

    page.title("4. Speed")
    where = f"{device}, {torch.get_num_threads()} threads" if device == "cpu" else device
    page.line(
        f"{speed.tokens_per_second:,.0f} tokens/s, {speed.sentences_per_second:,.0f} sentences/s"
        f" ({where}, {dtype}, attention by {backend})"
    )
    page.line(f"median of {speed.runs} runs over {speed.sentences} short sentences, tokenizing included", "dim")


def show_proof(page: Page, proof: Verification | str, states: list[tuple[str, float]]) -> None:
    """The largest relative error of each layer's hidden states, or why there is no proof."""
    page.title("5. Proof: equal to transformers, number for number")
    if isinstance(proof, str):
        page.line(f"skipped: {printable(proof, 400)}", "yellow")
        return
    table = borderless("float64 hidden states after", "largest relative error")
    for name, error in states:
        table.add_row(name, f"{error:.1e}")
    table.add_row("gradients of all parameters", f"{proof.worst('gradient'):.1e}")
    page.console.print(table)
    verdict = "equal" if proof.equal else "NOT equal"
    page.line(f"{verdict}: the tolerance is {proof.tolerance:.0e}", "bold green" if proof.equal else "bold red")


def show_next(page: Page, seconds: float, kept: str | None) -> None:
    """Three commands to go on with, on the checkpoint that is there, or on the one that the first of them makes."""
    page.title(f"Done in {seconds:.1f} s. Next:")
    known = shlex.quote(kept or "./minilm")
    page.command(f"demo --out {known}" if kept is None else f"inspect {known}")
    page.command(f'similar "late because of snow" FILE --model {known}')
    page.command(f"verify {known}")


def _end(path: str) -> str:
    """The end of a path, enough to know it by."""
    return printable("/".join(Path(path).parts[-2:]))
