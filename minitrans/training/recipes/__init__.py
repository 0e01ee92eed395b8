"""One task a file: how its data are read, what a model learns from them, and how its answers are scored."""
