"""The parts of a Transformer: each takes plain arguments, so that it can be tried in one line."""
