"""Decoders with a cache: every way to go on gives the numbers of one run over all tokens, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import minitrans
from minitrans import Transformer, TransformerConfig
from minitrans.layers.cache import Cache
from minitrans.layers.multi_head_attention import CrossAttention

# pairwise different: B=2, T=9, S=4, H=3, D=12, F=19, V=37, L=2
SIZES: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 19,
    "max_position_embeddings": 24,
}  # fmt: skip
HEADS = [
    "BertLMHeadModel", "RobertaForCausalLM", "XLMRobertaForCausalLM", "CamembertForCausalLM", "ElectraForCausalLM",
    "RobertaPreLayerNormForCausalLM",
]  # fmt: skip
CAPACITIES = pytest.mark.parametrize("capacity", [None, 15], ids=["growing", "static"])
IDS = torch.randint(4, 37, (2, 9), generator=torch.Generator().manual_seed(3))
MEMORY = torch.randn(2, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def decoder(name: str = "BertLMHeadModel", **fields: Any) -> Any:
    kind = getattr(minitrans, name)
    torch.manual_seed(0)
    net = kind(kind.config_class(**{**SIZES, "is_decoder": True, **fields})).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


def empty(capacity: int | None) -> Cache:
    return Cache.growing(2) if capacity is None else Cache.static(2, capacity)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@CAPACITIES
@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_step_by_step_equals_all_at_once(name: str, capacity: int | None) -> None:
    net = decoder(name, add_cross_attention=True)
    memory = {"encoder_hidden_states": MEMORY, "encoder_attention_mask": torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]])}
    whole = net(IDS, **memory).logits
    cache, parts = empty(capacity), []
    for start, stop in ((0, 4), (4, 5), (5, 8), (8, 9)):
        out = net(IDS[:, start:stop], past_key_values=cache, **memory)
        assert cache.get_seq_length() == start, "a forward leaves the given cache as it was"
        cache = out.past_key_values
        assert (cache.get_seq_length(), cache.capacity) == (stop, capacity)
        parts.append(out.logits)
    close(torch.cat(parts, dim=1), whole)


@CAPACITIES
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@torch.no_grad()
def test_on_each_backend(backend: str, capacity: int | None) -> None:
    net = decoder()
    whole = net(IDS).logits
    net.set_attention("full", backend)
    past = net(IDS[:, :5], past_key_values=empty(capacity)).past_key_values
    out = net(IDS[:, 5:], past_key_values=past, output_attentions=True, output_hidden_states=True)
    close(out.logits, whole[:, 5:])
    close(out.attentions[0][..., :9].sum(dim=-1), torch.ones(2, 3, 4, dtype=torch.float64))
    assert (out.attentions[0][..., 9:] == 0).all()
    assert out.hidden_states[-1].shape == (2, 4, 12)


@CAPACITIES
@pytest.mark.parametrize("name", HEADS[:2])
@torch.no_grad()
def test_padding_masks(name: str, capacity: int | None) -> None:
    """On the right of the first call there may be padding too: tokens of a row then go on behind a gap."""
    net = decoder(name)
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0, 0]])
    positions = mask.cumsum(dim=1) + 1
    whole = net(IDS, mask, position_ids=positions).logits
    past, parts = empty(capacity), []
    for start, stop in ((0, 5), (5, 6), (6, 9)):
        out = net(IDS[:, start:stop], mask[:, :stop], position_ids=positions[:, start:stop], past_key_values=past)
        past = out.past_key_values
        parts.append(out.logits)
    real = mask.bool()
    close(torch.cat(parts, dim=1)[real], whole[real])
    alone = net(IDS[:1, [0, 1, 2, 5, 6, 7, 8]], position_ids=torch.arange(2, 9)[None]).logits
    close(whole[0][mask[0].bool()], alone[0])


@CAPACITIES
@torch.no_grad()
def test_padding_on_the_left(capacity: int | None) -> None:
    """With the positions of the text, a short row gets the numbers that it has alone."""
    net = decoder()
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    alone = net(IDS[1:, 3:]).logits
    first = net(IDS[:, :6], mask[:, :6], position_ids=positions[:, :6], past_key_values=empty(capacity))
    second = net(IDS[:, 6:], mask, position_ids=positions[:, 6:], past_key_values=first.past_key_values)
    close(torch.cat([first.logits[1, 3:], second.logits[1]]), alone[0])
    close(second.logits[0], net(IDS[:1]).logits[0, 6:])


@CAPACITIES
@torch.no_grad()
def test_masks_of_queries_and_keys(capacity: int | None) -> None:
    net = decoder()
    causal = torch.ones(9, 9, dtype=torch.bool).tril()[None, None].clone()
    causal[..., 4:, 2] = False
    scores = torch.randn(1, 1, 9, 9, dtype=torch.float64).masked_fill(~causal, -torch.inf)
    for square in (causal, scores):
        whole = net(IDS, square).logits
        past = net(IDS[:, :6], square[..., :6, :6], past_key_values=empty(capacity)).past_key_values
        close(net(IDS[:, 6:], square[..., 6:, :], past_key_values=past).logits, whole[:, 6:])


@CAPACITIES
@torch.no_grad()
def test_two_continuations_of_one_past(capacity: int | None) -> None:
    net = decoder()
    past = net(IDS[:, :5], past_key_values=empty(capacity)).past_key_values
    others = IDS.flip(1)
    first = net(IDS[:, 5:7], past_key_values=past)
    second = net(others[:, 5:7], past_key_values=past)
    for tokens, out in ((IDS, first), (others, second), (IDS, first)):
        text = torch.cat([IDS[:, :5], tokens[:, 5:7], IDS[:, 7:]], dim=1)
        whole = net(text).logits
        close(out.logits, whole[:, 5:7])
        close(net(IDS[:, 7:], past_key_values=out.past_key_values).logits, whole[:, 7:])


@CAPACITIES
@torch.no_grad()
def test_beams(capacity: int | None) -> None:
    net = decoder(add_cross_attention=True)
    rows = torch.tensor([1, 1, 0])
    past = net(IDS[:, :5], past_key_values=empty(capacity), encoder_hidden_states=MEMORY).past_key_values
    past.reorder(rows)
    new = torch.tensor([[7, 8], [9, 10], [11, 12]])
    got = net(new, past_key_values=past, encoder_hidden_states=MEMORY[rows]).logits
    whole = net(torch.cat([IDS[rows, :5], new], dim=1), encoder_hidden_states=MEMORY[rows]).logits
    close(got, whole[:, 5:])


@CAPACITIES
@torch.no_grad()
def test_a_rejected_guess(capacity: int | None) -> None:
    net = decoder()
    past = net(IDS, past_key_values=empty(capacity)).past_key_values
    kept = past.fork()
    past.crop(4)
    right = torch.cat([IDS[:, :4], IDS.flip(1)[:, :3]], dim=1)
    close(net(right[:, 4:], past_key_values=past).logits, net(right).logits[:, 4:])
    more = IDS[:, :2]
    close(net(more, past_key_values=kept).logits, net(torch.cat([IDS, more], dim=1)).logits[:, 9:])


def test_gradients_through_a_growing_cache() -> None:
    net = decoder(add_cross_attention=True)
    memory = MEMORY.clone().requires_grad_()
    gradients = []
    for steps in ([(0, 9)], [(0, 3), (3, 4), (4, 9)]):
        past, total = None, torch.zeros((), dtype=torch.float64)
        for start, stop in steps:
            out = net(IDS[:, start:stop], past_key_values=past, encoder_hidden_states=memory)
            past = out.past_key_values
            total = total + out.logits.square().sum()
        gradients.append(torch.autograd.grad(total, (memory, *net.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-12 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("trained", ["query", "embeddings"])
def test_gradients_where_keys_want_none_in_some_steps(trained: str) -> None:
    """A frozen model with trained queries, or with a trained prefix: the keys that a gradient needs stay as they were."""
    net = decoder()
    net.requires_grad_(False)
    prefix = torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=trained == "embeddings")
    table = net.get_input_embeddings()
    wanted: list[Tensor] = [prefix]
    if trained == "query":
        wanted = [p for name, p in net.named_parameters() if "attention.query.weight" in name]
        for parameter in wanted:
            parameter.requires_grad_()
    gradients = []
    for cached in (False, True):
        if cached:
            past = net(inputs_embeds=prefix).past_key_values
            logits = []
            for place in range(4):
                out = net(IDS[:, place : place + 1], past_key_values=past)
                past = out.past_key_values
                logits.append(out.logits)
            scores = torch.cat(logits, dim=1)
        else:
            scores = net(inputs_embeds=torch.cat([prefix, table(IDS[:, :4])], dim=1)).logits[:, 3:]
        gradients.append(torch.autograd.grad(scores.square().sum(), wanted))
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs)


def test_without_gradients_in_every_way_and_back() -> None:
    net = decoder()
    whole = net(IDS).logits
    past, parts, stop = None, [], 0
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.inference_mode, torch.no_grad):
        with mode():
            out = net(IDS[:, stop : stop + 1], past_key_values=past)
            past, stop = out.past_key_values, stop + 1
            parts.append(out.logits)
    for ours, place in zip(parts, range(5), strict=True):
        close(ours, whole[:, place : place + 1])
    net(IDS[:, 5:], past_key_values=past).logits.sum().backward()
    assert all(p.grad is not None for p in net.bert.encoder.layer[0].attention.parameters())


@torch.no_grad()
def test_keys_of_the_memory_are_computed_once() -> None:
    net = decoder(add_cross_attention=True)
    calls: list[str] = []

    def count(module: nn.Module, name: str) -> None:
        module.register_forward_hook(lambda *_: calls.append(name))

    crossing = [module for module in net.modules() if isinstance(module, CrossAttention)]
    assert len(crossing) == 2
    for module in crossing:
        count(module.key, "key")
        count(module.value, "value")
    past = None
    for place in range(5):
        past = net(IDS[:, place : place + 1], past_key_values=past, encoder_hidden_states=MEMORY).past_key_values
    assert sorted(calls) == ["key", "key", "value", "value"]


@torch.no_grad()
def test_a_static_cache_stays_in_its_place() -> None:
    net = decoder()
    past = net(IDS[:, :1], past_key_values=Cache.static(2, 9)).past_key_values
    memory = past.layers[0].self_attention.key.data_ptr()
    for place in range(1, 9):
        past = net(IDS[:, place : place + 1], past_key_values=past).past_key_values
    assert past.layers[0].self_attention.key.data_ptr() == memory
    with pytest.raises(ValueError, match="the cache holds 9 tokens, got 10"):
        net(IDS[:, :1], past_key_values=past)
    assert past.get_seq_length() == 9


@torch.no_grad()
@pytest.mark.parametrize(
    ("fields", "attention", "reason"),
    [
        ({}, {"name": "sliding_window", "window": 2}, "an attention that restricts by position"),
        ({}, {"name": "dilated", "window": 2, "dilation": 2}, "an attention that restricts by position"),
    ],
)
def test_what_a_static_cache_does_not_go_with(fields: dict[str, Any], attention: Any, reason: str) -> None:
    """And what a growing one does."""
    net = decoder(**fields)
    net.set_attention(attention)
    with pytest.raises(ValueError, match=f"a static cache does not go with {reason}; use a growing one"):
        net(IDS, past_key_values=Cache.static(2, 15))
    past = net(IDS[:, :6]).past_key_values
    close(net(IDS[:, 6:], past_key_values=past).logits, net(IDS).logits[:, 6:])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@CAPACITIES
def test_relative_positions_with_a_cache(kind: str, capacity: int | None) -> None:
    """Distances are to the tokens that are there, not to the end of the memory; added scores too."""
    net = decoder(position_embedding_type=kind)
    added = torch.randn(2, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    added = added.masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf)
    whole, cache = net(IDS, added).logits, empty(capacity)
    first = net(IDS[:, :5], added[:, :, :5, :5], past_key_values=cache)
    second = net(IDS[:, 5:], added[:, :, 5:], past_key_values=first.past_key_values)
    close(torch.cat([first.logits, second.logits], dim=1), whole)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["rotary", "qk_norm", "sink", "talking_heads"])
@CAPACITIES
def test_variants_with_a_cache(attention: str, capacity: int | None) -> None:
    net = decoder()
    net.set_attention(attention)
    net.double()
    past = net(IDS[:, :6], past_key_values=empty(capacity)).past_key_values
    close(net(IDS[:, 6:], past_key_values=past).logits, net(IDS).logits[:, 6:])


def test_a_static_cache_keeps_no_gradients() -> None:
    with pytest.raises(ValueError, match=r"call under torch.no_grad\(\)"):
        decoder()(IDS, past_key_values=Cache.static(2, 15))


@torch.no_grad()
def test_caches_that_do_not_fit() -> None:
    net = decoder()
    past = net(IDS[:, :3]).past_key_values
    with pytest.raises(
        ValueError,
        match=r"past_key_values must have the layers and sequences of this call, got \(2, 2\).*\(2, 1\); see Cache.reorder",
    ):
        net(IDS[:1, 3:], past_key_values=past)
    with pytest.raises(ValueError, match=r"past_key_values must have the layers and sequences of this call, got \(3, "):
        net(IDS, past_key_values=Cache.growing(3))
    with pytest.raises(TypeError, match="past_key_values must be a minitrans Cache, as a call returns it, got tuple"):
        net(IDS, past_key_values=tuple(past))
    with pytest.raises(ValueError, match=r"attention_mask must be \(B, S\) = \(2, 5\)"):
        net(IDS[:, 3:5], torch.ones(2, 2), past_key_values=past)
    with pytest.raises(ValueError, match="the sequences have 25 tokens, the model has positions for 24"):
        net(torch.full((2, 22), 5), past_key_values=past)
    encoder = decoder("BertModel", is_decoder=False)
    with pytest.raises(ValueError, match="past_key_values needs a decoder"):
        encoder(IDS, past_key_values=past)


@torch.no_grad()
def test_a_memory_that_was_left_out_or_changed() -> None:
    """Without the check, the cross-attention would be skipped, or look at the memory of before."""
    net = decoder(add_cross_attention=True)
    past = net(IDS[:, :3], encoder_hidden_states=MEMORY).past_key_values
    message = r"holds the keys of a memory of 4 tokens: give the same encoder_hidden_states in every call, got "
    with pytest.raises(ValueError, match=message + "none"):
        net(IDS[:, 3:], past_key_values=past)
    with pytest.raises(ValueError, match=message + r"shape \(2, 3, 12\)"):
        net(IDS[:, 3:], past_key_values=past, encoder_hidden_states=MEMORY[:, :3])


@torch.no_grad()
def test_the_transformer_of_2017_checks_too() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=37, width=12, num_encoder_layers=1, num_decoder_layers=2, num_heads=3, hidden_width=19, max_length=11
    )
    net = Transformer(config).double().eval()
    memory = net.encode(IDS)
    past = net.decode(IDS[:, :3], memory)[1]
    with pytest.raises(
        ValueError, match=r"past_key_values must have the layers and sequences of this call, got \(2, 2\)"
    ):
        net.decode(IDS[:1, 3:], net.encode(IDS[:1]), past)
    with pytest.raises(ValueError, match=r"past_key_values must have the layers and sequences of this call, got \(3, "):
        net.decode(IDS, memory, Cache.growing(3))
    with pytest.raises(TypeError, match="must be a minitrans Cache, as a call returns it, got list"):
        net.decode(IDS, memory, list(past))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds the keys of a memory of 9 tokens"):
        net.decode(IDS[:, 3:], net.encode(IDS[:, :4]), past)
    with pytest.raises(ValueError, match="decodes with a growing cache, got a static one"):
        net.decode(IDS, memory, Cache.static(2, 9))
