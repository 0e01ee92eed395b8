"""Tokenizers: text to ids and back, from the vocabulary files of public checkpoints."""
