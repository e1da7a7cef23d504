"""Words of a text as players."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_interactions.game.baselines import Baseline, Token, Zeros
from lightning_interactions.game.players.base import NOBODY, OneLeaf
from lightning_interactions.game.players.choice import Choice, Some
from lightning_interactions.game.players.padding import check_positions, names_padding, real_positions
from lightning_interactions.game.players.vocabulary import Vocabulary
from lightning_interactions.records import Rows

__all__ = ["Tokens", "Words"]


class Words(OneLeaf):
    """All words of a text, as many players as there are positions; see :class:`Tokens` for the arguments."""

    def __init__(
        self,
        words: str | Callable[[Tensor], Tensor] | None = None,
        tokenizer: Any = None,
        special: Sequence[int] = (),
        stop_words: Sequence[int | str] = (),
        padding: int | None = None,
        leaf: str | None = None,
        valid: str | None = None,
        padded: str | None = None,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
    ) -> None:
        check_positions(valid, padded)
        if tokenizer is not None and vocabulary is not None:
            raise ValueError("players: expected tokenizer or vocabulary, got both; the tokenizer has one")
        super().__init__(leaf)
        self.words = words
        self.special = tuple(special)
        self.stop_words = tuple(stop_words)
        self.padding = padding
        self.valid = valid
        self.padded = padded
        self._vocabulary = None if tokenizer is None else Vocabulary.of(tokenizer, stop_words)
        if vocabulary is not None:
            self._vocabulary = Vocabulary.of_words(vocabulary, stop_words)
        self.vocabulary = None if vocabulary is None else f"{len(vocabulary)} words"
        self.tokenizer = None if tokenizer is None else str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        if self._vocabulary is None and any(isinstance(word, str) for word in stop_words):
            raise ValueError(
                f"players: expected stop words as token ids, got {list(stop_words)}; pass tokenizer= or vocabulary= for strings"
            )

    @property
    def rows_differ(self) -> bool:
        """True: the first word of a text has nothing to do with that of another."""
        return True

    @property
    def expects(self) -> str:
        """What a tensor must be, in words."""
        return "token ids [inputs, positions] as integers, or embeddings [inputs, positions, features]"

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor is a batch of token ids or of embeddings."""
        if 0 in tensor.shape[1:]:
            return False
        if tensor.is_floating_point():
            return tensor.ndim == 3
        return tensor.ndim == 2 and tensor.dtype != torch.bool and not tensor.is_complex()

    def leaves(self, inputs: Rows) -> tuple[str]:
        """Name the masked tensor; see :class:`~lightning_interactions.players.Players`."""
        if self.leaf is None:
            beside = (self.words, self.valid, self.padded)
            fitting = [name for name, leaf in inputs.leaves.items() if name not in beside and self.fits(leaf)]
            candidates = [name for name in fitting if not names_padding(name)]
            if len(candidates) == 1:
                return (candidates[0],)
        return super().leaves(inputs)

    def num_players(self, inputs: Rows) -> int:
        """Count the positions; see :class:`~lightning_interactions.players.Players`."""
        return self.tensor(inputs).shape[1]

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Number the words from 1 on; see :class:`~lightning_interactions.players.Players`."""
        return tuple(f"word {place}" for place in range(1, self.num_players(inputs) + 1))

    def labels(self, inputs: Rows) -> list[tuple[str, ...]]:
        """Write the words of each row; see :class:`~lightning_interactions.players.Players`.

        Ids where there is neither a tokenizer nor a vocabulary, and numbers where there are embeddings.
        """
        (name,) = self.leaves(inputs)
        tokens = inputs.leaves[name]
        if tokens.is_floating_point():
            return super().labels(inputs)
        labels = []
        for ids, own in zip(tokens.tolist(), self.assignments(inputs)[name].tolist(), strict=True):
            of_words: list[list[int]] = [[] for _ in ids]
            for token, word in zip(ids, own, strict=True):
                if word != NOBODY:
                    of_words[word].append(token)
            labels.append(tuple(self._written(word) for word in of_words))
        return labels

    def naming_hint(self, inputs: Rows) -> str:
        """Write players with words; see :class:`~lightning_interactions.players.Players`."""
        if self._vocabulary is not None or self.tensor(inputs).is_floating_point():
            return ""
        leaf = "" if self.leaf is None else f"leaf={self.leaf!r}, "
        return f"Tokens({leaf}vocabulary=[...]) or Tokens({leaf}tokenizer=...)"

    def _written(self, ids: Sequence[int]) -> str:
        if not ids:
            return ""
        return f"id {'+'.join(map(str, ids))}" if self._vocabulary is None else self._vocabulary.write(ids)

    def default_baseline(self, inputs: Rows) -> Baseline:
        """Return the token that the tokenizer has for it, else that of padding; zeros for embeddings."""
        if self.tensor(inputs).is_floating_point():
            return Zeros()
        if self._vocabulary is not None and self._vocabulary.replacement is not None:
            return Token(self._vocabulary.replacement)
        return Token(self.padding or 0)

    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Say which word each token belongs to; see :class:`~lightning_interactions.players.AssignedPlayers`."""
        (name,) = self.leaves(inputs)
        tokens = inputs.leaves[name]
        ids = None if tokens.is_floating_point() else tokens.long()
        real = self._real(inputs, name, ids)
        if (numbers := self._numbers(inputs)) is not None:
            real = real & (numbers >= 0)
            begins = torch.ones_like(real)
            begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        elif ids is not None and self._vocabulary is not None:
            begins = self._vocabulary.begins(ids)
        else:
            begins = real
        after_none = torch.ones_like(real)
        after_none[:, 1:] = ~real[:, :-1]
        starts = real & (begins | after_none)
        own = self._without_stop_words(torch.where(real, starts.cumsum(dim=1) - 1, NOBODY), ids)
        return {name: own if ids is not None else own[..., None]}

    def _real(self, inputs: Rows, name: str, ids: Int[Tensor, "rows positions"] | None) -> Bool[Tensor, "rows positions"]:
        """Find the tokens that are neither padding nor special."""
        tokens = inputs.leaves[name]
        told = real_positions(inputs, tokens.shape[1], self.valid, self.padded, of=name)
        real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if told is None else told.to(tokens.device)
        if ids is None:
            return real
        padding = self.padding
        if padding is None and self._vocabulary is not None:
            padding = self._vocabulary.padding
        if padding is None and told is None:
            padding = 0
        never = [*self.special, *(self._vocabulary.special if self._vocabulary is not None else ())]
        never += [] if padding is None else [padding]
        return real & ~_is_one_of(ids, never)

    def _numbers(self, inputs: Rows) -> Int[Tensor, "rows positions"] | None:
        """Ask for the numbers of the words, where somebody knows them."""
        if self.words is None:
            return None
        tokens = self.tensor(inputs)
        numbers = inputs.leaves.get(self.words) if isinstance(self.words, str) else self.words(tokens)
        shape = tokens.shape[:2]
        if not isinstance(numbers, Tensor) or numbers.is_floating_point() or numbers.shape != shape:
            got = f"{numbers.dtype} {tuple(numbers.shape)}" if isinstance(numbers, Tensor) else type(numbers).__name__
            raise ValueError(
                f"players: expected integers {tuple(shape)} that number the words, negative where there is none, from "
                f"words={self.words!r}, got {got}"
            )
        return numbers.long().to(tokens.device)

    def _without_stop_words(
        self, own: Int[Tensor, "rows positions"], ids: Int[Tensor, "rows positions"] | None
    ) -> Int[Tensor, "rows positions"]:
        """Give words that consist of nothing but stop words to nobody."""
        stops = [word for word in self.stop_words if not isinstance(word, str)]
        stops += [] if self._vocabulary is None else self._vocabulary.stop_words
        if ids is None or not stops:
            return own
        width = own.shape[1] + 1
        other = (own >= 0) & ~_is_one_of(ids, stops)
        has_other = torch.zeros(len(own), width, dtype=torch.long, device=own.device)
        has_other = has_other.scatter_add(1, own % width, other.long()) > 0
        return torch.where(has_other.gather(1, own % width), own, NOBODY)


class Tokens(Some):
    """Some words of a text; the other words stay as background.

    Players differ from row to row, their number does not: a row with fewer words has empty players, and masking them changes
    nothing. Special tokens, padding and stop words belong to nobody and stay.

    Masked ids become the mask token of the tokenizer, or else its padding or unknown token; without a tokenizer ``padding``.

    Args:
        number: How many words.
        words: Which tokens are one word: the name of a leaf that numbers the words of each row ``[inputs, positions]``
            (negative for none), or a function from the token ids to such numbers. Neighbours with equal numbers are one word.
            If left out, the tokenizer's convention decides (``##``, ``▁``, ``Ġ``, ``</w>``); without a tokenizer each token is
            a word.
        tokenizer: Anything with ``convert_ids_to_tokens`` and ``all_special_ids``, such as those of Hugging Face.
        special: Ids that are never masked, besides those of the tokenizer.
        stop_words: Words that are never masked: ids, or strings if there is a tokenizer or vocabulary. A word of several
            tokens is one if all of them are.
        padding: Id of padding. If left out, the tokenizer's, and 0 where neither a tokenizer nor ``valid`` or ``padded`` tells.
        leaf: Name of the ids ``[inputs, positions]`` or embeddings ``[inputs, positions, features]``; the only one that fits
            if left out.
        valid: Name of the mask that is true at real tokens, or of the lengths ``[inputs]``; found by its usual names, such as
            ``attention_mask`` and ``lengths``, if left out.
        padded: Name of a mask that is true at padding; found by its usual names, such as ``key_padding_mask``.
        choice: Which words of a row with more of them; at random if left out.
        vocabulary: In place of a tokenizer: the word of each id, from 0 on, or the id of each word. Each token is a word.

    Raises:
        ValueError: If ``number`` is smaller than 1, stop words are strings without a tokenizer or vocabulary, or both of
            ``tokenizer`` and ``vocabulary``, or of ``valid`` and ``padded``, are given.
    """

    def __init__(
        self,
        number: int = 10,
        words: str | Callable[[Tensor], Tensor] | None = None,
        tokenizer: Any = None,
        special: Sequence[int] = (),
        stop_words: Sequence[int | str] = (),
        padding: int | None = None,
        leaf: str | None = None,
        valid: str | None = None,
        padded: str | None = None,
        choice: Choice | None = None,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
    ) -> None:
        all_words = Words(words, tokenizer, special, stop_words, padding, leaf, valid, padded, vocabulary)
        super().__init__(all_words, number, choice)

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Number the chosen words from 1 on; see :class:`~lightning_interactions.players.Players`."""
        return tuple(f"word {place}" for place in range(1, self.number + 1))


def _is_one_of(ids: Int[Tensor, "rows positions"], which: Sequence[int]) -> Bool[Tensor, "rows positions"]:
    return torch.isin(ids, torch.tensor(sorted(set(which)), dtype=ids.dtype, device=ids.device))
