"""The loss of masked language modelling, from hidden states, without the logits ever being stored."""
