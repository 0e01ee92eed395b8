"""Contrastive search: the next token is likely, and unlike what has been read (Su et al. 2022).

Of the `top_k` likeliest tokens v it takes the one with the largest (1 - α) p(v) - α max cos(h_v, h_j), where h are last hidden
states, j runs over the tokens of the text, and α is `penalty_alpha`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from minitrans.generation.decoding import Running
from minitrans.generation.job import Job, Record, Written, require_possible


def contrastive_search(run: Running, job: Job) -> Written:
    """Writes until every text has ended; a text that has leaves the batch."""
    settings, count = job.settings, len(run.text.ids)
    there = torch.arange(count, device=run.text.ids.device)
    tokens: list[list[int]] = [[] for _ in range(count)]
    record = Record(job, count)
    reading = run.read(states=True)
    logits, seen = reading.scores[:, -1], normalize(reading.states[-1], dim=-1)  # (n, V), (n, T, D)
    while True:
        scores = job.process(run.text, logits)
        record.keep(there, scores, logits, reading)
        likely, candidates = scores.softmax(dim=-1).topk(min(settings.top_k, scores.shape[1]), dim=1)  # (n, k)
        width = candidates.shape[1]
        # a text for each candidate, which is read before one is chosen
        real = run.text.real
        run.select(torch.arange(len(there), device=there.device).repeat_interleave(width))
        run.append(candidates.view(-1, 1))
        reading = run.read(states=True)
        states = normalize(reading.states[-1][:, -1], dim=-1).view(len(there), width, -1)  # (n, k, D)
        chosen = _best(likely, states, seen, real, settings.penalty_alpha or 0.0)  # (n)
        picked = candidates.gather(1, chosen[:, None]).squeeze(1)
        require_possible(scores.gather(1, picked[:, None]))
        rows = torch.arange(len(there), device=there.device) * width + chosen
        run.select(rows)
        for row, token in zip(there.tolist(), picked.tolist(), strict=True):
            tokens[row].append(token)
        if job.streamer is not None:
            shown = torch.full((count,), settings.pad or 0)
            shown[there.cpu()] = picked.cpu()
            job.streamer.put(shown)
        going = (~job.ended(run.text)).nonzero().squeeze(1)
        if len(going) == 0:
            return record.written(tokens)
        reading = reading.select(rows[going])
        logits = reading.scores[:, -1]
        state = states.gather(1, chosen[:, None, None].expand(-1, -1, states.shape[2]))
        seen = torch.cat([seen, state], dim=1)
        if len(going) < len(there):
            run.select(going)
            there, seen = there[going], seen[going]


def _best(likely: Tensor, states: Tensor, seen: Tensor, real: Tensor, alpha: float) -> Tensor:
    """(n) the number of the best candidate, from probabilities (n, k), directions (n, k, D), and those before, (n, T, D)."""
    alike = (states @ seen.transpose(1, 2)).masked_fill(~real[:, None], -torch.inf).amax(dim=-1)  # (n, k)
    value = (1 - alpha) * likely - alpha * alike
    return value.masked_fill(likely == 0, -torch.inf).argmax(dim=-1)
