"""The shape of the tree in numbers, so that it cannot drift.

    python -m benchmarks.structure

What one forward of a small BERT and of a small GPT-2 enters and executes; circles and arrows that point up among all imports;
the share of the code that checks its input; lines; what `attend` costs beside a bare call of torch; what `import minitrans` costs
on top of torch.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from types import FrameType
from typing import Any

import torch
import typer
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.imports import ROOT, circles, graph, modules, room, up_arrows
from benchmarks.measuring import interleaved_ms, quantiles
from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, result_file, save
from benchmarks.tables import quartiles, table
from minitrans.cli import errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
# checks of files that a stranger may have made, which no reading order passes
BASEMENT = (
    "minitrans.embedding.folder", "minitrans.files", "minitrans.models.hostile", "minitrans.tokenizers.guards",
    "minitrans.tokenizers.patterns", "weights_convert.header", "weights_convert.journal", "weights_convert.pickles",
)  # fmt: skip
SHAPE = (1, 12, 8, 32)  # (B, H, T, K) of the small call of attention
CALLS_A_RUN = 20
IMPORTS = {"import": "import minitrans", "first use": "from minitrans import AutoModel, AutoTokenizer"}
_CHECKS = re.compile(r"_*(check|require|refuse)(_|$)")
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


def executed(call: Callable[[], object]) -> dict[str, set[int]]:
    """The lines of ours that a call executes, by the module that it enters."""
    by_path = {str(path): module for module, path in modules().items()}
    found: dict[str, set[int]] = {}

    def look(frame: FrameType, event: str, _: Any) -> Any:
        module = by_path.get(frame.f_code.co_filename)
        if module is None:
            return None
        lines = found.setdefault(module, set())
        if event == "line":
            lines.add(frame.f_lineno)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        call()
    finally:
        sys.settrace(before)
    return found


def bert() -> Any:
    """The body."""
    from minitrans import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=99, **sizes))


def gpt2() -> Any:
    """The language model."""
    from minitrans import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4))


@torch.no_grad()
def forward(build: Callable[[], Any] = bert) -> dict[str, dict[str, int]]:
    """Lines executed in each module by one eager forward, for a batch without padding and one with."""
    model = build().eval()
    model.set_attention(backend="eager")
    ids = torch.arange(5, 29).view(2, 12)
    ones, types = torch.ones_like(ids), {}
    if model.config.model_type == "bert":
        types["token_type_ids"] = (torch.arange(12) >= 6).long().expand(2, -1)
    padded = ones.clone()
    padded[1, 8:] = 0
    batches: dict[str, dict[str, Any]] = {
        "full": {"attention_mask": ones}, "padded": {"attention_mask": padded, "padding": "keep"},
    }  # fmt: skip
    found = {}
    for name, given in batches.items():
        for _ in range(2):  # what the first imports is no part of a forward
            lines = executed(lambda: model(input_ids=ids, **types, **given))  # noqa: B023
        found[name] = {module: len(lines[module]) for module in sorted(lines, key=lambda each: -len(lines[each]))}
    return found


def code_lines(source: str, tree: ast.Module) -> set[int]:
    """Those that are no blank line, comment or docstring."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            found -= _span(node.body[0])
    return found


def checking_lines(tree: ast.Module) -> set[int]:
    """`raise`, `assert`, ifs that only raise, and functions named check, require or refuse, with the calls of them.

    A function that never returns (NoReturn) raises, and so does a call of it.
    """
    raising = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.returns is not None and "NoReturn" in ast.unparse(node.returns)
    }

    def checks(node: ast.AST) -> bool:
        if isinstance(node, ast.Expr):
            node = node.value
        if isinstance(node, ast.Call):
            called = node.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            return name in raising or _CHECKS.match(name) is not None
        if isinstance(node, ast.FunctionDef):
            return node.name in raising or _CHECKS.match(node.name) is not None
        return isinstance(node, ast.Raise | ast.Assert)

    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and all(map(checks, node.body)):
            found.update(range(node.lineno, (node.body[-1].end_lineno or node.lineno) + 1))
        elif checks(node):
            found |= _span(node)
    return found


def _span(node: Any) -> set[int]:
    return set(range(node.lineno, node.end_lineno + 1))


@cache
def counted() -> dict[str, tuple[int, int, int]]:
    """Of every module: lines of its file, lines of code, lines of code that check."""
    found = {}
    for module, path in modules().items():
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        code = code_lines(source, tree)
        found[module] = source.count("\n"), len(code), len(checking_lines(tree) & code)
    return found


def sums(*, of: Callable[[str], str | None]) -> dict[str, tuple[int, int, int]]:
    """The same, added up over the modules to which `of` gives the same name."""
    found: dict[str, tuple[int, int, int]] = {}
    for module, counts in counted().items():
        name = of(module)
        if name is not None:
            a, b = found.get(name, (0, 0, 0)), counts
            found[name] = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
    return dict(sorted(found.items()))


def _package(module: str) -> str:
    return module.partition(".")[0]


def shape() -> dict[str, Any]:
    """All that does not depend on the machine."""
    edges = graph()
    ran, written = forward(), forward(gpt2)
    packages = sums(of=_package)
    above = sums(of=lambda module: _package(module) if module not in BASEMENT else None)["minitrans"]
    return {
        "files_entered": max(map(len, ran.values())),
        "lines_executed": max(sum(lines.values()) for lines in ran.values()),
        "files_entered_by_gpt2": max(map(len, written.values())),
        "lines_executed_by_gpt2": max(sum(lines.values()) for lines in written.values()),
        "circles": len(circles(edges)),
        "up_arrows": len(up_arrows(edges)),
        "checks_percent": 100 * packages["minitrans"][2] / packages["minitrans"][1],
        "checks_percent_above_the_basement": 100 * above[2] / above[1],
        "lines": sum(lines for lines, _, _ in packages.values()),
        "forward": ran,
        "circles_found": circles(edges),
        "up_arrows_found": [f"{module} -> {target}" for module, target in up_arrows(edges)],
        "packages": packages,
        "rooms": sums(of=room),
        "basement": sums(of=lambda module: module if module in BASEMENT else None),
        "modules": counted(),
    }


def overhead() -> dict[str, Any]:
    """Microseconds of a small `attend` and of torch's own call, one thread, in turns."""
    from minitrans import attend

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    q, k, v = torch.randn(3, *SHAPE).unbind()

    def repeated(call: Callable[..., object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS_A_RUN):
                call(q, k, v)

        return run

    calls = {"attend": repeated(attend), "torch": repeated(scaled_dot_product_attention)}
    with torch.inference_mode():
        found = interleaved_ms(calls, torch.device("cpu"), 2.0)
    torch.set_num_threads(threads)
    times = {name: quantiles([1e3 * ms / CALLS_A_RUN for ms in each]) for name, each in found.items()}
    # within a round, so that who else uses the machine slows both
    ratios = [ours / bare for ours, bare in zip(found["attend"], found["torch"], strict=True)]
    return {"microseconds": times, "ratio": quantiles(ratios)}


def import_seconds(runs: int = 7) -> dict[str, dict[str, float]]:
    """Seconds to import us where torch is there already, each in a process of its own."""

    def once(statement: str) -> float:
        probe = f"import time, torch; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
        return float(done.stdout)

    return {name: quantiles([once(statement) for _ in range(runs)]) for name, statement in IMPORTS.items()}


def tables(found: dict[str, Any]) -> Iterator[str]:
    """What was measured, in markdown."""
    names = (
        "files_entered", "lines_executed", "files_entered_by_gpt2", "lines_executed_by_gpt2", "circles", "up_arrows",
        "checks_percent", "checks_percent_above_the_basement", "lines",
    )  # fmt: skip
    rows = [[name.replace("_", " "), found[name]] for name in names]
    timed = {
        **{f"microseconds of a small call, {name}": each for name, each in found["overhead"]["microseconds"].items()},
        "a small call, times torch's": found["overhead"]["ratio"],
        **{f"seconds, {IMPORTS[name]}": each for name, each in found["import_seconds"].items()},
    }
    rows += [[f"{name} ({quartiles(each)})", each["median"]] for name, each in timed.items()]
    yield table(["what", "measured"], rows)
    full, padded = found["forward"]["full"], found["forward"]["padded"]
    lines = [[module, full.get(module), padded.get(module)] for module in padded | full]
    yield table(["a forward executes lines of", "no padding", "padded"], lines)
    yield (
        "\n".join(
            [
                *(f"circle: {', '.join(circle)}" for circle in found["circles_found"]),
                *(f"up: {arrow}" for arrow in found["up_arrows_found"]),
            ]
        )
        or "no circles, no arrows up"
    )
    heading = ["lines", "of code", "that check", "%"]
    worst = sorted(
        (module for module in found["modules"] if _package(module) == "minitrans"),
        key=lambda module: -found["modules"][module][2],
    )
    parts = {
        "package": found["packages"], "room": found["rooms"], "basement": found["basement"],
        "worst file": {module: found["modules"][module] for module in worst[:10]},
    }  # fmt: skip
    for name, counts in parts.items():
        yield table([name, *heading], [[each, *row, 100 * row[2] / max(row[1], 1)] for each, row in counts.items()])


@app.command()
def main(as_json: AsJson = False, results: Results = RESULTS) -> None:
    """Print tables of what was measured.

    Examples:

        python -m benchmarks.structure --json
    """
    target = result_file(results, "structure") if as_json else None
    found = shape() | {"overhead": overhead(), "import_seconds": import_seconds()}
    typer.echo("\n\n".join(tables(found)))
    save(target, "structure", **found)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.structure"))
