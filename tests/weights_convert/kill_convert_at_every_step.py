"""Run by test_saving.py in a process of its own: kills `convert --force` before each of its steps and looks at what is left.

The folders are of sentence-transformers, with a tokenizer, a pooling, a Dense layer and prompts. Prints one JSON line for
each pair: how many kills left the old checkpoint, how many the new one, and how many one that is refused as a whole. Any
other state, for us or for a reader that knows no journal, is an AssertionError.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kill_at_every_step import killed_at
from safetensors.torch import load_file, save_file

from minitrans import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer, Encoder
from minitrans.checkpoints import convert
from minitrans.errors import CheckpointError

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 9}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
TEXTS = ["a b f", "F a", "c"]
PLACE = "sentence_transformers.models."
MANY, ONE = "2000", "1GB"
CHANGES = ("replace", "unlink", "link", "mkdir", "save_file", "fsync")  # every file is synced once it is written


def checkpoint(
    folder: Path, value: int, *, eps: float = 1e-3, recipe: bool = True, words: list[str] = WORDS, fast: bool = False
) -> Path:
    """A folder in which every file tells by its content that it is of the checkpoint with this value."""
    torch.manual_seed(value)
    BertModel(BertConfig(**SIZES, vocab_size=len(words), layer_norm_eps=eps)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": value % 2 == 0}))
    if fast:
        BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    if recipe:
        kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
        modules = [{"type": PLACE + kind, "path": path} for kind, path in kinds.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8 - value}))
        (folder / "config_sentence_transformers.json").write_text(
            json.dumps({"prompts": {"p": f"{'abc'[value]} "}, "default_prompt_name": "p"})
        )
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["cls", "mean", "max"][value]}))
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 8, "out_features": 3 + value}))
        dense = {"linear.weight": torch.randn(3 + value, 8), "linear.bias": torch.randn(3 + value)}
        save_file(dense, folder / "2_Dense" / "model.safetensors")
    return folder


def found(read: Callable[[Path], Any], folder: Path, old: Any, new: Any) -> str:
    """Which of the two it gives, or that it is refused."""
    try:
        value = read(folder)
    except CheckpointError:
        return "refused"
    states = [name for name, whole in (("old", old), ("new", new)) if same(value, whole)]
    assert states, "a mix"
    return states[0] if len(states) == 1 else "either"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


READERS: dict[str, Callable[[Path], Any]] = {
    "vectors": lambda folder: Encoder(folder).encode(TEXTS),
    "model": lambda folder: dict(AutoModel.from_pretrained(folder).state_dict()),
    "tokens": lambda folder: AutoTokenizer.from_pretrained(folder)(TEXTS).input_ids,
}


def everything(folder: Path) -> dict[str, bytes]:
    """The files but for the weights, which one rename brings."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".minitrans"))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.parent != folder or "safetensors" not in path.name
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a reader that knows no journal takes for the weights."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = (
        [single] if single.exists() else [folder / n for n in set(json.loads(index.read_text())["weight_map"].values())]
    )
    return {key: tensor for file in files for key, tensor in load_file(file).items()}


@functools.cache
def expected(name: str, folder: Path) -> Any:
    return READERS[name](folder)


def state_of(work: Path, old: Path, new: Path) -> str:
    states = {name: found(read, work, expected(name, old), expected(name, new)) for name, read in READERS.items()}
    told = set(states.values()) - {"either", "refused"}
    assert len(told) <= 1, f"a mix: {states}"
    assert states["model"] != "refused"
    if (work / "config.json").exists():  # without it nobody takes the folder for a checkpoint
        stranger = {
            key: content for key, content in everything(work).items() if key in everything(old) | everything(new)
        }
        wholes = {name: everything(folder) for name, folder in (("old", old), ("new", new))}
        unread = {key for key in wholes["old"] if "/" in key} - set(wholes["new"])
        stranger_new = {key: content for key, content in stranger.items() if key not in unread}
        assert stranger == wholes["old"] or stranger_new == wholes["new"], sorted(stranger)
        assert any(same(weights(work), weights(folder)) for folder in (old, new))
    return "refused" if states["vectors"] == "refused" else next(iter(told), "either")


def main(folder: Path, old: Path, new: Path, old_size: str, new_size: str) -> dict[str, int]:
    convert(old, folder / "old", max_shard_size=old_size)
    convert(new, folder / "new", max_shard_size=new_size)
    seen = {"old": 0, "new": 0, "refused": 0, "either": 0}
    work = folder / "work"
    once_more = functools.partial(convert, new, work, max_shard_size=new_size, force=True)
    for step in range(1000):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / "old", work)
        finished = killed_at(step, once_more, CHANGES)
        seen[state_of(work, folder / "old", folder / "new")] += 1
        if not finished:
            once_more()
        assert state_of(work, folder / "old", folder / "new") in ("new", "either")
        assert not [path for path in work.iterdir() if path.name.startswith(".")], "litter"
        if finished:
            return seen
    raise AssertionError("it never got through")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    first = checkpoint(root / "first", 1, fast=True)
    PAIRS = {
        "all but the names": (first, checkpoint(root / "all", 2, eps=1e-2, words=[*WORDS[:5], *"fedcba"]), ONE, ONE),
        "shards": (first, checkpoint(root / "shards", 2, words=[*WORDS, "g"], fast=True), MANY, "1200"),
        "no recipe any more": (first, checkpoint(root / "plain", 2, recipe=False), ONE, MANY),
        "a recipe now": (
            checkpoint(root / "before", 1, recipe=False),
            checkpoint(root / "after", 2, fast=True),
            MANY,
            ONE,
        ),
    }
    for name, pair in PAIRS.items():
        print(json.dumps(main(root / f"{name} work", *pair)), flush=True)
