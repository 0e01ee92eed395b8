"""One file per variant of attention. What all of them keep, fixed here so that numbers can be compared:

**Scale.** A score is s = cap(scale · q·k) + bias, the very number that the softmax would see; whatever a variant does to
scores it does to s. Feature maps have no s: they take scale^(1/2) q and scale^(1/2) k, so that phi(q)·phi(k) stands for
exp(scale · q·k), and a bias multiplies it by exp(bias).

**n.** The number of keys that this query may attend to: padding, other documents, the future under a causal mask and
what a pattern forbids do not count. A bias of -1e4 or less is a mask by other means, and forbids.

**Places** (first token, blocks, segments) are counted from the first real token of each sequence, so that padding moves
none, and the last block or token is that of the real ones.

**A masked score** contributes nothing: neither to a sum nor to a normaliser, maximum, threshold, mean of a block, or
neighbour in a convolution, where it enters as 0. **An empty row** gives output 0 and weights 0, with zero gradients.

**Dropout** acts on weights; a mechanism that holds none drops whole values (keys) instead, which keeps the mean too.

A class says in `identity` with which options and parameters it equals softmax attention, and in `laws` what else it keeps.
Parameters begin at that place where there is one, so that a swap into pretrained weights costs nothing.
"""
