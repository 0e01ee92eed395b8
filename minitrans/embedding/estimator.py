"""An encoder in the shape of a scikit-learn transformer: for `Pipeline`, `GridSearchCV` and `clone`, not needing that library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from minitrans.embedding.encoder import Encoder


class EncoderVectorizer:
    """Texts to rows of numbers. There is nothing to fit: the encoder is trained already.

    Args:
        encoder: an `Encoder`, or what one is made from, a folder or a name on the Hugging Face hub. Clones share it.
        pooling, normalize, truncate_dim, batch_size, prompt, prompt_name: as `Encoder.encode` takes them.
    """

    def __init__(
        self,
        encoder: Encoder | str | Path,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        batch_size: int | str = "auto",
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> None:
        self.encoder = encoder
        self.pooling = pooling
        self.normalize = normalize
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self.prompt = prompt
        self.prompt_name = prompt_name
        self._loaded: tuple[str | Path, Encoder] | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, by name; `deep` makes no difference."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def set_params(self, **params: Any) -> Self:
        """Changes arguments. Raises ValueError for one that there is not."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has the parameters {', '.join(known)}, got {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, texts: Iterable[Any], y: object = None) -> Self:
        """Loads the encoder, where that is to be done, and tries the options. The texts are not looked at."""
        self._encode([])
        return self

    def transform(self, texts: Iterable[Any]) -> NDArray[np.float32]:
        """(N, D) for N texts, float32, row by row in memory."""
        return np.ascontiguousarray(self._encode(texts), dtype=np.float32)

    def fit_transform(self, texts: Iterable[Any], y: object = None) -> NDArray[np.float32]:
        """`transform`."""
        return self.transform(texts)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:
        """A name for each of the D numbers."""
        width = self._encode([]).shape[1]
        return np.array([f"{type(self).__name__.lower()}{number}" for number in range(width)], dtype=object)

    def _encode(self, texts: Iterable[Any]) -> NDArray[Any]:
        options = self.get_params()
        source = options.pop("encoder")
        if not isinstance(source, Encoder):
            if self._loaded is None or self._loaded[0] != source:
                self._loaded = source, Encoder(source)
            source = self._loaded[1]
        vectors: NDArray[Any] = source.encode(texts, convert_to_numpy=True, **options)
        return vectors

    def __sklearn_clone__(self) -> Self:
        clone = type(self)(**self.get_params())
        clone._loaded = self._loaded
        return clone

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags  # which is what calls this

        return Tags(
            estimator_type=None, target_tags=TargetTags(required=False), transformer_tags=TransformerTags(),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True), requires_fit=False,
        )  # fmt: skip

    def __repr__(self) -> str:
        shown = {
            name: type(value).__name__ if isinstance(value, Encoder) else repr(value)
            for name, value in self.get_params().items()
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"
