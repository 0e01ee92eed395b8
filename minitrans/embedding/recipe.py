"""How a sentence-transformers folder makes a vector of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from minitrans.embedding.head import POOLINGS
from minitrans.files import printable


@dataclass(frozen=True)
class Module:
    """One part of the folder.

    Attributes:
        kind: "Transformer", "Pooling", "Dense" or "Normalize".
        path: its folder, relative to that of modules.json; "" = that folder itself.
    """

    kind: str
    path: str


@dataclass(frozen=True)
class Recipe:
    """What happens to a text besides the body.

    Attributes:
        pooling: names out of `POOLINGS`; the results of several are joined.
        max_length: longer texts are cut to this many tokens; None = the tokenizer's and the model's own limit.
        lower_case: lower-case the texts first.
        head: what follows the pooling: "Dense" layers, by their folders, and "Normalize".
        prompts: by name, what may be put before every text.
        default_prompt: the name of the one that is, unless the caller says otherwise.
        prompt_counts: whether the tokens of a prompt take part in the pooling.
        body: the folder of the body inside the checkpoint's.
        similarity: what its vectors are compared by; None = the cosine.
        truncate_dim: how many numbers of each vector are kept; None = all.
    """

    pooling: tuple[str, ...] = ("mean",)
    max_length: int | None = None
    lower_case: bool = False
    head: tuple[Module, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    prompt_counts: bool = True
    body: str = ""
    similarity: str | None = None
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a pooling that there is not."""
        check_pooling(self.pooling)


def check_pooling(names: tuple[str, ...]) -> None:
    """Raises ValueError unless all of these, and at least one, are in `POOLINGS`."""
    for name in names or ("",):
        if name not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {printable(name)!r}")
