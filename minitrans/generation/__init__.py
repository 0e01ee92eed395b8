"""Writing text with a model: settings, what becomes of the scores at each step, when a text ends, and one search a file.

The package knows a model only by its call (`decoding.Call`) and by its cache. A search is a function of a `Running` batch
of texts and a `Job`, and returns what it has `Written`. Every number of a text (its length, its limit, what it repeats) is
its own: padding and the other texts of the batch do not count, and a text that has ended leaves the batch.
"""
