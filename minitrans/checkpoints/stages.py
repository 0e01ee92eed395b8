"""What one module of a BERT-shaped model computes, replayed by formula from the outputs of the reference before it.

The module is judged alone: what came before it is right by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from minitrans.checkpoints import formulas
from minitrans.checkpoints.formulas import Inputs, Recipe, Weights
from minitrans.layers.activations import ACTIVATIONS, activation

# What leaves the embeddings, by the modules that a family has: the first of these that there is.
EMBEDDED = ("embeddings.projection", "embeddings", "embeddings.LayerNorm")
# What heads read that has had no activation yet.
RAW = ("pooler.dense", "pre_classifier")


@dataclass(frozen=True)
class Evidence:
    """What is known of the first module that differs; names are ours, without the body's prefix.

    Where layers share blocks, names count layers: `weights` and `own` hold those of a shared block under each.
    """

    module: str
    observed: Tensor  # our output
    expected: Tensor  # the reference's output
    outputs: Mapping[str, Tensor]  # the reference's outputs of the modules before it
    weights: Weights  # the reference's, by our names
    own: Weights  # ours
    inputs: Inputs
    real: Callable[[Tensor], Tensor]  # the rows that count
    config: Any


class Stage:
    """The module in question.

    Attributes:
        part: which formula it is.
        layer: the layer it belongs to, or the module without its last name.
        pre_norm: whether the model normalises before each sub-layer.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        name = evidence.module
        self.pre_norm = "encoder.LayerNorm.weight" in evidence.weights
        self.layer, _, self.part = name.rpartition(".")
        if name.endswith("feed_forward.up"):
            self.layer, self.part = name.removesuffix(".feed_forward.up"), "up"
        elif name in ("lm_head.LayerNorm", "lm_head"):
            self.layer, self.part = "lm_head", "transform" if "." in name else "decoder"
        elif name in ("embeddings.LayerNorm", "embeddings"):
            self.layer, self.part = "", "embeddings"
        elif name in ("pooler", "pooler.dense"):
            self.layer, self.part = "", "pooler"
        elif self.part.isdigit():
            self.layer, self.part = name, "block"

    def bases(self) -> list[Recipe]:
        """The recipes that may be the right one, by the configuration and by what families do."""
        config = self.evidence.config
        plain = Recipe(
            config.layer_norm_eps, config.hidden_act, config.num_attention_heads, getattr(config, "is_decoder", False)
        )
        plain = replace(plain, norm_at="before" if self.pre_norm else "after")
        if self.part == "embeddings":
            return [replace(plain, positions=rule) for rule in ("running", "skipping padding")]
        if self.part == "pooler":
            return [replace(plain, pooled_act="linear" if self.evidence.module == "pooler.dense" else "tanh")]
        sources = [replace(plain, source=source) for source in ("pooled", "tokens", "first token")]
        acts = [replace(plain, pooled_act=act) for act in ("gelu", "relu")]
        return [*sources, *acts, replace(plain, act="gelu")]

    def tokens(self) -> Tensor:
        """What enters this layer, or leaves the last one."""
        outputs, (start, _, number) = self.evidence.outputs, self.layer.rpartition(".")
        if number == "0":
            return next(outputs[name] for name in EMBEDDED if name in outputs)
        if not number.isdigit():
            if self.pre_norm and self.evidence.module != "encoder.LayerNorm":
                return outputs["encoder.LayerNorm"]
            start, number = (
                "encoder.layer",
                str(1 + max(int(n.split(".")[2]) for n in outputs if "encoder.layer." in n)),
            )
        last = f"{start}.{int(number) - 1}"
        return outputs[last if self.pre_norm else f"{last}.feed_forward_LayerNorm"]

    def run(self, w: Weights, recipe: Recipe) -> Tensor:
        """The output of the module by this recipe."""
        known, norm = self.evidence, f"{self.layer}.attention_LayerNorm"
        if self.part == "embeddings":
            return formulas.embeddings(known.inputs, w, recipe)
        if self.part == "projection":
            return formulas.linear(known.outputs["embeddings.LayerNorm"], w, known.module)
        if self.part == "attention_LayerNorm":
            return formulas.attention(self.tokens(), known.inputs, w, self.layer, recipe)
        if self.part == "up":
            before = f"{self.layer}.{'feed_forward_LayerNorm' if self.pre_norm else 'attention_LayerNorm'}"
            return formulas.linear(known.outputs[before], w, known.module)
        if self.part == "feed_forward_LayerNorm" and self.pre_norm:
            attended = formulas.attended(known.outputs[norm], known.inputs, w, self.layer, recipe)
            x = self.tokens() + attended if recipe.residual else attended
            return formulas.layer_norm(x, w, known.module, recipe)
        if self.part == "feed_forward_LayerNorm":
            x, raised = (known.outputs[name] for name in (norm, f"{self.layer}.feed_forward.up"))
            return formulas.feed_forward(x, raised, w, self.layer, recipe)
        if self.part == "block":
            right = self.bases()[0]
            stream = self.tokens() + formulas.attended(known.outputs[norm], known.inputs, w, self.layer, right)
            fed = formulas.lowered(known.outputs[f"{self.layer}.feed_forward.up"], w, self.layer, recipe)
            return stream + fed if recipe.residual else fed
        if known.module == "encoder.LayerNorm":
            return formulas.layer_norm(self.tokens(), w, known.module, recipe)
        return self._run_head(w, recipe)

    def _run_head(self, w: Weights, recipe: Recipe) -> Tensor:
        known = self.evidence
        if self.part == "transform":
            y = formulas.linear(self.tokens(), w, "lm_head.dense")
            return formulas.layer_norm(ACTIVATIONS[recipe.act](y), w, "lm_head.LayerNorm", recipe)
        if self.part == "decoder":
            return formulas.linear(known.outputs["lm_head.LayerNorm"], w, "lm_head.decoder")
        if self.part == "pooler":
            return formulas.pooler(self.tokens(), w, "pooler", recipe)
        raw = next((known.outputs[name] for name in RAW if name in known.outputs), None)
        pooled = known.outputs.get("pooler") if raw is None else activation(recipe.pooled_act)(raw)
        return formulas.head(pooled, self.tokens(), w, known.module, recipe)
