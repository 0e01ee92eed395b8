"""Run by test_saving.py in a process of its own: kills a save before each of its steps in turn and looks at what is left.

The model has a tied decoder. Prints one JSON line for each way from one file or some shards to others: how many
kills left the old checkpoint, how many the new one. Any other state is an AssertionError. A kill while the weights are
written leaves half of them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)
os.fsync = lambda descriptor: None  # a killed process loses nothing that was written; this only saves time

import safetensors.torch  # noqa: E402

from minitrans.models.bert import BertConfig, BertForMaskedLM  # noqa: E402
from minitrans.models.loading import load_model  # noqa: E402
from minitrans.models.saving import save_model  # noqa: E402

STEPS = (
    (os, "replace"),
    (os, "fsync"),
    (os, "unlink"),
    (os, "link"),
    (os, "open"),
    (os, "close"),
    (os, "chmod"),
    (os, "mkdir"),
    (io, "open"),
    (safetensors.torch, "save_file"),
)
SIZES = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 9}  # fmt: skip


write_weights = safetensors.torch.save_file
MANY, FEWER, ONE = "600", "1500", "1GB"


def model(eps: float, value: float) -> Any:
    made = BertForMaskedLM(BertConfig(**SIZES, layer_norm_eps=eps))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(value)
    return made


def state_of(folder: Path) -> str:
    loaded, _ = load_model(BertForMaskedLM, folder)
    values = {value for tensor in loaded.state_dict().values() for value in tensor.flatten().tolist()}
    states = {(1e-3, frozenset({1.0})): "old", (1e-2, frozenset({2.0})): "new"}
    key = (loaded.config.layer_norm_eps, frozenset(values))
    assert key in states, f"a mix: {key}"
    return states[key]


def killed_at(step: int, work: Callable[[], Any], names: Collection[str] = ()) -> bool:
    """Whether the work got to its end; only calls of these names are counted, if any are given."""
    child = os.fork()
    if child == 0:
        left = step

        def counted(function: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    if function is write_weights:
                        function(*args, **kwargs)
                        os.truncate(args[1], os.path.getsize(args[1]) // 2)
                    os._exit(9)
                return function(*args, **kwargs)

            return call

        for module, name in STEPS if not names else [each for each in STEPS if each[1] in names]:
            setattr(module, name, counted(getattr(module, name)))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(folder: Path, old_size: str, new_size: str) -> dict[str, int]:
    save_model(model(1e-3, 1.0), folder / "old", max_shard_size=old_size)
    seen = {"old": 0, "new": 0}
    for step in range(1000):
        shutil.rmtree(folder / "work", ignore_errors=True)
        shutil.copytree(folder / "old", folder / "work")
        finished = killed_at(step, lambda: save_model(model(1e-2, 2.0), folder / "work", max_shard_size=new_size))
        seen[state_of(folder / "work")] += 1
        if finished:
            break
        save_model(model(1e-2, 2.0), folder / "work", max_shard_size=new_size)  # the next save cleans up
        check_clean(folder / "work", new_size)
    check_clean(folder / "work", new_size)
    return seen


def check_clean(folder: Path, size: str) -> None:
    assert state_of(folder) == "new"
    names = {path.name for path in folder.iterdir()}
    assert not [name for name in names if name.startswith(".")], names
    assert ("model.safetensors" in names) == (size == ONE), names
    if size != ONE:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert names == {*index["weight_map"].values(), "model.safetensors.index.json", "config.json"}


if __name__ == "__main__":
    for sizes in ((ONE, ONE), (ONE, FEWER), (FEWER, ONE), (MANY, FEWER), (FEWER, MANY)):
        print(json.dumps(main(Path(sys.argv[1]) / "-".join(sizes), *sizes)))
