"""What a tokenizer's vocabulary says about words: where they begin, which tokens are special."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Vocabulary"]

CONTINUES = "##"
"""Before the later tokens of a word, in WordPiece."""

BEGINS = ("▁", "Ġ", "Ċ")
"""Before the first token of a word, in SentencePiece and in byte-level BPE."""

ENDS = "</w>"
"""Behind the last token of a word, in the BPE of GPT and CLIP."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tables over token ids.

    Attributes:
        begin: Whether a token begins a word whatever stands before it.
        end: Whether the token behind it begins a word.
        special: Ids of special tokens.
        stop_words: Ids of the stop words.
        padding: Id of padding.
        replacement: Id of the token that stands for a missing one: mask, padding or unknown, the first that there is.
        words: How each token is written, with ``##`` before the later tokens of a word in WordPiece.
    """

    begin: Bool[Tensor, " ids"]
    end: Bool[Tensor, " ids"]
    special: tuple[int, ...]
    stop_words: tuple[int, ...]
    padding: int | None
    replacement: int | None
    words: tuple[str, ...] = ()
    _tables: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any, stop_words: Sequence[int | str] = ()) -> "Vocabulary":
        """Read the vocabulary of a tokenizer.

        Args:
            tokenizer: Has ``convert_ids_to_tokens(ids)``, ``all_special_ids``, a length or a ``vocab_size``, and, where it has
                such tokens, ``mask_token_id``, ``pad_token_id`` and ``unk_token_id``.
            stop_words: Words, as strings without regard to case; ids are passed over.

        Raises:
            ValueError: If it has no ``convert_ids_to_tokens``, or a stop word is no token.
        """
        if not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise ValueError(
                f"players: expected a tokenizer with convert_ids_to_tokens, got {type(tokenizer).__name__}; say which tokens "
                "are one word with words="
            )
        size = len(tokenizer) if hasattr(tokenizer, "__len__") else int(tokenizer.vocab_size)
        tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(list(range(size)))]
        begin, end = _edges(tokens)
        wanted = {word.lower() for word in stop_words if isinstance(word, str)}
        texts = [_text(token) for token in tokens]
        missing = sorted(wanted - set(texts))
        if missing:
            raise ValueError(f"players: expected stop words that are single tokens of the tokenizer, got {missing}")
        known = [getattr(tokenizer, f"{name}_token_id", None) for name in ("mask", "pad", "unk")]
        return cls(
            torch.tensor(begin, dtype=torch.bool),
            torch.tensor(end, dtype=torch.bool),
            tuple(int(one) for one in getattr(tokenizer, "all_special_ids", ())),
            tuple(position for position, text in enumerate(texts) if text in wanted),
            known[1],
            next((one for one in known if one is not None), None),
            tuple(_written(token) for token in tokens),
        )

    @classmethod
    def of_words(cls, words: Sequence[str] | Mapping[str, int], stop_words: Sequence[int | str] = ()) -> "Vocabulary":
        """Take each token for a word of its own.

        Args:
            words: The word of each id, from 0 on; or the id of each word.
            stop_words: Words, as strings without regard to case; ids are passed over.

        Raises:
            ValueError: If a stop word is none of the words.
        """
        if isinstance(words, Mapping):
            written = [f"id {one}" for one in range(max(words.values(), default=-1) + 1)]
            for word, one in words.items():
                written[one] = word
        else:
            written = list(words)
        wanted = {word.lower() for word in stop_words if isinstance(word, str)}
        missing = sorted(wanted - {word.lower() for word in written})
        if missing or not written:
            raise ValueError(
                f"players: expected a vocabulary with words, and stop words that are in it, got {missing or written}"
            )
        begin = torch.ones(len(written), dtype=torch.bool)
        stops = tuple(one for one, word in enumerate(written) if word.lower() in wanted)
        return cls(begin, ~begin, (), stops, None, None, tuple(written))

    def write(self, ids: Sequence[int]) -> str:
        """Write the tokens of one word."""
        known = [self.words[one] if 0 <= one < len(self.words) else f"id {one}" for one in ids]
        return "".join(token.removeprefix(CONTINUES) if place else token for place, token in enumerate(known))

    def begins(self, ids: Int[Tensor, "rows positions"]) -> Bool[Tensor, "rows positions"]:
        """Find out which tokens begin a word."""
        if ids.device not in self._tables:
            self._tables[ids.device] = (self.begin.to(ids.device), self.end.to(ids.device))
        begin, end = self._tables[ids.device]
        known = ids.clamp(0, len(begin) - 1)
        starts = begin[known]
        starts[:, 1:] |= end[known[:, :-1]]
        return starts


def _edges(tokens: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """Say for each token whether it begins a word, and whether the one behind it does."""
    nothing = [False] * len(tokens)
    if any(token.startswith(CONTINUES) and token != CONTINUES for token in tokens):
        return [not token.startswith(CONTINUES) for token in tokens], nothing
    if any(token.endswith(ENDS) for token in tokens):
        return nothing, [token.endswith(ENDS) for token in tokens]
    if any(token.startswith(BEGINS) for token in tokens):
        # Punctuation is a word of its own, though no space stands before it.
        return [token.startswith(BEGINS) or not any(map(str.isalnum, token)) for token in tokens], nothing
    return [True] * len(tokens), nothing


def _text(token: str) -> str:
    return _written(token).lower()


def _written(token: str) -> str:
    return token.removesuffix(ENDS).lstrip("".join(BEGINS))
