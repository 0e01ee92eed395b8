"""Texts to vectors: run the body, pool over the real tokens, normalise (Reimers & Gurevych 2019, "Sentence-BERT")."""

from minitrans.embedding.batching import windows
from minitrans.embedding.encoder import Encoder
from minitrans.embedding.estimator import EncoderVectorizer
from minitrans.embedding.folder import body_place, read_recipe
from minitrans.embedding.head import POOLINGS, pool
from minitrans.embedding.recipe import Recipe

__all__ = ["POOLINGS", "Encoder", "EncoderVectorizer", "Recipe", "body_place", "pool", "read_recipe", "windows"]
