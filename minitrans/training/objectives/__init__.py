"""What models learn: of hidden and of following tokens, of pairs of texts, from teachers, and from labels."""
