"""The words that scripts written for `transformers` pass when they load and save: what each does here.

One literal table for each door. A word that is in none of them is a field of the configuration, or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from minitrans.errors import NotSupportedError
from minitrans.files import printable


class Word(NamedTuple):
    """One word.

    Attributes:
        note: what it does, why it does nothing, or what to do instead.
        ours: the option that it sets; None where it sets none.
        means: from its value to ours.
        harmless: without an option, the values that ask for nothing; None = all.
    """

    note: str
    ours: str | None = None
    means: Callable[[Any], Any] = lambda value: value
    harmless: tuple[object, ...] | None = None


def _ignored(why: str) -> Word:
    return Word(why)


def _refused(instead: str, *harmless: object) -> Word:
    return Word(instead, harmless=(None, *harmless))


def read_words(
    table: Mapping[str, Word], words: Mapping[str, Any], where: str, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that words set, besides those that are `given`, and the words that the table does not know.

    Raises:
        NotSupportedError: for a value that cannot be meant here, saying what to do.
        ValueError: where two words set one option.
    """
    options = {name: value for name, value in given.items() if value is not None}
    rest = {}
    for name, value in words.items():
        if name not in table:
            rest[name] = value
            continue
        word = table[name]
        if word.ours is None:
            if word.harmless is not None and not any(value is each or _equal(value, each) for each in word.harmless):
                raise NotSupportedError(f"{where}: {name}={printable(repr(value))} is not offered: {word.note}")
        elif value is not None:
            if word.ours in options:
                raise ValueError(f"{where}: give {word.ours} or {name}, got both")
            options[word.ours] = word.means(value)
    return options, rest


def _equal(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


_BACKENDS = {"eager": "eager", "sdpa": "sdpa", "flex_attention": "flex"}
_FLASH = (
    "say attn_implementation='sdpa', which runs FlashAttention where torch has it for the device and dtype, or "
    "backend='triton' for the kernels of minitrans"
)


def _backend(attn_implementation: Any) -> str:
    if attn_implementation not in (*_BACKENDS,):
        raise NotSupportedError(
            f"attn_implementation={attn_implementation!r} is not offered: known are {', '.join(_BACKENDS)}; {_FLASH}"
        )
    return _BACKENDS[attn_implementation]


def _device(device_map: Any) -> torch.device:
    """The one device that a map means."""
    places = list(device_map.values()) if isinstance(device_map, Mapping) else [device_map]
    if places and places[0] in ("auto", "balanced", "balanced_low_0", "sequential"):
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        places = [found or "cpu"]
    try:
        (device,) = {torch.device(place) for place in places}
    except (RuntimeError, TypeError, ValueError):
        raise NotSupportedError(
            f"device_map={printable(repr(device_map))} is not offered: a model goes to one device as a whole, 'auto', 'cpu' or "
            "'cuda:0'; over several it is spread by torch.distributed (FSDP2, DDP)"
        ) from None
    return device


_QUANTISED = (
    "load the model as it is, then quantise it: minitrans.cpu.prepare(model, 'int8') for inference on a CPU, or "
    "torchao.quantization.quantize_(model, ...)"
)
_ONE_DEVICE = "a model goes to one device as a whole, nothing is offloaded"
_SPREAD = "spread the loaded model with torch.distributed (DDP, FSDP2)"
_ADAPTER = "load the base model without it, then peft.PeftModel.from_pretrained(model, folder)"
_INTERNAL = "what the reference's classes tell each other"
_OLD = "the reference does nothing with it any more"
_WHERE = "passed on to huggingface_hub"

LOADING: dict[str, Word] = {
    # what to build
    "dtype": Word("of the parameters; None or 'auto' = as stored", "dtype"),
    "torch_dtype": Word("another name of dtype", "dtype"),
    "attention": Word("this attention instead of the configuration's", "attention"),
    "backend": Word("how to compute softmax attention", "backend"),
    "attn_implementation": Word("the reference's name of a backend", "backend", _backend),
    "padding": Word("what becomes of padding", "padding"),
    "config": Word("instead of the folder's: a configuration, or where one is", "config"),
    "strict_config": Word("refuse a config.json with keys that nothing reads", "strict_config"),
    "ignore_mismatched_sizes": Word("a head of another size is fresh", "ignore_mismatched_sizes"),
    "add_pooling_layer": Word("False = a body without its pooler", "add_pooling_layer"),
    "trust_remote_code": Word("code from a checkpoint is never run; refused where there is some", "trust_remote_code"),
    "use_flash_attention_2": _refused(_FLASH, False),
    "quantization_config": _refused(_QUANTISED),
    "load_in_8bit": _refused(_QUANTISED, False),
    "load_in_4bit": _refused(_QUANTISED, False),
    "fusion_config": _refused("minitrans.fuse(model) puts fused layers into a loaded model", {}),
    "use_kernels": _refused("say backend='triton', or minitrans.fuse(model) once it is loaded", False),
    "kernel_config": _refused("say backend='triton', or minitrans.fuse(model) once it is loaded"),
    "allow_all_kernels": _ignored("no kernels are fetched from the hub"),
    "experts_implementation": _ignored("no model here has experts"),
    "generation_config": _refused("nothing here generates text from settings in a file; leave it out"),
    # where to put it
    "device": Word("where the parameters go; None = the CPU", "device"),
    "device_map": Word("a map that means one device", "device", _device),
    "max_memory": _refused(f"{_ONE_DEVICE}; leave it out", {}),
    "offload_folder": _ignored(_ONE_DEVICE),
    "offload_state_dict": _ignored(_ONE_DEVICE),
    "offload_buffers": _ignored(_ONE_DEVICE),
    "low_cpu_mem_usage": _ignored("weights are always read straight into their places"),
    "tp_plan": _refused(_SPREAD),
    "tp_size": _refused(_SPREAD, 1),
    "device_mesh": _refused(_SPREAD),
    "distributed_config": _refused(_SPREAD),
    # what to read
    "pretrained_model_name_or_path": Word("a folder, or a name on the hub", "pretrained_model_name_or_path"),
    "state_dict": Word("tensors instead of the files', by the reference's names or by ours", "state_dict"),
    "key_mapping": Word("regular expressions that make a stranger's keys the reference's", "key_mapping"),
    "variant": Word("which of several sets of weights, such as 'fp16'", "variant"),
    "use_safetensors": Word("True = no pickles, False = nothing else", "use_safetensors"),
    "output_loading_info": Word("return (model, what was missing, left over or of another size)", "output_loading_info"),
    "weights_only": _ignored("nothing in a pickle is ever executed"),
    "disable_mmap": _ignored("files are read, not mapped"),
    "from_tf": _refused("convert the checkpoint to PyTorch with the tools of its time first", False),
    "from_flax": _refused("convert the checkpoint to PyTorch with the tools of its time first", False),
    "gguf_file": _refused("use the checkpoint that the GGUF file was made from"),
    "adapter_kwargs": _refused(_ADAPTER, {}),
    "adapter_name": _refused(_ADAPTER, "default"),
    # how to fetch it
    "revision": Word(_WHERE, "revision"),
    "local_files_only": Word("never ask the network", "local_files_only"),
    "cache_dir": Word(_WHERE, "cache_dir"),
    "force_download": Word(_WHERE, "force_download"),
    "token": Word(_WHERE, "token"),
    "use_auth_token": Word("another name of token", "token"),
    "subfolder": Word("the folder in the repository, or in the directory", "subfolder"),
    "proxies": _refused("set the environment variables HTTP_PROXY and HTTPS_PROXY, which the hub's client honours", {}),
    "resume_download": _ignored("downloads are always resumed"),
    "mirror": _ignored(_OLD),
    "tqdm_class": _ignored("a bar shows progress, and no number depends on it"),
    "user_agent": _ignored(_INTERNAL),
    "code_revision": _ignored("code from a checkpoint is never run"),
    **dict.fromkeys(("_fast_init", "_commit_hash", "_from_auto", "_from_pipeline"), _ignored(_INTERNAL)),
}  # fmt: skip

# What is told to a repository, whether a model is saved first or not.
_PUSHING: dict[str, Word] = {
    "repo_id": Word("owner/name; None = the name of the folder", "repo_id"),
    "commit_message": Word(_WHERE, "commit_message"),
    "commit_description": Word(_WHERE, "commit_description"),
    "private": Word("of a repository that is new", "private"),
    "token": Word(_WHERE, "token"),
    "use_auth_token": Word("another name of token", "token"),
    "revision": Word("the branch, made if it is new", "revision"),
    "create_pr": Word("propose the commit instead of making it", "create_pr"),
    "repo_url": _refused("say repo_id='owner/name'"),
    "organization": _refused("say repo_id='owner/name'"),
    "tags": _refused("write them into the README.md of the repository"),
    "use_temp_dir": _ignored("only the files of this save are uploaded"),
}
SAVING: dict[str, Word] = {
    "max_shard_size": Word("beyond it there are several files, with an index", "max_shard_size"),
    "variant": Word("saved beside others, as model.<variant>.safetensors", "variant"),
    "safe_serialization": _refused(
        "pickles are not written; safetensors are read by the reference too, and torch.save(model.state_dict(), path) writes a "
        "pickle that from_pretrained(state_dict=...) reads",
        True,
    ),
    "save_peft_format": _ignored("adapters are saved by peft"),
    "save_original_format": _ignored("the names in the file are always the reference's"),
    "distributed_checkpoint": _refused("save sharded parameters with torch.distributed.checkpoint", False),
    **_PUSHING,
}
TO_FOLDER: dict[str, Word] = {
    "state_dict": Word("these tensors instead of the model's, by our names or the reference's", "state_dict"),
    "is_main_process": Word("False = write nothing", "is_main_process"),
    "push_to_hub": Word("upload the files that were written", "push_to_hub"),
    "save_function": _ignored("files are written whole or not at all, in our own way"),
    **SAVING,
}  # fmt: skip
