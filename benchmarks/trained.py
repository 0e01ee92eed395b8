"""What `minitrans train` left in a folder, as a file among the results: the settings, the curve and the scores.

python -m benchmarks.trained OUT --name trec
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.options import Results
from benchmarks.record import RESULTS, result_file, save
from minitrans.cli import errors
from minitrans.files import read_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
NUMBERS = ("step", "epoch", "loss", "tokens_per_second", "learning_rate")  # of a step that was logged
CURVE = 100  # steps at most that a file keeps


@app.command()
def trained(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="What --out of the training was.")],
    name: Annotated[str, typer.Option(help="Of the data, for the name of the file.")],
    command: Annotated[str, typer.Option(help="How it was started.")] = "",
    remark: Annotated[str, typer.Option(help="What a reader must know besides.")] = "",
    results: Results = RESULTS,
) -> None:
    """Write the result file of a training that has ended.

    Examples:

        python -m benchmarks.trained trec --name trec
    """
    told: dict[str, Any] = read_json(folder / "recipe.json")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [{key: line[key] for key in NUMBERS if key in line} for line in lines if "loss" in line]
    scores = [line for line in lines if "evaluation" in line]
    kept = steps[:: max(1, -(-len(steps) // CURVE))]
    files = {key: [Path(each).name for each in told[key]] for key in ("data", "dev")}
    more = {**told, **files, "model": None if told["model"] is None else Path(told["model"]).name}
    path = result_file(results, f"training-{name}")
    save(path, f"training-{name}", command=command, remark=remark, **more, evaluations=scores, rows=kept)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.trained"))
