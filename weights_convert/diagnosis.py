"""Why does a module differ? Known mistakes are made in plain formulas, one at a time, and the one that explains it is named.

The module's reference inputs are replayed, so that one module is judged and not what came before it. A cause is named only
if its result equals the observed output to 1e-8; otherwise the answer is "unknown".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minitrans.layers.activations import ACTIVATIONS
from weights_convert import formulas
from weights_convert.formulas import Inputs, Recipe, Weights

EQUAL = 1e-8
EPSILONS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3)
Candidate = tuple[str, Recipe, Weights]


@dataclass(frozen=True)
class Evidence:
    """What is known of the first module that differs; names are ours, without the body's prefix."""

    module: str
    observed: Tensor  # our output
    expected: Tensor  # the reference's output
    outputs: Mapping[str, Tensor]  # the reference's outputs of the modules before it
    weights: Weights  # the reference's, by our names
    own: Weights  # ours
    inputs: Inputs
    real: Callable[[Tensor], Tensor]  # the rows that count
    config: Any


# Knob by knob: what is said, and the fields of Recipe that say it.
EMBEDDING_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"positions are off by {n:+d}", {"offset": n}) for n in (-2, -1, 1, 2)),
    *((f"positions run {rule}", {"positions": rule}) for rule in ("from padding_idx + 1", "skipping padding")),
    ("positions run from 0 and count padding", {"positions": "running"}),
    ("position embeddings are missing", {"positions": "none"}),
    ("token types are missing", {"types": "none"}),
    ("token types are all taken for the first", {"types": "all the first"}),
    ("token types are exchanged", {"types": "exchanged"}),
)
ATTENTION_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the scores are not scaled", {"scale": "none"}),
    ("the scores are scaled by the model's width, not the head's", {"scale": "width"}),
    ("the scores are scaled by 1 / K, not by its root", {"scale": "square"}),
    ("padding is attended to", {"mask": "attended"}),
    ("the mask is inverted", {"mask": "inverted"}),
    ("the mask is added to the scores as it is", {"mask": "added as it is"}),
    *((f"the mask's constant is {c:g}: padding is attended to", {"mask": c}) for c in (-1.0, -10.0, -100.0, 1.0)),
    ("attention is causal", {"causal": True}),
    ("attention is not causal", {"causal": False}),
    ("heads are split in the wrong order", {"split": "interleaved"}),
    ("the softmax runs over the queries", {"normalised": "queries"}),
    ("the residual sum is missing", {"residual": False}),
    ("the norm comes before the sub-layer, not after the sum", {"norm": "before"}),
)
FEED_FORWARD_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the residual sum is missing", {"residual": False}),
    ("the norm comes before the sub-layer, not after the sum", {"norm": "before"}),
)
NORM_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"the eps of LayerNorm is {eps:g}", {"eps": eps}) for eps in EPSILONS),
    ("LayerNorm is not applied", {"norm": "none"}),
    ("LayerNorm divides the variance by n - 1", {"norm": "n - 1"}),
    ("LayerNorm adds eps outside the root", {"norm": "eps outside"}),
)
ACTIVATION_KNOBS = tuple((f"the activation is {name}", {"act": name}) for name in ACTIVATIONS)
POOLER_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the pooler has no tanh", {"pooled_act": "linear"}),
    *((f"the pooler's activation is {name}", {"pooled_act": name}) for name in ACTIVATIONS if name != "linear"),
    ("the last token is pooled, not the first", {"pooled": "last"}),
    ("the mean of the tokens is pooled, not the first", {"pooled": "mean"}),
)
SOURCE_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the head reads the pooled vector", {"source": "pooled"}),
    ("the head reads the first token as it is", {"source": "first token"}),
)


def likely_cause(evidence: Evidence) -> str:
    """One line: the mistake that explains the difference, or "unknown"."""
    stage = _Stage(evidence)
    try:
        return stage.cause()
    except (KeyError, RuntimeError, IndexError):
        return "unknown"  # a module of another shape than these formulas have


class _Stage:
    """The module in question as a formula, and what may be wrong in it."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.layer, _, self.part = evidence.module.rpartition(".")
        if evidence.module.endswith("feed_forward.up"):
            self.layer, self.part = evidence.module.removesuffix(".feed_forward.up"), "up"
        if evidence.module in ("lm_head.LayerNorm", "lm_head"):
            self.layer, self.part = "lm_head", "transform" if "." in evidence.module else "decoder"

    def cause(self) -> str:
        """Tries every candidate, first as a mistake of ours, then as what only the reference does."""
        for target, start, words in (
            (self.evidence.observed, self.evidence.expected, "{}"),
            (self.evidence.expected, self.evidence.observed, "in the reference, and not here: {}"),
        ):
            for base in self._bases():
                if not self._gives(base, self.evidence.weights, start):
                    continue
                for text, recipe, weights in self._candidates(base):
                    if self._gives(recipe, weights, target):
                        return words.format(text)
        return "unknown"

    def _gives(self, recipe: Recipe, weights: Weights, target: Tensor) -> bool:
        real = self.evidence.real
        try:
            found, wanted = real(self._run(weights, recipe)), real(target)
        except (RuntimeError, IndexError):
            return False  # sizes that this recipe cannot have
        if found.shape != wanted.shape:
            return False
        return bool((found - wanted).abs().max() <= EQUAL * wanted.abs().max())

    def _bases(self) -> list[Recipe]:
        """The recipes that may be the right one, by the configuration and by what families do."""
        config = self.evidence.config
        plain = Recipe(
            config.layer_norm_eps, config.hidden_act, config.num_attention_heads, getattr(config, "is_decoder", False)
        )
        if self.part == "embeddings":
            return [replace(plain, positions=rule) for rule in ("running", "skipping padding")]
        sources = [replace(plain, source=source) for source in ("pooled", "tokens", "first token")]
        return [*sources, replace(plain, act="gelu")]

    def _tokens(self) -> Tensor:
        """What enters this layer, or leaves the last one."""
        outputs, (start, _, number) = self.evidence.outputs, self.layer.rpartition(".")
        if number == "0":
            return outputs["embeddings"]
        last = int(number) - 1 if number.isdigit() else self.evidence.config.num_hidden_layers - 1
        return outputs[f"{start if number.isdigit() else 'encoder.layer'}.{last}.feed_forward_LayerNorm"]

    def _run(self, w: Weights, recipe: Recipe) -> Tensor:
        known = self.evidence
        if self.part == "embeddings":
            return formulas.embeddings(known.inputs, w, recipe)
        if self.part == "attention_LayerNorm":
            return formulas.attention(self._tokens(), known.inputs, w, self.layer, recipe)
        if self.part == "up":
            return formulas.linear(known.outputs[f"{self.layer}.attention_LayerNorm"], w, known.module)
        if self.part == "feed_forward_LayerNorm":
            x, raised = (known.outputs[f"{self.layer}.{name}"] for name in ("attention_LayerNorm", "feed_forward.up"))
            return formulas.feed_forward(x, raised, w, self.layer, recipe)
        if self.part == "transform":
            y = formulas.linear(self._tokens(), w, "lm_head.dense")
            return formulas.layer_norm(ACTIVATIONS[recipe.act](y), w, "lm_head.LayerNorm", recipe)
        if self.part == "decoder":
            return formulas.linear(known.outputs["lm_head.LayerNorm"], w, "lm_head.decoder")
        if self.part == "pooler":
            return formulas.pooler(self._tokens(), w, "pooler", recipe)
        return formulas.head(known.outputs.get("pooler"), self._tokens(), w, known.module, recipe)

    def _candidates(self, base: Recipe) -> Iterator[Candidate]:
        """Every mistake that this module can have: settings first, then weights."""
        w, name = self.evidence.weights, self.evidence.module
        knobs, norm, linears = {
            "embeddings": (EMBEDDING_KNOBS, "embeddings.LayerNorm", ()),
            "attention_LayerNorm": (
                ATTENTION_KNOBS, name, tuple(f"{self.layer}.attention.{p}" for p in ("query", "key", "value", "output")),
            ),
            "up": ((), None, (name,)),
            "feed_forward_LayerNorm": ((*FEED_FORWARD_KNOBS, *ACTIVATION_KNOBS), name, (f"{self.layer}.feed_forward.down",)),
            "transform": (ACTIVATION_KNOBS, name, ("lm_head.dense",)),
            "decoder": ((), None, ("lm_head.decoder",)),
            "pooler": (POOLER_KNOBS, None, ("pooler.dense",)),
        }.get(self.part, ((*POOLER_KNOBS, *SOURCE_KNOBS), None, (name, f"{name}.dense", f"{name}.out_proj")))  # fmt: skip
        for text, change in (*knobs, *(NORM_KNOBS if norm else ())):
            yield text, replace(base, **change), w
        if self.part == "embeddings":
            width = w["embeddings.word_embeddings.weight"].shape[1]
            yield "embeddings are multiplied by the root of the width", replace(base, embedding_scale=width**0.5), w
        if self.part == "attention_LayerNorm":
            width = w[f"{linears[0]}.weight"].shape[0]
            for heads in (n for n in range(1, min(width, 128) + 1) if width % n == 0 and n != base.heads):
                yield f"the number of heads is {heads}", replace(base, heads=heads), w
        for text, weights in self._other_weights(norm, tuple(n for n in linears if f"{n}.weight" in w)):
            yield text, base, weights

    def _other_weights(self, norm: str | None, linears: tuple[str, ...]) -> Iterator[tuple[str, Weights]]:
        w, own = self.evidence.weights, self.evidence.own
        if norm is not None:
            gain, shift = w[f"{norm}.weight"], w[f"{norm}.bias"]
            yield f"weight and bias of {norm} are swapped", {**w, f"{norm}.weight": shift, f"{norm}.bias": gain}
            yield f"the weight of {norm} is missing", {**w, f"{norm}.weight": torch.ones_like(gain)}
            yield f"the bias of {norm} is missing", {**w, f"{norm}.bias": torch.zeros_like(shift)}
        for name in linears:
            weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
            yield f"the bias of {name} is dropped", {**w, f"{name}.bias": torch.zeros_like(bias)}
            if weight.shape[0] == weight.shape[1]:
                yield f"the weight of {name} is transposed", {**w, f"{name}.weight": weight.T}
            yield (
                f"the outputs of {name} stand in reverse order",
                {**w, f"{name}.weight": weight.flip(0), f"{name}.bias": bias.flip(0)},
            )
        yield "every bias is dropped", {**w, **{f"{n}.bias": torch.zeros_like(w[f"{n}.bias"]) for n in linears}}
        for one, other in ((a, b) for i, a in enumerate(linears) for b in linears[i + 1 :]):
            exchanged = {f"{a}.{p}": w[f"{b}.{p}"] for a, b in ((one, other), (other, one)) for p in ("weight", "bias")}
            yield f"{one} and {other} are swapped", {**w, **exchanged}
        start = self.evidence.module if self.part == "embeddings" else self.layer or self.evidence.module
        for name in (n for n in w if n.startswith(f"{start}.") and n in own and own[n].shape == w[n].shape):
            tied = name == "lm_head.decoder.weight" and self.evidence.config.tie_word_embeddings
            said = "is not tied to the token table" if tied else "has other values than in the checkpoint"
            yield f"{name} {said}", {**w, name: own[name]}
