"""`EncoderVectorizer` where scikit-learn and faiss take it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from minitrans import Encoder
from minitrans.embedding import EncoderVectorizer
from tests.embedding.conftest import TEXTS

LABELS = [0, 1, 0, 1] * 3
LINES = ["the cat sat", "snow in london", "a good cat", "the night train"] * 3


def test_it_needs_no_scikit_learn(body: str):
    code = (
        "import sys; from minitrans.embedding import EncoderVectorizer as E; "
        f"E({body!r}).fit_transform(['cat']); sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("options", [{}, {"truncate_dim": 5, "normalize": True}, {"pooling": "cls", "prompt": "the "}])
def test_arrays_are_those_of_the_encoder(body: str, options: dict):
    encoder = Encoder(body)
    vectors = EncoderVectorizer(encoder, **options).fit_transform(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.array_equal(vectors, encoder.encode(TEXTS, **options).numpy())
    assert np.array_equal(EncoderVectorizer(body, **options).fit(TEXTS).transform(TEXTS), vectors)
    assert EncoderVectorizer(Encoder(body, dtype="float64"), **options).transform(TEXTS).dtype == np.float32


def test_parameters(body: str):
    encoder = Encoder(body)
    vectorizer = EncoderVectorizer(encoder, truncate_dim=5)
    params = {"encoder": encoder, "truncate_dim": 5, "batch_size": "auto"}
    unset = dict.fromkeys(("pooling", "normalize", "prompt", "prompt_name"))
    assert vectorizer.get_params() == params | unset
    assert vectorizer.set_params(truncate_dim=3) is vectorizer
    assert vectorizer.transform(TEXTS).shape == (len(TEXTS), 3)
    assert vectorizer.get_feature_names_out().tolist() == [f"encodervectorizer{number}" for number in range(3)]
    assert repr(vectorizer).startswith("EncoderVectorizer(encoder=Encoder, pooling=None")
    with pytest.raises(ValueError, match="has the parameters encoder, pooling, .* got 'pool'"):
        vectorizer.set_params(pool="mean")
    with pytest.raises(ValueError, match="truncate_dim: expected None or a number above 0, got 0"):
        vectorizer.set_params(truncate_dim=0).fit(TEXTS)


@pytest.mark.parametrize("by_name", [True, False])
def test_pipeline_grid_search_and_clone(body: str, by_name: bool, monkeypatch: pytest.MonkeyPatch):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    encoder = Encoder(body)
    loads: list[object] = []
    monkeypatch.setattr(
        "minitrans.embedding.estimator.Encoder.__init__",
        lambda self, source: loads.append(source) or vars(self).update(vars(encoder)),
    )
    vectorizer = EncoderVectorizer(body if by_name else encoder).fit(LINES)
    pipe = make_pipeline(vectorizer, LogisticRegression(C=100))
    assert pipe.fit(LINES, LABELS).score(LINES, LABELS) == 1.0
    grid = {"encodervectorizer__pooling": ["mean", "cls"], "encodervectorizer__truncate_dim": [1, 24]}
    search = GridSearchCV(pipe, grid, cv=2).fit(LINES, LABELS)
    assert search.best_params_["encodervectorizer__truncate_dim"] == 24
    assert list(search.predict(LINES)) == LABELS
    clone = sklearn.base.clone(vectorizer)
    assert clone is not vectorizer
    assert clone.encoder is vectorizer.encoder
    assert loads == ([body] if by_name else [])
    assert len(repr(pipe)) > 10
    monkeypatch.undo()
    again = pickle.loads(pickle.dumps(pipe))
    assert list(again.predict(LINES)) == LABELS


def test_faiss_takes_the_arrays(body: str):
    faiss = pytest.importorskip("faiss")
    encoder = Encoder(body)
    vectors = EncoderVectorizer(encoder, normalize=True, truncate_dim=7).transform(TEXTS)
    index = faiss.IndexFlatIP(7)
    index.add(vectors)
    index.add(encoder.encode(TEXTS, normalize=True, truncate_dim=7, convert_to_numpy=True))
    scores, found = index.search(vectors, 1)
    assert np.allclose(scores, 1, atol=1e-6)
    assert [number % len(TEXTS) for number in found[:, 0]] == list(range(len(TEXTS)))
