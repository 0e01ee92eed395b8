"""Decoders and pairs on a CPU, side by side: minitrans as it is and prepared, transformers, CTranslate2.

    python -m benchmarks.cpu_decoders --stories FOLDER --json

All write the same number of tokens after the same prompts with the same random weights of a published size (stories260K: its own,
where its folder is given). Every case runs once untimed: a provider in float32 whose tokens are not the reference's is not timed
(the last is left out: some force the end token there). Of the others the share of a text until its first other token is shown;
with random weights many tokens are nearly as likely as the best, so that says little about translations. Then they take turns.
Seconds are those that the process had a processor, with one thread for all: other work on the machine disturbs these least.
`--long` has the last model write one text of so many tokens, and draws the milliseconds of each. Peers: extra `bench`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.decoder_peers import MODELS, PROVIDERS, Rows, Run, Work, reference
from benchmarks.measuring import first_line, quantiles
from benchmarks.options import AsJson, Only, Results
from benchmarks.record import RESULTS, head, result_file
from benchmarks.tables import Row, quartiles, shown, table
from minitrans.cli import errors
from minitrans.files import write_json
from minitrans.layers.cache import Cache

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
BASE = "transformers float32"
STORIES = "stories260K"
WITHOUT = {"ONNX Runtime": "it runs graphs; the searches around them are optimum's, which is not a peer here"}
HEADING = (
    "model",
    "texts",
    "beams",
    "provider",
    "tokens/s",
    "quartiles",
    "x transformers",
    "x CTranslate2",
    "same tokens",
)
EVERY = 32  # tokens of a point of the long text


def prompts_of(vocabulary: int, texts: int) -> Rows:
    """One of 20 random ids, or several of 8, 10, 12, ..."""
    generator = torch.Generator().manual_seed(0)
    lengths = [20] if texts == 1 else [8 + 2 * number for number in range(texts)]
    return [torch.randint(3, vocabulary - 3, (length,), generator=generator).tolist() for length in lengths]


def until_different(found: Rows, expected: Rows) -> float:
    """The share of the tokens until the first other one, the last left out; the mean of all texts."""
    shares = []
    for one, other in zip(found, expected, strict=True):
        pairs = list(zip(one, other, strict=False))[: len(other) - 1]
        shares.append(next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs)) / len(pairs))
    return sum(shares) / len(shares)


def measure(name: str, built: dict[str, Run], work: Work, repeats: int) -> list[Row]:
    """A row per provider; those in float32 that write something else, and those that fail, are not timed."""
    rows: dict[str, Row] = {}
    expected: Rows | None = None
    for provider, run in built.items():
        place = {"model": name, "texts": len(work.prompts), "beams": work.beams, "provider": provider}
        try:
            found = run(work)
        except Exception as error:  # a peer may fail in any way; the reason is part of the result
            rows[provider] = {**place, "reason": first_line(error)}
            continue
        expected = found if expected is None else expected
        same = until_different(found, expected)
        rows[provider] = {**place, "same": same}
        if provider.endswith("float32") and same < 1:
            rows[provider]["reason"] = "it writes other tokens"
    timed = [provider for provider, row in rows.items() if "reason" not in row]
    rates: dict[str, list[float]] = {provider: [] for provider in timed}
    for _ in range(repeats):
        for provider in timed:
            start = time.process_time()
            built[provider](work)
            rates[provider].append(len(work.prompts) * work.tokens / (time.process_time() - start))
    for provider in timed:
        rows[provider]["tokens_per_second"] = quantiles(rates[provider])
    for provider in timed:
        precision = provider.rsplit(" ", 1)[1]
        for ratio, peer in (("ratio", BASE), ("ratio_ctranslate2", f"CTranslate2 {precision}")):
            base = rows.get(peer, {}).get("tokens_per_second")
            rate = rows[provider]["tokens_per_second"]["median"]
            rows[provider][ratio] = rate / base["median"] if base else None
    return list(rows.values())


class Clock:
    """A streamer that looks at the clock of the process."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """The prompt, then tokens."""
        self.seconds.append(time.process_time())

    def end(self) -> None:
        """Nothing more comes."""


def long_text(model: Any, tokens: int) -> dict[str, Any]:
    """Milliseconds of a token of one text, as medians of some in a row, and what a static cache for all takes."""
    names = ("transformers float32", "minitrans float32", "minitrans prepared float32")
    found: dict[str, list[float]] = {}
    for name in names:
        clock, run = Clock(), PROVIDERS[name](model)
        run(Work([[5]], 1, tokens), streamer=clock)
        steps = torch.tensor(clock.seconds[1:]).double().diff() * 1e3
        found[name] = [round(float(part.median()), 3) for part in steps.split(EVERY) if len(part) == EVERY]
    config = model.config
    layers, heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = config.hidden_size // config.num_attention_heads
    cache, key = Cache.static(layers, tokens), torch.zeros(1, heads, 1, width)
    with torch.no_grad():
        for layer in cache.layers:
            layer.self_attention.extend(key, key)
    held = sum(each.untyped_storage().nbytes() for layer in cache for each in layer)
    computed = 2 * layers * heads * tokens * width * 4  # keys and values, float32
    return {"ms": found, "every": EVERY, "static_cache_bytes": {"computed": computed, "held": held}}


def draw(found: dict[str, Any], path: Path) -> None:
    """The long text as a picture."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, ms in found["ms"].items():
        axes.plot([(place + 0.5) * found["every"] for place in range(len(ms))], ms, label=name)
    axes.set(
        xlabel="tokens so far",
        ylabel="CPU ms of a token",
        title=f"{found['model']}, one text, one thread",
        ylim=(0, None),
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


@app.command()
def main(
    models: Annotated[list[str] | None, typer.Option("--model", help="Which models (all).")] = None,
    stories: Annotated[Path | None, typer.Option(help="A folder of stories260K.")] = None,
    texts: Annotated[list[int] | None, typer.Option("--texts", min=1, help="Texts at once (1, 16).")] = None,
    beams: Annotated[list[int] | None, typer.Option("--beams", min=1, help="Widths of beams (1, 4).")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="New tokens of each text.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 5,
    long: Annotated[int, typer.Option(min=0, help="Tokens of a long text; 0 = none.")] = 0,
    only: Only = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Print tokens per CPU second of every provider.

    Examples:

        python -m benchmarks.cpu_decoders

        python -m benchmarks.cpu_decoders --model gpt2 --texts 1 --json
    """
    target = result_file(results, "cpu_decoders") if as_json else None
    torch.set_num_threads(1)
    chosen = models or [*MODELS, *([STORIES] if stories else [])]
    rows: list[Row] = []
    absent = dict(WITHOUT)
    settings = {"tokens": tokens, "repeats": repeats}
    text: dict[str, Any] | None = None
    for name in chosen:
        model = reference(name, stories if name == STORIES else None)
        built: dict[str, Run] = {}
        for provider, make in PROVIDERS.items():
            if only is None or provider in only.split(","):
                try:
                    built[provider] = make(model)
                except Exception as error:  # as above
                    absent[f"{name}: {provider}"] = first_line(error)
        for count in texts or [1, 16]:
            for width in beams or [1, 4]:
                work = Work(prompts_of(model.config.vocab_size, count), width, tokens)
                rows += measure(name, built, work, repeats)
                typer.echo(table(HEADING, [_cells(row) for row in rows[-len(built) :]]) + "\n")
        if long and name == chosen[-1]:
            text = {"model": name, **long_text(model, long)}
        if target is not None:  # what there is so far: a run is long
            write_json(target, head("cpu_decoders", **settings, rows=rows, absent=absent, long_text=text))
    for name, reason in absent.items():
        typer.echo(f"absent\t{name}\t{reason}")
    if text is not None:
        typer.echo(str(text))
    if target is not None:
        if text is not None:
            draw(text, target.with_suffix(".svg"))
        typer.echo(str(target))


def _cells(row: Row) -> list[object]:
    first, same = [row[name] for name in ("model", "texts", "beams", "provider")], row.get("same")
    rate = row.get("tokens_per_second")
    if rate is None:
        return [*first, "not timed", row["reason"], None, None, shown(same)]
    return [*first, rate["median"], quartiles(rate), shown(row["ratio"]), shown(row["ratio_ctranslate2"]), shown(same)]


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.cpu_decoders"))
