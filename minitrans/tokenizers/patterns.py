"""How long a regular expression from a file may take: a bound from its text alone (the theory: Weideman et al. 2016).

The engine of the `tokenizers` library backtracks: the ways to match a part multiply the attempts at the next part that
may fail. At each place of n letters `(a+)+$` takes 2^n steps and `a*a*b` n^2; n is allowed, as published patterns need.
(It panics after ten million steps of one match; patterns that stay just below at every place would run for hours.)
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_LONGEST = 5_000
_ATOM = re.compile(r"\\[pPxo]\{[^{}]*\} | \\[0adDefhHnNOrRsStuvwWx] | \\[^\w] | [^\\()\[|*+?^$]", re.X | re.S)
_ANCHOR = re.compile(r"[\^$] | \\[AbBGKzZ]", re.X)
_GROUP = re.compile(r"\((?: (?![?*]) | \?(?: [im]*(?:-[im]+)?: | <[^\W\d]\w*> | (?P<alone> > | <?[=!]) ))", re.X)
_COUNT = re.compile(
    r"(?P<sign> [*+?])(?P<suffix> [?+]?) | \{(?=,?\d) (?P<least> \d*) (?P<comma> ,?) (?P<most> \d*) \}", re.X
)
_LITERAL = re.compile(r"[A-Za-z0-9<>'](?![*?{])")
_INSIDE_CLASS = re.compile(
    r"\\[^cCMQ] | \[:\^?[a-z]{1,12}:\] | (?P<opens> \[(?!:)\^?(?!\])) | (?P<closes> \]) | [^\[\\]", re.X | re.S
)


class _Steps(NamedTuple):
    """What it may take to match a part of a pattern at one position: ways to match it, steps until all have been tried,
    steps until it has failed, steps to the first match (beyond the characters passed), and whether it may fail."""

    ways: float
    all: float
    lost: float
    won: float
    fails: bool


_CHARACTER = _Steps(ways=1, all=1, lost=1, won=1, fails=True)


def slowness(pattern: str) -> float:
    """How much of the time that a file's patterns may take together this one takes; infinite if it is not understood.

    Back references, recursion, conditions, callouts and free spacing are not.
    """
    if len(pattern) > _LONGEST:
        return math.inf
    try:
        bounds = [_Reader(pattern.removeprefix("(?i)"), ahead).read() / (1000 + 250 * ahead) for ahead in (1, 10_000)]
    except (ValueError, ArithmeticError, RecursionError):
        return math.inf
    return max(len(pattern) / _LONGEST, *bounds)


class _Reader:
    """Reads a pattern and adds up the steps, for a text of which `ahead` characters are left."""

    def __init__(self, pattern: str, ahead: int) -> None:
        self.pattern, self.ahead, self.at = pattern, ahead, 0

    def read(self) -> float:
        found = self.alternatives()
        if self.at < len(self.pattern):
            raise ValueError(self.pattern[self.at :])
        return found.lost + found.won

    def take(self, what: re.Pattern[str]) -> re.Match[str] | None:
        found = what.match(self.pattern, self.at)
        self.at = found.end() if found else self.at
        return found

    def alternatives(self) -> _Steps:
        starts, branches = [self.at], [self.sequence()]
        while self.pattern.startswith("|", self.at):
            self.at += 1
            starts.append(self.at)
            branches.append(self.sequence())
        ways, all_, lost, _, _ = map(math.fsum, zip(*branches, strict=True))
        heads = [found[0].lower() for at in starts if (found := _LITERAL.match(self.pattern, at))]
        if len(set(heads)) == len(branches):  # no two of them match at the same place
            ways = max(branch.ways for branch in branches)
        fails = all(branch.fails for branch in branches)
        won = (0 if fails else lost) + max(branch.won for branch in branches)
        return _Steps(ways, all_, lost if fails else 0, won, fails)

    def sequence(self) -> _Steps:
        items: list[_Steps] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            item = self.item()
            while count := self.take(_COUNT):
                item = self.repeated(item, count)
            items.append(item)
        last = max((i for i, item in enumerate(items) if item.fails), default=-1)
        ways, all_, lost = 1.0, 1.0, 0.0
        for i, item in enumerate(items):
            all_ += ways * item.all
            if i <= last:  # what may not fail ends the search
                lost += ways * (item.all if i < last else item.lost)
            ways *= item.ways
        return _Steps(ways, all_, lost, lost + sum(item.won for item in items), last >= 0)

    def item(self) -> _Steps:
        if self.take(_ATOM):
            return _CHARACTER
        if self.take(_ANCHOR):
            return _CHARACTER._replace(all=2)  # not the character itself: nothing is passed
        if self.pattern.startswith("[", self.at):
            depth = 0
            while part := self.take(_INSIDE_CLASS):
                depth += bool(part["opens"]) - bool(part["closes"])
                if depth == 0:
                    return _CHARACTER
        if group := self.take(_GROUP):
            inside = self.alternatives()
            if self.pattern.startswith(")", self.at):
                self.at += 1
                return inside if group["alone"] is None else self.once(inside, group["alone"] != ">")
        raise ValueError(self.pattern[self.at :])

    def repeated(self, item: _Steps, count: re.Match[str]) -> _Steps:
        if count["sign"]:
            least, most = int(count["sign"] == "+"), 1 if count["sign"] == "?" else self.ahead
        else:
            least = int(count["least"] or 0)
            most = int(count["most"] or (self.ahead if count["comma"] else least))
        least, most = min(least, most), max(least, most, 1)
        if item is _CHARACTER:
            found = _Steps(most - least + 1, most, least, 1, least > 0)
        else:
            growth = math.inf if most * math.log(item.ways) > 50 else item.ways**most
            lost = least and (item.lost if least == 1 else least * growth * item.all)
            ways = growth * (most - least + 1)
            found = _Steps(ways, ways * item.all + most, lost, most * (item.lost + item.won), item.fails and least > 0)
        return self.once(found) if count["suffix"] == "+" else found

    def once(self, found: _Steps, looks: bool = False) -> _Steps:
        """The steps of a part that is not entered again after its first match; `looks`: that passes nothing."""
        whole = found.lost + found.won + min(found.all, self.ahead)
        return _Steps(1, whole, whole if looks else found.lost, 0 if looks else found.won, found.fails or looks)
