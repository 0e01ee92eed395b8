"""Options that several commands have, in the words of their help, and what they amount to."""

from __future__ import annotations

import functools
import inspect
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from minitrans.files import printable

MODEL_PANEL = "Model and machine"
DTYPES = ("float32", "float64", "float16", "bfloat16")

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="PATH_OR_NAME", help="A checkpoint folder, or a name on the Hugging Face hub."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.", rich_help_panel=MODEL_PANEL)]
Dtype = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(DTYPES)}; default: as stored.", rich_help_panel=MODEL_PANEL),
]
AttentionSpec = Annotated[
    str | None,
    typer.Option(
        "--attention",
        metavar="NAME_OR_JSON",
        help='Swap this attention in: full, \'{"name": "sliding_window", "window": 8}\', or module:Class of your own.',
        rich_help_panel=MODEL_PANEL,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        help="How to compute it: auto, eager, sdpa, flex, online_softmax, triton.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or int8: compute the blocks in a faster way, on a CPU; default: by the model itself.",
        rich_help_panel=MODEL_PANEL,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        max=65536,
        help="Texts that run together; default: what suits the command.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=4096,
        help="Threads of the CPU; default: torch's choice.",
        rich_help_panel=MODEL_PANEL,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
TextFile = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="Read the texts, one a line; - is standard input.")
]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Which model to load, and how it runs: the options of every command that has a model."""

    model: Model
    device: Device = "cpu"
    dtype: Dtype = None
    attention: AttentionSpec = None
    backend: Backend = "auto"
    batch_size: BatchSize = None
    threads: Threads = None


def takes_model(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command whose first parameter is a `Runtime`: gives it an option for each field, with `defaults` of its own."""
    hints = get_type_hints(Runtime, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, inspect.Parameter.empty if field.default is MISSING else field.default),
            annotation=hints[field.name],
        )
        for field in fields(Runtime)
    ]

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            runtime = Runtime(**{option.name: given.pop(option.name) for option in options})
            command(runtime, **given)

        signature = inspect.Signature([options[0], *own, *options[1:]])
        with_options.__signature__ = signature  # type: ignore[attr-defined]
        return with_options

    return decorated


def attention_spec(text: str | None, option: str = "--attention") -> Any:
    """What an option of attention means: a name, module:Class, or JSON that says more. Raises ValueError for broken JSON."""
    if text is None or text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{option}: expected a name or JSON, got {printable(text)}: {error}") from None


class _Plain:
    """The help names what an option takes in a word, and shows nothing where nothing is taken, instead of types."""

    def get_params(self, ctx: Any) -> Any:
        """As the parser's own."""
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None
            elif param.metavar is None:
                param.metavar = "" if param.is_flag else param.name.upper()
        return params


class Command(_Plain, TyperCommand):
    """One that takes an option once: who gives it twice made a mistake, and must not lose the first silently."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the parser's own. Raises its error for an option that is given twice."""
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for param, times in Counter(order).items():
            single = param.param_type_name == "option" and not (param.multiple or param.is_flag)
            if single and times > 1:
                raise typer.BadParameter(f"expected once, found {times} times", ctx=ctx, param=param)
        return super().parse_args(ctx, args)


class Group(_Plain, TyperGroup):
    """The commands."""
