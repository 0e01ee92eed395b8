"""The special tokens of a tokenizer under the names of their roles: `cls_token`, `cls_token_id` and so on."""

from __future__ import annotations

from typing import Any, ClassVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from minitrans.tokenizers.backend import token_and_id
from minitrans.tokenizers.settings import ROLES, text_of


class _Text:
    """The attribute `x_token`: the text of the token in that role, or None. It may be set to any known token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.role = name

    def __get__(self, tokenizer: SpecialTokens | None, owner: type) -> Any:
        return self if tokenizer is None else tokenizer._roles.get(self.role)

    def __set__(self, tokenizer: SpecialTokens, value: object) -> None:
        tokenizer._assign(self.role, value)


class _Id:
    """The attribute `x_token_id`: the id of the token in that role, or None. It may be set to any known id."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.role = name.removesuffix("_id")

    def __get__(self, tokenizer: SpecialTokens | None, owner: type) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._roles.get(self.role)
        return None if token is None else tokenizer.backend_tokenizer.token_to_id(token)

    def __set__(self, tokenizer: SpecialTokens, value: int | None) -> None:
        token = None if value is None else tokenizer.backend_tokenizer.id_to_token(value)
        if value is not None and token is None:
            raise ValueError(
                f"{self.role}_id={value}: expected an id of the vocabulary, which has {len(tokenizer)} tokens"
            )
        tokenizer._assign(self.role, token)


class SpecialTokens:
    """The part of a tokenizer that knows which token plays which role; the ids are the backend's."""

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[tuple[str, ...]] = ROLES
    backend_tokenizer: Backend
    _roles: dict[str, str | None]
    _extra: list[str]

    bos_token, eos_token, unk_token, sep_token = _Text(), _Text(), _Text(), _Text()
    pad_token, cls_token, mask_token = _Text(), _Text(), _Text()
    bos_token_id, eos_token_id, unk_token_id, sep_token_id = _Id(), _Id(), _Id(), _Id()
    pad_token_id, cls_token_id, mask_token_id = _Id(), _Id(), _Id()

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def _assign(self, role: str, value: object) -> None:
        if value is not None and not (isinstance(value, str | AddedToken) and text_of(value)):
            raise ValueError(f"{role}: expected the text of a token or None, got {type(value).__name__} {value!r}")
        text = None if value is None else text_of(value)
        if text is not None and self.backend_tokenizer.token_to_id(text) is None:
            raise ValueError(
                f"{role}={text!r}: not in the vocabulary; add it with add_special_tokens({{{role!r}: {text!r}}})"
            )
        self._roles[role] = text

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Role -> token, for the roles that have one."""
        return {role: text for role in ROLES if (text := self._roles.get(role)) is not None}

    @property
    def extra_special_tokens(self) -> list[str]:
        """The special tokens without a role."""
        return list(self._extra)

    @property
    def additional_special_tokens(self) -> list[str]:
        """The older name of extra_special_tokens."""
        return self.extra_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once: by role, then the extra ones."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all_special_tokens."""
        return [token_and_id(self.backend_tokenizer, token)[1] for token in self.all_special_tokens]

    def add_tokens(
        self,
        new_tokens: str | AddedToken | list[str | AddedToken] | tuple[str | AddedToken, ...],
        special_tokens: bool = False,
    ) -> int:
        """Adds tokens that are not in the vocabulary at its end; returns how many. The model's table must grow with it.

        Raises:
            TypeError: if something else than tokens is given.
            ValueError: if a token has no text.
        """
        tokens = list(new_tokens) if isinstance(new_tokens, list | tuple) else [new_tokens]
        for token in tokens:
            if not isinstance(token, str | AddedToken):
                raise TypeError(
                    f"add_tokens: expected tokens (str or AddedToken), got {type(token).__name__} {token!r}"
                )
            if not text_of(token):
                raise ValueError("add_tokens: expected a text, got an empty token")
        before = len(self)
        if special_tokens:
            self.backend_tokenizer.add_special_tokens(tokens)
        else:
            self.backend_tokenizer.add_tokens(tokens)
        return len(self) - before

    def add_special_tokens(self, special_tokens_dict: dict[str, Any], replace_extra_special_tokens: bool = True) -> int:
        """Gives roles (`{"pad_token": "<p>"}`) or extra special tokens (`{"extra_special_tokens": [...]}`) to tokens.

        Tokens that are not in the vocabulary are added at its end; returns how many.

        Raises:
            ValueError: if a key is no role.
        """
        before = len(self)
        for key, value in special_tokens_dict.items():
            if key in ROLES:
                self.add_tokens([_special(value)], special_tokens=True)
                self._assign(key, value)
            elif key in ("extra_special_tokens", "additional_special_tokens"):
                if not isinstance(value, list | tuple):
                    raise ValueError(f"{key}: expected a list of tokens, got {type(value).__name__} {value!r}")
                self.add_tokens([_special(token) for token in value], special_tokens=True)
                kept = [] if replace_extra_special_tokens else self._extra
                self._extra = list(dict.fromkeys([*kept, *(text_of(token) for token in value)]))
            else:
                raise ValueError(f"{key!r}: expected one of {', '.join(ROLES)}, extra_special_tokens")
        return len(self) - before


def _special(value: object) -> AddedToken:
    if isinstance(value, AddedToken):
        return value
    if not isinstance(value, str):
        raise ValueError(f"expected the text of a special token, got {type(value).__name__} {value!r}")
    return AddedToken(value, special=True, normalized=False)
