"""The layer kernels on a GPU, at the sizes they are made for: accuracy, the same bits twice, and no wait for the device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from minitrans_kernels import available, layers

from tests.kernels.layer_cases import (
    Call,
    assert_accurate,
    bias_gelu_call,
    embedding_call,
    layer_norm_call,
    masked_loss_call,
    rms_norm_call,
)

RUN = available()[0] and torch.cuda.is_available()  # interpreted kernels are available too
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not RUN, reason=available()[1])]

CALLS: dict[str, Call] = {
    "layer norm 768": layer_norm_call((16, 131, 768)),
    "layer norm 1024, dropout": layer_norm_call((2099, 1024), p=0.1, return_sum=True),
    "layer norm 312, no bias": layer_norm_call((333, 312), bias=False),
    "layer norm 8192": layer_norm_call((70, 8192), p=0.1),
    "layer norm 5": layer_norm_call((1001, 5)),
    "rms norm 768": rms_norm_call((16, 131, 768)),
    "rms norm 1001": rms_norm_call((77, 1001)),
    "gelu 3072": bias_gelu_call((16, 131, 3072)),
    "gelu 4096, tanh": bias_gelu_call((999, 4096), "tanh"),
    "gelu 7": bias_gelu_call((1001, 7)),
    "embedding 768": embedding_call(16, 131, 768, p=0.1, rows=1000),
    "embedding 1024, no types": embedding_call(4, 512, 1024, types=False, rows=30522),
    "embedding 100": embedding_call(3, 700, 100, rows=7),
    "masked loss 768": masked_loss_call(2048, 768, 30522, 0.15),
    "masked loss 312, no bias": masked_loss_call(515, 312, 5003, 0.5, bias=False),
    "masked loss 64": masked_loss_call(130, 64, 50265, 1.0),
}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote holds NaN."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.filterwarnings("ignore:.*not deterministic because")
@pytest.mark.parametrize("layout", ["dense", "gaps"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_is_as_accurate_as_plain_pytorch(call: Call, dtype: torch.dtype, layout: str) -> None:
    assert_accurate(call, dtype, layout, "cuda")


def test_never_waits_for_the_device() -> None:
    rows = torch.randn(4, 512, 768, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    table = torch.randn(30522, 768, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    vector = torch.randn(768, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    ids = torch.randint(0, 512, (4, 512), device="cuda")
    labels = torch.where(torch.rand(4, 512, device="cuda") < 0.15, ids, -100)
    seed = torch.tensor([3], device="cuda")

    def step() -> None:
        dropout = {"eps": 1e-12, "dropout_p": 0.1, "dropout_seed": seed}
        x = layers.embedding_layer_norm(ids, ids, None, table, table, None, vector, vector, padding_idx=0, **dropout)
        x = x + rows
        x = layers.add_dropout_layer_norm(layers.bias_gelu(x, vector), x, vector, vector, **dropout)
        layers.masked_lm_loss(layers.rms_norm(x, vector, eps=1e-6), labels, table, None).backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
