"""Assisted decoding: tokens are guessed, the model reads several guesses at once, and keeps those that it would have chosen.

A text is token for token what greedy search or sampling would have written. Drawing is part of that: a token is chosen by
random numbers that belong to its place in the text, which the guess was drawn by too (Daliri et al. 2024, drafter-invariant
speculative decoding), so that near distributions mostly agree, and the distribution is exactly the model's.

The texts of a batch go on by different numbers of tokens; what the model remembers is moved so that they end together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.generation.decoding import Running
from minitrans.generation.job import Job, Record, Written
from minitrans.generation.sampling import pick
from minitrans.generation.text import Text


class Numbers:
    """The random numbers of each place of the texts, as `sample` would draw them."""

    def __init__(self, job: Job, rows: Tensor) -> None:
        self._job, self._rows = job, rows
        self._steps: list[Tensor] = []

    def draw(self, text: Text, scores: Tensor) -> Tensor:
        """(n) the next tokens of these texts."""
        if not self._job.settings.do_sample:
            return pick(scores, None)
        steps = text.new.tolist()
        while len(self._steps) <= max(steps):
            self._steps.append(self._job.noise.draw(self._rows, 1, scores.shape[1]))
        places = zip(steps, text.prompt.tolist(), strict=True)
        return pick(scores, torch.stack([self._steps[step][prompt] for step, prompt in places]))


def assisted(run: Running, job: Job) -> Written:
    """Writes until every text has ended; a text that has leaves the batch."""
    drafter, count = job.drafter, len(run.text.ids)
    assert drafter is not None
    if job.streamer is not None and count > 1:
        raise ValueError("a streamer gets the tokens of one text here: give one prompt")
    numbers, record = Numbers(job, run.text.prompt), Record(job, count)
    tokens: list[list[int]] = [[] for _ in range(count)]
    end = int((run.text.begin + run.text.most).max())  # no column is behind it
    while True:
        text = run.text
        room = (text.most - text.new).clamp(max=end - text.ids.shape[1]) - 1
        guesses, offered = drafter.draft(text, room, numbers.draw)
        run.append(guesses)
        width = guesses.shape[1]
        read = run.read(width + 1).scores  # (n, width + 1, V)
        there, now, written = torch.arange(len(text.ids), device=offered.device), text, torch.zeros_like(offered)
        ended = torch.zeros_like(offered, dtype=torch.bool)
        for place in range(width + 1):
            scores = job.process(now, read[there, place])
            picked = numbers.draw(now, scores)
            now = now.append(picked[:, None])
            record.keep(now.prompt, scores, read[there, place])
            for prompt, token in zip(now.prompt.tolist(), picked.tolist(), strict=True):
                tokens[prompt].append(token)
            written[there] += 1
            ends = job.ended(now)
            ended[there] = ends
            if place == width:
                break
            right = ~ends & (offered[there] > place) & (picked == guesses[there, place])
            there, now = there[right], now.select(right.nonzero().squeeze(1))
            if len(there) == 0:
                break
        drafter.learn(written - 1)
        if job.streamer is not None:
            job.streamer.put(torch.tensor(tokens[0][-int(written[0]) :]))
        left = (~ended).nonzero().squeeze(1)
        if len(left) == 0:
            return record.written(tokens)
        last = torch.tensor([tokens[prompt][-1] for prompt in text.prompt.tolist()], device=offered.device)
        # the guesses that were right, then the token that the model has chosen itself
        whole = text.append(torch.cat([guesses, guesses.new_zeros(len(guesses), 1)], dim=1))
        whole.ids.scatter_(1, (text.ids.shape[1] + written - 1)[:, None], last[:, None])
        if len(left) < len(ended):
            run.select(left)
            drafter.select(left)
            whole, written = whole.select(left), written[left]
        run.move_to(whole.cut(whole.length - (width + 1) + written), 1)
