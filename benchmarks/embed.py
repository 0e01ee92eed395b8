"""Speed and memory of `minitrans embed` on many short texts: python -m benchmarks.embed.

Memory is the largest resident set of the whole process, and how much of it came after the first tenth of the texts.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from minitrans.cli import guard, options

WORDS = """the a of in was who where cat dog city film good bad night train late snow water music old new small river house
people time year work day world life hand part place case week company system program question government number"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def embed(
    texts: Annotated[int, typer.Option(min=100, help="How many, of 3 to 12 words each.")] = 100_000,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="PATH_OR_NAME", help="Default: the extra demo's MiniLM.")
    ] = None,
    threads: options.Threads = None,
) -> None:
    """Print the texts, texts a second, seconds, megabytes at the end of the first tenth, and megabytes at most."""
    from minitrans.cli import embedding_job
    from minitrans.cli.app import main
    from minitrans.cli.demo_steps import demo_folder

    generator = random.Random(0)
    megabytes: list[float] = []
    add = embedding_job.Parts.write

    def watched(parts: embedding_job.Parts, *rest: object) -> None:
        add(parts, *rest)  # type: ignore[arg-type]
        megabytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    embedding_job.Parts.write = watched  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        with file.open("w", encoding="utf-8") as stream:
            for _ in range(texts):
                stream.write(" ".join(generator.choices(WORDS.split(), k=generator.randint(3, 12))) + "\n")
        arguments = ["embed", str(file), "-m", model or str(demo_folder()), "-o", str(Path(folder) / "vectors.npy")]
        start = time.perf_counter()
        code = main([*arguments, *(["--threads", str(threads)] if threads else [])])
        seconds = time.perf_counter() - start
    if code:
        raise typer.Exit(code)
    early, most = megabytes[len(megabytes) // 10], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    typer.echo(f"{texts}\t{texts / seconds:.0f}\t{seconds:.1f}\t{early:.0f}\t{most:.0f}")


if __name__ == "__main__":
    sys.exit(guard.run(app, "python -m benchmarks.embed"))
