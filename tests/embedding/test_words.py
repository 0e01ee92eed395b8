"""The words of sentence-transformers: each against that package, on the same folder."""

from __future__ import annotations

import gc
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitrans import Encoder, NotSupportedError
from minitrans.embedding.similarity import SIMILARITIES, quantised
from tests.embedding.conftest import TEXTS, sentence_folder

LINES = ["A man is eating.", "Someone has lunch.", "", "The sky is blue. " * 60, "naïve café 東京", "snow"]
PAIRS = [("A man is eating.", "Someone has lunch."), ("a " * 300, "snow " * 200), ("", "snow")]
EXACT = 1e-6  # of a vector of length 1


def package(folder: Path | str) -> Any:
    """The folder in sentence-transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("sentence_transformers")
        return module.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def both(minilm: Path):
    """Ours and the package's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Encoder(minilm), package(minilm)
        gc.collect()  # what it leaves open complains here, where nobody listens


def assert_alike(ours: Any, theirs: Any, kinds: bool = True) -> None:
    """The same container, dtype and shape, the numbers equal to rounding; integers are off by one at most, and seldom."""
    if kinds:
        assert type(ours) is type(theirs)
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_alike(our, their, kinds)
        return
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    if theirs.dtype.kind == "f":
        assert difference.max() <= EXACT * max(1, np.linalg.norm(theirs, axis=-1).max())
    else:  # what lies on the edge of a step falls to either side
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.01


WORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "show_progress_bar": (LINES, {"show_progress_bar": False, "convert_to_numpy": True}),
    "convert_to_numpy": (LINES, {"convert_to_numpy": True}),
    "convert_to_numpy of one": ("snow", {"convert_to_numpy": True}),
    "convert_to_tensor": (LINES, {"convert_to_tensor": True}),
    "convert_to_tensor before convert_to_numpy": (LINES, {"convert_to_tensor": True, "convert_to_numpy": True}),
    "convert_to_tensor=False": (LINES, {"convert_to_tensor": False}),
    "neither": (LINES, {"convert_to_numpy": False, "convert_to_tensor": False}),
    "normalize_embeddings": (LINES, {"normalize_embeddings": True, "convert_to_numpy": True}),
    "normalize_embeddings=False": (LINES, {"normalize_embeddings": False, "convert_to_numpy": True}),
    "device": (LINES, {"device": "cpu", "convert_to_numpy": True}),
    "batch_size": (LINES, {"batch_size": 2, "convert_to_numpy": True}),
    "truncate_dim": (LINES, {"truncate_dim": 10, "convert_to_numpy": True}),
    "truncate_dim beyond": (LINES, {"truncate_dim": 1000, "convert_to_numpy": True}),
    "truncate_dim, then normalised": (LINES, {"truncate_dim": 10, "normalize_embeddings": True, "convert_to_numpy": True}),
    "prompt": (LINES, {"prompt": "who is ", "convert_to_numpy": True}),
    "prompt of pairs": (PAIRS, {"prompt": "who is ", "convert_to_numpy": True}),
    "token_embeddings": (LINES, {"output_value": "token_embeddings"}),
    "token_embeddings of one": ("snow", {"output_value": "token_embeddings"}),
    "sentence_embedding": (LINES, {"output_value": "sentence_embedding", "convert_to_numpy": True}),
    "int8": (LINES, {"precision": "int8", "convert_to_numpy": True}),
    "uint8": (LINES, {"precision": "uint8", "convert_to_tensor": True}),
    "binary": (LINES, {"precision": "binary", "convert_to_numpy": True}),
    "ubinary": (LINES, {"precision": "ubinary", "convert_to_numpy": False}),
    "binary of one": ("snow", {"precision": "binary", "convert_to_numpy": True}),
    "pairs": (PAIRS, {"convert_to_numpy": True}),
    "pairs as lists": ([list(pair) for pair in PAIRS], {"convert_to_numpy": True}),
    "a tuple of texts": (tuple(LINES), {"convert_to_numpy": True}),
    "an array of texts": (np.array(LINES), {"convert_to_numpy": True}),
    "texts, pairs and dictionaries": ([*LINES, *PAIRS, {"text": "snow"}], {"convert_to_numpy": True}),
    "a dictionary": ({"text": "snow"}, {"convert_to_numpy": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_each_word_equals_the_package(both: tuple[Encoder, Any], name: str):
    ours, theirs = both
    given, words = WORDS[name]
    for texts in ("sentences", "inputs"):
        found = ours.encode(**{texts: given}, **words)
        assert_alike(found, theirs.encode(given, **{"show_progress_bar": False} | words))


def test_without_a_word_it_is_a_tensor_of_the_same_numbers(both: tuple[Encoder, Any]):
    ours, theirs = both
    found = ours.encode(LINES)
    assert isinstance(found, torch.Tensor)
    assert_alike(found, theirs.encode(LINES, show_progress_bar=False), kinds=False)


def test_a_dictionary_of_all_there_is(both: tuple[Encoder, Any]):
    ours, theirs = both
    found, expected = (
        ours.encode(LINES, output_value=None),
        theirs.encode(LINES, output_value=None, show_progress_bar=False),
    )
    for text, (our, their) in enumerate(zip(found, expected, strict=True)):
        assert set(our) == set(their) - {"modality"}, text
        real = their["attention_mask"].bool()  # theirs keep the padding of the batch
        for key, value in our.items():
            assert_alike(value, their[key] if key == "sentence_embedding" else their[key][real])
    assert set(ours.encode("snow", output_value=None)) == set(found[0])


def test_folders_that_end_unnormalised(body: str, tmp_path: Path):
    """Numbers are the package's where nothing makes vectors of length 1, where a Dense does the rest, and in a cut folder."""
    for number, (head, prompts) in enumerate(
        [((), {}), (("Dense",), {}), (("Normalize",), {"truncate_dim": 5}), ((), {"similarity_fn_name": "dot"})]
    ):
        folder = sentence_folder(body, tmp_path / str(number), head=head, prompts=prompts)
        ours, theirs = Encoder(folder), package(folder)
        for words in ({}, {"normalize_embeddings": True}, {"truncate_dim": 4}):
            found, expected = (each.encode(TEXTS, convert_to_numpy=True, **words) for each in (ours, theirs))
            assert_alike(found, expected)
        assert ours.get_embedding_dimension() == ours.dimension == theirs.get_embedding_dimension()
        assert ours.similarity_fn_name == theirs.similarity_fn_name
        gc.collect()


@pytest.mark.parametrize(
    "prompts", [{"query": "who is ", "passage": "the "}, {"document": "cat ", "corpus": "a "}, {"other": "a "}, {}]
)
def test_queries_and_documents(body: str, tmp_path: Path, prompts: dict[str, str]):
    saved = {"prompts": prompts, "default_prompt_name": next(iter(prompts), None)}
    folder = sentence_folder(body, tmp_path / "m", prompts=saved)
    ours, theirs = Encoder(folder), package(folder)
    for name in ("encode_query", "encode_document"):
        for words in ({}, {"prompt": ""}, {"prompt": "snow "}):
            assert_alike(*(getattr(each, name)(TEXTS, **words, convert_to_numpy=True) for each in (ours, theirs)))
    assert ours.prompts == theirs.prompts
    gc.collect()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_equal_the_package(both: tuple[Encoder, Any], name: str):
    ours, theirs = both
    generator = np.random.default_rng(0)
    a, b, c = (generator.standard_normal((count, 7)).astype(np.float32) for count in (5, 3, 5))
    assert ours.similarity_fn_name == "cosine"
    ours.similarity_fn_name = theirs.similarity_fn_name = name
    for first, second in ((a, b), (torch.from_numpy(a), list(b)), (a[0], b), (a[0], b[0])):
        assert_alike(ours.similarity(first, second), theirs.similarity(first, second))
    assert_alike(ours.similarity_pairwise(a, c), theirs.similarity_pairwise(a, c))
    ours.similarity_fn_name = theirs.similarity_fn_name = None
    assert ours.similarity_fn_name == "cosine"
    with pytest.raises(
        ValueError, match="similarity_fn_name: expected one of cosine, dot, euclidean, manhattan, got 'maxsim'"
    ):
        ours.similarity_fn_name = "maxsim"


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_vectors_in_few_bits_equal_the_package(precision: str):
    quantise = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    vectors = torch.randn(200, 21, generator=torch.Generator().manual_seed(0))
    vectors[:, 3] = 0.5  # a coordinate that is the same everywhere
    assert np.array_equal(quantised(vectors, precision).numpy(), quantise(vectors.numpy(), precision))
    empty = quantised(vectors[:0], precision)
    assert (empty.shape[0], empty.dtype) == (0, quantised(vectors, precision).dtype)


def test_the_longest_input_can_be_set(both: tuple[Encoder, Any], minilm: Path):
    ours, theirs = Encoder(minilm), both[1]
    assert ours.max_seq_length == ours.get_max_seq_length() == theirs.max_seq_length == 256
    try:
        ours.max_seq_length = theirs.max_seq_length = 7
        found, expected = (each.encode(LINES, convert_to_numpy=True) for each in (ours, theirs))
    finally:
        theirs.max_seq_length = 256
    assert_alike(found, expected)
    assert ours.truncated == 1
    for wrong in (2, 513, "7", None):
        with pytest.raises(
            ValueError, match=re.escape(f"max_seq_length: expected a number from 3 to 512, got {wrong!r}")
        ):
            ours.max_seq_length = wrong


@pytest.mark.parametrize("texts", [LINES, PAIRS])
def test_tokenize_equals_the_package(both: tuple[Encoder, Any], texts: list[Any]):
    ours, theirs = (each.preprocess(texts) for each in both)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert set(ours) == set(theirs) - {"modality"}


def test_where_it_is_and_in_what(body: str):
    encoder = Encoder(body)
    expected = encoder.encode(TEXTS)
    assert encoder.device == torch.device("cpu")
    assert encoder.to(torch.float64).encode(TEXTS).dtype == torch.float64
    halved = encoder.half()
    assert halved is encoder
    assert encoder.model.dtype == torch.float16
    found = encoder.encode(TEXTS, device="cpu")
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.02  # ten bits of every step's result
    prepared = Encoder(body, precision="bfloat16")
    assert prepared.encode("cat", device="cpu").shape == (24,)
    with pytest.raises(
        NotSupportedError, match="precision='bfloat16' lays the blocks out for a CPU, once; make an Encoder without"
    ):
        prepared.half()


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "misspelt": ({"normalise_embeddings": True}, TypeError, "no word 'normalise_embeddings'; the nearest it takes is 'normalize_embeddings'"),
    "unheard of": ({"show_bar": True}, TypeError, "no word 'show_bar'; the nearest it takes is 'show_progress"),
    "two names": ({"normalize": True, "normalize_embeddings": True}, TypeError, "takes one of 'normalize' and its other name"),
    "texts twice": ({"sentences": ["a"]}, TypeError, "takes one of 'texts' and its other name 'sentences', got both"),
    "precision of the model": ({"precision": "bfloat16"}, ValueError, "(what the model computes in is the precision of Encoder(...)), got 'bfloat16'"),
    "precision of tokens": ({"precision": "int8", "output_value": "token_embeddings"}, ValueError, "'int8' is for output_value='sentence_embedding'"),
    "reach of one text": ({"precision": "int8"}, ValueError, "takes the reach of each coordinate from the texts, so give two or more"),
    "output_value": ({"output_value": "tokens"}, ValueError, "output_value: expected one of 'sentence_embedding', 'token_embeddings', None, got 'tokens'"),
    "truncate_dim": ({"truncate_dim": 0}, ValueError, "truncate_dim: expected None or a number above 0, got 0"),
    "devices": ({"device": ["cpu", "cpu"]}, ValueError, "device: expected one device"),
    "pool": ({"pool": {}}, NotSupportedError, "torchrun --nproc-per-node N -m minitrans embed"),
    "chunk_size": ({"chunk_size": 5}, NotSupportedError, "torchrun --nproc-per-node N -m minitrans embed"),
    "task": ({"task": "query"}, NotSupportedError, "encode_query and encode_document choose the prompt"),
    "processing_kwargs": ({"processing_kwargs": {}}, NotSupportedError, "set encoder.max_seq_length"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_words_that_are_refused_say_what_to_do(body: str, name: str):
    words, kind, message = REFUSED[name]
    with pytest.raises(kind, match=re.escape(message)):
        Encoder(body).encode(["cat"], **words)


def test_what_else_is_refused_says_what_to_do(body: str, tmp_path: Path):
    encoder = Encoder(body)
    with pytest.raises(NotSupportedError, match="torchrun"):
        encoder.start_multi_process_pool(["cpu"] * 2)
    with pytest.raises(TypeError, match="encode\\(\\) takes a text or a list of texts, got none"):
        encoder.encode()
    with pytest.raises(TypeError, match="text 0: expected str, got tuple"):
        encoder.encode([("a", "b", "c")])
    with pytest.raises(TypeError, match="text 0: expected str, got dict"):
        encoder.encode({"query": "a"})
    with pytest.raises(TypeError, match="no word 'convert_to_numpy'"):
        encoder.encode_iter(["a"], convert_to_numpy=True)
    with pytest.raises(
        ValueError, match="it is what the model computes in, and encode\\(precision=...\\) what the vectors"
    ):
        Encoder(body, precision="uint8")
    for number, (settings, message) in enumerate(
        [({"similarity_fn_name": "maxsim"}, "only cosine, dot, euclidean"), ({"truncate_dim": 0}, "a number above 0")]
    ):
        with pytest.raises(ValueError, match=message):
            Encoder(sentence_folder(body, tmp_path / str(number), prompts=settings))
