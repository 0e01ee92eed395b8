"""From a checkpoint folder to a model: build it without memory, translate the names, fill it, report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from minitrans.errors import CheckpointError
from minitrans.families import family_row
from minitrans.files import printable
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.models.config_file import read_stored_config
from minitrans.models.hostile import check_room
from minitrans.models.padding import check_mode
from weights_convert.checkpoint import CONFIG, find_folder, open_checkpoint
from weights_convert.families.family import Family
from weights_convert.filling import fill_parameters
from weights_convert.journal import Folder
from weights_convert.plan import DTYPES, FLOATS
from weights_convert.report import ConversionReport
from weights_convert.rules import Shape
from weights_convert.translate import Translation, translate

if TYPE_CHECKING:
    from minitrans.attention.specs import VariantSpec

logger = logging.getLogger("minitrans")
Model = TypeVar("Model", bound=nn.Module)


def family_of(model_type: str) -> Family:
    """The table of weights of a model type. Raises NotSupportedError, naming the known ones, for any other."""
    family: Family = import_module(f"weights_convert.families.{family_row(model_type).weights}").FAMILY
    return family


# Threads do not have the caller's inference mode, and parameters are ordinary tensors whatever it is.
@torch.inference_mode(mode=False)
def load_model(
    cls: type[Model],
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    attention: VariantSpec | None = None,
    backend: str = "auto",
    padding: str = "auto",
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Model, ConversionReport]:
    """A model of class `cls` with the weights of a checkpoint, in evaluation mode, and the account of every tensor.

    Args:
        cls: the model class; a head that the checkpoint lacks is fresh, and named in the report and in the log.
        name_or_path: a folder, or a name on the Hugging Face hub.
        dtype: of the parameters; None or "auto" = what config.json says, else what the file holds (B9).
        device: where the parameters go; None = the CPU.
        revision: of a hub repository.
        local_files_only: never ask the network.
        attention: swap this attention into the pretrained weights; None = the configuration's own.
        backend: how to compute it.
        padding: "keep", "remove" or "auto": what becomes of padding.
        overrides: fields of the configuration, `ignore_mismatched_sizes=True` to make a head of another size fresh, and
            `add_pooling_layer=False` for a body without its pooler.

    Raises:
        CheckpointError: naming every fault of the files. TypeError, ValueError: for wrong arguments.
    """
    check_mode(padding)
    changes = dict(overrides or {})
    ignore_mismatched = bool(changes.pop("ignore_mismatched_sizes", False))
    parts = {name: changes.pop(name) for name in ("add_pooling_layer",) if name in changes}
    if attention is not None:
        changes["attention"] = attention
    folder = find_folder(name_or_path, revision=revision, local_files_only=local_files_only)
    model, report = load_folder(
        cls, folder, dtype=dtype, device=device, changes=changes, ignore_mismatched=ignore_mismatched, parts=parts
    )
    if backend != "auto":
        model.set_backend(backend)
    model.set_padding(padding)
    for line in report.warnings:
        logger.warning("%s from %s: %s", cls.__name__, printable(name_or_path), line)
    return model, report


@torch.inference_mode(mode=False)
def load_folder(
    cls: Any,
    folder: Folder,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    changes: Mapping[str, Any],
    ignore_mismatched: bool = False,
    parts: Mapping[str, bool] | None = None,
    hashes: bool = False,
) -> tuple[Any, ConversionReport]:
    """`load_model` for a folder that is here; `parts` go to the class beside the configuration.

    With `hashes` every row of the report carries the SHA-256 of its tensor.
    """
    wanted_dtype = _dtype_from(dtype)
    changes = dict(changes)
    strict = bool(changes.pop("strict_config", False))
    stored = read_stored_config(folder, cls.config_class, changes.get("attention"), strict=strict)
    config = stored.config.updated(**changes)
    family = family_of(config.model_type)

    def translated(config: Any) -> tuple[Any, Translation]:
        try:
            model = blank_model(cls, config, parts)
        except (TypeError, ValueError) as error:
            blank_model(cls, config.updated(attention="full"), parts)  # raises where it is not the attention
            if "attention" in changes:
                raise
            raise CheckpointError(f"{printable(folder.path(CONFIG))}: attention: {printable(error, 300)}") from None
        return model, translate(checkpoint, family, config, _shapes(model), ignore_mismatched=ignore_mismatched)

    with open_checkpoint(folder) as checkpoint:
        check_room(config, checkpoint, folder)
        model, job = translated(config)
        if job.broken:
            notes = job.report.notes
            model, job = translated(config.updated(**job.broken))
            job.report.notes = notes
        job.report.config.extend(stored.notes)
        job.require_sound(folder.root, cls.__name__)
        materialise(model, wanted_dtype or stored.dtype or job.dtype, device, job.report.fresh)
        fill_parameters(job, model.state_dict(keep_vars=True), hashes=hashes)
    _adopt(model, set(job.report.fresh))
    return model.eval(), job.report


def _adopt(model: Any, fresh: set[str]) -> None:
    """Variants of which no parameter was in the file begin with what the weights say."""
    for path, module in model.named_modules():
        if isinstance(module, MultiHeadAttention):
            own = (
                [f"{path}.variants.{place}.{name}" for name, _ in v.named_parameters()]
                for place, v in enumerate(module.variants)
            )
            module.adopt({place for place, names in enumerate(own) if names and fresh.issuperset(names)})


class _NoInitialisation(TorchFunctionMode):
    """Leaves out random initialisation: on a tensor without memory it does nothing, slowly (it loads torch's compiler)."""

    skipped = (
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.trunc_normal_,
        nn.init.kaiming_uniform_,
        nn.init.kaiming_normal_,
        nn.init.xavier_uniform_,
        nn.init.xavier_normal_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.skipped:
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def blank_model(cls: Any, config: Any, parts: Mapping[str, bool] | None = None) -> Any:
    """A model whose parameters have shapes and no memory; the global random state is left alone."""
    with torch.device("meta"), _NoInitialisation():
        return cls(config, **(parts or {}))


def materialise(model: Any, dtype: torch.dtype, device: torch.device | str | None, fresh: Sequence[str]) -> None:
    """Gives every parameter memory of its own, keeps ties, and initialises the modules that own a fresh parameter.

    A parameter that has memory already has its own fresh values, and keeps them.
    """
    device = torch.device("cpu" if device is None else device)
    made: dict[int, nn.Parameter] = {}
    blank = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.is_meta}
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                values = (
                    torch.empty(parameter.shape, dtype=dtype, device=device)
                    if parameter.is_meta
                    else parameter.detach().to(device, dtype)
                )
                made[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):  # of a variant, which is no blank
            setattr(module, name, buffer.to(device, dtype if buffer.is_floating_point() else None))
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in fresh if name in blank):
        model.init_weights(model.get_submodule(owner))


def _shapes(model: nn.Module) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _dtype_from(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, str):
        dtype = DTYPES.get(dtype.removeprefix("torch."), dtype)
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, 'auto' or None, got {dtype!r}")
    return dtype
