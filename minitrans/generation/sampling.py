"""One token at a time: the best (greedy search), or one drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.generation.decoding import Running
from minitrans.generation.job import Job, Record, Written, require_possible
from minitrans.generation.noise import chosen


def sample(run: Running, job: Job) -> Written:
    """Writes until every text has ended; a text that has leaves the batch."""
    width = job.settings.num_return_sequences
    count = len(run.text.ids) * width
    there = torch.arange(count, device=run.text.ids.device)  # the rows that are still written
    tokens: list[list[int]] = [[] for _ in range(count)]
    record = Record(job, count)
    run.widen(width)
    while True:
        reading = run.read()
        logits = reading.scores[:, -1]
        scores = job.process(run.text, logits)
        record.keep(there, scores, logits, reading)
        is_drawn = job.settings.do_sample
        picked = pick(scores, job.noise.draw(there, width, scores.shape[1]) if is_drawn else None)
        run.append(picked[:, None])
        for row, token in zip(there.tolist(), picked.tolist(), strict=True):
            tokens[row].append(token)
        if job.streamer is not None:
            shown = torch.full((count,), job.settings.pad or 0)
            shown[there.cpu()] = picked.cpu()
            job.streamer.put(shown)
        going = (~job.ended(run.text)).nonzero().squeeze(1)
        if len(going) == 0:
            break
        if len(going) < len(there):
            run.select(going)
            there = there[going]
    return record.written(tokens, cache=run.cache if len(there) == count else None)


def pick(scores: Tensor, numbers: Tensor | None) -> Tensor:
    """(n) tokens from scores (n, V): the best, or drawn by `numbers` of `Noise`."""
    picked = scores.argmax(dim=-1, keepdim=True) if numbers is None else chosen(scores, numbers, 1)
    require_possible(scores.gather(1, picked))
    return picked.squeeze(1)
