"""`Encoder`: against sentence-transformers, and against itself in any batching."""

from __future__ import annotations

import gc
import warnings
from itertools import islice
from pathlib import Path

import pytest
import torch

import minitrans
from minitrans import AutoModel, AutoTokenizer, BertModel, Encoder
from minitrans.attention.variant import Variant
from minitrans.attention.variants.sigmoid import Sigmoid
from minitrans.embedding import POOLINGS, Recipe
from minitrans.embedding.jobs.job import fingerprint
from minitrans.errors import NotSupportedError
from tests.cli.conftest import WORDS
from tests.embedding.conftest import TEXTS, sentence_folder

THEIRS = {"mean_sqrt_len": "mean_sqrt_len_tokens"}


def reference(folder: Path, texts: list[str], **options: object) -> torch.Tensor:
    """What the package sentence-transformers makes of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("sentence_transformers")
        model = package.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        found = model.encode(texts, convert_to_tensor=True, show_progress_bar=False, **options)
        gc.collect()  # what it leaves open complains here, where nobody listens
    return torch.as_tensor(found)


def test_minilm_equals_the_package(minilm: Path):
    texts = ["A man is eating.", "Someone has lunch.", "", "The sky is blue. " * 60, "naïve café 東京"]
    found = Encoder(minilm).encode(texts)
    assert found.shape == (5, 384)
    assert torch.allclose(found, reference(minilm, texts), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "least"), [("float32", 1 - 1e-9), ("bfloat16", 0.999), ("int8", 0.995)])
def test_a_faster_precision_gives_nearly_the_same_vectors(minilm: Path, precision: str, least: float):
    texts = ["A man is eating.", "Someone has lunch.", "The sky is blue. " * 60, "naïve café 東京", *["He sat."] * 9]
    encoder = Encoder(minilm, precision=precision)
    found, exact = encoder.encode(texts), Encoder(minilm, dtype=torch.float64).encode(texts)
    assert found.dtype == torch.float32
    assert not torch.equal(found, Encoder(minilm).encode(texts))  # it did run in another way
    assert torch.cosine_similarity(found.double(), exact).min() >= least
    assert fingerprint(encoder) == fingerprint(Encoder(minilm))
    parts = Encoder.of(encoder.model, encoder.tokenizer, encoder.recipe, precision=precision)
    assert torch.equal(parts.encode(texts), found)


@pytest.mark.parametrize("padding", ["keep", "auto", "remove"])
def test_padding_is_the_users_choice(body: str, monkeypatch: pytest.MonkeyPatch, padding: str):
    """Packed batches are (N, D); "keep" makes none, however much could be saved."""
    encoder = Encoder(body, padding=padding, dtype=torch.float64)
    dimensions: set[int] = set()
    block = encoder.model.get_submodule("encoder.layer.0")
    block.register_forward_pre_hook(lambda module, given: dimensions.add(given[0].dim()))
    texts = ["cat", "a good film " * 12] * 300  # what "auto" thinks worth it
    vectors = encoder.encode(texts, batch_size=600)
    assert dimensions == ({3} if padding == "keep" else {2})
    assert torch.allclose(vectors, Encoder(body, padding="keep", dtype=torch.float64).encode(texts), rtol=0, atol=1e-12)


class PaddedOnly(Sigmoid):
    """A mechanism that computes padded batches alone, as one that says nothing of packed ones does."""

    supports = Variant.supports
    compute = Sigmoid.rectangle


def test_padding_that_the_attention_cannot_do_without_stays(body: str):
    texts = ["cat", "a good film " * 12] * 300
    encoder = Encoder(body, attention=PaddedOnly, dtype=torch.float64)
    expected = Encoder(body, attention="sigmoid", padding="keep", dtype=torch.float64).encode(texts, batch_size=600)
    assert torch.allclose(encoder.encode(texts, batch_size=600), expected, rtol=0, atol=1e-12)
    with pytest.raises(NotSupportedError, match="padding='keep'"):
        Encoder(body, attention=PaddedOnly, padding="remove").encode(texts)


def test_a_precision_that_there_is_not(body: str):
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'bfloat16', 'int8', got 'fp8'"):
        Encoder(body, precision="fp8")
    with pytest.raises(NotSupportedError, match="its weights are float64"):
        Encoder(body, dtype="float64", precision="float32")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_equals_the_package(body: str, tmp_path: Path, pooling: str):
    head = ("Normalize", "Dense") if pooling == "mean" else ("Dense",) if pooling == "max" else ()
    folder = sentence_folder(body, tmp_path / "m", {"pooling_mode": THEIRS.get(pooling, pooling)}, head=head)
    found = Encoder(folder).encode(TEXTS, normalize=None)
    assert torch.allclose(found, reference(folder, TEXTS), rtol=0, atol=1e-5)
    if not head:
        asked = Encoder(body).encode(TEXTS[:4], pooling=pooling, normalize=False)
        assert torch.allclose(asked, found[:4], rtol=0, atol=1e-5)


def test_prompts_equal_the_package(body: str, tmp_path: Path):
    prompts = {"prompts": {"query": "who is ", "other": "the "}, "default_prompt_name": "other"}
    folder = sentence_folder(body, tmp_path / "m", prompts=prompts, head=("Normalize",))
    encoder = Encoder(folder)
    for ours, theirs in (({}, {}), ({"prompt_name": "query"},) * 2, ({"prompt": "cat "},) * 2, ({"prompt": ""},) * 2):
        assert torch.allclose(encoder.encode(TEXTS, **ours), reference(folder, TEXTS, **theirs), rtol=0, atol=1e-5)
    assert torch.equal(encoder.encode(TEXTS, prompt="the "), encoder.encode(TEXTS))


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A family without token types."""
    folder = tmp_path_factory.mktemp("distilled")
    sizes = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": 32}
    minitrans.DistilBertModel(minitrans.DistilBertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("fixture", ["body", "distilled"])
def test_vectors_do_not_depend_on_company(request: pytest.FixtureRequest, fixture: str):
    encoder = Encoder(folder := request.getfixturevalue(fixture))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    alone = []
    for text in TEXTS:
        with torch.no_grad():
            fields = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
            alone.append(model(**fields).last_hidden_state[0].mean(0))  # (D)
    expected = torch.nn.functional.normalize(torch.stack(alone))
    for size in ("auto", 1, 3, 100):
        assert torch.allclose(encoder.encode(TEXTS, batch_size=size, normalize=True), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("texts_at_once", [1, 3, 7, 100])
def test_streams_of_windows_equal_encode_bit_for_bit(body: str, monkeypatch: pytest.MonkeyPatch, texts_at_once: int):
    monkeypatch.setattr("minitrans.embedding.batching.MAX_TEXTS", texts_at_once)
    encoder = Encoder(body)
    texts = TEXTS * 3
    done: list[int] = []
    whole = encoder.encode(texts, show_progress=done.append)
    blocks = list(encoder.encode_iter(iter(texts)))
    assert [len(block) for block in blocks][:-1] == [texts_at_once] * (len(blocks) - 1)
    assert torch.equal(torch.cat(blocks), whole)
    assert sum(done) == len(texts)
    single = [next(encoder.encode_windows([texts[i : i + texts_at_once]])) for i in range(0, 21, texts_at_once)]
    assert torch.equal(torch.cat(single), whole), "a window depends on nothing but itself"


def test_an_endless_stream(body: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minitrans.embedding.batching.MAX_TEXTS", 4)
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"the cat {taken}"

    blocks = Encoder(body).encode_iter(endless())
    assert [block.shape for block in islice(blocks, 3)] == [(4, 24)] * 3
    assert taken <= 4 * 5, "it reads a window or two ahead, no more"


def test_one_text_no_text_and_dtypes(body: str, capsys: pytest.CaptureFixture[str]):
    encoder = Encoder(body, dtype=torch.float64, backend="eager", attention="full")
    vectors = encoder.encode(["the cat", "snow"])
    assert vectors.dtype == torch.float64
    assert torch.equal(encoder.encode("snow"), encoder.encode(["snow"])[0])
    assert encoder.encode([]).shape == (0, encoder.dimension) == (0, 24)
    assert list(encoder.encode_iter([])) == []
    half = Encoder(body, dtype="bfloat16").encode(["the cat", "snow"], show_progress=True)
    assert half.dtype == torch.float32
    assert torch.allclose(half.double(), vectors, atol=0.05)
    assert "embedding" in capsys.readouterr().err


def test_raw_vectors_and_what_is_cut(body: str):
    encoder = Encoder(body)
    raw, unit = encoder.encode(TEXTS), encoder.encode(TEXTS, normalize=True)
    assert encoder.truncated == 1
    assert torch.allclose(raw / raw.norm(dim=1, keepdim=True), unit, atol=1e-6)
    assert torch.equal(encoder.encode(TEXTS, normalize=False), raw)
    encoder.encode("cat")
    assert encoder.truncated == 0


def test_of_loaded_parts(body: str):
    model, tokenizer = BertModel.from_pretrained(body), AutoTokenizer.from_pretrained(body)
    assert torch.equal(Encoder.of(model, tokenizer).encode(TEXTS), minitrans.Encoder(body).encode(TEXTS))
    lower = Encoder.of(model, tokenizer, Recipe(("cls",), 4, lower_case=True))
    assert torch.equal(lower.encode("THE Cat on the mat"), lower.encode("the cat"))


def test_wrong_arguments(body: str, tmp_path: Path):
    encoder = Encoder(body)
    for options, message in (
        (
            {"pooling": "sum"},
            "pooling: expected one of mean, cls, max, mean_sqrt_len, weightedmean, lasttoken, got 'sum'",
        ),
        ({"batch_size": 0}, "batch_size: expected 'auto' or a number above 0, got 0"),
        ({"batch_size": "big"}, "batch_size: expected 'auto'"),
        ({"prompt": "a", "prompt_name": "b"}, "give prompt or prompt_name, got both"),
        ({"prompt_name": "passage"}, r"expected one that the folder has \(query, document\), got 'passage'"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.encode(["a"], **options)
    with pytest.raises(ValueError, match="pooling: expected one of mean"):
        Recipe(("sum",))
    with pytest.raises(TypeError, match="text 1: expected str, got int"):
        encoder.encode(["a", 1])


@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "max", "lasttoken", "cls"])
def test_a_prompt_that_is_no_part_of_the_pooling(body: str, tmp_path: Path, pooling: str):
    prompts = {"prompts": {"query": "the cat : "}}
    modules = {"pooling_mode": pooling, "include_prompt": False, "word_embedding_dimension": 24}
    folder = sentence_folder(body, tmp_path / "m", modules, prompts=prompts)
    encoder, with_prompt = (
        Encoder(folder),
        Encoder(sentence_folder(body, tmp_path / "n", {**modules, "include_prompt": True})),
    )
    for options in ({"prompt_name": "query"}, {"prompt": "walk"}, {}):
        expected = reference(folder, TEXTS, **options)
        torch.testing.assert_close(encoder.encode(TEXTS, **options), expected, rtol=0, atol=1e-5)
    others = with_prompt.encode(TEXTS, prompt="the cat : ")
    same = torch.allclose(encoder.encode(TEXTS, prompt_name="query"), others, atol=1e-5)
    assert same == (pooling == "lasttoken")


def test_broken_weights_are_said_to_be(body: str):
    encoder = Encoder(body)
    with torch.no_grad():
        encoder.model.embeddings.LayerNorm.bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        encoder.encode(["cat"])


def test_the_fingerprint_tells_what_changed(body: str, tiny):
    encoder = Encoder(body)
    print_of = fingerprint(encoder)
    encoder.encode(TEXTS)
    assert fingerprint(encoder) == print_of == fingerprint(Encoder(body))
    with torch.no_grad():
        encoder.model.encoder.layer[1].feed_forward.down.bias[3] += 1e-6
    assert {key for key, value in fingerprint(encoder).items() if value != print_of[key]} == {"weights"}
    other = fingerprint(Encoder(body, attention={"name": "sliding_window", "window": 2}))
    assert {key for key, value in other.items() if value != print_of[key]} == {"config"}
    recipe = fingerprint(Encoder.of(Encoder(body).model, encoder.tokenizer, Recipe(("cls",))))
    assert {key for key, value in recipe.items() if value != print_of[key]} == {"recipe"}
