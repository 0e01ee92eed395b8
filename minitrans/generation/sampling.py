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
        logits = run.read().scores[:, -1]
        scores = job.process(run.text, logits)
        record.keep(there, scores, logits)
        picked = pick(scores, there, job)
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
    return Written(tokens, scores=record.scores, logits=record.logits, cache=run.cache if len(there) == count else None)


def pick(scores: Tensor, rows: Tensor, job: Job) -> Tensor:
    """(n) the next token of each of these rows of the batch, from its scores (n, V)."""
    if job.settings.do_sample:
        numbers = job.noise.draw(rows, job.settings.num_return_sequences, scores.shape[1])
        picked = chosen(scores, numbers, 1)
    else:
        picked = scores.argmax(dim=-1, keepdim=True)
    require_possible(scores.gather(1, picked))
    return picked.squeeze(1)
