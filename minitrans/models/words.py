"""The words that scripts written for `transformers` pass when they load and save: what each does here.

One literal table for each door. A word that is in none of them is a field of the configuration, or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from minitrans.errors import NotSupportedError
from minitrans.files import printable
from minitrans.words import PUSHING, WHERE, Word, ignored, refused

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
    "use_flash_attention_2": refused(_FLASH, False),
    "quantization_config": refused(_QUANTISED),
    "load_in_8bit": refused(_QUANTISED, False),
    "load_in_4bit": refused(_QUANTISED, False),
    "fusion_config": refused("minitrans.fuse(model) puts fused layers into a loaded model", {}),
    "use_kernels": refused("say backend='triton', or minitrans.fuse(model) once it is loaded", False),
    "kernel_config": refused("say backend='triton', or minitrans.fuse(model) once it is loaded"),
    "gradient_checkpointing": refused("call model.gradient_checkpointing_enable() once it is loaded", False),
    "allow_all_kernels": ignored("no kernels are fetched from the hub"),
    "experts_implementation": ignored("no model here has experts"),
    "generation_config": Word("settings of generate, instead of the folder's", "generation_config"),
    # where to put it
    "device": Word("where the parameters go; None = the CPU", "device"),
    "device_map": Word("a map that means one device", "device", _device),
    "max_memory": refused(f"{_ONE_DEVICE}; leave it out", {}),
    "offload_folder": ignored(_ONE_DEVICE),
    "offload_state_dict": ignored(_ONE_DEVICE),
    "offload_buffers": ignored(_ONE_DEVICE),
    "low_cpu_mem_usage": ignored("weights are always read straight into their places"),
    "tp_plan": refused(_SPREAD),
    "tp_size": refused(_SPREAD, 1),
    "device_mesh": refused(_SPREAD),
    "distributed_config": refused(_SPREAD),
    # what to read
    "pretrained_model_name_or_path": Word("a folder, or a name on the hub", "pretrained_model_name_or_path"),
    "state_dict": Word("tensors instead of the files', by the reference's names or by ours", "state_dict"),
    "key_mapping": Word("regular expressions that make a stranger's keys the reference's", "key_mapping"),
    "variant": Word("which of several sets of weights, such as 'fp16'", "variant"),
    "use_safetensors": Word("True = no pickles, False = nothing else", "use_safetensors"),
    "output_loading_info": Word("return (model, what was missing, left over or of another size)", "output_loading_info"),
    "weights_only": ignored("nothing in a pickle is ever executed"),
    "disable_mmap": ignored("files are read, not mapped"),
    "from_tf": refused("convert the checkpoint to PyTorch with the tools of its time first", False),
    "from_flax": refused("convert the checkpoint to PyTorch with the tools of its time first", False),
    "gguf_file": refused("use the checkpoint that the GGUF file was made from"),
    "adapter_kwargs": refused(_ADAPTER, {}),
    "adapter_name": refused(_ADAPTER, "default"),
    # how to fetch it
    **WHERE,
    "tqdm_class": ignored("a bar shows progress, and no number depends on it"),
    "code_revision": ignored("code from a checkpoint is never run"),
    "_fast_init": ignored("what the reference's classes tell each other"),
}  # fmt: skip

SAVING: dict[str, Word] = {
    "max_shard_size": Word("beyond it there are several files, with an index", "max_shard_size"),
    "variant": Word("saved beside others, as model.<variant>.safetensors", "variant"),
    "safe_serialization": refused(
        "pickles are not written; safetensors are read by the reference too, and torch.save(model.state_dict(), path) writes a "
        "pickle that from_pretrained(state_dict=...) reads",
        True,
    ),
    "save_peft_format": ignored("adapters are saved by peft"),
    "save_original_format": ignored("the names in the file are always the reference's"),
    "distributed_checkpoint": refused("save sharded parameters with torch.distributed.checkpoint", False),
    **PUSHING,
}
TO_FOLDER: dict[str, Word] = {
    "state_dict": Word("these tensors instead of the model's, by our names or the reference's", "state_dict"),
    "is_main_process": Word("False = write nothing", "is_main_process"),
    "push_to_hub": Word("upload the files that were written", "push_to_hub"),
    "save_function": ignored("files are written whole or not at all, in our own way"),
    **SAVING,
}  # fmt: skip
