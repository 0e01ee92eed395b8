"""From files to the batches of a step: readers of formats, encoding with a tokenizer, packing, and the order of examples."""
