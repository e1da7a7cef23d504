import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.game.baselines import Token, Zeros
from lightning_interactions.game.players import ByAttribution, Evenly, Tokens, Words
from lightning_interactions.records import Rows
from tests.game.players.vocabularies import BYTE_LEVEL, SENTENCE_PIECE, SUFFIX, WORD_PIECE, Tokenizer

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def assigned(players: Words | Tokens, tree: object) -> list[list[int]]:
    (own,) = players.assignments(Rows.of(tree)).values()
    return own.squeeze(-1).tolist() if own.ndim == 3 else own.tolist()


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (WORD_PIECE, "[CLS] the play ##ing dog ##s , [SEP] [PAD]", [-1, 0, 1, 1, 2, 2, 3, -1, -1]),
        (WORD_PIECE, "[CLS] ##ing dog [SEP] ##s", [-1, 0, 1, -1, 2]),
        (BYTE_LEVEL, "The Ġplay ing Ġdog s , Ġthe <eos>", [0, 1, 1, 2, 2, 3, 4, -1]),
        (SENTENCE_PIECE, "<s> ▁The ▁play ing , ▁dog s </s> <pad>", [-1, 0, 1, 1, 2, 3, 3, -1, -1]),
        (SUFFIX, "the</w> play ing</w> dog</w> ,</w> <pad>", [0, 1, 1, 2, 3, -1]),
        (Tokenizer(["a", "b"]), "a b b a", [0, 1, 2, 3]),
    ],
    ids=["WordPiece", "WordPiece, cut", "byte-level", "SentencePiece", "suffixes", "characters"],
)
def test_words_follow_the_convention_of_the_tokenizer(tokenizer: Tokenizer, text: str, words: list[int]) -> None:
    ids = torch.tensor([tokenizer(text)])
    assert assigned(Words(tokenizer=tokenizer), {"ids": ids, "attention_mask": torch.ones_like(ids)}) == [words]


def test_words_are_numbered_by_a_leaf_or_a_function() -> None:
    numbers = torch.tensor([[-1, 0, 0, 1, 0, 0, -1], [5, 5, -1, 5, 7, -1, -1]])
    expected = [[-1, 0, 0, 1, 2, 2, -1], [0, 0, -1, 1, 2, -1, -1]]
    ids = torch.arange(1, 15).reshape(2, 7)
    assert assigned(Words(words="w"), {"ids": ids, "w": numbers}) == expected
    assert assigned(Words(words=lambda _ids: numbers), ids) == expected
    assert assigned(Words(words="w"), {"x": torch.randn(2, 7, 4), "w": numbers}) == expected
    for wrong in (numbers.float(), numbers[:, :3]):
        with pytest.raises(ValueError, match=r"integers \(2, 7\) that number the words"):
            assigned(Words(words=lambda _ids, wrong=wrong: wrong), ids)
    with pytest.raises(ValueError, match="number the words"):
        assigned(Words(words="elsewhere"), ids)


def test_padding_is_no_player() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [5, 0, 9, 9]])
    assert assigned(Words(), ids) == [[0, 1, 2, -1], [0, -1, 1, 2]]
    assert assigned(Words(padding=9), ids) == [[0, 1, 2, 3], [0, 1, -1, -1]]
    masks = {
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
        "key_padding_mask": torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1]]).bool(),
        "lengths": torch.tensor([3, 2]),
    }
    for name, mask in masks.items():
        assert assigned(Words(), {"text": {"ids": ids, name: mask}}) == [[0, 1, 2, -1], [0, 1, -1, -1]]
        way = {"padded": "m"} if name == "key_padding_mask" else {"valid": "m"}
        assert assigned(Words(**way), {"ids": ids, "m": mask}) == [[0, 1, 2, -1], [0, 1, -1, -1]]
        assert assigned(Words(**way, padding=0), {"ids": ids, "m": mask}) == [[0, 1, 2, -1], [0, -1, -1, -1]]
    with pytest.raises(ValueError, match="one of valid= and padded="):
        Tokens(valid="a", padded="b")
    with pytest.raises(ValueError, match=r"lengths \[inputs\] or a mask .* named 'm'"):
        assigned(Words(valid="m", leaf="ids"), {"ids": ids, "m": torch.ones(2, 3)})


def test_special_tokens_and_stop_words_stay() -> None:
    ids = torch.tensor([WORD_PIECE("[CLS] the play ##ing the ##s a , [SEP]")])
    assert assigned(Words(tokenizer=WORD_PIECE, stop_words=["The", "a", 11]), ids) == [[-1, -1, 1, 1, 2, 2, -1, -1, -1]]
    assert assigned(Words(special=[1, 2], stop_words=[5]), ids) == [[-1, -1, 1, 2, -1, 4, 5, 6, -1]]
    with pytest.raises(ValueError, match=r"single tokens of the tokenizer, got \['cat'"):
        Words(tokenizer=WORD_PIECE, stop_words=["cat", "the"])
    with pytest.raises(ValueError, match="stop words as token ids"):
        Words(stop_words=["the"])
    with pytest.raises(ValueError, match="convert_ids_to_tokens, got int"):
        Words(tokenizer=3)


def test_masked_tokens_become_the_token_for_it() -> None:
    ids = Rows.of(torch.ones(2, 3, dtype=torch.long))
    for players, expected in (
        (Tokens(tokenizer=WORD_PIECE), 3),
        (Tokens(tokenizer=SENTENCE_PIECE), 2),
        (Tokens(tokenizer=BYTE_LEVEL), 0),
        (Tokens(padding=9), 9),
        (Tokens(), 0),
    ):
        baseline = players.default_baseline(ids)
        assert isinstance(baseline, Token)
        assert baseline.id == expected
        assert not baseline.needs_sample
    assert isinstance(Tokens().default_baseline(Rows.of(torch.ones(2, 3, 4))), Zeros)


@PROPERTY
@given(
    tokens=st.lists(st.lists(st.integers(0, 12), min_size=8, max_size=8), min_size=1, max_size=4),
    number=st.integers(1, 6),
)
@pytest.mark.slow
def test_some_words_are_players_as_a_loop_over_rows_finds_them(tokens: list[list[int]], number: int) -> None:
    ids = torch.tensor(tokens)
    everything = Words(tokenizer=WORD_PIECE, stop_words=["the"])
    for row, own in zip(tokens, assigned(everything, ids), strict=True):
        assert own == without_stop_words(words_of(row), row)
    for players in (Tokens(number, tokenizer=WORD_PIECE, stop_words=["the"]), Tokens(number, choice=Evenly())):
        assert players.num_players(Rows.of(ids)) == number
        for many, own in zip(assigned(players.players, ids), assigned(players, ids), strict=True):
            words = sorted({word for word in many if word >= 0})
            renumbered = {word: next(o for m, o in zip(many, own, strict=True) if m == word) for word in words}
            chosen = [new for _, new in sorted(renumbered.items()) if new >= 0]
            assert chosen == list(range(min(number, len(words))))
            assert own == [renumbered.get(word, -1) for word in many]


def words_of(row: list[int]) -> list[int]:
    word, before, found = -1, False, []
    for token in row:
        real = token not in WORD_PIECE.all_special_ids
        if real:
            word += not (before and WORD_PIECE.tokens[token].startswith("##"))
        found.append(word if real else -1)
        before = real
    return found


def without_stop_words(words: list[int], row: list[int]) -> list[int]:
    the = WORD_PIECE.tokens.index("the")
    stops = {word for word in words if all(token == the for token, own in zip(row, words, strict=True) if own == word)}
    return [-1 if word in stops else word for word in words]


def test_the_leaf_of_tokens_is_found_beside_what_tells_about_it() -> None:
    ids = torch.ones(2, 5, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids, "position_ids": ids, "words": ids}
    assert Tokens(words="words").leaves(Rows.of(batch)) == ("input_ids",)
    with pytest.raises(ValueError, match="leaf= one of"):
        Tokens().leaves(Rows.of(batch))


def test_settings_tell_tokenizers_apart_in_short() -> None:
    assert "tokenizer='Tokenizer'" in repr(Tokens(tokenizer=WORD_PIECE))
    assert len(repr(Tokens(tokenizer=WORD_PIECE, choice=ByAttribution()))) < 300


def test_positions_beyond_the_vocabulary_are_taken() -> None:
    ids: Tensor = torch.tensor([[5, 99]])
    assert assigned(Words(tokenizer=WORD_PIECE), ids) == [[0, 1]]
