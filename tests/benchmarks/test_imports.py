"""The reader of imports: it sees every kind of import, and finds what goes in circles."""

from __future__ import annotations

from pathlib import Path

from benchmarks.imports import ROOMS, circles, graph, imports, modules, room, up_arrows

SOURCE = '''
"""minitrans.errors is named in this sentence, which is no import."""
from typing import TYPE_CHECKING
import minitrans.files
if TYPE_CHECKING:
    from minitrans.hub import local_folder
TABLE = {"a": "minitrans.attention.eager:EagerAttention", "b": "minitrans.nowhere", "c": "minitrans"}
def load(name):
    from minitrans.errors import CheckpointError
    return f"minitrans.training.{name}", f"minitrans: {name}"
'''


def test_every_kind_of_import_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    found = [(each.name, each.kind) for each in imports(path) if each.name.startswith("minitrans")]
    training = [(module, "table") for module in modules() if module.startswith("minitrans.training.")]
    assert training
    assert found == [
        ("minitrans.files", "top"),
        ("minitrans.hub.local_folder", "types"),
        ("minitrans.attention.eager", "table"),
        ("minitrans.errors.CheckpointError", "deferred"),
        *training,
    ]


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(edges) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_arrows_that_point_up_are_found() -> None:
    down, up = ("minitrans.cli.app", "minitrans.errors"), ("minitrans.layers.norms", "minitrans.models.bert")
    assert up_arrows({down[0]: {down[1]}, up[0]: {up[1], "minitrans.layers.pooler"}}) == [up]


def test_every_module_lives_in_a_room() -> None:
    assert {module for module in modules() if room(module) == "minitrans"} == {"minitrans"}
    assert {room(module) for module in graph()} <= set(ROOMS)
