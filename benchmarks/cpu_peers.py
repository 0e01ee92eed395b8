"""What `benchmarks.cpu_encoders` compares: each provider as a function from a batch to hidden states, built from one folder."""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import memory_mb

PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class BuiltModel:
    """A provider ready to run.

    Attributes:
        run: a batch of `cpu_encoders` -> (B, T, D).
        load_seconds: how long loading took, conversion of the checkpoint and torch's compilation left out.
        peak_mb: peak memory of the process while loading, beyond what it held before; None where the system does not tell.
        precision: the dtype of its projections, one of `PRECISIONS`.
    """

    run: Callable[[Any], Tensor]
    load_seconds: float
    peak_mb: float | None
    precision: str = "float32"


def _timed(load: Callable[[], Any]) -> tuple[Any, float, float | None]:
    """What `load` returns, its seconds, and its peak memory in megabytes, when called again: imports are no part of loading."""
    load()
    gc.collect()
    before = _forget_peak()
    start = time.perf_counter()
    loaded = load()
    seconds = time.perf_counter() - start
    return loaded, seconds, None if before is None else memory_mb()["VmHWM"] - before


def _forget_peak() -> float | None:
    """Megabytes that are resident, after which the peak is counted anew; None where this is not Linux."""
    if not sys.platform.startswith("linux"):
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what a conversion left in the heap would hide what loading takes
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb()["VmRSS"]


def _reference(folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation=attention, add_pooling_layer=False).eval()


def transformers_model(dtype: torch.dtype) -> Callable[[Path], BuiltModel]:
    def build(folder: Path) -> BuiltModel:
        net, seconds, peak = _timed(lambda: _reference(folder, dtype))

        def run(batch: Any) -> Tensor:
            return net(input_ids=batch.padded, attention_mask=batch.mask).last_hidden_state.float()

        return BuiltModel(run, seconds, peak, str(dtype).removeprefix("torch."))

    return build


def prepared(dtype: str) -> Callable[[Path], BuiltModel]:
    def build(folder: Path) -> BuiltModel:
        from minitrans import AutoModel
        from minitrans.cpu import prepare

        net, seconds, peak = _timed(lambda: prepare(AutoModel.from_pretrained(folder, add_pooling_layer=False), dtype))

        def run(batch: Any) -> Tensor:
            return net(batch.padded, batch.mask, padding="remove").last_hidden_state

        return BuiltModel(run, seconds, peak, dtype)

    return build


def plain(folder: Path) -> BuiltModel:
    from minitrans import AutoModel

    net: Any
    net, seconds, peak = _timed(lambda: AutoModel.from_pretrained(folder, add_pooling_layer=False))
    return BuiltModel(lambda batch: net(batch.padded, batch.mask).last_hidden_state, seconds, peak)


def compiled(dtype: torch.dtype) -> Callable[[Path], BuiltModel]:
    """The reference through inductor, its weights frozen into the graph, lengths and batch sizes open."""

    def build(folder: Path) -> BuiltModel:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        net, seconds, peak = _timed(lambda: torch.compile(_reference(folder, dtype), dynamic=True))

        def run(batch: Any) -> Tensor:
            return net(input_ids=batch.padded, attention_mask=batch.mask).last_hidden_state.float()

        return BuiltModel(run, seconds, peak, str(dtype).removeprefix("torch."))

    return build


def export_onnx(folder: Path, path: str) -> None:
    """Writes the reference from "ids" and "mask" (B, T) to "hidden" (B, T, D)."""
    import onnx  # noqa: F401  the exporter needs it

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _reference(folder, torch.float32, "eager")

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.net(input_ids=ids, attention_mask=mask).last_hidden_state

    mask = torch.ones(2, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    axes = {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}}
    torch.onnx.export(
        Hidden(), (mask, mask), path, input_names=["ids", "mask"], output_names=["hidden"], dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip


def onnx_runtime(folder: Path) -> BuiltModel:
    import onnxruntime

    with tempfile.TemporaryDirectory() as place:
        path = f"{place}/model.onnx"
        export_onnx(folder, path)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session, seconds, peak = _timed(
            lambda: onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        )

    torch.set_num_threads(1)  # torch only takes the means here; its idle threads would be in the session's way

    def run(batch: Any) -> Tensor:
        return torch.from_numpy(session.run(None, {"ids": batch.padded.numpy(), "mask": batch.mask.numpy()})[0])

    return BuiltModel(run, seconds, peak)


def openvino_model(dtype: str) -> Callable[[Path], BuiltModel]:
    """From the file that ONNX Runtime gets. `dtype` is a hint: a processor without it computes in float32."""

    def build(folder: Path) -> BuiltModel:
        import openvino

        hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        with tempfile.TemporaryDirectory() as place:
            path = f"{place}/model.onnx"
            export_onnx(folder, path)
            core = openvino.Core()
            net, seconds, peak = _timed(lambda: core.compile_model(path, "CPU", settings))

        torch.set_num_threads(1)  # as with ONNX Runtime
        request = net.create_infer_request()

        def run(batch: Any) -> Tensor:
            found = request.infer({"ids": batch.padded.numpy(), "mask": batch.mask.numpy()}, share_inputs=True)
            return torch.from_numpy(found["hidden"]).clone()

        return BuiltModel(run, seconds, peak, dtype)

    return build


def ctranslate(compute_type: str) -> Callable[[Path], BuiltModel]:
    def build(folder: Path) -> BuiltModel:
        import ctranslate2
        import numpy

        with tempfile.TemporaryDirectory() as place:
            converted = f"{place}/model"
            ctranslate2.converters.TransformersConverter(str(folder)).convert(converted)
            encoder, seconds, peak = _timed(
                lambda: ctranslate2.Encoder(
                    converted, device="cpu", compute_type=compute_type, intra_threads=torch.get_num_threads()
                )
            )

        torch.set_num_threads(1)  # as with ONNX Runtime

        def run(batch: Any) -> Tensor:
            return torch.from_numpy(numpy.array(encoder.forward_batch(batch.ids).last_hidden_state))

        return BuiltModel(run, seconds, peak, compute_type)

    return build


def torch_encoder(folder: Path) -> BuiltModel:
    """`nn.TransformerEncoder` with the checkpoint's weights, on its fast path."""
    reference = _reference(folder, torch.float32)
    config = reference.config

    def load() -> nn.TransformerEncoder:
        layer = nn.TransformerEncoderLayer(
            config.hidden_size, config.num_attention_heads, config.intermediate_size, activation="gelu",
            layer_norm_eps=config.layer_norm_eps, batch_first=True,
        )  # fmt: skip
        encoder = nn.TransformerEncoder(layer, config.num_hidden_layers).eval()
        for ours, theirs in zip(encoder.layers, reference.encoder.layer, strict=True):
            own = theirs.attention.self
            pairs = {
                "self_attn.out_proj": theirs.attention.output.dense, "norm1": theirs.attention.output.LayerNorm,
                "linear1": theirs.intermediate.dense, "linear2": theirs.output.dense, "norm2": theirs.output.LayerNorm,
            }  # fmt: skip
            for name, module in pairs.items():
                ours.get_submodule(name).load_state_dict(module.state_dict())
            for kind in ("weight", "bias"):
                joined = torch.cat([getattr(part, kind) for part in (own.query, own.key, own.value)])
                getattr(ours.self_attn, f"in_proj_{kind}").data.copy_(joined)
        return encoder

    encoder, seconds, peak = _timed(load)

    def run(batch: Any) -> Tensor:
        x = reference.embeddings(input_ids=batch.padded)
        padding = batch.mask == 0
        hidden: Tensor = encoder(x, src_key_padding_mask=padding)
        return nn.functional.pad(hidden, (0, 0, 0, padding.shape[1] - hidden.shape[1]))

    return BuiltModel(run, seconds, peak)


PEERS: dict[str, Callable[[Path], BuiltModel]] = {
    "transformers float32": transformers_model(torch.float32),
    "transformers bfloat16": transformers_model(torch.bfloat16),
    "transformers compiled float32": compiled(torch.float32),
    "transformers compiled bfloat16": compiled(torch.bfloat16),
    "onnxruntime float32": onnx_runtime,
    "openvino float32": openvino_model("float32"),
    "openvino bfloat16": openvino_model("bfloat16"),
    "ctranslate2 float32": ctranslate("float32"),
    "ctranslate2 int8": ctranslate("int8"),
    "torch.nn.TransformerEncoder": torch_encoder,
    "minitrans": plain,
    "minitrans prepared float32": prepared("float32"),
    "minitrans prepared bfloat16": prepared("bfloat16"),
    "minitrans prepared int8": prepared("int8"),
}
