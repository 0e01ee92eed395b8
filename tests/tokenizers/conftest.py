"""Small vocabularies made on the spot, so that the tests need no data, and pairs (ours, reference) on the same files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from minitrans.tokenizers import auto as ours

TEXT = """The transformer reads a sentence all at once, and each word looks at every other word.
Der Übersetzer liest den ganzen Satz auf einmal; jedes Wort schaut auf jedes andere Wort.
Les mots sont coupés en morceaux, et chaque morceau reçoit un numéro: naïve, café, élève.
It's the cat's mat, isn't it? We'll see 1234 cats, they've 56 mats; don't ask why!
Words that were never seen are made of smaller pieces, down to the letters themselves.
"""
ODD = [
    "",
    " ",
    "\t\n  \r\n",
    "a",
    "Hello, World!",
    "cafe\u0301 naïve Ångström A\u030a ﬁ ½ Ⅷ",
    "\u4f60\u597d\uff0cworld \u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4",
    "\U00020000 \U0002a6df",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd",
    "a\u0000b \u0001\u0007\ufffd\u00ad",
    "zero\u200bwidth\u200c\u200d\ufeffjoin \u2060",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u202eabc\u202c",
    "\u0130stanbul \u00df \u1e9e \u03a3\u03c2",
    "x" * 100 + " " + "y" * 101,
    "the " * 300,
    "[MASK] a [MASK]b  [MASK]  c [CLS] [SEP] [UNK] [mask]",
    "<s> </s> <pad> <unk>",
    "<mask> a  <mask>b <mask>  <mask> c<ent> d",
    "it's don't I'LL we\u2019re",
    "tab\tnew\nline\u2028sep\u2029par\u0085nel\u00a0nbsp\u3000ideo",
    "\ue000 \U000e0001 \U0010ffff",
    "$100.00 + 5% = ?! ... --- ___",
]


def _train_wordpiece() -> dict[str, int]:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    backend.train_from_iterator([TEXT, TEXT.lower(), "你 好 界 a b c"], trainer)
    return backend.get_vocab()


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tokens = sorted((vocabulary := _train_wordpiece()), key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return folder


def learnt(folder: Path, name: str, **options: Any) -> Path:
    """The folder, with a sentencepiece model of TEXT in it under this name."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20), model_writer=model, vocab_size=110, model_type="unigram",
        minloglevel=2, **options,
    )  # fmt: skip
    (folder / name).write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="session")
def spiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("albert")
    return learnt(
        folder,
        "spiece.model",
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        unk_piece="<unk>",
        pad_piece="<pad>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )


@pytest.fixture(scope="session")
def big_bird_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big_bird")
    return learnt(
        folder,
        "spiece.model",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )


@pytest.fixture(scope="session")
def fnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fnet")
    return learnt(
        folder,
        "spiece.model",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        unk_piece="<unk>",
        pad_piece="<pad>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )


@pytest.fixture(scope="session")
def spm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deberta")
    return learnt(
        folder,
        "spm.model",
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
    )


@pytest.fixture(scope="session")
def mpnet_folder(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mpnet")
    pieces = (bert_folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokens = [
        "<s>",
        "<pad>",
        "</s>",
        *(piece for piece in pieces if piece not in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")),
        "<mask>",
    ]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    backend.model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    return learnt(folder, "sentencepiece.bpe.model", user_defined_symbols=["<ent>"])


@pytest.fixture(scope="session")
def pairs(
    bert_folder: Path,
    mpnet_folder: Path,
    spiece_folder: Path,
    spm_folder: Path,
    big_bird_folder: Path,
    roberta_folder: Path,
    sentencepiece_folder: Path,
) -> dict[str, tuple[Any, Any]]:
    """Name -> (our tokenizer, the reference's) on the same small files."""
    transformers = pytest.importorskip("transformers")
    made = {}
    for name, folder, options in [
        ("BertTokenizer", bert_folder, {"do_lower_case": False}),
        ("BertTokenizer", bert_folder, {}),
        ("BertTokenizer", bert_folder, {"strip_accents": False, "tokenize_chinese_chars": False}),
        ("DistilBertTokenizer", bert_folder, {}),
        ("MPNetTokenizer", mpnet_folder, {}),
        ("AlbertTokenizer", spiece_folder, {}),
        ("AlbertTokenizer", spiece_folder, {"do_lower_case": False, "keep_accents": True}),
        ("BigBirdTokenizer", big_bird_folder, {}),
        ("DebertaV2Tokenizer", spm_folder, {}),
        ("DebertaV2Tokenizer", spm_folder, {"do_lower_case": True, "split_by_punct": True}),
        ("RobertaTokenizer", roberta_folder, {}),
        ("RobertaTokenizer", roberta_folder, {"add_prefix_space": True, "trim_offsets": False}),
        ("XLMRobertaTokenizer", sentencepiece_folder, {}),
        ("CamembertTokenizer", sentencepiece_folder, {}),
    ]:
        mine = getattr(ours, name).from_pretrained(folder, **options)
        flags = {"mask_token": _mask(mine.mask_token)} if mine.spec.mask_lstrip else {}
        reference = getattr(transformers, name).from_pretrained(folder, **options, **flags)
        made[" ".join([name, *options])] = (mine, reference)
    return made


def _mask(text: str) -> Any:
    """The mask token as R8 wants it; built from raw files the reference forgets that it swallows the space on its left."""
    from tokenizers import AddedToken

    return AddedToken(text, lstrip=True, special=True, normalized=False)


@pytest.fixture(scope="session")
def odd() -> list[str]:
    """Texts that break careless tokenizers."""
    return ODD


@pytest.fixture
def copy_of(tmp_path: Path) -> Any:
    """A function that copies a folder's files, changed: name -> new content (bytes, str, dict), or None to leave one out."""

    def copy(folder: Path, **changes: bytes | str | dict[str, Any] | None) -> Path:
        target = tmp_path / "copy"
        target.mkdir(exist_ok=True)
        files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
        files.update({name.replace("__", "."): content for name, content in changes.items()})
        for name, content in files.items():
            if isinstance(content, dict):
                content = json.dumps(content)
            if content is not None:
                (target / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return target

    return copy
