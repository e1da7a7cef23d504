"""What the players of single rows are called."""

from typing import Any

import pytest
import torch

from lightning_interactions.game.players import (
    AtRandom,
    ByAttribution,
    Evenly,
    FeatureGroups,
    ImagePatches,
    Players,
    Some,
    TimeSegments,
    Tokens,
    Words,
)
from lightning_interactions.records import Rows
from tests.game.players.vocabularies import BYTE_LEVEL, SENTENCE_PIECE, SUFFIX, WORD_PIECE, Tokenizer


@pytest.mark.parametrize(
    ("players", "inputs"), [(ImagePatches(2, 2), torch.zeros(3, 1, 4, 4)), (TimeSegments(3), torch.zeros(3, 12))], ids=str
)
def test_they_are_the_names_unless_somebody_knows_more(players: Players, inputs: torch.Tensor) -> None:
    rows = Rows.of(inputs)
    assert players.labels(rows) == [players.names(rows)] * 3


def test_features_that_are_alone_have_values() -> None:
    table = torch.tensor([[0.5, 2.0, -1.0], [1234567.0, 0.0, 0.25]])
    assert FeatureGroups(features=["age", "bmi", "x"]).labels(Rows.of(table)) == [
        ("age = 0.5", "bmi = 2", "x = -1"),
        ("age = 1.23e+06", "bmi = 0", "x = 0.25"),
    ]
    grouped = FeatureGroups(groups={"first": [0], "others": [1, 2]}).labels(Rows.of(table))
    assert grouped == [("first = 0.5", "others"), ("first = 1.23e+06", "others")]


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (WORD_PIECE, "[CLS] the play ##ing dog ##s , [SEP]", ("the", "playing", "dogs", ",")),
        (BYTE_LEVEL, "The Ġplay ing Ġdog s , Ġthe <eos>", ("The", "playing", "dogs", ",", "the")),
        (SENTENCE_PIECE, "<s> ▁The ▁play ing , ▁dog s </s>", ("The", "playing", ",", "dogs")),
        (SUFFIX, "the</w> play ing</w> dog</w>", ("the", "playing", "dog")),
    ],
    ids=["WordPiece", "byte-level", "SentencePiece", "suffixes"],
)
def test_words_are_written(tokenizer: Tokenizer, text: str, words: tuple[str, ...]) -> None:
    ids = torch.tensor([tokenizer(text)])
    rows = Rows.of({"ids": ids, "attention_mask": torch.ones_like(ids)})
    (labels,) = Words(tokenizer=tokenizer).labels(rows)
    assert labels == (*words, *[""] * (ids.shape[1] - len(words)))
    (some,) = Tokens(2, tokenizer=tokenizer, choice=Evenly()).labels(rows)
    assert len(some) == 2
    assert set(some) <= set(words)


def test_without_a_tokenizer_words_are_ids_and_embeddings_are_numbered() -> None:
    (labels,) = Words().labels(Rows.of(torch.tensor([[7, 3, 0]])))
    assert labels == ("id 7", "id 3", "")
    assert Words().labels(Rows.of(torch.zeros(1, 2, 4))) == [("word 1", "word 2")]


@pytest.mark.parametrize("vocabulary", [["<pad>", "a", "The", "b"], {"a": 1, "b": 3, "The": 2}], ids=["words", "ids"])
def test_a_vocabulary_writes_words_without_a_tokenizer(vocabulary: list[str] | dict[str, int]) -> None:
    rows = Rows.of(torch.tensor([[1, 2, 3, 9, 0]]))
    assert Tokens(4, vocabulary=vocabulary).labels(rows) == [("a", "The", "b", "id 9")]
    (without,) = Words(vocabulary=vocabulary, stop_words=["the"]).labels(rows)
    assert [word for word in without if word] == ["a", "b", "id 9"]
    # Settings of a run are read by people.
    assert len(repr(Tokens(vocabulary=[str(one) for one in range(10_000)]))) < 300


@pytest.mark.parametrize(
    "arguments",
    [{"vocabulary": ["a"], "tokenizer": WORD_PIECE}, {"vocabulary": ["a"], "stop_words": ["b"]}, {"vocabulary": []}],
    ids=["both", "no word of it", "empty"],
)
def test_a_vocabulary_that_says_nothing_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^players: expected"):
        Tokens(**arguments)


@pytest.mark.parametrize(
    ("players", "inputs", "is_hinted"),
    [
        (FeatureGroups(), torch.zeros(1, 3), True),
        (FeatureGroups(features=["a", "b", "c"]), torch.zeros(1, 3), False),
        (FeatureGroups({"a": [0, 1], "b": [2]}), torch.zeros(1, 3), False),
        (Some(FeatureGroups(), 2), torch.zeros(1, 3), True),
        (Tokens(2), torch.ones(1, 3, dtype=torch.long), True),
        (Tokens(2, tokenizer=WORD_PIECE), torch.ones(1, 3, dtype=torch.long), False),
        (Tokens(2, vocabulary=["a", "b"]), torch.ones(1, 3, dtype=torch.long), False),
        (Tokens(2), torch.ones(1, 3, 4), False),
        (ImagePatches(2, 2), torch.zeros(1, 1, 4, 4), False),
    ],
    ids=str,
)
def test_players_that_could_have_names_say_how(players: Players, inputs: torch.Tensor, is_hinted: bool) -> None:
    assert bool(players.naming_hint(Rows.of(inputs))) == is_hinted


def test_a_row_with_fewer_words_has_empty_players() -> None:
    rows = Rows.of(torch.tensor([[7, 3, 5, 9], [4, 0, 0, 0]]))
    many, few = Tokens(3, choice=Evenly()).labels(rows)
    assert len(set(many)) == 3
    assert few == ("id 4", "", "")


def test_chosen_players_keep_their_labels() -> None:
    table = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    by_place = Some(FeatureGroups(), 2, AtRandom())
    names = FeatureGroups().labels(Rows.of(table))[0]
    assert set(by_place.labels(Rows.of(table))[0]) <= set(names)
    by_score = Some(FeatureGroups(), 2, ByAttribution())
    by_score.choose(Rows.of(table), torch.tensor([[0.0, 3.0, -4.0, 1.0]]))
    assert by_score.labels(Rows.of(table)) == [(names[1], names[2])]
