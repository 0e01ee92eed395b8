"""From a checkpoint folder to a model: build it without memory, translate the names, fill it, report."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.families import family_row
from minitrans.files import printable, read_json
from minitrans.hub import HubOptions, local_folder
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.models.config import ModelConfig
from minitrans.models.config_file import StoredConfig, interpret_config, read_stored_config
from minitrans.models.hostile import check_is_model, check_room
from minitrans.models.padding import check_mode
from weights_convert.checkpoint import BESIDE, CONFIG, Checkpoint, find_folder, open_checkpoint, weight_files
from weights_convert.families.family import Family
from weights_convert.filling import fill_parameters
from weights_convert.journal import Folder
from weights_convert.plan import DTYPES, FLOATS
from weights_convert.report import ConversionReport
from weights_convert.rules import Shape
from weights_convert.state_dict import StateDict
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
    name_or_path: str | Path | None,
    *,
    config: Any = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attention: VariantSpec | None = None,
    backend: str = "auto",
    padding: str = "auto",
    variant: str | None = None,
    use_safetensors: bool | None = None,
    key_mapping: Mapping[str, str] | None = None,
    ignore_mismatched_sizes: bool = False,
    add_pooling_layer: bool | None = None,
    trust_remote_code: bool = False,
    strict_config: bool = False,
    overrides: Mapping[str, Any] | None = None,
    **where: Unpack[HubOptions],
) -> tuple[Model, ConversionReport]:
    """A model of class `cls` with the weights of a checkpoint, in evaluation mode, and the account of every tensor.

    Args:
        cls: the model class; a head that the checkpoint lacks is fresh, and named in the report and in the log.
        name_or_path: a folder, or a name on the Hugging Face hub; None where `config` and `state_dict` say all.
        config: instead of the folder's: a configuration, ours or the reference's, or the folder or hub name that has one.
        state_dict: instead of the files: tensors by the reference's names or by ours.
        dtype: of the parameters; None or "auto" = what config.json says, else what the file holds (B9).
        device: where the parameters go; None = the CPU.
        attention: swap this attention into the pretrained weights; None = the configuration's own.
        backend: how to compute it.
        padding: "keep", "remove" or "auto": what becomes of padding.
        variant: which of several sets of weights in the folder, such as "fp16".
        use_safetensors: True = no pickles, False = nothing else.
        key_mapping: regular expressions and what to put in their place, for keys that are not the reference's.
        ignore_mismatched_sizes: make a head of another size fresh.
        add_pooling_layer: False = a body without its pooler.
        trust_remote_code: code from a checkpoint is never run: refused where config.json names some.
        strict_config: refuse a config.json with keys that nothing reads.
        overrides: fields of the configuration.
        where: of the hub, see `HubOptions`.

    Raises:
        CheckpointError: naming every fault of the files. TypeError, ValueError: for wrong arguments.
    """
    check_mode(padding)
    kinds = weight_files(variant, use_safetensors)
    if name_or_path is None and (config is None or state_dict is None):
        raise TypeError(f"{cls.__name__}: give a folder or a name on the hub, or config= and state_dict=")
    changes = dict(overrides or {}) | ({} if attention is None else {"attention": attention})
    parts = {} if add_pooling_layer is None else {"add_pooling_layer": add_pooling_layer}
    folder = None
    if name_or_path is not None and state_dict is None:
        folder = find_folder(name_or_path, kinds, **where)
        check_is_model(folder, configured=config is not None)
    source = (folder or name_or_path) if config is None else config
    stored = _stored_config(cls, source, attention, where, strict=strict_config)
    if trust_remote_code and "auto_map" in stored.ignored:
        raise NotSupportedError(
            f"{printable(name_or_path)}: trust_remote_code=True: the code that config.json names is never run, and "
            f"{cls.__name__} need not have its numbers; leave the argument out if {cls.__name__} is what you want"
        )
    weights = open_checkpoint(folder, kinds) if folder is not None else nullcontext(StateDict(state_dict or {}))
    with weights as checkpoint:
        model, report = build_model(
            cls, stored, checkpoint, dtype=dtype, device=device, changes=changes, parts=parts,
            ignore_mismatched=ignore_mismatched_sizes, key_mapping=key_mapping,
        )  # fmt: skip
    if folder is not None:
        model.read_beside(folder)
    if backend != "auto":
        model.set_backend(backend)
    model.set_padding(padding)
    for line in report.warnings:
        logger.warning("%s from %s: %s", cls.__name__, printable(name_or_path or "a state dict"), line)
    return model, report


def _stored_config(
    cls: Any, source: Any, attention: VariantSpec | None, where: HubOptions, *, strict: bool
) -> StoredConfig:
    """A configuration in whichever form it is given: ours, the reference's, its fields, or the place of a config.json."""
    wanted = cls.config_class
    if isinstance(source, str | Path) and os.path.isfile(source):
        source = read_json(source)
    elif isinstance(source, str | Path):
        source = Folder(local_folder(source, patterns=BESIDE, **where))
    if isinstance(source, Folder):
        return read_stored_config(source, wanted, attention, strict=strict)
    if isinstance(source, wanted):
        return StoredConfig(source, source.dtype)
    fields = source.to_dict() if hasattr(source, "to_dict") and not isinstance(source, ModelConfig) else source
    if isinstance(fields, Mapping):
        stored = json.loads(
            json.dumps(dict(fields), default=str)
        )  # as a file would have it: ids are text, and so are dtypes
        return interpret_config(stored, Path("config"), wanted, attention, strict=strict)
    raise TypeError(
        f"config: {cls.__name__} needs a {wanted.__name__} or the folder of one, got {type(source).__name__}"
    )


def load_folder(
    cls: Any, folder: Folder, *, stored: StoredConfig | None = None, **options: Any
) -> tuple[Any, ConversionReport]:
    """`build_model` for the files of a folder that is here."""
    with open_checkpoint(folder) as checkpoint:
        built = build_model(cls, stored or read_stored_config(folder, cls.config_class), checkpoint, **options)
    built[0].read_beside(folder)
    return built


@torch.inference_mode(mode=False)
def build_model(
    cls: Any,
    stored: StoredConfig,
    checkpoint: Checkpoint | StateDict,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    changes: Mapping[str, Any] | None = None,
    ignore_mismatched: bool = False,
    key_mapping: Mapping[str, str] | None = None,
    parts: Mapping[str, bool] | None = None,
    hashes: bool = False,
) -> tuple[Any, ConversionReport]:
    """A model of this configuration, with these `changes`, filled from tensors; `parts` go to the class beside it.

    With `hashes` every row of the report carries the SHA-256 of its tensor.
    """
    wanted_dtype = dtype_from(dtype)
    changes = dict(changes or {})
    config = stored.config.updated(**changes)
    family = family_of(config.model_type)

    def translated(config: Any) -> tuple[Any, Translation]:
        try:
            model = blank_model(cls, config, parts)
        except (TypeError, ValueError) as error:
            blank_model(cls, config.updated(attention="full"), parts)  # raises where it is not the attention
            if "attention" in changes or not checkpoint.place:
                raise
            raise CheckpointError(f"{checkpoint.place}{CONFIG}: attention: {printable(error, 300)}") from None
        return model, translate(
            checkpoint, family, config, shapes_of(model), ignore_mismatched=ignore_mismatched, key_mapping=key_mapping
        )

    check_room(config, checkpoint)
    model, job = translated(config)
    if job.broken:
        notes = job.report.notes
        model, job = translated(config.updated(**job.broken))
        job.report.notes = notes
    job.report.config.extend(stored.notes)
    job.require_sound(cls.__name__)
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

    skipped = frozenset(
        (
            nn.init.normal_,
            nn.init.uniform_,
            nn.init.trunc_normal_,
            nn.init.kaiming_uniform_,
            nn.init.kaiming_normal_,
            nn.init.xavier_uniform_,
            nn.init.xavier_normal_,
            torch.Tensor.normal_,
            torch.Tensor.uniform_,
            torch.Tensor.zero_,
            torch.Tensor.fill_,
        )
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
    given = dtype
    for module in list(model.modules()):
        dtype = getattr(module, "kept", given) if given == torch.float16 else given
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
            values = torch.zeros_like(buffer, device=device) if buffer.is_meta else buffer.to(device)
            setattr(module, name, values.to(dtype) if buffer.is_floating_point() else values)
        if hasattr(module, "compute_buffers"):
            module.compute_buffers()
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in fresh if name in blank):
        model.init_weights(model.get_submodule(owner))


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """The shape of every parameter, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def dtype_from(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """None for what stands in the files. Raises ValueError for anything but floats."""
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, str):
        dtype = DTYPES.get(dtype.removeprefix("torch."), dtype)
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, 'auto' or None, got {dtype!r}")
    return dtype
