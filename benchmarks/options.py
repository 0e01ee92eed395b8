"""Options that several benchmarks have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Write a dated JSON file.")]
Results = Annotated[
    Path,
    typer.Option(
        "--results", metavar="FOLDER", help="Where the JSON goes, or its very name.", show_default="benchmarks/results"
    ),
]
Small = Annotated[bool, typer.Option("--small", help="Tiny cases; always so on a CPU.")]
Only = Annotated[str | None, typer.Option("--only", help="Names of providers, with commas.")]
Seconds = Annotated[float, typer.Option("--seconds", min=1, help="Start no further case after this.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the last file of today.")]
CompileOnly = Annotated[
    str | None,
    typer.Option(
        "--compile-only", metavar="N/OF", help="Only fill the caches of the compilers, with share N of so many."
    ),
]
