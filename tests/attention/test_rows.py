"""Every row of the registry: its identity, its laws, padding, causality, packing, and the way into a file and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans import BertConfig, BertModel
from minitrans.attention import AttentionMask, Context, DenseBias, PackedLayout, Variant
from minitrans.attention.registry import VARIANTS, load
from minitrans.errors import NotSupportedError
from minitrans.lab.specs import read_subjects
from minitrans.layers.multi_head_attention import MultiHeadAttention
from tests.attention.support import CANNOT

H, D, B, T = 4, 32, 2, 9
LENGTHS = (T, 5)
CLASSES: dict[str, type[Variant]] = {name: load(path) for name, path in VARIANTS.items()}
WITH_IDENTITY = [name for name, row in CLASSES.items() if row.identity is not None]
# rows that equal softmax attention nowhere, and why
WITHOUT_IDENTITY = {
    "sigmoid", "qk_norm", "relu_squared", "entmax15", "sparsemax", "stick_breaking", "differential_v1", "linear", "taylor",
    "cosformer", "hedgehog", "t2r", "aft", "fnet",
}  # fmt: skip
CAUSAL = {"selective"}  # rows that see no future whatever the mask says


def module_with(name: str, options: dict[str, Any], kv_heads: int = H, moved: bool = False) -> MultiHeadAttention:
    torch.manual_seed(3)
    module = MultiHeadAttention(D, H, num_kv_heads=kv_heads).double()
    module.set_attention({"name": name, **options}, longest=16)
    for variant in module.variants:
        for parameter in variant.parameters() if moved else ():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return module.eval()


def trial(name: str, kv_heads: int = H) -> MultiHeadAttention:
    return module_with(name, dict(CLASSES[name].trial), kv_heads, moved=True)


def tokens(batch: int = B) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(batch, T, D, dtype=torch.float64)


def run(module: MultiHeadAttention, x: Tensor, **context: Any) -> Tensor:
    layout = context.get("layout")
    positions = torch.arange(x.shape[1]).expand(len(x), -1) if layout is None else layout.positions()
    return module(x, Context(**{"positions": positions, **context})).output  # type: ignore[no-any-return]


REAL = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding": {"mask": AttentionMask(key_padding=REAL)},
    "causal": {"mask": AttentionMask(causal=True)},
    "causal, padding": {"mask": AttentionMask(key_padding=REAL, causal=True)},
    "bias": {"bias": DenseBias(torch.randn(B, H, T, T, dtype=torch.float64))},
}
PACKED = PackedLayout.from_lengths(LENGTHS)


def test_every_row_has_an_identity_or_says_that_it_has_none() -> None:
    assert set(CLASSES) - set(WITH_IDENTITY) == WITHOUT_IDENTITY
    for name, row in CLASSES.items():
        assert row.name == name


@pytest.mark.parametrize("kv_heads", [H, 2])
@pytest.mark.parametrize("name", WITH_IDENTITY)
@torch.no_grad()
def test_identity(name: str, kv_heads: int) -> None:
    identity = CLASSES[name].identity
    assert identity is not None
    assert identity.tolerance <= 1e-10 or identity.limit
    module = module_with(name, dict(identity.options), kv_heads)
    full = MultiHeadAttention(D, H, num_kv_heads=kv_heads).double()
    full.load_state_dict({key: value for key, value in module.state_dict().items() if "variants" not in key})
    for key, number in identity.parameters.items():
        module.variants[0].get_parameter(key).fill_(number)
    ran = []
    for call, context in CALLS.items():
        if name in CAUSAL and "causal" not in call:
            continue
        x = tokens()
        try:
            found = run(module, x, **context)
        except NotSupportedError:
            continue
        shown = REAL if "padding" in call else REAL | True
        torch.testing.assert_close(found[shown], run(full, x, **context)[shown], rtol=0, atol=identity.tolerance)
        ran.append(call)
    x = tokens()[REAL]
    packed: dict[str, Any] = {"layout": PACKED, "mask": AttentionMask(causal=name in CAUSAL)}
    try:
        found = run(module, x, **packed)
    except NotSupportedError:
        pass
    else:
        torch.testing.assert_close(found, run(full, x, **packed), rtol=0, atol=identity.tolerance)
    assert ran


@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_padding_moves_nothing(name: str) -> None:
    """On either side, and packed: each text gives what it gives alone."""
    module, x = trial(name), tokens()
    alone = [run(module, x[b : b + 1, :length])[0] for b, length in enumerate(LENGTHS)]
    noise = 10 * torch.randn(B, T, D, dtype=torch.float64)
    right = run(module, torch.where(REAL[..., None], x, noise), mask=AttentionMask(key_padding=REAL))
    refused = set()
    for b, length in enumerate(LENGTHS):
        torch.testing.assert_close(right[b, :length], alone[b], rtol=0, atol=1e-10)
    left, real = noise.clone(), REAL.flip(1)
    for b, length in enumerate(LENGTHS):
        left[b, T - length :] = x[b, :length]
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    if "left padding" in CANNOT.get(name, set()):
        refused.add("left padding")
    else:
        found = run(module, left, mask=AttentionMask(key_padding=real), positions=positions)
        for b, length in enumerate(LENGTHS):
            torch.testing.assert_close(found[b, T - length :], alone[b], rtol=0, atol=1e-10)
    try:
        found = run(module, x[REAL], layout=PACKED)
    except NotSupportedError:
        refused.add("packed")
    else:
        torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-10)
    assert refused == CANNOT.get(name, set()) & {"packed", "left padding"}


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_comes_from_the_future(name: str) -> None:
    """By gradients: those of token i end at i."""
    module, x = trial(name), tokens(1).requires_grad_()
    mask = AttentionMask(causal=True)
    try:
        output = run(module, x, mask=mask)
    except NotSupportedError:
        assert "causal" in CANNOT.get(name, set())
        return
    assert "causal" not in CANNOT.get(name, set())
    for i in range(T):
        (gradient,) = torch.autograd.grad(output[0, i].sum(), x, retain_graph=True)
        assert (gradient[0, i + 1 :] == 0).all()
        assert (gradient[0, i] != 0).any()


def rows_sum(module: MultiHeadAttention, x: Tensor) -> Tensor:
    weights = module(x, Context(positions=torch.arange(T).expand(B, -1), need_weights=True)).weights
    assert weights is not None
    return weights.sum(-1)


def sum_to_one(module: MultiHeadAttention, x: Tensor) -> None:
    torch.testing.assert_close(rows_sum(module, x), torch.ones(B, H, T, dtype=torch.float64), rtol=0, atol=1e-12)


def sum_to_less_than_one(module: MultiHeadAttention, x: Tensor) -> None:
    assert (rows_sum(module, x) < 1).all()


def linear_in_the_values(module: MultiHeadAttention, x: Tensor) -> None:
    one = run(module, x) - module.output.bias
    module.value.weight.mul_(2)
    module.value.bias.mul_(2)
    module.adopt()
    torch.testing.assert_close(run(module, x) - module.output.bias, 2 * one, rtol=1e-10, atol=1e-10)


def linear_is_quadratic(module: MultiHeadAttention, x: Tensor) -> None:
    """What is computed in O(n) is what the whole matrix of weights, which is made where it is asked for, says."""
    for context in (call for name, call in CALLS.items() if name != "bias"):
        shown = REAL if "mask" in context and context["mask"].key_padding is not None else REAL | True
        found, expected = run(module, x, **context), run(module, x, need_weights=True, **context)
        torch.testing.assert_close(found[shown], expected[shown], rtol=1e-10, atol=1e-10)


def positions_by_distance(module: MultiHeadAttention, x: Tensor) -> None:
    found = run(module, x, positions=torch.arange(T).expand(B, -1) + 5)
    torch.testing.assert_close(found, run(module, x), rtol=1e-10, atol=1e-10)


LAWS: dict[str, Callable[[MultiHeadAttention, Tensor], None]] = {
    "rows sum to one": sum_to_one,
    "rows sum to less than one": sum_to_less_than_one,
    "linear in the values": linear_in_the_values,
    "positions enter by their distances": positions_by_distance,
    "linear form = quadratic form": linear_is_quadratic,
}


@pytest.mark.parametrize(("name", "law"), [(name, law) for name, row in CLASSES.items() for law in row.laws])
@torch.no_grad()
def test_law(name: str, law: str) -> None:
    LAWS[law](trial(name), tokens())


SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_into_a_file_and_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = BertModel(BertConfig(**SIZES)).double().eval()
    batch = {"input_ids": torch.randint(1, 40, (2, 8)), "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]] * 2)}
    before = model(**batch, padding="keep").last_hidden_state
    model.set_attention({"name": name, **CLASSES[name].trial})
    model.double()
    fresh = [(key, tensor) for key, tensor in model.named_parameters() if ".variants." in key]
    for _, tensor in fresh:
        tensor.add_(0.3 * torch.randn_like(tensor))
    swapped = model(**batch, padding="keep").last_hidden_state
    assert (swapped - before).abs().max() > 1e-6
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path)
    assert torch.equal(again(**batch, padding="keep").last_hidden_state, swapped)
    assert not again.load_report.fresh
    model.set_attention("full")
    assert torch.equal(model(**batch, padding="keep").last_hidden_state, before)


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_train_from_where_they_begin(name: str) -> None:
    """A gate that is open because it is flat would pass for an identity, with gradients 1e-9 of those of the values."""
    torch.manual_seed(1)
    model = BertModel(BertConfig(**SIZES)).double().train(False)
    model.set_attention(read_subjects([name])[0].spec)  # with the options that a swap has where none are given
    fresh = [tensor for key, tensor in model.double().named_parameters() if ".layer.1.attention.variants." in key]
    ids = torch.randint(1, 40, (2, 9))

    def gradients() -> list[Tensor]:
        loss = (model(ids, padding="keep").last_hidden_state * torch.linspace(-1, 1, 32, dtype=torch.float64)).sum()
        return list(torch.autograd.grad(loss, [*fresh, model.encoder.layer[1].attention.value.weight]))

    for tensor, gradient in zip(
        fresh, gradients(), strict=False
    ):  # one step as Adam makes it: what was times 0 wakes up
        tensor.data -= 1e-2 * gradient / gradient.abs().max().clamp(min=1e-30)
    *found, values = gradients()
    assert [gradient.abs().max() > 1e-6 * values.abs().max() for gradient in found] == [True] * len(fresh)
