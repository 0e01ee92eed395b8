"""The tokenizer classes by the names that checkpoints and scripts use for them; what differs stands in `families.py`."""

from __future__ import annotations

from minitrans.tokenizers.families import ALBERT, BERT, CAMEMBERT, DISTILBERT, MPNET, ROBERTA, XLM_ROBERTA
from minitrans.tokenizers.tokenizer import Tokenizer


class BertTokenizer(Tokenizer):
    """WordPiece with BERT's cleaning; `[CLS] A [SEP] B [SEP]` with token types 0 and 1."""

    family = BERT


class DistilBertTokenizer(Tokenizer):
    """BERT's, without token types in what it returns (D1)."""

    family = DISTILBERT


class AlbertTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with its own ids; pairs as BERT, without token types unless they are asked for."""

    family = ALBERT


class MPNetTokenizer(Tokenizer):
    """BERT's pieces in RoBERTa's template; no token types (P1)."""

    family = MPNET


class RobertaTokenizer(Tokenizer):
    """Byte-level BPE; `<s> A </s></s> B </s>`, no token types (R8)."""

    family = ROBERTA


class XLMRobertaTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with XLM-R's ids (R8); pairs as RoBERTa."""

    family = XLM_ROBERTA


class CamembertTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with CamemBERT's ids (R8); pairs as RoBERTa."""

    family = CAMEMBERT


BertTokenizerFast = BertTokenizer
DistilBertTokenizerFast = DistilBertTokenizer
ElectraTokenizer = ElectraTokenizerFast = BertTokenizer
AlbertTokenizerFast = AlbertTokenizer
MPNetTokenizerFast = MPNetTokenizer
RobertaTokenizerFast = RobertaTokenizer
XLMRobertaTokenizerFast = XLMRobertaTokenizer
CamembertTokenizerFast = CamembertTokenizer
PreTrainedTokenizerFast = Tokenizer
