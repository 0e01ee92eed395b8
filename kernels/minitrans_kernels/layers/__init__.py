"""The memory-bound layers around attention, each one pass forward and one backward.

A layer is two files or three: `gelu`, say, has the function that users call, its operator and its PyTorch path, and
`gelu_kernels` the kernels with their launches, imported where Triton runs and not before.
"""

from minitrans_kernels.layers.embedding import embedding_layer_norm
from minitrans_kernels.layers.gelu import bias_gelu
from minitrans_kernels.layers.layer_norm import add_dropout_layer_norm
from minitrans_kernels.layers.masked_loss import masked_lm_loss
from minitrans_kernels.layers.rms import rms_norm

__all__ = ["add_dropout_layer_norm", "bias_gelu", "embedding_layer_norm", "masked_lm_loss", "rms_norm"]
