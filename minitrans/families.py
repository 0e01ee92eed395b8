"""The one table of families: the file, the classes, the heads, the weights and the tokenizer of each `model_type`.

Plain words, and nothing is imported by them here. A family is a file in `minitrans/models/`, a table of names in
`weights_convert/families/` and a row below.
"""

from __future__ import annotations

from typing import NamedTuple

from minitrans.errors import NotSupportedError

# What follows a family's prefix in the names of its classes: the body, then the heads.
HEADS = (
    "Model", "ForMaskedLM", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForMultipleChoice", "ForPreTraining", "ForNextSentencePrediction", "ForSeq2SeqLM",
)  # fmt: skip
_ENCODER = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
_DECODER = (*_ENCODER, "ForCausalLM")
_DECODER_ONLY = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_BART = ("Model", "ForSeq2SeqLM", "ForSequenceClassification", "ForQuestionAnswering", "ForCausalLM")
_T5 = ("Model", "ForSeq2SeqLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
# The heads that an Auto class means where a family lacks the one it is named after: what the family was pre-trained with.
OTHERWISE = {"ForPreTraining": ("ForMaskedLM", "ForSeq2SeqLM", "ForCausalLM")}
# heads that classes spell otherwise than the Auto classes
_SPELLED = {"ForSeq2SeqLM": "ForConditionalGeneration"}
# the classes whose names do not follow the pattern
_NAMES = {
    "BertForCausalLM": "BertLMHeadModel",
    "GPT2ForCausalLM": "GPT2LMHeadModel",
    "MarianForConditionalGeneration": "MarianMTModel",
    "EncoderDecoderForConditionalGeneration": "EncoderDecoderModel",
}


class FamilyRow(NamedTuple):
    """One family.

    Attributes:
        module: the file in `minitrans/models/`.
        prefix: how the names of its classes begin.
        weights: the file in `weights_convert/families/`.
        tokenizer: the class in `minitrans/tokenizers/auto.py`.
        heads: those of HEADS that it has.
        others: classes with a head that no Auto class means.
    """

    module: str
    prefix: str
    weights: str
    tokenizer: str
    heads: tuple[str, ...]
    others: tuple[str, ...] = ()

    def class_name(self, head: str) -> str:
        """The class with this head."""
        name = f"{self.prefix}{_SPELLED.get(head, head)}"
        return _NAMES.get(name, name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The configuration, the body, and the models with a head."""
        return (f"{self.prefix}Config", *(self.class_name(head) for head in self.heads), *self.others)


FAMILIES = {
    "bert": FamilyRow(
        "bert", "Bert", "bert", "BertTokenizer", (*_DECODER, "ForPreTraining", "ForNextSentencePrediction")
    ),
    "roberta": FamilyRow("roberta", "Roberta", "roberta", "RobertaTokenizer", _DECODER),
    "xlm-roberta": FamilyRow("xlm_roberta", "XLMRoberta", "roberta", "XLMRobertaTokenizer", _DECODER),
    "camembert": FamilyRow("camembert", "Camembert", "roberta", "CamembertTokenizer", _DECODER),
    "distilbert": FamilyRow("distilbert", "DistilBert", "distilbert", "DistilBertTokenizer", _ENCODER),
    "albert": FamilyRow("albert", "Albert", "albert", "AlbertTokenizer", (*_ENCODER, "ForPreTraining")),
    "electra": FamilyRow("electra", "Electra", "electra", "ElectraTokenizer", (*_DECODER, "ForPreTraining")),
    "mpnet": FamilyRow("mpnet", "MPNet", "mpnet", "MPNetTokenizer", _ENCODER),
    "deberta-v2": FamilyRow("deberta_v2", "DebertaV2", "deberta_v2", "DebertaV2Tokenizer", _ENCODER),
    "longformer": FamilyRow("longformer", "Longformer", "longformer", "LongformerTokenizer", _ENCODER),
    "nystromformer": FamilyRow("nystromformer", "Nystromformer", "nystromformer", "AlbertTokenizer", _ENCODER),
    "big_bird": FamilyRow("big_bird", "BigBird", "big_bird", "BigBirdTokenizer", (*_DECODER, "ForPreTraining")),
    "roberta-prelayernorm": FamilyRow(
        "roberta_prelayernorm", "RobertaPreLayerNorm", "roberta_prelayernorm", "RobertaTokenizer", _DECODER
    ),
    "t5": FamilyRow("t5", "T5", "t5", "T5Tokenizer", _T5, ("T5EncoderModel",)),
    "mt5": FamilyRow("mt5", "MT5", "t5", "T5Tokenizer", _T5, ("MT5EncoderModel",)),
    "umt5": FamilyRow("umt5", "UMT5", "t5", "T5Tokenizer", _T5, ("UMT5EncoderModel",)),
    "bart": FamilyRow("bart", "Bart", "bart", "BartTokenizer", _BART),
    "mbart": FamilyRow("mbart", "MBart", "bart", "MBartTokenizer", _BART),
    "marian": FamilyRow("marian", "Marian", "bart", "MarianTokenizer", ("Model", "ForSeq2SeqLM", "ForCausalLM")),
    "pegasus": FamilyRow("pegasus", "Pegasus", "bart", "PegasusTokenizer", ("Model", "ForSeq2SeqLM", "ForCausalLM")),
    "m2m_100": FamilyRow("m2m_100", "M2M100", "bart", "M2M100Tokenizer", ("Model", "ForSeq2SeqLM")),
    "encoder-decoder": FamilyRow("joined_pair", "EncoderDecoder", "joined_pair", "PreTrainedTokenizer", ("ForSeq2SeqLM",)),
    "gpt2": FamilyRow("gpt2", "GPT2", "gpt2", "GPT2Tokenizer", _DECODER_ONLY, ("GPT2DoubleHeadsModel",)),
    "llama": FamilyRow("llama", "Llama", "llama", "LlamaTokenizer", _DECODER_ONLY),
    "mistral": FamilyRow("mistral", "Mistral", "llama", "LlamaTokenizer", _DECODER_ONLY),
    "qwen2": FamilyRow("qwen2", "Qwen2", "llama", "Qwen2Tokenizer", _DECODER_ONLY),
    "qwen3": FamilyRow("qwen3", "Qwen3", "llama", "Qwen2Tokenizer", _DECODER_ONLY),
    "gemma2": FamilyRow("gemma2", "Gemma2", "gemma2", "GemmaTokenizer", _DECODER_ONLY[:-1]),
    "fnet": FamilyRow("fnet", "FNet", "fnet", "FNetTokenizer", (*_ENCODER, "ForPreTraining", "ForNextSentencePrediction")),
    "modernbert": FamilyRow("modernbert", "ModernBert", "modernbert", "PreTrainedTokenizer", _ENCODER),
    "nomic_bert": FamilyRow(
        "nomic_bert", "NomicBert", "nomic_bert", "BertTokenizer",
        ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"),
    ),
    "roformer": FamilyRow("roformer", "RoFormer", "roformer", "RoFormerTokenizer", _DECODER),
}  # fmt: skip


def family_row(model_type: object) -> FamilyRow:
    """The row of a model type. Raises NotSupportedError, naming the known ones, for any other."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise NotSupportedError(f"unknown model type {model_type!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def auto_name(head: str) -> str:
    """The Auto class that means this head: "AutoModel" for the body."""
    return f"AutoModel{head.removeprefix('Model')}"


def families_with(head: str) -> tuple[str, ...]:
    """The model types that have this head."""
    return tuple(model_type for model_type, row in FAMILIES.items() if head in row.heads)


def bodies() -> tuple[str, ...]:
    """The model types that are one body: encoders and decoders, not pairs of them."""
    return tuple(model_type for model_type, row in FAMILIES.items() if "ForSeq2SeqLM" not in row.heads)


def class_names() -> dict[str, str]:
    """Every public class of every family, and the file in `minitrans/models/` that has it."""
    return {name: row.module for row in FAMILIES.values() for name in row.class_names}
