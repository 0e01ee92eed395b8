"""What variants share that only add something to the scores."""

from __future__ import annotations

from minitrans.attention.bias import AttentionBias, summed
from minitrans.attention.mask import AttentionMask
from minitrans.attention.variant import CallSizes, Variant


class AddedBias(Variant):
    """Overrides `added`. It runs on every backend that takes such a bias."""

    laws = ("rows sum to one", "linear in the values")

    def added(self, sizes: CallSizes) -> AttentionBias:
        """What the scores of this call get, before the softmax."""
        raise NotImplementedError

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The mask unchanged; the variant's own added to the bias."""
        return mask, summed(bias, self.added(sizes))
