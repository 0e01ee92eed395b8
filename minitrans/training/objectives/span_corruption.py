"""Spans of a text are cut out and written by the decoder (Raffel et al. 2020, "T5", section 3.1.4 and figure 2).

Thank you for inviting me to your party last week .
encoder: Thank you <0> me to your party <1> week .      decoder: <0> for inviting <1> last <2>
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minitrans.training.objective import Example, HeadObjective


class SpanCorruption(HeadObjective):
    """Examples are `input_ids` of plain text, without an end token; see `raw_length` for how long they should be.

    Args:
        model: a pair of encoder and decoder.
        sentinels: ids that stand for spans, in order: those of <extra_id_0>, <extra_id_1>, ...
        end: id that ends source and target.
        share: of the tokens that are cut out.
        mean: length of the spans.
    """

    def __init__(
        self, model: nn.Module, sentinels: Sequence[int], end: int, *, share: float = 0.15, mean: float = 3.0
    ) -> None:
        super().__init__(model)
        self.sentinels, self.end, self.share, self.mean = list(sentinels), end, share, mean

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """`input_ids` with a sentinel for each span, and `labels` with a sentinel for what is between the spans.

        Raises:
            ValueError: for a text of one token, or one with more spans than there are sentinels.
        """
        ids = torch.as_tensor(example["input_ids"])
        noise = noise_mask(len(ids), self.share, self.mean, generator)
        ends = torch.tensor([self.end])
        source = torch.cat([self._stand_in(ids, noise), ends])
        target = torch.cat([self._stand_in(ids, ~noise), ends])
        return {"input_ids": source, "labels": target}

    def _stand_in(self, ids: Tensor, cut: Tensor) -> Tensor:
        """The ids, with a sentinel in place of each stretch that is cut."""
        starts = cut & ~torch.cat([cut.new_zeros(1), cut[:-1]])
        count = int(starts.sum())
        if count > len(self.sentinels):
            raise ValueError(
                f"{count} spans need as many sentinels, there are {len(self.sentinels)}: take shorter texts"
            )
        ids = ids.clone()
        ids[starts] = torch.tensor(self.sentinels[:count])
        return ids[~cut | starts]


def noise_mask(length: int, share: float, mean: float, generator: torch.Generator) -> Tensor:
    """(T) bool, True in the spans: stretches of text and spans take turns, text first, all cuts being equally likely.

    Raises:
        ValueError: for fewer than 2 tokens, of which none could stay beside a span.
    """
    if length < 2:
        raise ValueError(f"a text needs 2 tokens for one to be cut out, got {length}")
    noise, count = _sizes(length, share, mean)
    spans, texts = (_segments(total, count, generator) for total in (noise, length - noise))
    lengths = torch.stack([texts, spans], dim=1).flatten()
    return (torch.arange(2 * count) % 2 == 1).repeat_interleave(lengths)


def _sizes(length: int, share: float, mean: float) -> tuple[int, int]:
    """How many tokens are cut out, and in how many spans."""
    noise = min(max(round(length * share), 1), length - 1)
    return noise, min(max(round(noise / mean), 1), length - noise)


def _segments(total: int, count: int, generator: torch.Generator) -> Tensor:
    """(count) lengths of at least 1 with this sum, each way to cut as likely as any other."""
    cuts = torch.randperm(total - 1, generator=generator)[: count - 1].sort().values + 1
    return torch.cat([torch.tensor([0]), cuts, torch.tensor([total])]).diff()


def raw_length(length: int, share: float = 0.15, mean: float = 3.0) -> tuple[int, int]:
    """The longest text whose source, with sentinels and its end, has at most `length` tokens; and the length of its target.

    Raises:
        ValueError: for a length without room for a token, a sentinel and the end.
    """
    if length < 3:
        raise ValueError(f"a source has a token, a sentinel and an end at least, got length={length}")
    text, target = 2, 0
    while True:
        noise, count = _sizes(text, share, mean)
        if text - noise + count + 1 > length:
            return text - 1, target
        text, target = text + 1, noise + count + 1
