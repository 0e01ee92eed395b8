"""Masks drawn once against masks drawn anew, and pairs with next-sentence prediction against full sentences without, as in
"RoBERTa" (Liu et al. 2019, sections 4.1 and 4.2): small models, a part of WikiText-2, equal steps, several seeds.

    python -m benchmarks.pre_training WIKITEXT2

What is compared is the loss of masked tokens on held-out articles, always on the same masks: on inputs as the model learnt
them, and on full sentences, which are the same for all.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.options import Results, Resume
from benchmarks.record import RESULTS, Record, head, result_file
from benchmarks.tables import Row
from minitrans.cli import errors
from minitrans.files import atomic_write
from minitrans.lab.drawing.parts import Plane
from minitrans.models.bert import BertConfig, BertForMaskedLM, BertForPreTraining
from minitrans.training.data.encoding import encode_sentences
from minitrans.training.data.plain import read_documents
from minitrans.training.data.records import Records
from minitrans.training.data.source import Examples
from minitrans.training.evaluation import mean_losses
from minitrans.training.loop import train
from minitrans.training.objectives.pre_training import Inputs, PreTraining
from minitrans.training.settings import TrainingSettings
from minitrans.training.tokenizers import train_tokenizer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

HEADING = r" = [^=].* = "  # of an article of WikiText
INPUTS: tuple[Inputs, ...] = ("next sentence", "full sentences")
ARMS = {
    f"{inputs}, {'static' if static else 'dynamic'}": PreTraining(inputs, static=static)
    for inputs, static in product(INPUTS, (True, False))
}
SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
LOOKS, HELD_OUT = 5, 384  # at a model on the way, and at so many inputs


@app.command()
def pre_training(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With train.txt.gz and valid.txt.gz of WikiText-2.")],
    results: Results = RESULTS,
    resume: Resume = False,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 300,
    seeds: Annotated[int, typer.Option("--seeds", min=1)] = 3,
    articles: Annotated[int, typer.Option("--articles", min=2, help="To learn from, the first of the file.")] = 20,
    length: Annotated[int, typer.Option("--length", min=8, help="Tokens of an input.")] = 64,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs of a step.")] = 32,
    vocabulary: Annotated[int, typer.Option("--vocabulary", min=300)] = 2000,
    rate: Annotated[float, typer.Option("--rate", help="The highest learning rate.")] = 2e-3,
) -> None:
    """Train every arm with every seed, and write a JSON file and a curve (.svg) beside it.

    Columns: arm, seed, held-out loss of masked tokens on its own inputs, on full sentences, seconds.

    Examples:

        python -m benchmarks.pre_training wikitext2

        python -m benchmarks.pre_training wikitext2 --steps 2000 --articles 100
    """
    torch.set_num_threads(1)
    settings = {
        "steps": steps, "articles": articles, "length": length, "batch": batch, "vocabulary": vocabulary, "rate": rate, **SIZES,
    }  # fmt: skip
    path = result_file(results, "pre_training", resume=resume)
    record = Record(path, head("pre_training", settings=settings), resume=resume)
    learnt, held_out = (read_documents(folder / f"{part}.txt.gz", HEADING) for part in ("train", "valid"))
    rows = learnt[:articles]
    with tempfile.TemporaryDirectory() as place:
        texts = (sentence for row in rows for sentence in row["sentences"])
        tokenizer = train_tokenizer(texts, place, vocab_size=vocabulary, lower_case=True)
    for seed, arm in product(range(seeds), ARMS):
        if record.has(arm=arm, seed=seed, status="ok"):
            continue
        record.begin(arm=arm, seed=seed)
        row = _run(arm, seed, tokenizer, (rows, held_out[:articles]), settings)
        record.add(row)
        typer.echo(f"{arm}\t{seed}\t{row['own']:.4f}\t{row['full']:.4f}\t{row['seconds']:.0f}")
    record.finish()
    with atomic_write(path.with_suffix(".svg")) as file:
        file.write_text(drawn(record.rows), encoding="utf-8")
    typer.echo(table(record.rows))
    typer.echo(str(path))


def _run(arm: str, seed: int, tokenizer: Any, texts: tuple[Records, Records], settings: dict[str, Any]) -> Row:
    recipe, length = ARMS[arm], settings["length"]
    learnt, held_out = (encode_sentences(each, tokenizer) for each in texts)
    source = recipe.source(learnt, tokenizer, length, seed)
    own, full = (
        Examples(each.source(held_out, tokenizer, length).examples[:HELD_OUT])
        for each in (recipe, PreTraining("full sentences"))
    )
    torch.manual_seed(seed)
    pairs = recipe.inputs == "next sentence"
    kind = BertForPreTraining if pairs else BertForMaskedLM
    model = kind(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=length, **SIZES))
    objective = recipe.objective(model, tokenizer)

    def look(of: Any, on: Examples = full) -> float:
        """The mean loss of masked tokens."""
        if on is full and pairs:  # the head for pairs has no say
            on = Examples([{**example, "next_sentence_label": 0} for example in full.examples])
        return float(mean_losses(of, objective, on)[0])

    curve: list[list[float]] = []

    def evaluate(of: Any) -> dict[str, float]:
        curve.append([(len(curve) + 1) * every, look(of)])
        return {"loss": curve[-1][1]}

    every = max(1, settings["steps"] // LOOKS)
    epochs = settings["steps"] * settings["batch"] // len(source) + 1
    start = time.perf_counter()
    report = train(
        model, objective, source,
        TrainingSettings(
            seed=seed, epochs=epochs, max_steps=settings["steps"], batch_size=settings["batch"], static=recipe.static,
            learning_rate=settings["rate"], warmup=0.1, evaluate_every=every, log_every=settings["steps"],
        ),
        evaluate=evaluate,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    tail = report.losses[-every:]
    return {
        "status": "ok", "arm": arm, "seed": seed, "own": look(model, own), "full": look(model), "curve": curve,
        "training_loss": statistics.fmean(tail), "examples": len(source), "tokens": sum(source.lengths),
        "epochs": settings["steps"] * settings["batch"] / len(source), "seconds": seconds,
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """Mean and deviation of the seeds."""
    lines = []
    for arm in ARMS:
        cells = [arm]
        for key in ("own", "full"):
            values = [row[key] for row in rows if row["arm"] == arm]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4f}{spread}" if values else "")
        lines.append("\t".join(cells))
    return "\n".join(lines)


def drawn(rows: list[Row]) -> str:
    """The held-out loss on full sentences while they learn, mean of the seeds, as an SVG picture."""
    curves = {}
    for arm in ARMS:
        of_arm = [row["curve"] for row in rows if row["arm"] == arm]
        if of_arm:
            curves[arm] = [
                (looks[0][0], statistics.fmean(look[1] for look in looks)) for looks in zip(*of_arm, strict=False)
            ]
    steps, losses = zip(*(point for points in curves.values() for point in points), strict=True)
    plane = Plane(steps, losses, "steps", "loss of masked tokens, held out")
    for number, (arm, points) in enumerate(curves.items()):
        plane.line(points, arm, 90 * number)
    style = "<style>line{stroke:#888}text{font:11px sans-serif}</style>"
    return plane.svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{style}", 1)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.pre_training"))
