"""What enters the first block of an encoder: embeddings looked up, summed and normalised."""
