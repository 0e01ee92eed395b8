"""A file of texts to a file of vectors: of any size, by any number of processes, killed and resumed at any moment."""
