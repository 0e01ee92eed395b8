"""`fuse`: a model whose layers around attention each pass over memory once, in the kernels of `minitrans_kernels`.

Nothing else imports this file, and no layer or model has a branch for it: read them, and take this for the same numbers on
another road. The road is Triton's on a CUDA device and PyTorch's elsewhere. No figure of it has been measured: its kernels are
interpreted and compiled in tests, but none has run on a GPU yet, which is why it has to be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from minitrans_kernels.layers import add_dropout_layer_norm, bias_gelu, embedding_layer_norm, masked_lm_loss, rms_norm
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.attention.context import Context
from minitrans.errors import NotSupportedError
from minitrans.layers.activations import Activation, gelu_erf, gelu_new, gelu_tanh
from minitrans.layers.block import Block
from minitrans.layers.cache import LayerCache
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.heads import LanguageModelHead
from minitrans.layers.losses import IGNORED, Items, check_labels
from minitrans.layers.norms import LayerNorm, RMSNorm
from minitrans.models.backbone import EncoderOutput
from minitrans.models.language_tasks import MaskedLM
from minitrans.models.outputs import LogitsOutput
from minitrans.models.tasks import unpadded_labels

M = TypeVar("M", bound=nn.Module)
_GELUS: dict[Activation, Literal["none", "tanh"]] = {gelu_erf: "none", gelu_tanh: "tanh", gelu_new: "tanh"}


def fuse(model: M) -> M:
    """The same model, in place: the same parameters, names and forward, computed in fewer passes over memory.

    - dropout, residual sum and the LayerNorm that follows them, in each block, are one kernel, and RMSNorm is one;
    - the bias of a projection and a GELU after it (exact or tanh) are one, in feed-forward networks and in the LM head;
    - the embeddings, looked up, summed, normalised and dropped, are one;
    - the loss of a masked language model in training multiplies labelled tokens only and never holds their logits: the output
      has a loss and no `logits`. In evaluation mode, and without labels, it is what it was.

    Everything else stays, other activations and embeddings of a family's own too; `print(model)` shows which modules are
    fused. Outputs and gradients are those of the model to rounding. Dropout drops other elements than `nn.Dropout` would:
    each call draws a seed from the generator of its device, so that `torch.manual_seed` and recomputation in checkpoints
    repeat it. Hooks on norms, dropouts, projections and tables inside a fused module are not called. Fuse last: what looks
    for plain blocks, as `minitrans.cpu` does, refuses fused ones. To store a fused model use `save_pretrained` or
    `state_dict`: its class cannot be pickled.

    Args:
        model: a body, a model with a head, the Transformer of 2017, or anything else with a `Block` in it.

    Returns:
        That model.

    Raises:
        NotSupportedError: naming every block, norm and table that the kernels do not serve; then nothing is changed.
    """
    faults, chosen = [], []
    for name, module in model.named_modules():
        reason = _obstacle(module)
        if reason is not None:
            faults.append(f"{name or 'the model'} {reason}")
        if type(module) in _FUSED or isinstance(module, MaskedLM):
            chosen.append(module)
    if not any(isinstance(module, Block) for module in model.modules()):
        faults.append("it has no Block")
    if faults:
        raise NotSupportedError(f"{type(model).__name__} cannot be fused: {'; '.join(faults)}")
    for module in chosen:
        module.__class__ = _fused_model(type(module)) if isinstance(module, MaskedLM) else _FUSED[type(module)]
    return model


class FusedBlock(Block):
    """A block whose residual sums and the norms after them are one pass."""

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """As of `Block`."""
        crossing = None if context.memory is None else self.cross_attention
        first, last = self.attention_LayerNorm, self.feed_forward_LayerNorm
        middle = last if crossing is None else self.cross_attention_LayerNorm
        h = first(x) if self.norm_first else x
        attended = self.attention(h, context, None if cache is None else cache.self_attention)
        h, x = self._add(attended.output, x, self.dropout, middle if self.norm_first else first)

        crossed = None
        if crossing is not None:
            crossed = crossing(h, context, None if cache is None else cache.cross_attention)
            h, x = self._add(crossed.output, x, self.dropout, last if self.norm_first else middle)

        fed = self.feed_forward(h)
        if self.norm_first:  # what comes after this sum is the norm of the next block
            x = x + self.feed_forward_dropout(fed)
        else:
            x, _ = self._add(fed, x, self.feed_forward_dropout, last)
        if context.kept is not None:
            context.kept.add(attended.weights, None if crossed is None else crossed.weights)
        return x

    def _add(self, y: Tensor, x: Tensor, dropout: nn.Dropout, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
        """(what enters the next sub-layer, what goes past it): `norm` of x + dropout(y), and where norms come first the sum."""
        if not isinstance(norm, LayerNorm) or norm.bias is None:
            assert norm is not None
            x = x + dropout(y)
            normed = norm(x)
            return normed, x if self.norm_first else normed
        vectors, options = (norm.weight, norm.bias), {"eps": norm.eps, **_dropped(dropout, x)}
        if self.norm_first:
            return add_dropout_layer_norm(y, x, *vectors, **options, return_sum=True)
        normed = add_dropout_layer_norm(y, x, *vectors, **options)
        return normed, normed


class FusedRMSNorm(RMSNorm):
    """RMSNorm in one pass, rounded once."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return rms_norm(x.to(self.weight.dtype), self.weight, eps=self.eps)


class FusedFeedForward(FeedForward):
    """A feed-forward network that adds the bias of its GELU in the GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = _activated(self.up if self.gate is None else self.gate, self.act, x)  # (..., F)
        y: Tensor = self.down(self.dropout(hidden if self.gate is None else hidden * self.up(x)))
        return y


class FusedEmbeddings(Embeddings):
    """Embeddings that are never stored before they are normalised."""

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """As of `Embeddings`; vectors in place of ids take its road, and so do tables without positions or a plain norm."""
        words, places, kinds = self.word_embeddings, self.position_embeddings, self.token_type_embeddings
        if tokens.is_floating_point() or places is None or self.LayerNorm.bias is None:
            return super().forward(tokens, positions, types)
        types = torch.zeros_like(positions) if types is None else types
        x = embedding_layer_norm(
            tokens, positions, None if kinds is None else types,
            words.weight, places.weight, None if kinds is None else kinds.weight, self.LayerNorm.weight, self.LayerNorm.bias,
            eps=self.LayerNorm.eps, padding_idx=words.padding_idx, position_padding_idx=places.padding_idx,
            **_dropped(self.dropout, words.weight),
        )  # fmt: skip
        return x if self.projection is None else self.projection(x)


class FusedLanguageModelHead(LanguageModelHead):
    """A language-modelling head that adds the bias of its GELU in the GELU."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        scores: Tensor = self.decoder(self.transform(hidden))
        return scores

    def transform(self, hidden: Tensor) -> Tensor:
        """What the decoder gets, (..., D) or (..., the width of the table)."""
        x: Tensor = self.LayerNorm(_activated(self.dense, self.act, hidden))
        return x


class FusedMaskedLM(MaskedLM):
    """What comes before a family's masked language model: its loss in training."""

    def head(self, body: EncoderOutput, labels: Tensor | None, items: Items) -> LogitsOutput:
        """As of `MaskedLM`, but without logits in training with labels."""
        head = self.lm_head
        if not isinstance(head, FusedLanguageModelHead) or type(head.decoder) is not nn.Linear:
            return super().head(body, labels, items)
        if not self.training or labels is None:
            return super().head(body, labels, items)
        targets = unpadded_labels(body, labels)
        check_labels(targets, head.decoder.out_features)
        hidden, weight = head.transform(body.last_hidden_state), head.decoder.weight
        if torch.is_autocast_enabled(hidden.device.type):  # as it would be for the decoder
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        loss = masked_lm_loss(hidden, targets.long(), weight, head.decoder.bias)
        if items is not None:
            learnt = (targets != IGNORED).sum()
            loss = torch.where(learnt > 0, loss, 0.0) * learnt / items
        return LogitsOutput(loss, **body.by_layer)


_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    Block: FusedBlock,
    RMSNorm: FusedRMSNorm,
    FeedForward: FusedFeedForward,
    Embeddings: FusedEmbeddings,
    LanguageModelHead: FusedLanguageModelHead,
}


def _fused_model(kind: type[MaskedLM]) -> type[MaskedLM]:
    """A masked language model of this family with the loss of `FusedMaskedLM`."""
    return kind if issubclass(kind, FusedMaskedLM) else type(f"Fused{kind.__name__}", (FusedMaskedLM, kind), {})


def _activated(linear: nn.Module, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """act(linear(x)): one pass after the product where it is a GELU of a projection with a bias."""
    form = _GELUS.get(act)
    if form is None or type(linear) is not nn.Linear or linear.bias is None:  # an adapter computes for itself
        return act(linear(x))
    return bias_gelu(F.linear(x, linear.weight), linear.bias, approximate=form)


def _dropped(dropout: nn.Dropout, like: Tensor) -> dict[str, Any]:
    """What the kernels drop, with a fresh seed for each call; nothing outside training."""
    if not dropout.training or dropout.p == 0.0:
        return {}
    seed = torch.randint(2**62, (1,), device=like.device)
    return {"dropout_p": dropout.p, "dropout_seed": seed}


def _obstacle(module: nn.Module) -> str | None:
    """Why a module cannot be fused, where it is one that should be."""
    kind = type(module).__name__
    if isinstance(module, Block):
        if type(module) not in (Block, FusedBlock):
            return f"is a {kind}, only Block itself is served"
        norms = (module.attention_LayerNorm, module.cross_attention_LayerNorm, module.feed_forward_LayerNorm)
        strange = {type(norm) for norm in norms} - {LayerNorm, RMSNorm, FusedRMSNorm, nn.Identity, type(None)}
        if strange:
            named = ", a ".join(sorted(f"{norm.__module__}.{norm.__qualname__}" for norm in strange))
            return f"has a {named}, only LayerNorm and RMSNorm of minitrans.layers.norms are served"
    if type(module) in (Embeddings, FusedEmbeddings):  # a family's own stay as they are
        if type(module.LayerNorm) is not LayerNorm:
            return f"is a {kind} with a {type(module.LayerNorm).__name__}, only Embeddings with a LayerNorm is served"
        tables = (module.word_embeddings, module.position_embeddings, module.token_type_embeddings)
        if any(
            table is not None and (type(table) is not nn.Embedding or table.max_norm or table.sparse)
            for table in tables
        ):
            return "has a table that is no plain nn.Embedding, without max_norm and sparse"
    return None
