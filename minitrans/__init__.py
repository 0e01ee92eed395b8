"""minitrans: the Transformer you can read, trust and race.

The letters used for the sizes of tensors, everywhere:

    B batch · T query length · S key length · N tokens of a packed batch · H heads · G key/value heads
    D model width · K head width · F feed-forward width · V vocabulary · L layers

Every public name is loaded when it is first used, so that `import minitrans` costs little more than `import torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_TASKS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

# public name -> the module that has it
_EXPORTS = {
    **dict.fromkeys(("NotSupportedError", "CheckpointError"), "minitrans.errors"),
    **dict.fromkeys(
        (
            "ALiBi", "AttentionBias", "AttentionMask", "AttentionResult", "BlockLayout", "DenseBias", "PackedLayout",
            "RelativeBuckets", "RelativePositions", "attend", "explain_backend",
        ),
        "minitrans.attention",
    ),
    **dict.fromkeys(
        (
            "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForMultipleChoice",
            "AutoModelForNextSentencePrediction", "AutoModelForPreTraining", "AutoModelForQuestionAnswering",
            "AutoModelForSequenceClassification", "AutoModelForTokenClassification",
        ),
        "minitrans.models.auto",
    ),
    **dict.fromkeys(
        (
            "BertConfig", "BertModel", "BertForMaskedLM", "BertForMultipleChoice", "BertForNextSentencePrediction",
            "BertForPreTraining", "BertForQuestionAnswering", "BertForSequenceClassification",
            "BertForTokenClassification", "BertLMHeadModel",
        ),
        "minitrans.models.bert",
    ),
    **{
        f"{prefix}{suffix}": f"minitrans.models.{module}"
        for module, prefix in (
            ("roberta", "Roberta"), ("xlm_roberta", "XLMRoberta"), ("camembert", "Camembert"),
            ("roberta_prelayernorm", "RobertaPreLayerNorm"),
        )
        for suffix in (*_TASKS, "Config", "ForCausalLM", "ForMultipleChoice")
    },
    **{
        f"Albert{suffix}": "minitrans.models.albert"
        for suffix in (*_TASKS, "Config", "ForMultipleChoice", "ForPreTraining")
    },
    **{
        f"Electra{suffix}": "minitrans.models.electra"
        for suffix in (*_TASKS, "Config", "ForCausalLM", "ForMultipleChoice", "ForPreTraining")
    },
    **{
        f"{prefix}{suffix}": f"minitrans.models.{module}"
        for module, prefix in (("distilbert", "DistilBert"), ("mpnet", "MPNet"))
        for suffix in (*_TASKS, "Config", "ForMultipleChoice")
    },
    **dict.fromkeys(("Transformer", "TransformerConfig"), "minitrans.models.transformer"),
    "Encoder": "minitrans.embedding",
    "pack": "minitrans.packing",
    "pipeline": "minitrans.pipelines.auto",
    "AutoTokenizer": "minitrans.tokenizers.auto",
    "BatchEncoding": "minitrans.tokenizers.batch_encoding",
    "Tokenizer": "minitrans.tokenizers.tokenizer",
    **dict.fromkeys(
        (
            "BertTokenizer", "BertTokenizerFast", "RobertaTokenizer", "RobertaTokenizerFast", "XLMRobertaTokenizer",
            "XLMRobertaTokenizerFast", "CamembertTokenizer", "CamembertTokenizerFast", "DistilBertTokenizer",
            "DistilBertTokenizerFast", "AlbertTokenizer", "AlbertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast",
            "MPNetTokenizer", "MPNetTokenizerFast",
            "PreTrainedTokenizerFast",
        ),
        "minitrans.tokenizers.classes",
    ),
    **dict.fromkeys(
        ("AdamW", "get_constant_schedule_with_warmup", "get_linear_schedule_with_warmup", "get_noam_schedule"),
        "minitrans.training.optimization",
    ),
}  # fmt: skip

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'minitrans' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
