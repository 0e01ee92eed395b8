"""The files of a checkpoint folder: tensors in one file or in shards, the configuration beside them, all or none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from minitrans.files import printable
from weights_convert.checkpoint import CONFIG, SAFE, WeightFiles
from weights_convert.journal import Save, saving
from weights_convert.report import ConversionReport, TensorRow, dtype_name, tensor_sha256
from weights_convert.translate import FileTensor

UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def write_files(
    folder: str | Path,
    tensors: Mapping[str, FileTensor],
    config: Mapping[str, Any],
    report: ConversionReport,
    *,
    max_shard_size: int | str = "5GB",
    files: WeightFiles = SAFE,
    others: Callable[[Save], bool] = lambda save: False,
) -> None:
    """Writes tensors and config.json, replacing an older checkpoint there as a whole; the report gets a row for each tensor.

    Beyond `max_shard_size` ("5GB", "200MB", or bytes) they are several files, with an index; `files` has their names.
    `others` stages whatever else belongs to the same save, and says whether that is anything new. After an error or a kill
    the folder holds the old checkpoint or the new one.

    Raises:
        ValueError: where the folder is a file, or a size cannot be read. OSError: where the disk refuses.
    """
    root, limit = Path(folder), _bytes_from(max_shard_size)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{printable(root)}: expected a folder to save into, found a file")
    if "__metadata__" in tensors:
        raise ValueError(
            "a parameter called __metadata__ cannot be saved: safetensors keeps that name for itself; rename it"
        )
    shards = _shards({key: tensor.values for key, tensor in tensors.items()}, limit)
    with saving(root) as save:
        names = _stage_weights(save, shards, files)
        changed = others(save)
        _stage_config(save, json.dumps(config, indent=2, sort_keys=True) + "\n", changed)
        save.remove(_stale(root, files, names))
    for name, shard in zip(names, shards, strict=False):
        for key, values in shard.items():
            dtype, origin = dtype_name(values.dtype), tensors[key]
            report.rows.append(TensorRow(key, name, origin.ours, origin.rule, dtype, dtype, tuple(values.shape)))


def _bytes_from(size: int | str) -> int:
    """5_000_000 from "5MB", 5_242_880 from "5MiB"."""
    parsed = re.fullmatch(r"(\d{1,15})\s*([A-Za-z]*)", size) if isinstance(size, str) else None
    if parsed is not None and parsed[2].upper() in UNITS:
        size = int(parsed[1]) * UNITS[parsed[2].upper()]
    if isinstance(size, str) or size < 1:
        raise ValueError(f"max_shard_size must be a number of bytes or a text such as '5GB' or '200MB', got {size!r}")
    return size


def _shards(tensors: Mapping[str, torch.Tensor], limit: int) -> list[dict[str, torch.Tensor]]:
    """The tensors in order, a new file before the limit is passed; a tensor larger than that has a file of its own."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    held = 0
    for key, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and held + size > limit:
            shards.append({})
            held = 0
        shards[-1][key] = tensor
        held += size
    return shards


def _stage_weights(save: Save, shards: list[dict[str, torch.Tensor]], files: WeightFiles) -> list[str]:
    """Writes the files under staged names; returns the names they will have, an index last."""
    if len(shards) == 1:
        _write(save.stage(files.single), shards[0])
        return [files.single]
    weight_map: dict[str, str] = {}
    names = []
    for number, shard in enumerate(shards, 1):
        # Named by content: while a save is under way the old index can only mean old shards.
        digest = hashlib.sha256("".join(f"{key}:{tensor_sha256(tensor)};" for key, tensor in shard.items()).encode())
        name = files.shard(number, len(shards), digest.hexdigest()[:16])
        _write(save.stage(name), shard)
        weight_map.update(dict.fromkeys(shard, name))
        names.append(name)
    total = sum(tensor.numel() * tensor.element_size() for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    save.stage(files.index).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [*names, files.index]


def _stage_config(save: Save, text: str, changed: bool) -> None:
    """Writes config.json unless it stands there to the letter.

    A journal means nothing to other libraries: to them a save is whole at every moment only if a single rename makes it so.
    Where more is `changed` than a model, config.json is away meanwhile: without it nobody takes the folder for a checkpoint.
    """
    if changed or not save.holds(CONFIG, text.encode()):
        save.stage(CONFIG).write_text(text, encoding="utf-8")
    if changed:
        save.hide([CONFIG])


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[int] = set()
    plain: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        values = tensor.contiguous()
        plain[key] = values.clone() if values.data_ptr() in seen else values  # the format has no shared tensors
        seen.add(values.data_ptr())
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{printable(path.parent)}: the weights cannot be written: {printable(error, 200)}") from None


def _stale(root: Path, files: WeightFiles, names: list[str]) -> list[str]:
    """Weights of an older save in this folder that the new one does not hold."""
    start = re.escape(files.single.removesuffix(files.suffix))
    shard = re.compile(rf"{start}-\d{{5,6}}-of-\d{{5,6}}(-[0-9a-f]{{16}})?{re.escape(files.suffix)}")
    own = (files.single, files.index)
    old = [path.name for path in root.iterdir() if path.name in own or shard.fullmatch(path.name)]
    return sorted(set(old) - set(names))
