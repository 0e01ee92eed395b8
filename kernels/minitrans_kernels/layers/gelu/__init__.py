"""The activation of a feed-forward layer together with the bias before it."""
