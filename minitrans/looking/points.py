"""The points of a model: what has a name, and which module of a block takes or gives it.

post-norm (BERT)                         pre-norm (GPT-2)

  resid_pre ───────────┐                   resid_pre ────────┐
    │ attn_in          │                     norm            │
  q, k, v              │                     │ attn_in       │
  rot_q, rot_k         │                    (the same)       │
  scores               │                                     │
  pattern              │                                     │
  z, head_out          │                                     │
  attn_out             │                   attn_out          │
    + ◄────────────────┘                     + ◄─────────────┘
  resid_mid                                resid_mid ────────┐
   norm                                      norm            │
  resid_mid_norm ──────┐                   resid_mid_norm    │
    │ mlp_in           │                     │ mlp_in        │
  mlp_pre              │                    (the same)       │
  mlp_post             │                                     │
  mlp_out              │                   mlp_out           │
    + ◄────────────────┘                     + ◄─────────────┘
  resid_post_sum                           resid_post = resid_post_sum
   norm
  resid_post
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Point:
    """One name.

    Attributes:
        meaning: the formula, in words.
        shape: of what is seen, in the letters of the legend; of a batch without padding, N stands for "B, T".
        module: path of the module in a block whose first argument or result it is; "" = the block itself; None = no module's.
        side: "in" for the argument.
        pre_norm: the module in pre-norm blocks, where it is another one.
        crossing: whether cross-attention has such a point too, named `cross_...`.
    """

    meaning: str
    shape: str
    module: str | None = None
    side: Side = "out"
    pre_norm: tuple[str, Side] | None = None
    crossing: bool = False

    @property
    def head_axis(self) -> int | None:
        """Which axis of a padded batch counts the heads; None = there is none."""
        letters = self.shape.split(", ")
        return next((letters.index(letter) for letter in "HG" if letter in letters), None)


WIDE = "B, T, D"
POINTS = {
    "embed": Point("what the first block gets", WIDE),
    "resid_pre": Point("what the block gets", WIDE, "", "in"),
    "attn_in": Point("what the attention gets", WIDE, "attention", "in", crossing=True),
    "q": Point("queries, projected", "B, T, H, K", "attention.query", crossing=True),
    "k": Point("keys, projected", "B, S, G, K", "attention.key", crossing=True),
    "v": Point("values, projected", "B, S, G, K", "attention.value", crossing=True),
    "rot_q": Point("queries as they meet keys: turned, normalised", "B, T, H, K", crossing=True),
    "rot_k": Point("keys as they meet queries, those of a cache too", "B, S, G, K", crossing=True),
    "scores": Point("what the softmax is taken of: scale · q·k + bias, -inf where masked", "B, H, T, S", crossing=True),
    "pattern": Point("the probabilities, before dropout", "B, H, T, S", crossing=True),
    "z": Point("pattern · v, of each head", "B, T, H, K", "attention.output", "in", crossing=True),
    "head_out": Point(
        "z of a head times its part of the output matrix", "B, T, H, D", "attention.output", crossing=True
    ),
    "attn_out": Point("what the attention adds, before dropout", WIDE, "attention", crossing=True),
    "resid_mid": Point(
        "the sum of resid_pre and attn_out", WIDE, "attention_LayerNorm", "in", ("feed_forward_LayerNorm", "in")
    ),
    "resid_mid_norm": Point(
        "that sum, normalised", WIDE, "attention_LayerNorm", "out", ("feed_forward_LayerNorm", "out")
    ),
    "resid_mid_cross": Point(
        "the sum after the cross-attention", WIDE, "cross_attention_LayerNorm", "in", ("feed_forward_LayerNorm", "in")
    ),
    "resid_mid_cross_norm": Point(
        "that sum, normalised", WIDE, "cross_attention_LayerNorm", "out", ("feed_forward_LayerNorm", "out")
    ),
    "mlp_in": Point("what the feed-forward network gets", WIDE, "feed_forward", "in"),
    "mlp_pre": Point("what the activation gets", "B, T, F", "feed_forward.up"),
    "mlp_pre_linear": Point("what a gated activation is multiplied with", "B, T, F", "feed_forward.up"),
    "mlp_post": Point("what the last projection gets", "B, T, F", "feed_forward.down", "in"),
    "mlp_out": Point("what the feed-forward network adds, before dropout", WIDE, "feed_forward"),
    "resid_post_sum": Point("the sum of the second half", WIDE, "feed_forward_LayerNorm", "in", ("", "out")),
    "resid_post": Point("what the block gives", WIDE, ""),
    "final_norm": Point("what the norm after the last block gives", WIDE),
    "pooled": Point("what the pooler gives", "B, D"),
    "logits": Point("what the head gives", "as the head says"),
}
OF_THE_MODEL = ("embed", "final_norm", "pooled", "logits")  # without a layer
IN_ATTENTION = ("rot_q", "rot_k", "scores", "pattern")  # between modules: seen by a tap in the attention
# points of the stream of a pre-norm block, which the rest of the block reads too, and not that norm alone
STREAM = ("resid_mid", "resid_mid_cross")
