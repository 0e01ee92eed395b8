"""How far the inputs of a layer reach, seen on a few ids of the model's own vocabulary, so that no data are needed.

In trained encoders a few features are many times as large as all others, in the same places for every token (Dettmers et al.
2022, "LLM.int8()", section 4): a few hundred tokens of any kind show where.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from minitrans.models.encoder_decoder import EncoderDecoder
from minitrans.models.pretrained import PreTrainedModel

_ROWS, _LENGTH = 16, 16  # of ids


@torch.no_grad()
def input_reach(body: PreTrainedModel, layers: Iterable[nn.Module]) -> dict[nn.Module, Tensor]:
    """For each of these layers of a body the largest magnitude (in) of each of its inputs, and for the body that of its outputs.

    The body runs once, on ids that are spread evenly over the vocabulary; a pair has them for source and target. In float32.
    """
    found: dict[nn.Module, Tensor] = {}

    def see(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        largest = given[0].detach().flatten(0, -2).float().abs().amax(dim=0)
        found[layer] = torch.maximum(largest, found.get(layer, largest))  # a shared layer runs more than once

    config = body.config
    length = min(_LENGTH, config.max_position_embeddings - getattr(body, "padding_idx", -1) - 1)
    ids = torch.arange(_ROWS * length) * config.vocab_size // (_ROWS * length)
    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        ids = ids.view(length, _ROWS).T.contiguous()  # neighbours in a row are far apart in the vocabulary
        if isinstance(body, EncoderDecoder):
            target = ids % body.decoder.embeddings.word_embeddings.num_embeddings
            output = EncoderDecoder.forward(body, ids, decoder_input_ids=target, padding="keep", return_dict=True)
        else:
            output = body(input_ids=ids, attention_mask=torch.ones_like(ids), padding="keep", return_dict=True)
    finally:
        for hook in hooks:
            hook.remove()
    see(body, (output.last_hidden_state,))
    return found
