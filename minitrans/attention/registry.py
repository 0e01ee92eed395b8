"""The literal tables of variants and backends: adding either is one file and one row."""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import Any

# which attention a model has
VARIANTS = {
    "sliding_window": "minitrans.attention.variants.sliding_window:SlidingWindow",
    "dilated": "minitrans.attention.variants.dilated:Dilated",
    "cls_global": "minitrans.attention.variants.cls_global:FirstGlobal",
    "window_sinks": "minitrans.attention.variants.cls_global:WindowSinks",
    "strided": "minitrans.attention.variants.strided:Strided",
    "blocks": "minitrans.attention.variants.blocks:Blocks",
    "big_bird": "minitrans.attention.variants.big_bird:BigBird",
    "prefix": "minitrans.attention.variants.prefix:Prefix",
    "document": "minitrans.attention.variants.document:Document",
    "alibi": "minitrans.attention.variants.alibi:LinearBiases",
    "t5_bias": "minitrans.attention.variants.t5_bias:BucketedDistances",
    "shaw": "minitrans.attention.variants.shaw:Shaw",
    "transformer_xl": "minitrans.attention.variants.transformer_xl:TransformerXL",
    "disentangled": "minitrans.attention.variants.disentangled:Disentangled",
    "rotary": "minitrans.attention.variants.rotary:Rotary",
    "xpos": "minitrans.attention.variants.xpos:XPos",
    "qk_norm": "minitrans.attention.variants.qk_norm:QueryKeyNorm",
    "cosine": "minitrans.attention.variants.cosine:Cosine",
    "l2": "minitrans.attention.variants.l2:L2",
    "key_shift": "minitrans.attention.variants.key_shift:KeyShift",
    "value_residual": "minitrans.attention.variants.value_residual:ValueResidual",
    "laser": "minitrans.attention.variants.laser:Laser",
    "grouped_query": "minitrans.attention.variants.grouped_query:GroupedQuery",
    "multi_latent": "minitrans.attention.variants.multi_latent:MultiLatent",
    "softcap": "minitrans.attention.variants.softcap:Softcap",
    "sink": "minitrans.attention.variants.sink:Sink",
    "talking_heads": "minitrans.attention.variants.talking_heads:TalkingHeads",
    "sigmoid": "minitrans.attention.variants.sigmoid:Sigmoid",
    "relu_squared": "minitrans.attention.variants.relu_squared:ReluSquared",
    "softpick": "minitrans.attention.variants.softpick:Softpick",
    "scalable_softmax": "minitrans.attention.variants.scalable_softmax:ScalableSoftmax",
    "entmax15": "minitrans.attention.variants.entmax:Entmax15",
    "sparsemax": "minitrans.attention.variants.entmax:Sparsemax",
    "top_k": "minitrans.attention.variants.top_k:TopK",
    "stick_breaking": "minitrans.attention.variants.stick_breaking:StickBreaking",
    "selective": "minitrans.attention.variants.selective:Selective",
    "differential": "minitrans.attention.variants.differential:Differential",
    "differential_v1": "minitrans.attention.variants.differential:DifferentialV1",
    "cog": "minitrans.attention.variants.cog:Cog",
    "forgetting": "minitrans.attention.variants.forgetting:Forgetting",
    "gated_output": "minitrans.attention.variants.gated_output:GatedOutput",
    "parallax": "minitrans.attention.variants.parallax:Parallax",
    "multi_token": "minitrans.attention.variants.multi_token:MultiToken",
    "block_top_k": "minitrans.attention.variants.block_top_k:BlockTopK",
    "lsh": "minitrans.attention.variants.lsh:LSH",
    "native_sparse": "minitrans.attention.variants.native_sparse:NativeSparse",
    "lolcats": "minitrans.attention.variants.lolcats:Lolcats",
    "synthesizer_random": "minitrans.attention.variants.synthesizer:SynthesizerRandom",
    "synthesizer_dense": "minitrans.attention.variants.synthesizer:SynthesizerDense",
    "longformer": "minitrans.attention.variants.longformer:Longformer",
    "linear": "minitrans.attention.variants.linear:LinearAttention",
    "taylor": "minitrans.attention.variants.taylor:Taylor",
    "cosformer": "minitrans.attention.variants.cosformer:CosFormer",
    "performer": "minitrans.attention.variants.performer:Performer",
    "hedgehog": "minitrans.attention.variants.hedgehog:Hedgehog",
    "t2r": "minitrans.attention.variants.hedgehog:T2R",
    "landmarks": "minitrans.attention.variants.landmarks:Landmarks",
    "linformer": "minitrans.attention.variants.linformer:Linformer",
    "nystromformer": "minitrans.attention.variants.nystromformer:Nystromformer",
    "aft": "minitrans.attention.variants.aft:AttentionFree",
    "fnet": "minitrans.attention.variants.fnet:FNet",
}
# ways to compute softmax attention
BACKENDS = {
    "eager": "minitrans.attention.eager:EagerAttention",
    "sdpa": "minitrans.attention.sdpa:SdpaAttention",
    "flex": "minitrans.attention.flex:FlexAttention",
    "online_softmax": "minitrans.attention.online_softmax:OnlineSoftmaxAttention",
    "triton": "minitrans.attention.triton:TritonAttention",
}


def check_backend(backend: str) -> None:
    """Raises ValueError if `backend` is neither "auto" nor a row of `BACKENDS`."""
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}; known: auto, {', '.join(BACKENDS)}")


def load(path: str) -> Any:
    """What "module:name" says. Raises ImportError or AttributeError where there is no such thing."""
    module, _, attribute = path.partition(":")
    return attrgetter(attribute)(import_module(module))
