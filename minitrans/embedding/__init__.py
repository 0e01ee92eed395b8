"""Texts to vectors: run the body, pool over the real tokens, normalise (Reimers & Gurevych 2019, "Sentence-BERT")."""

from minitrans.embedding.batching import length_sorted_batches
from minitrans.embedding.encoder import Encoder, longest_input
from minitrans.embedding.fingerprint import fingerprint
from minitrans.embedding.pooling import POOLINGS, pool
from minitrans.embedding.recipe import Recipe, body_place, read_recipe
from minitrans.embedding.windowing import WindowRule, windows

__all__ = [
    "POOLINGS",
    "Encoder",
    "Recipe",
    "WindowRule",
    "body_place",
    "fingerprint",
    "length_sorted_batches",
    "longest_input",
    "pool",
    "read_recipe",
    "windows",
]
