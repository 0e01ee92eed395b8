"""The graph of imports, every one counted: at the top, inside functions, for type checkers, and named in strings of tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"minitrans": ROOT, "weights_convert": ROOT, "minitrans_kernels": ROOT / "kernels"}
# the rooms of the house from the ground up: an import of a room further down this list is an arrow that points up
ROOMS = (
    "minitrans", "minitrans.errors", "minitrans.families", "minitrans.files", "minitrans.hub", "minitrans.words",
    "minitrans_kernels", "weights_convert", "minitrans.attention", "minitrans.packing", "minitrans.layers",
    "minitrans.testing", "minitrans.tokenizers", "minitrans.generation", "minitrans.models", "minitrans.cpu",
    "minitrans.fused", "minitrans.looking", "minitrans.pipelines", "minitrans.embedding", "minitrans.checkpoints",
    "minitrans.training", "minitrans.lab", "minitrans.cli", "minitrans.__main__",
)  # fmt: skip
KINDS = ("top", "deferred", "types", "table")
_TABLE_ENTRY = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)*")
Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Import:
    """A name that a file imports: `kind` is "top", "deferred" (in a function), "types" (TYPE_CHECKING) or "table" (a string)."""

    name: str
    kind: str
    line: int


@cache
def modules() -> dict[str, Path]:
    """Every module of ours and its file."""
    found = {}
    for package, root in PACKAGES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def module_of(name: str) -> str:
    """The longest prefix of `name` that is one of our modules, or the outside package."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in modules()), parts[0])


def room(module: str) -> str:
    """The room of a module of ours: the longest that holds it."""
    return max((name for name in ROOMS if f"{module}.".startswith(f"{name}.")), key=len)


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """All that a file imports, in order. Relative imports are refused: they hide what they name."""
    found: list[Import] = []

    def visit(node: ast.AST, kind: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = kind
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = "deferred"
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "types"
            elif isinstance(child, ast.Import):
                found.extend(Import(alias.name, kind, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.extend(Import(f"{child.module}.{alias.name}", kind, child.lineno) for alias in child.names)
            elif isinstance(child, ast.Constant | ast.JoinedStr):
                found.extend(Import(name, "table", child.lineno) for name in _named_in_a_string(child))
            visit(child, inner)

    visit(ast.parse(path.read_text(encoding="utf-8")), "top")
    return tuple(found)


def _named_in_a_string(node: ast.Constant | ast.JoinedStr) -> list[str]:
    """The modules that "minitrans.layers.norm", "minitrans.layers.norm:LayerNorm" or f"minitrans.layers.{name}" may mean."""
    if isinstance(node, ast.Constant):
        name = str(node.value).partition(":")[0]
        return [name] if "." in name and _TABLE_ENTRY.fullmatch(name) and module_of(name) == name else []
    start = str(node.values[0].value) if node.values and isinstance(node.values[0], ast.Constant) else ""
    named = start.endswith(".") and _TABLE_ENTRY.fullmatch(start[:-1])
    return [module for module in modules() if module.startswith(start)] if named else []


def graph(kinds: Iterable[str] = KINDS) -> Graph:
    """Which modules of ours a module of ours imports in one of these ways."""
    wanted = set(kinds)
    return {
        module: {
            module_of(each.name) for each in imports(path) if each.kind in wanted and module_of(each.name) in modules()
        } - {module}
        for module, path in modules().items()
    }  # fmt: skip


def circles(edges: Graph) -> list[list[str]]:
    """The sets of modules that reach each other, the largest first (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        open_.append(module)
        for target in sorted(edges[module]):
            if target not in order:
                visit(target)
            if target in open_:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == order[module]:
            start = open_.index(module)
            if len(open_) - start > 1:
                found.append(sorted(open_[start:]))
            del open_[start:]

    for module in edges:
        if module not in order:
            visit(module)
    return sorted(found, key=len, reverse=True)


def up_arrows(edges: Graph) -> list[tuple[str, str]]:
    """The imports that point up; the package itself, which exports from everywhere, may."""
    height = {name: number for number, name in enumerate(ROOMS)}
    return [
        (module, target)
        for module, targets in edges.items()
        for target in sorted(targets)
        if module != "minitrans" and height[room(target)] > height[room(module)]
    ]
