"""The shape of the tree: which package may import which, no circles, nothing heavy at import, what the wheel holds."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.imports import PACKAGES, ROOT, circles, graph, imports, module_of, modules, room, up_arrows

MODULES = modules()
EDGES = graph()

# Which rooms a room may import, whatever the kind of import. An edge that is not here is a change of design.
GROUND = {"errors", "families", "files", "hub", "words"}
ALLOWED: dict[str, set[str]] = {
    "files": {"errors"},
    "families": {"errors"},
    "hub": {"files"},
    "words": {"errors", "files"},
    "attention": {"errors", "kernels"},
    "packing": {"attention"},
    "testing": {"errors", "attention", "layers"},
    "layers": {"errors", "attention"},
    "translator": GROUND - {"families", "words"},
    "tokenizers": GROUND,
    "generation": GROUND - {"families"} | {"layers"},  # it knows models by their calls only
    "models": GROUND | {"attention", "generation", "layers", "translator"},
    "cpu": {"errors", "attention", "layers", "models"},
    "looking": {"errors", "attention", "layers"},  # it knows blocks, and models by their modules
    "fused": {"errors", "kernels", "attention", "layers", "models"},
    "pipelines": GROUND | {"attention", "models", "tokenizers", "translator"},
    "embedding": GROUND | {"attention", "cpu", "models", "pipelines", "tokenizers", "translator"},
    "checkpoints": GROUND | {"attention", "embedding", "layers", "models", "translator"},
    "training": GROUND
    | {"attention", "embedding", "generation", "layers", "models", "pipelines", "tokenizers", "translator"},
    "lab": GROUND | {"attention", "embedding", "layers", "models", "pipelines", "testing", "training"},
    "cli": GROUND
    | {
        "minitrans",
        "attention",
        "checkpoints",
        "embedding",
        "generation",
        "lab",
        "looking",
        "models",
        "pipelines",
        "tokenizers",
        "training",
        "translator",
    },
    "__main__": {"cli"},
}
LAZY_ONLY = {"triton", "transformers", "tokenizers", "huggingface_hub", "sentencepiece", "typer", "rich", "safetensors"}
TRANSFORMERS_ALLOWED = {"minitrans.checkpoints.verification"}


def name_of(module: str) -> str:
    """The room as ALLOWED calls it."""
    at = room(module)
    return {"minitrans_kernels": "kernels", "weights_convert": "translator"}.get(at, at.removeprefix("minitrans."))


def test_every_module_lives_in_a_room():
    assert {module for module in MODULES if room(module) == "minitrans"} == {"minitrans"}
    assert {name_of(module) for module in MODULES} - {"minitrans", "kernels", "errors"} <= set(ALLOWED)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module: str):
    """At the top of the file, inside functions, for type checkers, or named in the strings of a table: all count."""
    if module == "minitrans":  # exports from everywhere, when asked
        return
    rooms = {name_of(target) for target in EDGES[module]} - {name_of(module)}
    assert rooms <= ALLOWED.get(name_of(module), set()), f"{module} imports {sorted(EDGES[module])}"


def test_no_arrow_points_up():
    assert up_arrows(EDGES) == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_its_own_package(module: str):
    package = module.rpartition(".")[0]
    if MODULES[module].name != "__init__.py" and package in MODULES:
        assert package not in EDGES[module], f"{module} imports {package}"


def test_no_circles():
    assert circles(EDGES) == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_transformers_is_never_needed(module: str):
    kinds = {each.kind for each in imports(MODULES[module]) if module_of(each.name) == "transformers"}
    assert kinds <= ({"deferred"} if module in TRANSFORMERS_ALLOWED else set())


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
        assert oracle not in EDGES[module]
    assert not fast & EDGES[oracle]


def test_references_of_kernels_stand_alone():
    references = {
        module for module in MODULES if module.startswith("minitrans_kernels.") and module.endswith("reference")
    }
    assert "minitrans_kernels.attention.reference" in references
    for module in MODULES:
        assert not EDGES[module] & references, f"{module} imports a reference"
        assert module not in references or not EDGES[module], f"{module} imports {EDGES[module]}"


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
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    env_probe = "import minitrans, weights_convert, minitrans_kernels; print(minitrans.__file__)"
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {env_probe}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert str(target) in done.stdout
