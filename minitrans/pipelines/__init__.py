"""From texts to answers: one file a task, each a tokenizer, a model with a head, and what its scores mean."""
