"""Tokenizers: text to ids and back, from the vocabulary files of public checkpoints.

To read: `tokenizer` and `call`; then `specs` and the three kinds of vocabulary. `guards` and `patterns` are the basement.
"""
