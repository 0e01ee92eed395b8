"""Does anything notice? Each row breaks one rule of the reference's semantics in a copy of the tree and runs the tests that guard it.

A mutant that survives is a hole in the tests. Run `make mutants` to see which test kills which.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARITY = "tests/models/test_parity.py"
PAIRS = "tests/models/test_pairs.py"
TURNING = "tests/models/test_turning_families.py"

# rule -> (file, what stands there, what a slip would write, the tests that must notice)
MUTANTS = {
    "B1 eps comes from the configuration": (
        "minitrans/models/backbone.py", "config.attention_probs_dropout_prob, config.layer_norm_eps", "config.attention_probs_dropout_prob, 1e-5", [PARITY, "-k", "bert-Model"],
    ),
    "B1 gelu is the exact form": (
        "minitrans/layers/activations.py", "gelu_erf: Activation = F.gelu\n", 'gelu_erf: Activation = lambda x: F.gelu(x, approximate="tanh")\n', [PARITY, "-k", "bert-Model"],
    ),
    "B2 the pooler has a tanh": (
        "minitrans/models/backbone.py", "return torch.tanh(self.dense(hidden[:, 0]))", "return self.dense(hidden[:, 0])",
        [PARITY, "-k", "bert-Model"],
    ),
    "B4 -100 is left out of the mean": (
        "minitrans/layers/losses.py", "flat, items, ignore_index=ignored, label_smoothing", "flat.clamp(min=0), items, label_smoothing", [PARITY, "-k", "bert-ForMaskedLM"],
    ),
    "B5 span positions past the text are ignored": (
        "minitrans/layers/losses.py", ".clamp(0, length)\n", ".clamp(0, length - 1)\n",
        [PARITY, "-k", "bert-ForQuestionAnswering"],
    ),
    "B6 BERT counts positions from 0": (
        "minitrans/models/backbone.py", "torch.arange(past_length, past_length + length", "torch.arange(past_length + 1, past_length + length + 1", [PARITY, "-k", "bert-Model"],
    ),
    "M2 padding gets no weight at all": (
        "minitrans/attention/eager.py", "scores.masked_fill(~(allowed | empty), -torch.inf)",
        "scores.masked_fill(~(allowed | empty), -10000.0)", ["tests/attention", "-k", "however_large"],
    ),
    "M2 a row with nothing to see is zero": (
        "minitrans/attention/eager.py", ".masked_fill(empty, 0.0)", "", ["tests/attention", "-k", "eager"],
    ),
    "M6 scores are divided by the root of the head width": (
        "minitrans/attention/eager.py", "query.shape[-1] ** -0.5", "(query.shape[1] * query.shape[-1]) ** -0.5",
        [PARITY, "-k", "bert-Model"],
    ),
    "M7 hidden states begin with the embeddings": (
        "minitrans/layers/stack.py", "states, kept = [x] if keep_states else []", "states, kept = []", [PARITY, "-k", "bert-Model"],
    ),
    "M8 the distance is query minus key": (
        "minitrans/attention/bias.py", "self.positions - 1 - ahead", "self.positions - 1 + ahead", ["tests/attention", "-k", "elative"],
    ),
    "M9 embeddings are summed words, types, positions": (
        "minitrans/layers/embeddings.py", "words + self.token_type_embeddings(types)\n        x = x if self.position_embeddings is None else x + self.position_embeddings(positions)",
        "words + (self.token_type_embeddings(types) + self.position_embeddings(positions))", ["tests/layers", "-k", "mbedding"],
    ),
    "M10 the padding row gets no gradient": (
        "minitrans/models/bert.py", "padding_idx=config.pad_token_id,", "padding_idx=None,", [PARITY, "-k", "bert-Model"],
    ),
    "R1 RoBERTa positions start after the padding id": (
        "minitrans/models/roberta.py", "* is_token + self.padding_idx", "* is_token + 0", [PARITY, "-k", "roberta-Model"],
    ),
    "R1 RoBERTa positions skip padding": (
        "minitrans/models/roberta.py", "is_token = (tokens != self.padding_idx).long()", "is_token = torch.ones_like(tokens)",
        [PARITY, "-k", "roberta-Model"],
    ),
    "R4 RoBERTa's language head is always gelu": (
        "minitrans/models/roberta.py", 'head_act = "gelu"  # R4', "head_act = None", [PARITY, "-k", "roberta-ForMaskedLM"],
    ),
    "R5 RoBERTa's classifier has a tanh and dropout before and after": (
        "minitrans/layers/heads.py", "self.out_proj(self.dropout(self.act(self.dense(self.dropout(hidden[:, 0])))))",
        "self.out_proj(self.act(self.dense(self.dropout(hidden[:, 0]))))", [PARITY, "-k", "roberta-ForSequenceClassification"],
    ),
    "D1 DistilBERT has no dropout after the attention": (
        "minitrans/models/distilbert.py", "config, dropout=0.0, ", "config, dropout=config.hidden_dropout_prob, ",
        [PARITY, "-k", "distilbert-Model"],
    ),
    "D1 DistilBERT's eps is fixed": (
        "minitrans/models/distilbert.py", "ClassVar[float] = 1e-12", "ClassVar[float] = 1e-5", [PARITY, "-k", "distilbert-Model"],
    ),
    "D2 DistilBERT's classifier has a ReLU": (
        "minitrans/models/distilbert.py", "torch.relu(self.pre_classifier(hidden[:, 0]))", "torch.tanh(self.pre_classifier(hidden[:, 0]))",
        [PARITY, "-k", "distilbert-ForSequenceClassification"],
    ),
    "D2 DistilBERT's question answering has a dropout": (
        "minitrans/models/distilbert.py", "return cast(\"DistilBertConfig\", config).qa_dropout", "return 0.0", [PARITY, "-k", "distilbert-ForQuestionAnswering"],
    ),
    "D3 DistilBERT's sinusoids are interleaved": (
        "minitrans/models/distilbert.py", "table.copy_(sinusoidal_table(*table.shape))",
        'table.copy_(sinusoidal_table(*table.shape, layout="halves"))',
        ["tests/models/test_families.py", "-k", "D3"],
    ),
    "R6 pre-norm RoBERTa ends with a norm": (
        "minitrans/models/roberta_prelayernorm.py", "Stack(blocks, LayerNorm(config.hidden_size, config.layer_norm_eps))",
        "Stack(blocks)", [PARITY, "-k", "roberta-prelayernorm-Model"],
    ),
    "R6 pre-norm RoBERTa is pre-norm": (
        "minitrans/models/roberta_prelayernorm.py", "norm_first=True", "norm_first=False", [PARITY, "-k", "roberta-prelayernorm-Model"],
    ),
    "E1 ELECTRA's classifier has a gelu": (
        "minitrans/models/electra.py", 'dropout=dropout, act="gelu"', 'dropout=dropout, act="tanh"',
        [PARITY, "-k", "electra-ForSequenceClassification"],
    ),
    "E1 ELECTRA's generator is always gelu": (
        "minitrans/models/electra.py", 'head_act = "gelu"  # E1', "head_act = None", [PARITY, "-k", "electra-ForMaskedLM"],
    ),
    "E1 padding is not discriminated": (
        "minitrans/models/electra.py", "None if attention_mask is None else attention_mask == 1", "None",
        [PARITY, "-k", "electra-ForPreTraining"],
    ),
    "E1 the projection comes after norm and dropout": (
        "minitrans/layers/embeddings.py", "self.dropout(self.LayerNorm(x))", "self.LayerNorm(self.dropout(x))",
        [PARITY, "-k", "electra-Model"],
    ),
    "A1 ALBERT's feed-forward has no dropout": (
        "minitrans/models/albert.py", "build_block(config, feed_forward_dropout=0.0)", "build_block(config)", [PARITY, "-k", "albert-Model"],
    ),
    "A1 ALBERT's layers are groups in turn": (
        "minitrans/models/albert.py", "int(layer / (config.num_hidden_layers / config.num_hidden_groups))",
        "layer % config.num_hidden_groups", [PARITY, "-k", "albert-Model"],
    ),
    "A1 ALBERT projects embeddings of equal width too": (
        "minitrans/models/albert.py", "project_to=config.hidden_size,",
        "project_to=None if config.embedding_size == config.hidden_size else config.hidden_size,", [PARITY, "-k", "albert-Model"],
    ),
    "A1 ALBERT's heads have the dropout of classifiers": (
        "minitrans/models/albert.py", "return self.classifier_dropout_prob", "return self.hidden_dropout_prob",
        [PARITY, "-k", "albert-ForPreTraining"],
    ),
    "P1 MPNet's padding is 1 whatever the configuration says": (
        "minitrans/models/mpnet.py", "PADDING = 1", "PADDING = 0", [PARITY, "-k", "mpnet-Model"],
    ),
    "P1 MPNet counts 32 buckets": (
        "minitrans/models/mpnet.py", "buckets=BUCKETS", "buckets=rows", ["tests/models/test_families.py", "-k", "P1"],
    ),
    "N1 the first layer has no norm": (
        "minitrans/models/modernbert.py", "norms if layer else [nn.Identity(), norms[1]]", "norms", [PARITY, "-k", "modernbert-Model"],
    ),
    "N1 a token sees half of the window to each side": (
        "minitrans/models/modernbert.py", "config.local_attention // 2 * 2", "config.local_attention * 2", [TURNING, "-k", "N1_each_layer"],
    ),
    "N1 local layers turn by a base of their own": (
        "minitrans/models/modernbert.py", "self.local_rope_theta if kind == LOCAL else None", "None", [PARITY, "-k", "modernbert-Model"],
    ),
    "N1 the activation is on the first half": (
        "weights_convert/families/modernbert.py", '("gate", "up")', '("up", "gate")', ["tests/weights_convert/test_round_trip.py", "-k", "unchanged and ModernBertModel"],
    ),
    "N1 a choice is the first token that is no padding": (
        "minitrans/models/modernbert.py", "device=hidden.device), first]", "device=hidden.device), 0]", [TURNING, "-k", "stands_for_a_text"],
    ),
    "N1 the mean is that of tokens": (
        "minitrans/models/modernbert.py", "real.sum(dim=1).clamp(min=1)", "hidden.shape[1]", [TURNING, "-k", "stands_for_a_text"],
    ),
    "RF1 sines come first in the table": (
        "minitrans/models/roformer.py", "sin, cos = context.shared", "cos, sin = context.shared", [PARITY, "-k", "roformer-Model"],
    ),
    "RF1 columns beside each other make a pair": (
        "minitrans/models/roformer.py", 'layout="interleaved"', 'layout="halves"', [PARITY, "-k", "roformer-Model"],
    ),
    "RF1 the turns are not trained": (
        "minitrans/models/roformer.py", "requires_grad_(False)", "requires_grad_(True)", [TURNING, "-k", "RF1"],
    ),
    "NB1 the base is 1000": (
        "minitrans/models/nomic_bert.py", "self.rotary_emb_base or 1000.0", "self.rotary_emb_base or 10000.0", [PARITY, "-k", "nomic_bert-Model"],
    ),
    "NB1 the gate is the twelfth": (
        "weights_convert/families/nomic_bert.py", '("mlp.fc12", "mlp.gate_proj", "feed_forward.gate")', '("mlp.fc12", "mlp.gate_proj", "feed_forward.up")',
        ["tests/weights_convert/test_round_trip.py", "-k", "unchanged and NomicBertModel"],
    ),
    "FN1 text and width are transformed": (
        "minitrans/layers/fourier.py", "dim=(1, 2)", "dim=(1,)", [PARITY, "-k", "fnet-Model"],
    ),
    "FN1 dropout comes after the projection": (
        "minitrans/models/fnet.py", "self.last_dropout(super().forward(tokens, positions, types))", "super().forward(self.last_dropout(tokens), positions, types)",
        [PARITY, "-k", "fnet-Model"],
    ),
    "FN1 padding is never left out": (
        "minitrans/models/fnet.py", 'return "a Fourier transform, which mixes padding in (FN1)"', "return None", ["tests/models/test_fnet.py", "-k", "FN1"],
    ),
    "P1 MPNet adds the bias after scaling": (
        "minitrans/layers/position_bias.py", "RelativeBuckets(self.weight[: self.buckets]",
        "RelativeBuckets(0.5 * self.weight[: self.buckets]", [PARITY, "-k", "mpnet-Model"],
    ),
    "L3 global tokens have queries of their own": (
        "minitrans/models/longformer.py", "((self.query_global, asking)", "((self.key_global, asking)", ["tests/models/test_longformer.py", "-k", "L3"],
    ),
    "L3 rows of padding are zero": (
        "minitrans/models/longformer.py", "output.masked_fill(padding, 0.0)", "output", ["tests/models/test_longformer.py", "-k", "L3"],
    ),
    "L4 the question ends before the first separator": (
        "minitrans/models/longformer.py", "< self.separators(ids)[:, :1]", "<= self.separators(ids)[:, :1]",
        ["tests/models/test_longformer.py", "-k", "L4"],
    ),
    "L4 the text begins after the second separator": (
        "minitrans/models/longformer.py", "> self.separators(ids)[:, :1] + 1", "> self.separators(ids)[:, :1]",
        ["tests/models/test_longformer.py", "-k", "L4"],
    ),
    "BB1 short texts attend to all": (
        "minitrans/attention/block_sparse.py", "if length <= short:", "if length <= 0:", ["tests/models/test_big_bird.py", "-k", "BB1"],
    ),
    "BB2 the first block counts so often": (
        "minitrans/attention/block_sparse.py", "counts[:, 1:-1, 0] += self.random", "pass", ["tests/models/test_big_bird.py", "-k", "BB2"],
    ),
    "BB2 a layer draws by its number": (
        "minitrans/attention/block_sparse.py", "_drawn(self.sizes.layer,", "_drawn(0,", ["tests/models/test_big_bird.py", "-k", "BB2"],
    ),
    "BB3 embeddings are normalised after their dropout": (
        "minitrans/models/big_bird.py", "normed: Tensor = self.LayerNorm(x)", "normed: Tensor = self.dropout(self.LayerNorm(x))",
        ["tests/models/test_big_bird.py", "-k", "BB3"],
    ),
    "BB3 the tokens of a question are no answer": (
        "minitrans/models/big_bird.py", "QUESTION = 1e6", "QUESTION = 0.0", ["tests/models/test_big_bird.py", "-k", "BB3"],
    ),
    "Y1 the pseudo-inverse begins with a number of the batch": (
        "minitrans/models/nystromformer.py", "a.sum(dim=-2).max()", "a.sum(dim=-2).amax(-1)[..., None, None]",
        ["tests/models/test_nystromformer.py", "-k", "Y1"],
    ),
    "Y1 there is no dropout in its attention": (
        "minitrans/models/nystromformer.py", "rules = replace(rules, dropout_p=0.0)", "pass", ["tests/models/test_nystromformer.py", "-k", "Y1"],
    ),
    "Y1 the first position is 2": (
        "minitrans/models/nystromformer.py", "FIRST = 2", "FIRST = 1", ["tests/models/test_nystromformer.py", "-k", "Y1"],
    ),
    "V1 buckets are rounded up": (
        "minitrans/attention/variants/disentangled.py", "torch.ceil(", "torch.floor(", ["tests/models/test_deberta_v2.py", "-k", "buckets"],
    ),
    "V1 both tables are read at the same place": (
        "minitrans/attention/variants/disentangled.py", "which.T.expand(", "which.expand(", [PARITY, "-k", "deberta-v2-Model"],
    ),
    "V1 the scale counts the terms": (
        "minitrans/models/deberta_v2.py", "width // heads * terms", "width // heads", [PARITY, "-k", "deberta-v2-Model"],
    ),
    "V1 the table of positions has the dropout of states": (
        "minitrans/models/deberta_v2.py", "table = self.dropout(table)", "pass", [PARITY, "-k", "deberta-v2-Model"],
    ),
    "V1 the convolution does not see padding": (
        "minitrans/models/deberta_v2.py", "context.mask.key_padding is not None", "False", [PARITY, "-k", "deberta-v2-Model"],
    ),
    "V1 the convolution stands beside the first block": (
        "minitrans/models/deberta_v2.py", "self.convolution(x, block(", "self.convolution(block(x, context, cache), block(",
        [PARITY, "-k", "deberta-v2-Model"],
    ),
    "V1 a row of numbers is a distribution over the classes": (
        "minitrans/models/deberta_v2.py", "labels.shape[-1] > 1", "False", [PARITY, "-k", "deberta and problem"],
    ),
    "post-norm, not pre-norm": (
        "minitrans/models/backbone.py", "norm_first: bool = False", "norm_first: bool = True", [PARITY, "-k", "bert-Model"],
    ),
    "the mask reaches the backend": (
        "minitrans/layers/multi_head_attention.py", "rules = replace(rules, mask=mask, bias=bias,", "rules = replace(rules, bias=bias,",
        ["tests/models/test_variants.py", "-k", "sliding or dilated or composed"],
    ),
    "queries and keys turn alike": (
        "minitrans/attention/variants/rotary.py", "self.turn(key, cos, sin), value", "key, value", ["tests/layers/test_shape_of_the_house.py", "-k", "LLaMA"],
    ),
    "M6 T5 does not scale": (
        "minitrans/layers/multi_head_attention.py", "context.layout, self.scale, ", "context.layout, None, ",
        ["tests/layers/test_shape_of_the_house.py", "-k", "T5"],
    ),
    "T2 one table for all layers": (
        "minitrans/layers/stack.py", "replace(context, bias=bias if", "replace(context, bias=context.bias if", [PARITY, "-k", "mpnet-Model"],
    ),
    "a forward leaves the cache of the user alone": (
        "minitrans/models/inputs.py", "return past.fork()", "return past", ["tests/models/test_caches.py"],
    ),
    "S7 halves with an offset divide by half - 1": (
        "minitrans/layers/positions.py", "/ (half - 1)", "/ half", ["tests/layers", "-k", "position or sinus"],
    ),
    "T1 a norm squares in float32": (
        "minitrans/layers/norms.py", "wide = x if x.dtype == torch.float64 else x.float()", "wide = x",
        [PAIRS, "-k", "float16 and t5"],
    ),
    "T2 what looks back only has all buckets for that side": (
        "minitrans/models/t5.py", "bidirectional=not config.is_decoder", "bidirectional=True",
        [PAIRS, "-k", "forward and t5-Model-plain"],
    ),
    "T3 a gated GELU is the tanh form": (
        "minitrans/models/t5.py", '"gelu_new" if self.feed_forward_proj', '"gelu" if self.feed_forward_proj',
        [PAIRS, "-k", "forward and t5-Model-other"],
    ),
    "T3 infinite sums are brought back": (
        "minitrans/layers/half_precision.py", "return clamped(super()._after(norm, x), always=False)", "return super()._after(norm, x)",
        [PAIRS, "-k", "float16 and umt5"],
    ),
    "T3 float16 keeps a projection in float32": (
        "minitrans/models/loading.py", 'getattr(module, "kept", given) if', "given if",
        [PAIRS, "-k", "float16 and t5"],
    ),
    "T4 what a tied projection scores is scaled": (
        "minitrans/models/t5.py", "hidden * self.config.d_model**-0.5 if", "hidden if",
        [PAIRS, "-k", "forward and t5-ForSeq2SeqLM-plain"],
    ),
    "T4 tables that differ are three": (
        "minitrans/models/t5.py", "return self.share_encoder_decoder_embeddings", "return True",
        [PAIRS, "-k", "T4 and t5"],
    ),
    "T5 ignored labels are read as padding": (
        "minitrans/models/encoder_decoder.py", "shifted == IGNORED, pad)", "shifted == IGNORED, 0)",
        [PAIRS, "-k", "forward and t5-ForSeq2SeqLM-plain"],
    ),
    "S1 BART's norms have an eps of their own": (
        "minitrans/models/bart.py", "EPS = 1e-5", "EPS = 1e-12",
        [PAIRS, "-k", "forward and bart-Model-plain"],
    ),
    "S1 positions are counted from row 2": (
        "minitrans/layers/positions.py", "super().forward(positions + self.offset)", "super().forward(positions + 1)",
        [PAIRS, "-k", "forward and bart-Model-plain"],
    ),
    "S2 BART's blocks are post-norm": (
        "minitrans/models/bart.py", "norm_first=self.norm_first, kind", "norm_first=True, kind",
        [PAIRS, "-k", "forward and bart-Model-plain"],
    ),
    "S2 pre-norm encoders are always brought back": (
        "minitrans/layers/half_precision.py", "always=self.norm_first", "always=False",
        [PAIRS, "-k", "float16 and mbart"],
    ),
    "S3 token embeddings are scaled": (
        "minitrans/models/bart.py", "math.sqrt(width) if config.scale_embedding else 1.0", "1.0",
        [PAIRS, "-k", "forward and bart-Model-other"],
    ),
    "S3 a bias stands beside the projection": (
        "minitrans/models/pair_tasks.py", "super().score(hidden) + self.final_logits_bias", "super().score(hidden)",
        [PAIRS, "-k", "forward and bart-ForSeq2SeqLM-plain"],
    ),
    "S4 mBART's target begins with its last token": (
        "minitrans/models/mbart.py", "last = (ids != pad).sum(dim=1, keepdim=True) - 1", "last = torch.zeros_like(ids[:, :1])",
        [PAIRS, "-k", "what_the_decoder_reads"],
    ),
    "S5 a text is classified by its last end token": (
        "minitrans/models/pair_tasks.py", "(torch.arange(ends.shape[1], device=ends.device) * ends).argmax", "ends.int().argmax",
        [PAIRS, "-k", "forward and bart-ForSequenceClassification-plain"],
    ),
    "S6 sines come first, then cosines": (
        "minitrans/models/marian.py", '"halves")', '"interleaved")',
        [PAIRS, "-k", "forward and marian-Model-plain"],
    ),
    "S7 padding has no place": (
        "minitrans/models/m2m_100.py", "real = (tokens != PADDING).long()", "real = (tokens != -1).long()",
        [PAIRS, "-k", "forward and m2m_100-Model-plain"],
    ),
    "G1 GPT-2's matrices are turned": (
        "weights_convert/families/gpt2.py", "Transpose(f", "Rename(f", ["tests/models/test_decoders.py", "-k", "square_matrix"],
    ),
    "G1 queries come first in c_attn": (
        "weights_convert/families/gpt2.py", '"attention.query", "attention.key", "attention.value"',
        '"attention.key", "attention.query", "attention.value"', ["tests/weights_convert/test_round_trip.py", "-k", "GPT2Model"],
    ),
    "G1 of crossed attention keys come first": (
        "weights_convert/families/gpt2.py", '"cross_attention.key", "cross_attention.value"',
        '"cross_attention.value", "cross_attention.key"', ["tests/models/test_decoders.py", "-k", "keys_of_the_memory"],
    ),
    "G2 GPT-2 is pre-norm": (
        "minitrans/models/gpt2.py", "norm_first=True", "norm_first=False", [PARITY, "-k", "gpt2-Model"],
    ),
    "G2 GPT-2 ends with a norm": (
        "minitrans/models/gpt2.py", "Stack(blocks, LayerNorm(config.n_embd, config.layer_norm_epsilon))", "Stack(blocks)",
        [PARITY, "-k", "gpt2-Model"],
    ),
    "G2 types are ids of the token table": (
        "minitrans/models/gpt2.py", "x if types is None else x + self.word_embeddings(types)", "x", [PARITY, "-k", "gpt2-Model"],
    ),
    "G3 GPT-2's residual projections begin smaller": (
        "minitrans/models/gpt2.py", "math.sqrt(2 * ", "math.sqrt(1 * ", ["tests/models/test_decoders.py", "-k", "G3"],
    ),
    "G3 the rightmost token that is not padding": (
        "minitrans/models/decoder_tasks.py", "(places * (ids != padding)).argmax(dim=-1)", "(ids != padding).sum(dim=-1) - 1",
        ["tests/models/test_decoders.py", "-k", "G3"],
    ),
    "M6 GPT-2 may scale by the layer": (
        "minitrans/models/gpt2.py", "scale / (layer + 1)", "scale / max(layer, 1)", ["tests/models/test_decoders.py", "-k", "M6"],
    ),
    "M6 GPT-2 may not scale": (
        "minitrans/models/gpt2.py", "if self.scale_attn_weights else 1.0", "if True else 1.0", ["tests/models/test_decoders.py", "-k", "M6"],
    ),
    "LLaMA's feed-forward is gated": (
        "minitrans/models/llama.py", "gated=True, ", "", [PARITY, "-k", "llama-Model"],
    ),
    "LLaMA's positions turn": (
        "minitrans/models/llama.py", "return [ScaledRotary(sizes, config.rope)]", "return []", [PARITY, "-k", "llama-Model"],
    ),
    "the ramp of Llama-3": (
        "minitrans/attention/rotary_scaling.py", "fast + (1 - fast) / rope", "fast + fast / rope",
        ["tests/models/test_decoders.py", "-k", "reach_further"],
    ),
    "YaRN makes scores grow": (
        "minitrans/attention/rotary_scaling.py", "0.1 * weight * math.log", "0.2 * weight * math.log",
        ["tests/models/test_decoders.py", "-k", "reach_further"],
    ),
    "Mistral's window counts the token itself": (
        "minitrans/attention/past_window.py", "mine = self.window - 1", "mine = self.window", [PARITY, "-k", "mistral-Model"],
    ),
    "a window in a cache of fixed size": (
        "minitrans/attention/past_window.py", "device=sizes.device) < self.window)", "device=sizes.device) <= self.window)",
        ["tests/models/test_decoders.py", "-k", "step_by_step"],
    ),
    "Qwen2 has no bias after the attention": (
        "minitrans/models/qwen2.py", "output_bias=False, ", "", [PARITY, "-k", "qwen2-Model"],
    ),
    "Qwen3 normalises before it turns": (
        "minitrans/models/qwen3.py", "[QueryKeyNorm(sizes, eps=config.rms_norm_eps), *super().variants(config, sizes)]",
        "[*super().variants(config, sizes), QueryKeyNorm(sizes, eps=config.rms_norm_eps)]", [PARITY, "-k", "qwen3-Model"],
    ),
    "Gemma-2's norms have 1 + weight": (
        "minitrans/layers/norms.py", "(1.0 + self.weight.to(normed.dtype))", "self.weight.to(normed.dtype)", [PARITY, "-k", "gemma2-Model"],
    ),
    "Gemma-2 begins with a window": (
        "minitrans/models/gemma2.py", "layer % 2 == 0", "layer % 2 == 1", [PARITY, "-k", "gemma2-Model"],
    ),
    "Gemma-2 caps the scores of the next token": (
        "minitrans/models/gemma2.py", "scores if cap is None else torch.tanh(scores / cap) * cap", "scores", [PARITY, "-k", "gemma2-ForCausalLM"],
    ),
    "C1 the prefix module. is stripped": (
        "weights_convert/names.py", '"module", ', "", ["tests/weights_convert", "-k", "prefix or wrapper"],
    ),
    "B8 gamma and beta are weight and bias": (
        "weights_convert/names.py", '"LayerNorm.gamma": "LayerNorm.weight"', '"LayerNorm.gamma": "LayerNorm.bias"',
        ["tests/weights_convert", "-k", "gamma or legacy"],
    ),
    "a text's length leaves out its padding": (
        "minitrans/generation/text.py", "return self.ids.shape[1] - self.first", "return self.ids.shape[1] + 0 * self.first", ["tests/generation/test_processors.py", "-k", "min_length"],
    ),
    "max_length is of each text": (
        "minitrans/generation/call.py", "wanted = settings.max_length - lengths", "wanted = settings.max_length - lengths.max() + 0 * lengths", ["tests/generation/test_sampling.py", "-k", "any_batch"],
    ),
    "positions are counted without padding": (
        "minitrans/generation/decoding.py", "(columns - text.first[:, None])", "(columns - 0 * text.first[:, None])", ["tests/generation/test_sampling.py", "-k", "padding or any_batch"],
    ),
    "a penalty divides positive scores": (
        "minitrans/generation/penalties.py", "scores < 0, scores * penalty", "scores > 0, scores * penalty", ["tests/generation/test_processors.py", "-k", "repetition"],
    ),
    "an n-gram forbids its last token": (
        "minitrans/generation/bans.py", "windows[..., -1].clamp(max=vocabulary)", "windows[..., 0].clamp(max=vocabulary)", ["tests/generation/test_processors.py", "-k", "ngram"],
    ),
    "top_p leaves out the tail": (
        "minitrans/generation/warpers.py", "<= 1 - mass", "<= mass", ["tests/generation/test_processors.py", "-k", "top_p"],
    ),
    "each row has random numbers of its own": (
        "minitrans/generation/noise.py", "exponential_(generator=self._generator)[rows]", "exponential_(generator=self._generator)[rows * 0]", ["tests/generation/test_sampling.py", "-k", "references"],
    ),
    "only the first candidates finish": (
        "minitrans/generation/beam.py", "device=ends.device) < self.width", "device=ends.device) < 9 * self.width", ["tests/generation/test_beam.py", "-k", "references or groups"],
    ),
    "a score is by new tokens": (
        "minitrans/generation/beam.py", "penalty = self.steps**self", "penalty = (self.steps + 1) ** self", ["tests/generation/test_beam.py", "-k", "references or best_of_all"],
    ),
    "a text that has ended does not go on": (
        "minitrans/generation/beam.py", "values = found.values.masked_fill(ends, -torch.inf)", "values = found.values", ["tests/generation/test_beam.py", "-k", "references or groups"],
    ),
    "never looks at the longest text": (
        "minitrans/generation/beam.py", "(most if is_never else self.steps)", "self.steps", ["tests/generation/test_beam.py", "-k", "never"],
    ),
    "groups keep away from each other": (
        "minitrans/generation/beam.py", "own - settings.diversity_penalty", "own + settings.diversity_penalty", ["tests/generation/test_beam.py", "-k", "groups"],
    ),
    "a cache follows its texts": (
        "minitrans/generation/decoding.py", "self.cache.reorder(rows)", "self.cache.reorder(rows.sort().values)", ["tests/generation/test_beam.py", "-k", "cache"],
    ),
    "a wrong guess is dropped": (
        "minitrans/generation/assisted.py", "(picked == guesses[there, place])", "(picked >= 0)", ["tests/generation/test_assisted.py", "-k", "changes_nothing"],
    ),
    "what is remembered moves with its text": (
        "minitrans/generation/decoding.py", "+ moved[:, None]", "+ 0 * moved[:, None]", ["tests/generation/test_assisted.py", "-k", "changes_nothing"],
    ),
    "contrast is with tokens, not padding": (
        "minitrans/generation/contrastive.py", ".masked_fill(~real[:, None], -torch.inf)", "", ["tests/generation/test_contrast.py", "-k", "naively"],
    ),
    "a text without its words does not finish": (
        "minitrans/generation/forced.py", "found.values.isfinite() & self._progress(texts, ends)[1]", "found.values.isfinite()", ["tests/generation/test_forced.py", "-k", "words"],
    ),
}  # fmt: skip


class Tree:
    """A copy of this one, and a process in it that is ready to run its tests."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root / "tree", root / "output"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")
        shutil.copytree(ROOT, self.root, ignore=ignored)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.warm_pytest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, tests: list[str]) -> tuple[int, str]:
        """The exit status of pytest, and what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        early = "ignore::pytest.PytestAssertRewriteWarning"  # of plugins that were loaded before the fork
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-W", early, "-m", "not slow", *tests]
        print(json.dumps([arguments, str(self.output)]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline()), self.output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("mutant"))
    yield tree
    tree.process.communicate()


FIRST = {name.split()[0]: name for name in reversed(MUTANTS)}  # one of each rule; the others run by `make mutants`
RULES = [name if FIRST[name.split()[0]] == name else pytest.param(name, marks=pytest.mark.further) for name in MUTANTS]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_noticed(rule: str, tree: Tree):
    file, right, wrong, tests = MUTANTS[rule]
    path = tree.root / file
    source = path.read_text(encoding="utf-8")
    assert source.count(right) >= 1, f"{file} no longer holds {right!r}"
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    try:
        status, printed = tree.run(tests)
    finally:
        path.write_text(source, encoding="utf-8")
    killers = [line for line in printed.splitlines() if line.startswith("FAILED")]
    assert status == 1, f"survived: {printed[-2000:]}"
    assert killers, f"it did not fail a test but broke: {printed[-2000:]}"
    print(f"{rule}: {killers[0]}")
