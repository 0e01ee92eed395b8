"""Milliseconds of one greedily decoded token, early and late in a text: flat where a cache does not copy what it remembers.

    python -m benchmarks.decoding

A BERT decoder with random weights (D 256, L 4, H 4) decodes a text for every kind of cache and step. Each comes near its step
untimed, then they take turns, a token each. Figures are medians with quartiles; all texts must be the same as far as they go.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer

from benchmarks.measuring import quantiles
from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, result_file, save
from benchmarks.tables import Row, quartiles, shown, table
from minitrans.cli import errors, options
from minitrans.layers.cache import Cache

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
# kind of cache -> what a model decodes into, for so many tokens at most; None = what the model makes itself
CACHES: dict[str, Callable[[Any, int], Any]] = {
    "growing": lambda model, length: None,
    "static": lambda model, length: Cache.static(SIZES["num_hidden_layers"], length),
}


def build(length: int, attention: Any = "full", backend: str = "auto") -> Any:
    """A decoder for `length` tokens."""
    from minitrans import BertConfig, BertLMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=1000, max_position_embeddings=length, is_decoder=True, **SIZES, attention=attention
        )
        model: Any = BertLMHeadModel(config).eval()
    model.set_attention(attention, backend=backend)
    return model


class Lane:
    """One text that is being decoded."""

    def __init__(self, model: Any, cache: Any) -> None:
        self.model, self.cache = model, cache
        self.tokens = [torch.zeros(1, 1, dtype=torch.long)]

    def step(self) -> float:
        """Decodes a token; the milliseconds it took."""
        start = time.perf_counter()
        out = self.model(self.tokens[-1], past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        self.tokens.append(out.logits[:, -1:].argmax(dim=-1))  # (1, 1)
        return 1e3 * (time.perf_counter() - start)


@torch.inference_mode()
def measure(model: Any, steps: list[int], window: int) -> list[Row]:
    """A row per kind of cache and step: the tokens around it, and how many times as long as at the first step.

    Raises:
        ValueError: where two kinds choose other tokens.
    """
    longest = steps[-1] + window
    lanes: dict[tuple[str, int], Lane] = {}
    refused: dict[str, str] = {}
    for name, make in CACHES.items():
        for step in steps:
            try:
                lane = Lane(model, make(model, longest))
                for _ in range(max(step - window // 2, 1)):  # the first token of all is a warm-up
                    lane.step()
            except ValueError as error:  # an attention may not go with every kind of cache
                if name == "growing":
                    raise
                refused[name] = str(error)
                break
            lanes[name, step] = lane
    ms: dict[tuple[str, int], list[float]] = {place: [] for place in lanes}
    for _ in range(window):
        for place, lane in lanes.items():
            ms[place].append(lane.step())
    text = torch.cat(lanes["growing", steps[-1]].tokens)
    for (name, step), lane in lanes.items():
        if not torch.equal(torch.cat(lane.tokens), text[: len(lane.tokens)]):
            raise ValueError(
                f"the cache {name!r} decodes other tokens until step {step} than 'growing': nothing is shown"
            )
    found = {place: quantiles(times) for place, times in ms.items()}
    rows: list[Row] = [
        {"cache": name, "step": step, "ms": each, "ratio": each["median"] / found[name, steps[0]]["median"]}
        for (name, step), each in found.items()
    ]
    return rows + [{"cache": name, "unserved": reason} for name, reason in refused.items()]


@app.command()
def main(
    steps: Annotated[list[int] | None, typer.Option("--step", min=1, help="Which steps to show (50, 1000).")] = None,
    window: Annotated[int, typer.Option(min=2, help="How many tokens around a step count.")] = 64,
    attention: options.AttentionSpec = None,
    backend: options.Backend = "auto",
    threads: options.Threads = 1,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Print milliseconds of a token at each step.

    Examples:

        python -m benchmarks.decoding

        python -m benchmarks.decoding --step 10 --step 100 --window 10 --json
    """
    target = result_file(results, "decoding") if as_json else None
    torch.set_num_threads(threads or 1)
    wanted = sorted(steps or [50, 1000])
    spec = options.attention_spec(attention) or "full"
    rows = measure(build(wanted[-1] + window, spec, backend), wanted, window)
    lines = [
        [row["cache"], row["step"], row["ms"]["median"], quartiles(row["ms"]), shown(row["ratio"]), None]
        if "ms" in row
        else [row["cache"], None, None, None, None, row["unserved"]]
        for row in rows
    ]
    typer.echo(table(("cache", "step", "ms", "quartiles", "x the first", "not timed"), lines))
    save(target, "decoding", sizes=SIZES, window=window, attention=spec, backend=backend, rows=rows)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.decoding"))
