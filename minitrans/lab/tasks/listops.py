"""ListOps (Nangia & Bowman 2018), long as in the Long Range Arena (Tay et al. 2021): [MAX 3 [MED 1 9 4 ] 0 ] is 4.

The grammar: a node is an operator with probability 1/4 and a digit otherwise, always a digit at depth 10; an operator is one
of four and takes 2 to 10 arguments, their number drawn evenly. Trees of no more than a quarter of the length, or of more than
the whole, are drawn again: 500 to 2,000 tokens, as published, at length 2,000. Parentheses of the published files say nothing
that the brackets do not, and are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from minitrans.lab.tasks.task import Examples, Task, generated

Operator = Callable[[list[int]], int]
DEEPEST, MOST_ARGUMENTS, OPERATOR_SHARE = 10, 10, 0.25
PADDING, FIRST_DIGIT, CLOSE = 0, 1, 11  # ids; operators follow


def _median(values: list[int]) -> int:
    """The middle one; of two the mean, rounded down."""
    ranked, middle = sorted(values), len(values) // 2
    return ranked[middle] if len(values) % 2 else (ranked[middle - 1] + ranked[middle]) // 2


def _sum_modulo(values: list[int]) -> int:
    return sum(values) % 10


OPERATORS: dict[str, Operator] = {"MIN": min, "MAX": max, "MED": _median, "SM": _sum_modulo}
VOCABULARY = CLOSE + 1 + len(OPERATORS)


def listops(*, length: int = 2000) -> Task:
    """Ten classes, one label a text; padding at the end."""
    return generated("listops", _draw, vocabulary=VOCABULARY, classes=10, causal=False, length=length)


def _draw(count: int, length: int, generator: torch.Generator) -> Examples:
    source = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
    trees = [_tree_of(source, length // 4, length) for _ in range(count)]
    longest = max(len(tokens) for tokens, _ in trees)
    ids = torch.tensor([tokens + [PADDING] * (longest - len(tokens)) for tokens, _ in trees])
    return Examples(ids, torch.tensor([value for _, value in trees]), ids != PADDING)


def _tree_of(source: random.Random, shortest: int, longest: int) -> tuple[list[int], int]:
    """Tokens and value of a tree of shortest < length < longest."""
    while True:
        tokens: list[int] = []
        value = _grow(source, 1, tokens, longest)
        if shortest < len(tokens) < longest:
            return tokens, value


def _grow(source: random.Random, depth: int, tokens: list[int], longest: int) -> int:
    """Writes a node behind the tokens, and returns its value; one that grows too long is left as it is."""
    if depth >= DEEPEST or source.random() > OPERATOR_SHARE:
        digit = source.randrange(10)
        tokens.append(FIRST_DIGIT + digit)
        return digit
    number, operator = source.randint(2, MOST_ARGUMENTS), source.randrange(len(OPERATORS))
    tokens.append(CLOSE + 1 + operator)
    values = []
    for _ in range(number):
        if len(tokens) >= longest:
            return 0
        values.append(_grow(source, depth + 1, tokens, longest))
    tokens.append(CLOSE)
    return list(OPERATORS.values())[operator](values)
