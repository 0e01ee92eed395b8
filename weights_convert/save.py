"""From a model to a checkpoint folder that the reference opens too: names undone, ties said once, all files or none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minitrans.files import printable
from weights_convert.blank import blank_model
from weights_convert.checkpoint import SAFE, SAFE_INDEX
from weights_convert.configs import CONFIG, config_json
from weights_convert.families.family import Family
from weights_convert.families.registry import family_of
from weights_convert.journal import Save, saving
from weights_convert.load import bare_parameters, logger
from weights_convert.plan import FLOATS, TensorInfo, instances
from weights_convert.report import ConversionReport, TensorRow, dtype_name, tensor_sha256
from weights_convert.rules import inverse, ties

if TYPE_CHECKING:
    from minitrans.models.pretrained import PreTrainedModel

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
_SHARD = re.compile(r"model-\d{5,6}-of-\d{5,6}(-[0-9a-f]{16})?\.safetensors")


def save_model(model: PreTrainedModel, folder: str | Path, *, max_shard_size: int | str = "5GB") -> ConversionReport:
    """Writes config.json and the weights into `folder`, replacing an older checkpoint there as a whole.

    The files hold the keys that the reference writes for this class; beyond `max_shard_size` ("5GB", "200MB", or bytes) they
    are several, with an index. After an error or a kill the folder holds the old checkpoint or the new one.

    Raises:
        ValueError: where the folder is a file, a size cannot be read, or a setting cannot be written.
        OSError: where the disk refuses.
    """
    return save_together(model, folder, lambda save: False, max_shard_size=max_shard_size)


def save_together(
    model: PreTrainedModel, folder: str | Path, others: Callable[[Save], bool], *, max_shard_size: int | str = "5GB"
) -> ConversionReport:
    """`save_model`, and in the same save whatever else `others` stages; it says whether that is anything new."""
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{printable(root)}: expected a folder to save into, found a file")
    limit = _bytes_from(max_shard_size)
    cls = _public_class(type(model))
    report = ConversionReport()
    config = _config_as_built(model, report)
    tensors, origins = file_tensors(dict(model.state_dict()), config, report)
    _note_departures(cls, model, config, report)
    if "__metadata__" in tensors:
        raise ValueError(
            "a parameter called __metadata__ cannot be saved: safetensors keeps that name for itself; rename it"
        )
    floats = (parameter.dtype for parameter in model.parameters() if parameter.dtype in FLOATS)
    content = config_json(config, [cls.__name__], next(floats, None))
    shards = _shards(tensors, limit)
    with saving(root) as save:
        files = _stage_weights(save, shards)
        changed = others(save)
        _stage_config(save, json.dumps(content, indent=2, sort_keys=True) + "\n", changed)
        save.remove(_stale(root, files))
    for name, shard in zip(files, shards, strict=False):
        for key, tensor in shard.items():
            dtype = dtype_name(tensor.dtype)
            ours, rule = origins[key]
            report.rows.append(TensorRow(key, name, ours, rule, dtype, dtype, tuple(tensor.shape)))
    for line in report.notes:
        logger.warning("%s saved to %s: %s", cls.__name__, printable(root), line)
    return report


def file_tensors(
    state: Mapping[str, torch.Tensor], config: Any, report: ConversionReport
) -> tuple[dict[str, torch.Tensor], dict[str, tuple[tuple[str, ...], str]]]:
    """The tensors of a state dict by the names of the file, and for each our names and the rule it came from."""
    family = family_of(config.model_type)
    names = bare_parameters(state, family)
    available = {
        bare: TensorInfo(name, state[name].dtype, tuple(state[name].shape), "") for bare, name in names.items()
    }
    start = f"{family.prefix}."
    tensors: dict[str, torch.Tensor] = {}
    origins: dict[str, tuple[tuple[str, ...], str]] = {}
    used: set[str] = set()
    full: dict[str, str] = {}
    for step in instances(inverse(family.table(config)), available):
        ours = tuple(names[bare] for bare in step.sources)
        used.update(step.sources)
        prefix = start if ours[0].startswith(start) else ""
        for key, tensor in zip(step.targets, step.rule.apply([state[name].detach() for name in ours]), strict=True):
            full[key] = prefix + key
            tensors[prefix + key] = tensor
            origins[prefix + key] = (ours, type(step.rule).__name__)
    for bare in names:
        if bare not in used:
            name = names[bare]
            tensors[name], origins[name] = state[name].detach(), ((name,), "as it is")
            report.notes.append(f"{printable(name)}: no rule knows this parameter; saved under its own name")
    _write_ties(family, config, full, tensors, origins)
    return tensors, origins


def _write_ties(
    family: Family,
    config: Any,
    full: Mapping[str, str],
    tensors: dict[str, torch.Tensor],
    origins: dict[str, tuple[tuple[str, ...], str]],
) -> None:
    """Says a tied tensor once, or under both names where a file must hold both (B3)."""
    for tie in ties(family.table(config)):
        first = full.get(tie.first)
        if first is None:
            continue
        second = full.get(tie.second, tie.second)
        if second not in tensors:
            tensors[second], origins[second] = tensors[first], origins[first]
        if tie.saved == "second":
            del tensors[first], origins[first]


def _config_as_built(model: PreTrainedModel, report: ConversionReport) -> Any:
    """The configuration, without a tie that the model does not keep any more."""
    config = model.config
    output = model.get_output_embeddings()
    if (
        output is not None
        and config.tie_word_embeddings
        and not _same(output.weight, model.get_input_embeddings().weight)
    ):
        report.notes.append("the decoder is not the token table any more: saved as two, tie_word_embeddings is False")
        return config.updated(tie_word_embeddings=False)
    return config


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other.to(one.device)))


def _public_class(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class that the reference knows by name: a user's subclass is saved as the class it derives from."""
    for base in cls.__mro__:
        if base.__module__.startswith("minitrans.models."):
            return base
    raise ValueError(f"{cls.__name__}: expected a model class of minitrans")


def _note_departures(cls: type[PreTrainedModel], model: PreTrainedModel, config: Any, report: ConversionReport) -> None:
    """Names parameters that a model made from this configuration would not have, or not in this shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in blank_model(cls, config).state_dict().items()}
    for name, tensor in model.state_dict().items():
        if name in expected and expected[name] != tuple(tensor.shape):
            report.notes.append(
                f"{printable(name)}: has shape {list(tensor.shape)} where the configuration says {list(expected[name])}; "
                "to load it again, say so in the arguments (num_labels=... for a classifier)"
            )


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


def _stage_weights(save: Save, shards: list[dict[str, torch.Tensor]]) -> list[str]:
    """Writes the files under staged names; returns the names they will have, an index last."""
    if len(shards) == 1:
        _write(save.stage(SAFE), shards[0])
        return [SAFE]
    weight_map: dict[str, str] = {}
    files = []
    for number, shard in enumerate(shards, 1):
        # Named by content: while a save is under way the old index can only mean old shards.
        digest = hashlib.sha256("".join(f"{key}:{tensor_sha256(tensor)};" for key, tensor in shard.items()).encode())
        name = f"model-{number:05d}-of-{len(shards):05d}-{digest.hexdigest()[:16]}.safetensors"
        _write(save.stage(name), shard)
        weight_map.update(dict.fromkeys(shard, name))
        files.append(name)
    total = sum(tensor.numel() * tensor.element_size() for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    save.stage(SAFE_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [*files, SAFE_INDEX]


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


def _stale(root: Path, files: list[str]) -> list[str]:
    """Weights of an older save in this folder that the new one does not hold."""
    old = [path.name for path in root.iterdir() if path.name in (SAFE, SAFE_INDEX) or _SHARD.fullmatch(path.name)]
    return sorted(set(old) - set(files))
