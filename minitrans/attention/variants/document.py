"""Document attention: tokens of several texts in one row see their own text only (Krell et al. 2021, "Packed BERT")."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import AttentionMask, MaskRule
from minitrans.attention.variant import CallSizes, Identity, Variant


class Document(Variant):
    """A new text begins where the positions do not grow: hand them to the model, position_ids 0 1 2 0 1 0 1 2 3."""

    name = "document"
    identity = Identity()  # positions that grow from end to end
    laws = ("rows sum to one", "linear in the values")
    whole_texts = True

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The mask, narrowed to pairs of the same text; the bias unchanged."""
        sizes.require_whole(self.name)
        if sizes.positions is None:
            raise ValueError("document attention needs to know where texts begin: Context(positions=...)")
        texts = pad((sizes.positions.diff(dim=-1) <= 0).long().cumsum(-1), (1, 0))  # (B, T), or (N)
        if sizes.layout is None:
            several = int(len(texts) > 1)
            rule = MaskRule(lambda b, h, i, j: texts[b * several, i] == texts[b * several, j], len(texts))
            return mask.narrowed(rule), bias
        several = int(len(sizes.layout.cu_seqlens) > 2)
        starts = sizes.layout.cu_seqlens[:-1].long()
        last = max(len(texts) - 1, 0)  # a pair past the end of its sequence is looked up and not looked at

        def same(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            b = b * several
            return texts[(starts[b] + i).clamp(max=last)] == texts[(starts[b] + j).clamp(max=last)]

        return mask.narrowed(MaskRule(same, len(starts))), bias
