"""Beam search: the `num_beams` likeliest texts are written side by side, and those that end are kept apart.

A finished text scores its log-probability divided by its new tokens to the power `length_penalty`. Of each prompt, at every step:

- candidates are the best continuations of all its beams, at least twice as many as beams, so that enough do not end;
  with do_sample they are drawn without replacement instead (Kool et al. 2019);
- those among the first `num_beams` that end are finished, if they beat the worst of as many finished texts;
- the best of the others are the beams of the next step.

It is done when it has `num_beams` finished texts and, by `early_stopping`: True, at once; False, when the best beam, scored as if
it ended here, is no better than the worst of them; "never", when it is not even if it could become as long as it may.

Groups (Vijayakumar et al. 2018, diverse beam search) are beam searches side by side that take their steps in turn: a token costs
`diversity_penalty` for each beam of the groups before that takes it in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minitrans.generation.decoding import Running
from minitrans.generation.job import Job, Record, Written
from minitrans.generation.noise import chosen
from minitrans.generation.settings import Settings
from minitrans.generation.text import Text


class Finished(NamedTuple):
    """A text that has ended.

    Attributes:
        score: by its length.
        tokens: its new ones.
        path: the row of the batch that each comes from.
    """

    score: float
    tokens: list[int]
    path: list[int]


class Candidates(NamedTuple):
    """Continuations of the beams of n prompts, the best first.

    Attributes:
        values: (n, c) log-probabilities of the whole texts; -inf where there is no such continuation.
        beams: (n, c) which beam each continues.
        tokens: (n, c) by which token.
    """

    values: Tensor
    beams: Tensor
    tokens: Tensor

    def take(self, which: Tensor) -> Candidates:
        """(n, k) of them."""
        return Candidates(*(each.gather(1, which) for each in self))


class Beams:
    """The beams of one group, of all prompts that are not done.

    Args:
        job: the search.
        text: of the prompts, a row each.
        names: (B, k) the row of the batch that each beam is called by.
    """

    def __init__(self, job: Job, text: Text, names: Tensor) -> None:
        self.job, self.names = job, names
        self.prompts, self.most = text.prompt, text.most  # (n) each
        self.width, self.steps = names.shape[1], 0
        self.finished: list[list[Finished]] = [[] for _ in range(len(names))]
        # (n, k) log-probabilities of the texts; at first all beams are the prompt: the others are none
        self.scores = torch.full(names.shape, -torch.inf, device=names.device)
        self.scores[:, 0] = 0.0
        self.path = names.new_zeros(*names.shape, 0)  # (n, k, steps)

    def advance(self, text: Text, scores: Tensor) -> tuple[Tensor, Tensor]:
        """One step: from the beams (n · k) and the processed scores of their next tokens (n · k, V) to those of the next step.

        Returns:
            Of each beam of the next step the number of the beam that it continues, and its token, (n' · k) each.
        """
        found = self.candidates(text, scores.view(len(self.prompts), self.width, -1))
        rows = torch.arange(len(self.prompts), device=scores.device)[:, None] * self.width + found.beams
        texts = text.select(rows.flatten()).append(found.tokens.view(-1, 1))
        path = torch.cat([self.path.flatten(0, 1)[rows], self.names.flatten()[rows][..., None]], dim=2)  # (n, c, steps)
        self.steps += 1
        ends = self.job.ended(texts).view(rows.shape)
        self.finish(found, ends, texts, path)
        going, chosen_ones = self.going_on(found, ends, texts)
        left = self.not_done(found, ends, going)
        self.scores, self.path = (
            going.values[left],
            path.gather(1, chosen_ones[..., None].expand(-1, -1, self.steps))[left],
        )
        rows = rows.gather(1, chosen_ones)[left]
        self.prompts, self.most, self.names = self.prompts[left], self.most[left], self.names[left]
        return rows.flatten(), going.tokens[left].flatten()

    def candidates(self, text: Text, scores: Tensor) -> Candidates:
        """From the beams and the scores of their next tokens, (n, k, V)."""
        whole = (scores + self.scores[..., None]).flatten(1)  # (n, k · V)
        count = min(max(2, 1 + len(self.job.settings.eos)) * self.width, whole.shape[1])
        if self.job.settings.do_sample:
            order = chosen(whole, self.job.noise.draw(self.prompts, 1, whole.shape[1]), count)
        else:
            order = whole.topk(count, dim=1).indices
        vocabulary = scores.shape[2]
        return Candidates(whole.gather(1, order), order // vocabulary, order % vocabulary)

    def finish(self, found: Candidates, ends: Tensor, texts: Text, path: Tensor) -> None:
        """Keeps the texts that end and may."""
        may = self.may_finish(found, ends, texts)
        penalty = self.steps**self.job.settings.length_penalty
        for row, place in may.nonzero().tolist():
            text = row * ends.shape[1] + place
            score, tokens = found.values[row, place].item() / penalty, self.new_tokens(texts, text)
            one = Finished(score, tokens, path[row, place].tolist())
            self.finished[int(self.prompts[row])].append(one)
        for row in set(may.nonzero()[:, 0].tolist()):
            kept = self.finished[int(self.prompts[row])]
            kept.sort(key=lambda one: -one.score)  # what is there already comes before what is as good
            del kept[self.width :]

    def may_finish(self, found: Candidates, ends: Tensor, texts: Text) -> Tensor:
        """(n, c) which candidates are finished texts: those among the first that end."""
        first = torch.arange(ends.shape[1], device=ends.device) < self.width
        return ends & first & found.values.isfinite()

    @staticmethod
    def new_tokens(texts: Text, number: int) -> list[int]:
        """The new tokens of one text."""
        tokens: list[int] = texts.ids[number, int(texts.begin[number]) :].tolist()
        return tokens

    def going_on(self, found: Candidates, ends: Tensor, texts: Text) -> tuple[Candidates, Tensor]:
        """The beams of the next step, and their numbers among the candidates, (n, k)."""
        values = found.values.masked_fill(ends, -torch.inf)
        which = values.topk(self.width, dim=1).indices
        return found._replace(values=values).take(which), which

    def not_done(self, found: Candidates, ends: Tensor, going: Candidates) -> Tensor:
        """The numbers of the prompts that can still get better, or have too few texts."""
        settings = self.job.settings
        alive = (~ends & found.values.isfinite()).any(dim=1).tolist()
        best, most = going.values[:, 0].tolist(), self.most.tolist()
        left = [
            row
            for row, prompt in enumerate(self.prompts.tolist())
            if alive[row] and self._can_improve(self.finished[prompt], best[row], most[row], settings)
        ]
        return torch.tensor(left, dtype=torch.long, device=going.values.device)

    def _can_improve(self, finished: Sequence[Finished], best: float, most: int, settings: Settings) -> bool:
        if len(finished) < self.width:
            return True
        is_never = settings.early_stopping == "never" and settings.length_penalty > 0
        reachable = best / (most if is_never else self.steps) ** settings.length_penalty
        return settings.early_stopping is not True and reachable > finished[-1].score


def beam_search(run: Running, job: Job) -> Written:
    """Searches until every prompt is done; a prompt that is leaves the batch."""
    return search_beams(run, job, Beams)


def search_beams(run: Running, job: Job, kind: type[Beams]) -> Written:
    """The loop of `beam_search`, for beams of a kind."""
    settings, device, prompts = job.settings, run.text.ids.device, len(run.text.ids)
    names = torch.arange(prompts * settings.num_beams, device=device)
    record = Record(job, len(names))
    by_group = names.view(prompts, settings.num_beam_groups, -1)
    groups = [kind(job, run.text, by_group[:, group]) for group in range(settings.num_beam_groups)]
    run.widen(settings.num_beams)
    reading = run.read()
    if len(groups) > 1:  # from here on the beams of a group lie together
        order = by_group.transpose(0, 1).flatten()
        run.select(order)
        reading = reading.select(order)
    while True:
        logits = reading.scores[:, -1]
        scores = logits.log_softmax(dim=-1)
        taken = scores.new_zeros(prompts, scores.shape[1]) if len(groups) > 1 else None  # by how many beams before
        start, parents, tokens = 0, [], []
        for group in groups:
            mine = torch.arange(start, start + group.names.numel(), device=device)
            if len(mine) == 0:
                continue
            text, own, read = run.text, scores, reading
            if taken is not None:
                text, own, read = text.select(mine), own[mine], read.select(mine)
                own = own - settings.diversity_penalty * taken[text.prompt]
            own = job.process(text, own)
            record.keep(group.names.flatten(), own, read.scores[:, -1], read)
            start += len(mine)
            which, following = group.advance(text, own)
            parents.append(mine[which])
            tokens.append(following)
            if taken is not None:
                chosen_by = group.prompts.repeat_interleave(group.width)
                taken.index_put_((chosen_by, following), taken.new_ones(len(following)), accumulate=True)
        rows = torch.cat(parents)
        if len(rows) == 0:
            return _written(groups, record, settings, prompts)
        run.select(rows)
        run.append(torch.cat(tokens)[:, None])
        reading = run.read()


def _written(groups: Sequence[Beams], record: Record, settings: Settings, prompts: int) -> Written:
    """The best texts of each prompt, of all its groups."""
    best: list[Finished] = []
    for prompt in range(prompts):
        found = sorted((one for group in groups for one in group.finished[prompt]), key=lambda one: -one.score)
        if len(found) < settings.num_return_sequences:
            raise ValueError(
                f"prompt {prompt}: num_return_sequences={settings.num_return_sequences}, but only {len(found)} texts can be "
                "written: ask for fewer, look at what is suppressed, forbidden or forced, and whether the model gives NaN"
            )
        best += found[: settings.num_return_sequences]
    scores = torch.tensor([one.score for one in best], dtype=groups[0].scores.dtype, device=groups[0].names.device)
    return record.written(
        [one.tokens for one in best], sequences_scores=scores, beam_indices=[one.path for one in best]
    )
