"""Options that several commands have, in the words of their help, and what they amount to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from minitrans.files import printable

MODEL_PANEL = "Model and machine"
DTYPES = ("float32", "float64", "float16", "bfloat16")

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="PATH_OR_NAME", help="A checkpoint folder, or a name on the Hugging Face hub."
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 or mps.", rich_help_panel=MODEL_PANEL)]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="DTYPE", help=f"{', '.join(DTYPES)}; default: as stored.", rich_help_panel=MODEL_PANEL),
]
AttentionName = Annotated[
    str | None,
    typer.Option(
        "--attention",
        metavar="NAME_OR_JSON",
        help='Swap this attention in: full, or \'{"name": "sliding_window", "window": 8}\'.',
        rich_help_panel=MODEL_PANEL,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="BACKEND",
        help="How to compute it: auto, eager, sdpa, flex, online_softmax, triton.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="PRECISION",
        help="float32, bfloat16 or int8: compute the blocks in a faster way, on a CPU; default: by the model itself.",
        rich_help_panel=MODEL_PANEL,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, max=65536, help="Texts that run together.", rich_help_panel=MODEL_PANEL)]
AutoBatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        max=65536,
        help="Texts that run together; default: by their number of tokens.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Threads of the CPU; default: torch's choice.", rich_help_panel=MODEL_PANEL),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
TextFile = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="Read the texts, one a line; - is standard input.")
]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Which model to load, and how it runs."""

    model: str
    device: str = "cpu"
    dtype: str | None = None
    attention: str | None = None
    backend: str = "auto"
    precision: str | None = None
    batch_size: int = 32
    threads: int | None = None


def attention_spec(text: str | None) -> str | Mapping[str, Any] | None:
    """What --attention means: a name, or a JSON object with a name. Raises ValueError for broken JSON."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--attention: expected a name or JSON, got {printable(text)}: {error}") from None
    return dict(spec)
