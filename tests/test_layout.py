"""The shape of the tree: which package may import which, no circles, nothing heavy at import, what the wheel holds."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {"minitrans": ROOT, "weights_convert": ROOT, "minitrans_kernels": ROOT / "kernels"}

# Rooms of the house, and the rooms each may import. An edge that is not here is a change of design.
ROOMS = (
    "minitrans.attention", "minitrans.layers", "minitrans.models", "minitrans.tokenizers", "minitrans.training",
    "minitrans.cli", "minitrans.cpu", "minitrans.embedding", "minitrans.pipelines", "minitrans.packing", "minitrans.testing", "minitrans.__main__", "minitrans.errors", "minitrans.files", "minitrans.hub",
    "weights_convert", "minitrans_kernels",
)  # fmt: skip
FOUNDATION = {"minitrans.errors", "minitrans.files", "minitrans.hub"}
ALLOWED = {
    ("minitrans.hub", "minitrans.files"),
    ("minitrans.files", "minitrans.errors"),
    ("minitrans.attention", "minitrans.errors"),
    ("minitrans.packing", "minitrans.attention"),
    ("minitrans.testing", "minitrans.attention"),
    ("minitrans.testing", "minitrans.errors"),
    ("minitrans.layers", "minitrans.attention"),
    ("minitrans.models", "minitrans.attention"),
    ("minitrans.models", "minitrans.layers"),
    ("minitrans.models", "minitrans.errors"),
    *(
        ("minitrans.cpu", below)
        for below in ("minitrans.attention", "minitrans.layers", "minitrans.models", "minitrans.errors")
    ),
    *(("minitrans.tokenizers", below) for below in FOUNDATION),
    *(
        ("weights_convert", below)
        for below in FOUNDATION | {"minitrans.models", "minitrans.layers", "minitrans.attention"}
    ),
    *(
        ("minitrans.pipelines", below)
        for below in FOUNDATION | {"minitrans.models", "minitrans.attention", "minitrans.tokenizers"}
    ),
    *(
        ("minitrans.embedding", below)
        for below in FOUNDATION
        | {"minitrans.pipelines", "minitrans.models", "minitrans.attention", "minitrans.cpu", "minitrans.tokenizers", "weights_convert"}
    ),
    # the package itself: its version
    *(
        ("minitrans.cli", below)
        for below in FOUNDATION
        | {
            "minitrans",
            "minitrans.models",
            "minitrans.tokenizers",
            "minitrans.attention",
            "minitrans.embedding",
            "minitrans.pipelines",
            "weights_convert",
        }
    ),
    ("minitrans.__main__", "minitrans.cli"),
}
# design: inside the call only, the methods that load and save reach up, and attention reaches down to the kernels
EXCEPTIONS = {
    ("minitrans.models.pretrained", "weights_convert"),
    ("minitrans.models.auto", "weights_convert"),
    ("minitrans.attention.choice", "minitrans_kernels"),
    ("minitrans.attention.triton", "minitrans_kernels"),
}
LAZY_ONLY = {"triton", "transformers", "tokenizers", "huggingface_hub", "sentencepiece", "typer", "rich", "safetensors"}
TRANSFORMERS_ALLOWED = {"weights_convert.verify"}


def modules() -> dict[str, Path]:
    found = {}
    for package, root in SOURCES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> list[tuple[str, bool]]:
    """(imported module or name, whether at module level) of every import, `if TYPE_CHECKING:` blocks left out."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.extend((f"{child.module}.{alias.name}", top) for alias in child.names)
            visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def module_of(name: str) -> str:
    """The longest prefix of `name` that is one of our modules, or the outside package."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in MODULES:
            return ".".join(parts[:end])
    return parts[0]


def room(module: str) -> str:
    return next((name for name in ROOMS if module == name or module.startswith(name + ".")), module)


def test_every_module_lives_in_a_room():
    assert {room(module) for module in MODULES} <= {*ROOMS, "minitrans"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module: str):
    for name, top in imports(MODULES[module]):
        target = module_of(name)
        if target not in MODULES or room(target) == room(module) or module == "minitrans":
            continue
        exception = (module, room(target)) in EXCEPTIONS and not top
        allowed = (room(module), room(target)) in ALLOWED or exception
        assert allowed, f"{module} imports {target}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_its_own_package(module: str):
    package = module.rpartition(".")[0]
    if MODULES[module].name == "__init__.py" or package not in MODULES:
        return
    assert package not in {module_of(name) for name, _ in imports(MODULES[module])}, f"{module} imports {package}"


def test_no_circles():
    edges = {
        module: {module_of(name) for name, top in imports(path) if top and module_of(name) in MODULES}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in sorted(edges[module] - {module}):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_transformers_is_never_needed(module: str):
    outside = {module_of(name) for name, _ in imports(MODULES[module])}
    assert "transformers" not in outside or module in TRANSFORMERS_ALLOWED
    assert not any(
        name == "transformers" or name.startswith("transformers.") for name, top in imports(MODULES[module]) if top
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_from_torch_does_our_work(module: str):
    source = MODULES[module].read_text(encoding="utf-8")
    names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert not {name for name in names if name == "MultiheadAttention" or name.startswith("Transformer")}


def test_the_oracle_and_the_fast_code_are_strangers():
    backends = ("sdpa", "flex", "online_softmax", "triton")
    fast = {f"minitrans.attention.{backend}" for backend in backends}
    oracle = "minitrans.attention.eager"
    for module in fast:
        assert oracle not in {module_of(name) for name, _ in imports(MODULES[module])}
    assert not fast & {module_of(name) for name, _ in imports(MODULES[oracle])}


def test_references_of_kernels_stand_alone():
    references = {
        module for module in MODULES if module.startswith("minitrans_kernels.") and module.endswith("reference")
    }
    assert "minitrans_kernels.attention.reference" in references
    for module in MODULES:
        targets = {module_of(name) for name, _ in imports(MODULES[module])} & set(MODULES)
        assert not targets & references, f"{module} imports a reference"
        assert module not in references or not targets, f"{module} imports {targets}"


def test_kernels_is_not_a_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "tests" / "__init__.py").exists()


PROBE = """
import json, sys, time
import torch
start = time.perf_counter()
import minitrans
cost = time.perf_counter() - start
print(json.dumps([cost, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_import_is_cheap():
    costs = []
    for _ in range(8):  # a busy machine only ever makes it look dearer: the cheapest of a few tells the cost
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, cwd=ROOT)
        cost, loaded = json.loads(done.stdout)
        assert not LAZY_ONLY & set(loaded)
        costs.append(cost)
        if cost <= 0.15:
            break
    assert min(costs) <= 0.15, f"import minitrans costs {min(costs):.3f} s on top of import torch"


def test_every_public_name_exists():
    import minitrans

    for name in minitrans.__all__:
        assert getattr(minitrans, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'BertModle'"):
        _ = minitrans.BertModle


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path):
    pytest.importorskip("setuptools")
    if not (ROOT / ".git").exists():
        pytest.skip("the list of the tree's files comes from git")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    source = tmp_path / "source"
    subprocess.run(["git", "-C", str(ROOT), "checkout-index", "-a", f"--prefix={source}/"], check=True)
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("minitrans-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "minitrans",
        "minitrans_kernels",
        "weights_convert",
    }
    assert {f"{package}/py.typed" for package in SOURCES} <= set(names)
    env_probe = "import minitrans, weights_convert, minitrans_kernels; print(minitrans.__file__)"
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {env_probe}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert str(target) in done.stdout
