"""The memory-bound layers around attention, each one pass forward and one backward."""

from minitrans_kernels.layers.embedding.functions import embedding_layer_norm
from minitrans_kernels.layers.gelu.functions import bias_gelu
from minitrans_kernels.layers.layer_norm.functions import add_dropout_layer_norm
from minitrans_kernels.layers.masked_loss.functions import masked_lm_loss
from minitrans_kernels.layers.packing.functions import pack_rows, unpack_rows
from minitrans_kernels.layers.rms.functions import rms_norm

__all__ = [
    "add_dropout_layer_norm",
    "bias_gelu",
    "embedding_layer_norm",
    "masked_lm_loss",
    "pack_rows",
    "rms_norm",
    "unpack_rows",
]
