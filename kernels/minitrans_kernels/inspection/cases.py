"""The calls whose launches are compiled: every kernel with each combination of options that changes its code.

Tensors lie on the meta device: nothing is computed, so lengths cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitrans_kernels.attention import launch
from minitrans_kernels.attention.arguments import AttentionArgs
from minitrans_kernels.inspection.survey import Case, Finding
from minitrans_kernels.layers.configurations import every_configuration

_BATCH, _HEADS = 16, 12
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# (options, head widths in half precision): every width where tiles hold least and most, the usual two elsewhere
_VARIANTS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "plain": ((), (32, 64, 80, 128, 256)),
    "padded": (("padding",), (64, 128)),
    "causal": (("causal",), (64, 128)),
    "packed": (("packed",), (64, 128)),
    "bias": (("bias",), (64, 128)),
    "relative bias": (("distances",), (32, 64, 128, 256)),
    "softcap": (("softcap",), (64, 128)),
    "dropout": (("dropout",), (64, 128)),
    "packed dropout": (("packed", "dropout"), (32, 64, 128, 256)),
    "window": (("window",), (32, 64, 128, 256)),
    "packed window": (("packed", "window"), (64, 128)),
    "blocks": (("blocks",), (64, 128)),
    "window, global tokens": (("window", "global", "padding"), (32, 64, 128, 256)),
    "everything": (("window", "global", "padding", "distances", "softcap", "dropout", "grouped"), (64,)),
    "everything but groups": (("window", "global", "padding", "distances", "softcap", "dropout"), (64,)),
}
# sequences that one program owns in the backward: in one tile of keys, and in several
_SHORT = {"plain": (32, 64, 128), "relative bias": (64,), "packed dropout": (64, 128), "everything but groups": (64,)}
_DOCUMENTED = (
    *(f"{variant}, K 64, bf16" for variant in ("plain", "padded", "bias", "relative bias", "packed dropout", "window")),
    "add_dropout_layer_norm 768 bfloat16 dropout 0.1",
    "embedding_layer_norm 768 bfloat16 dropout 0.1",
    "rms_norm 768 bfloat16",
    "bias_gelu 768 bfloat16 none",
    "masked_lm_loss 768 bfloat16 bias True",
)
_FLOAT32 = {
    "plain": (32, 64, 128, 256),
    "relative bias": (64,),
    "packed dropout": (64,),
    "window, global tokens": (64,),
}


def attention_cases() -> Iterator[Case]:
    """(name, a call that launches the kernels forward and backward)."""
    for variant, (options, widths) in _VARIANTS.items():
        for width in widths:
            yield f"{variant}, K {width}, bf16", partial(_attention, options, width, "bf16")
    for variant, widths in _SHORT.items():
        for width in widths:
            for length in (128, 512):
                name = f"{variant}, T and S {length}, K {width}, bf16"
                yield name, partial(_attention, _VARIANTS[variant][0], width, "bf16", length)
    yield "plain, K 64, fp16", partial(_attention, (), 64, "fp16")
    for variant, widths in _FLOAT32.items():
        for width in widths:
            yield f"{variant}, K {width}, fp32", partial(_attention, _VARIANTS[variant][0], width, "fp32")
    yield "plain, T and S 128, K 64, fp32", partial(_attention, (), 64, "fp32", 128)
    for width in (64, 128):
        yield f"plain, K {width}, tf32", partial(_reduced_precision, width)


def every_case() -> Iterator[Case]:
    """The cases of the whole package, those of the README first: a binary that cases share is found under the first."""
    yield from sorted([*attention_cases(), *every_configuration()], key=lambda case: case[0] not in _DOCUMENTED)


def documented(finding: Finding) -> bool:
    """Whether the README shows it: BERT's head width with the options people use most, and rows of 768."""
    return finding.case in _DOCUMENTED


def _attention(options: tuple[str, ...], width: int, dtype: str, length: int = 2048) -> None:
    args = example(options, width, _DTYPES[dtype], length)
    out, lse = launch.forward(args)
    wants = (True, True, True, args.bias is not None, args.distance_bias is not None)
    launch.backward(args, out, lse, torch.empty_like(out), None, wants)
    for rows in (None, _empty(length, dtype=torch.int64)):
        launch.attention_weights(args, lse, rows)


def _reduced_precision(width: int) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        _attention((), width, "fp32")
    finally:
        torch.set_float32_matmul_precision(before)


def example(options: tuple[str, ...], width: int, dtype: torch.dtype, length: int) -> AttentionArgs:
    """An attention call of BERT-base's heads with these options."""
    packed = "packed" in options
    key_heads = 4 if "grouped" in options else _HEADS
    rows = (_BATCH * length,) if packed else (_BATCH,)
    query, key = (
        _empty(*rows, heads, width, dtype=dtype) if packed else _empty(*rows, heads, length, width, dtype=dtype)
        for heads in (_HEADS, key_heads)
    )
    flags = _empty(_BATCH, length, dtype=torch.bool)
    starts = _empty(_BATCH + 1, dtype=torch.int32)
    used: dict[str, dict[str, Any]] = {
        "packed": {"cu_seqlens_q": starts, "cu_seqlens_k": starts},
        "padding": {"key_padding": flags},
        "causal": {"causal": True},
        "window": {"left": 64, "right": 64},
        "global": {"global_tokens": flags},
        "blocks": {"blocks": _empty(1, 1, length // 128, length // 128, dtype=torch.bool), "block_size": 128},
        "bias": {"bias": _empty(1, _HEADS, length, length, dtype=dtype)},
        "distances": {"distance_bias": _empty(_HEADS, 2 * length - 1, dtype=torch.float32)},
        "softcap": {"softcap": 30.0},
        "dropout": {"dropout_p": 0.1, "dropout_seed": _empty(1, dtype=torch.int64)},
        "grouped": {},
    }
    fields = {name: value for option in options for name, value in used[option].items()}
    return AttentionArgs(query, key, torch.empty_like(key), length, length, width**-0.5, **fields)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
