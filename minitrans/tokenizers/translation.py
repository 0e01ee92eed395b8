"""Tokenizers of translation models, whose texts say in a token which language they are in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Self

from tokenizers import processors

from minitrans.errors import nearest
from minitrans.files import printable
from minitrans.tokenizers import call
from minitrans.tokenizers.folder import LANGUAGES
from minitrans.tokenizers.guards import token_and_id
from minitrans.tokenizers.tokenizer import Tokenizer


class TranslationTokenizer(Tokenizer):
    """A tokenizer with a language for its texts and one for its targets; both may be set at any time.

    Attributes:
        src_lang: the code of the language of the texts.
        tgt_lang: the code of the language of `text_target`; None = that of the texts.
    """

    code_is_last: ClassVar[bool] = False
    language_token: ClassVar[str] = "{}"
    language_code: ClassVar[str] = "([a-z]{2,3}_[A-Z][A-Za-z]{1,3})"  # en_XX, eng_Latn

    def _install(self, settings: Any, backend: Any, special_tokens: Any, options: Any) -> None:
        stated = {name: settings.pipeline[name] for name in LANGUAGES if settings.pipeline.get(name) is not None}
        super()._install(settings, backend, special_tokens, {**options, **stated})
        self.src_lang, self.tgt_lang = self._options["src_lang"], self._options["tgt_lang"]

    def __setattr__(self, name: str, value: Any) -> None:
        """As of every tokenizer; the languages are checked, and the template follows."""
        if name not in ("src_lang", "tgt_lang"):
            super().__setattr__(name, value)
            return
        if value is not None or name == "src_lang":
            self.require_language(name, value)
        with call.TURN:
            self._options = {**self._options, name: value}
            self._speak(self.src_lang)

    @property
    def lang_code_to_id(self) -> dict[str, int]:
        """Code -> id of the languages."""
        written = re.compile(self.language_token.format(self.language_code))
        found = ((written.fullmatch(token), index) for token, index in self.added_tokens_encoder.items())
        return {match[1]: index for match, index in found if match}

    def require_language(self, name: str, code: object) -> None:
        """Raises ValueError for a code that is no language, saying which is near; `name` says what it is the language of."""
        known = self.lang_code_to_id
        if not known:
            raise ValueError(f"{name}={printable(code)!r}: the vocabulary has no languages")
        if code not in known:
            what = f"the nearest of the {len(known)} languages is {nearest(code, known)}"
            raise ValueError(f"{name}={printable(code)!r}: {what}; lang_code_to_id has them all")

    def _speak(self, code: str) -> None:
        """Gives the backend the template of a language."""
        code = self.language_token.format(code)
        language, end = (token_and_id(self.backend_tokenizer, token) for token in (code, self.eos_token))
        behind = self.code_is_last or self._options.get("legacy_behaviour")
        single, pair = (
            [*texts, end[0], code] if behind else [code, *texts, end[0]] for texts in (["$A"], ["$A", "$B:0"])
        )
        self.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[language, end]
        )

    @contextmanager
    def speaking(self, code: str) -> Iterator[Self]:
        """Within it texts are in this language, and other threads wait; raises ValueError for one that is none."""
        self.require_language("src_lang", code)
        with call.TURN:  # the template is state of the backend
            self._speak(code)
            try:
                yield self
            finally:
                self._speak(self.src_lang)

    def _for_targets(self) -> AbstractContextManager[Self]:
        return self.speaking(self.tgt_lang or self.src_lang)
