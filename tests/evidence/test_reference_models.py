from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_interactions.evidence import Evidence, ReferenceModels
from lightning_interactions.evidence.reference_models import VOTES
from lightning_interactions.records import EvidenceWeights, Interactions, Probes
from tests.evidence.games import THRESHOLD, MadeUpGame, ands

PROBES = Probes.of((torch.arange(2.0)[:, None], torch.zeros(2)))


class Fixed(nn.Module):
    """Has the AND effects that its weights say, the same on both probes."""

    def __init__(self, *effects: float) -> None:
        super().__init__()
        self.effects = nn.Parameter(torch.tensor(effects or (0.0, 0.0, 0.0)))
        self.norm = nn.BatchNorm1d(2)


def effects_of(model: nn.Module) -> Interactions:
    assert isinstance(model, Fixed)
    return ands(torch.cat([torch.zeros(1), model.effects.detach()]).expand(2, -1))


MONITORED = Fixed(1.0, -1.0, 0.5)
REFERENCES = (Fixed(1.0, -0.5, -1.0), Fixed(1.0, -1.0, 0.01), Fixed(0.5, 1.0, -1.0))


def weighed(references: ReferenceModels, threshold: float = THRESHOLD) -> EvidenceWeights:
    game = MadeUpGame(effects_of, PROBES, threshold)
    return references.weigh(effects_of(MONITORED), threshold, prepared=references.prepare(game))


def and_weights(references: ReferenceModels) -> list[float]:
    weights = weighed(references).weights
    assert torch.equal(weights[0], weights[1])
    assert not weights[:, 1].any()
    assert not weights[:, :, 0].any()
    return weights[0, 0, 1:].tolist()


# The vote


def test_reference_models_are_evidence() -> None:
    assert isinstance(ReferenceModels([Fixed()]), Evidence)


@pytest.mark.parametrize(("vote", "expected"), [("any", [1, 1, 0]), ("majority", [1, 1, 0]), ("all", [1, 0, 0])])
def test_each_vote_needs_its_number_of_references(vote: str, expected: list[float]) -> None:
    assert and_weights(ReferenceModels(REFERENCES, vote)) == expected


@pytest.mark.parametrize(
    ("num_models", "needed"), [(1, {"any": 1, "majority": 1, "all": 1}), (2, {"any": 1, "majority": 2, "all": 2}),
                               (3, {"any": 1, "majority": 2, "all": 3}), (4, {"any": 1, "majority": 3, "all": 4})]
)  # fmt: skip
@pytest.mark.parametrize("vote", VOTES)
def test_votes_are_counted(vote: str, num_models: int, needed: dict[str, int]) -> None:
    for agreeing in range(num_models + 1):
        models = [Fixed(1.0, -1.0, 0.5)] * agreeing + [Fixed(-1.0, 1.0, -0.5)] * (num_models - agreeing)
        expected = [float(agreeing >= needed[vote])] * 3
        assert and_weights(ReferenceModels(models, vote)) == expected


@pytest.mark.parametrize(("vote", "expected"), [(1, [1, 1, 0]), (2, [1, 1, 0]), (3, [1, 0, 0])])
def test_a_number_of_votes(vote: int, expected: list[float]) -> None:
    assert and_weights(ReferenceModels(REFERENCES, vote)) == expected


def test_any_is_the_default_vote() -> None:
    assert ReferenceModels([Fixed()]).vote == "any"


def test_the_threshold_is_that_of_prepare() -> None:
    references = ReferenceModels([Fixed(1.0, -0.5, 0.2)])
    assert weighed(references, 0.05).weights[0, 0].tolist() == [0, 1, 1, 1]
    assert weighed(references, 0.3).weights[0, 0].tolist() == [0, 1, 1, 0]
    assert weighed(references, 0.6).weights[0, 0].tolist() == [0, 1, 0, 0]


def test_reference_interactions_are_extracted_once() -> None:
    references, game = ReferenceModels(REFERENCES), MadeUpGame(effects_of, PROBES)
    prepared = references.prepare(game)
    assert [model for model, _ in game.asked] == list(references.models)
    first, second = (references.weigh(effects_of(MONITORED), THRESHOLD, prepared=prepared) for _ in range(2))
    assert len(game.asked) == 3
    assert list(references.raters(MONITORED)) == []
    assert torch.equal(first.weights, second.weights)


# The models


def test_given_models_are_copied_and_left_as_they_are() -> None:
    model = Fixed(1.0, 2.0, 3.0).train()
    model.effects.grad = torch.ones(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    references = ReferenceModels([model])
    weighed(references)
    assert all(module.training for module in model.modules())
    assert torch.equal(model.effects.grad, torch.ones(3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (copied,) = references.models
    assert copied is not model
    assert copied.effects is not model.effects
    assert not any(module.training for module in copied.modules())
    with torch.no_grad():
        model.effects.zero_()
    assert copied.effects.tolist() == [1.0, 2.0, 3.0]


def test_models_may_come_from_a_generator() -> None:
    references = ReferenceModels(model for model in REFERENCES)
    assert len(references.models) == 3


def test_no_models_are_refused() -> None:
    with pytest.raises(ValueError, match="ReferenceModels: expected at least one trained model, got none"):
        ReferenceModels([])


@pytest.mark.parametrize("vote", ["most", "ANY", "", 0, -1, True])
def test_unknown_votes_are_refused(vote: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected a vote among \('any', 'majority', 'all'\) or a number from 1 to 1, how .* got"
    ):
        ReferenceModels([Fixed()], vote)


@pytest.mark.parametrize(("num_raters", "vote"), [(None, 4), (2, 3)])
def test_more_votes_than_raters_are_refused(num_raters: int | None, vote: int) -> None:
    with pytest.raises(ValueError, match=f"a number from 1 to {num_raters or 3}, how .* got {vote}; lower it, or train more"):
        ReferenceModels(REFERENCES, vote, num_raters=num_raters)


# Files


def test_saved_models_come_back(tmp_path: Path) -> None:
    references = ReferenceModels(REFERENCES, "majority", seen=["b", "a", "b"], learned_epochs=3)
    references.save(tmp_path / "references.pt")
    template = Fixed().train()
    before = template.effects.detach().clone()
    loaded = ReferenceModels.load(str(tmp_path / "references.pt"), template)
    assert loaded.vote == "majority"
    assert loaded.seen == (frozenset({"a", "b"}),) * 3
    assert loaded.num_raters == 3
    assert loaded._learned_epochs == 3
    assert len(loaded.models) == 3
    for model, original in zip(loaded.models, references.models, strict=True):
        assert not any(module.training for module in model.modules())
        assert model.state_dict().keys() == original.state_dict().keys()
        assert all(torch.equal(value, original.state_dict()[name]) for name, value in model.state_dict().items())
    assert len({id(model) for model in loaded.models}) == 3
    assert torch.equal(weighed(loaded).weights, weighed(references).weights)
    assert torch.equal(template.effects, before)
    assert all(module.training for module in template.modules())


def test_the_file_loads_with_weights_only(tmp_path: Path) -> None:
    ReferenceModels(REFERENCES, seen=["a"]).save(tmp_path / "references.pt")
    state = torch.load(tmp_path / "references.pt", weights_only=True)
    assert state["vote"] == "any"
    assert state["seen"] == [["a"]] * 3
    assert len(state["state_dicts"]) == 3


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    ReferenceModels(REFERENCES).save(tmp_path / "references.pt")
    for model in (Fixed(1.0, 2.0), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=f"the weights in .*references.pt do not fit {type(model).__name__}"):
            ReferenceModels.load(tmp_path / "references.pt", model)


@pytest.mark.parametrize(
    "content", [{"a": torch.zeros(1)}, [torch.zeros(1)], {"version": 1, "vote": "any", "seen": [], "state_dicts": []}]
)
def test_other_saved_objects_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"expected a file written by ReferenceModels.save at .*other.pt"):
        ReferenceModels.load(tmp_path / "other.pt", Fixed())


def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights here")
    with pytest.raises(ValueError, match=r"expected a file written by ReferenceModels.save at .*notes.txt"):
        ReferenceModels.load(tmp_path / "notes.txt", Fixed())


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ReferenceModels.load(tmp_path / "nowhere.pt", Fixed())


def test_seen_fingerprints_are_empty_if_unknown() -> None:
    assert ReferenceModels([Fixed()]).seen == (frozenset(),)


def test_chance_is_what_the_models_share_for_other_targets() -> None:
    references = ReferenceModels(REFERENCES, vote="majority")
    # More than they share on the other probe, which is the same: two of the three interactions.
    others = [MadeUpGame(lambda _model: effects_of(MONITORED), PROBES)] * 2
    prepared = references.prepare(MadeUpGame(effects_of, PROBES, others=others))
    found = references.weigh(effects_of(MONITORED), THRESHOLD, prepared=prepared)
    assert torch.equal(found.weights, weighed(references).weights)
    salient = effects_of(MONITORED).effects != 0
    assert torch.equal(found.chance_weights, salient.float())


# Who rates


class Numbered(nn.Module):
    """Has the single AND effect of its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(float(number)))


def one_of_four(model: nn.Module) -> Interactions:
    """Interaction number ``S`` of 1 to 4 is in model ``S - 1`` alone, on each of six probes."""
    assert isinstance(model, Numbered)
    and_effects = torch.zeros(6, 8)
    and_effects[:, 1 + int(model.number)] = 1.0
    return ands(and_effects)


SIX_PROBES = Probes.of((torch.arange(6.0)[:, None], torch.zeros(6)))
PRINTS = SIX_PROBES.fingerprints
FOUR = [Numbered(number) for number in range(4)]
ALL_FOUR = ands(torch.ones(6, 8) * (torch.arange(8) > 0))


def who_rates(references: ReferenceModels) -> list[list[int]]:
    """Which models have a say in each probe, found out from the weights."""
    game = MadeUpGame(one_of_four, SIX_PROBES, others=[MadeUpGame(one_of_four, SIX_PROBES)])
    weights = references.weigh(ALL_FOUR, THRESHOLD, prepared=references.prepare(game)).weights
    return [row[1:5].nonzero()[:, 0].tolist() for row in weights[:, 0]]


def test_all_models_rate_by_default() -> None:
    assert who_rates(ReferenceModels(FOUR)) == [[0, 1, 2, 3]] * 6


def test_unseen_inputs_are_spread_over_the_models_in_circular_order() -> None:
    assert who_rates(ReferenceModels(FOUR, num_raters=1)) == [[0], [1], [2], [3], [0], [1]]
    assert who_rates(ReferenceModels(FOUR, num_raters=2)) == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1], [2, 3]]
    assert who_rates(ReferenceModels(FOUR, num_raters=3)) == [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3], [0, 1, 2], [0, 1, 3]]


def test_a_model_never_rates_what_it_was_trained_on() -> None:
    seen = [PRINTS[0:2], PRINTS[1:3], PRINTS[2:4], PRINTS[4:6]]
    for num_raters in (1, 2):
        raters = who_rates(ReferenceModels(FOUR, seen=seen, num_raters=num_raters))
        assert all(len(row) == num_raters for row in raters)
        assert not any(PRINTS[row] in seen[model] for row, models in enumerate(raters) for model in models)


def test_a_model_is_asked_about_the_inputs_that_it_rates_and_no_other() -> None:
    for num_raters, rows in ((2, [[0, 2, 4], [0, 2, 4], [1, 3, 5], [1, 3, 5]]), (None, [None] * 4)):
        references, game = ReferenceModels(FOUR, num_raters=num_raters), MadeUpGame(one_of_four, SIX_PROBES)
        references.prepare(game)
        assert game.asked == list(zip(references.models, rows, strict=True))


def scored_by_number(model: nn.Module) -> Interactions:
    """Model ``k`` gives probe ``i`` the score ``10 k + i``, of which the offset is 1 and the rest AND and OR effects."""
    assert isinstance(model, Numbered)
    effects = torch.zeros(6, 2, 8)
    effects[:, 0, 7], effects[:, 1, 3] = 10 * model.number.detach(), torch.arange(6) - 1.0
    return Interactions(effects, torch.ones(6))


@pytest.mark.parametrize("num_raters", [None, 1, 2])
def test_the_rater_score_is_the_mean_score_of_the_models_that_rate_an_input(num_raters: int | None) -> None:
    seen = [[], [], [], []] if num_raters is None else [PRINTS[0:2], PRINTS[1:3], PRINTS[2:4], PRINTS[4:6]]
    references = ReferenceModels(FOUR, seen=seen, num_raters=num_raters)
    prepared = references.prepare(MadeUpGame(scored_by_number, SIX_PROBES))
    score = references.weigh(ALL_FOUR, THRESHOLD, prepared=prepared).rater_score
    expected = [sum(10 * model for model in row) / len(row) + probe for probe, row in enumerate(who_rates(references))]
    assert score is not None
    assert score.tolist() == pytest.approx(expected)


def test_an_input_on_which_a_rater_gives_nan_cannot_be_judged() -> None:
    def with_nan(model: nn.Module) -> Interactions:
        found = scored_by_number(model)
        if int(model.get_parameter("number")) == 2:
            for part in vars(found).values():
                part[4] = torch.nan
        return found

    references = ReferenceModels(FOUR)
    found = references.weigh(ALL_FOUR, THRESHOLD, prepared=references.prepare(MadeUpGame(with_nan, SIX_PROBES)))
    assert found.rater_score is not None
    expected = [False, False, False, False, True, False]
    assert found.rater_score.isnan().tolist() == found.weights.isnan().all(dim=(1, 2)).tolist() == expected


def test_votes_are_counted_among_the_raters() -> None:
    # The first two models have seen everything, so that the last two, which agree, are unanimous.
    models = [Numbered(0), Numbered(1), Numbered(2), Numbered(2)]
    references = ReferenceModels(models, "all", seen=[PRINTS, PRINTS, [], []], num_raters=2)
    assert who_rates(references) == [[2]] * 6
    assert references.refused == frozenset()


def test_chance_for_other_targets_is_asked_of_the_same_raters() -> None:
    references = ReferenceModels(FOUR, seen=[PRINTS[:3], [], [], PRINTS[3:]], num_raters=1)

    def twice(model: nn.Module) -> Interactions:
        return Interactions(*(2 * part for part in vars(one_of_four(model)).values()))

    # On other inputs, five of them at once, the models share less than for the other target, where they say the same.
    game = MadeUpGame(one_of_four, SIX_PROBES, others=[MadeUpGame(twice, SIX_PROBES)])
    found = references.weigh(ALL_FOUR, THRESHOLD, prepared=references.prepare(game))
    assert torch.equal(found.chance_weights, found.weights)
    assert [model for model, _ in game.asked] == [model for model, _ in game.others[0].asked]


def test_inputs_that_too_many_models_have_seen_are_refused() -> None:
    seen = [["a", "b"], ["b", "c"], ["b", "c"], ["c"]]
    assert ReferenceModels(FOUR, seen=seen).refused == frozenset("abc")
    assert ReferenceModels(FOUR, seen=seen, num_raters=3).refused == frozenset("bc")
    assert ReferenceModels(FOUR, seen=seen, num_raters=1).refused == frozenset()
    assert ReferenceModels(FOUR, seen="a", num_raters=1).refused == frozenset("a")
    with pytest.raises(
        ValueError, match=r"2 of the 4 models were not trained on, but probe 5 was seen by all but 1; use other"
    ):
        who_rates(ReferenceModels(FOUR, seen=[PRINTS[5:], PRINTS[5:], [], PRINTS[5:]], num_raters=2))


def test_cross_fitted_models_that_know_no_training_probe_are_refused() -> None:
    cross_fitted = ReferenceModels(FOUR, seen=[["a"], ["b"], [], []], num_raters=2)
    cross_fitted.check_training_probes(["b", "c", "d", "e"])
    cross_fitted.check_training_probes(["c", "d"])
    ReferenceModels(FOUR, seen=[["a"], ["b"], [], []]).check_training_probes(list("cdef"))
    with pytest.raises(ValueError, match="none of the 4 training probes is among what they were trained on"):
        cross_fitted.check_training_probes(list("cdef"))


@pytest.mark.parametrize("seen", [[["a"], ["b"]], [["a"], ["b"], ["c"], "d"]])
def test_seen_of_another_length_is_refused(seen: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=f"one collection of fingerprints for each of the 4 models.* got {len(seen)} items"):
        ReferenceModels(FOUR, seen=seen)


@pytest.mark.parametrize("num_raters", [0, 5])
def test_impossible_numbers_of_raters_are_refused(num_raters: int) -> None:
    with pytest.raises(ValueError, match=f"expected num_raters between 1 and the 4 models, got {num_raters}"):
        ReferenceModels(FOUR, num_raters=num_raters)


def test_raters_and_what_they_saw_are_saved(tmp_path: Path) -> None:
    references = ReferenceModels(FOUR, 2, seen=[["a"], [], ["b", "c"], []], num_raters=3)
    references.save(tmp_path / "references.pt")
    loaded = ReferenceModels.load(tmp_path / "references.pt", Numbered(0))
    assert (loaded.vote, loaded.num_raters, loaded.seen) == (2, 3, references.seen)


# Other architectures


def test_models_of_several_architectures_are_saved_and_loaded(tmp_path: Path) -> None:
    models = [Numbered(0), Fixed(), nn.Linear(2, 3)]
    ReferenceModels(models).save(tmp_path / "references.pt")
    loaded = ReferenceModels.load(tmp_path / "references.pt", models)
    assert [type(model) for model in loaded.models] == [Numbered, Fixed, nn.Linear]
    with pytest.raises(ValueError, match=r"one for each of the 3 in .*, got 2"):
        ReferenceModels.load(tmp_path / "references.pt", models[:2])
    with pytest.raises(ValueError, match="do not fit Linear"):
        ReferenceModels.load(tmp_path / "references.pt", [*models[1:], models[0]][::-1])


def test_a_model_that_fails_on_the_probes_is_named() -> None:
    def answer(model: nn.Module) -> Interactions:
        if isinstance(model, nn.Linear):
            model(SIX_PROBES.groups[0].inputs.tree)
        return one_of_four(model)

    references = ReferenceModels([Numbered(0), nn.Linear(7, 2)])
    with pytest.raises(ValueError, match=r"model 1 \(Linear\) fails on the probes .*\(6, 1\).*: RuntimeError.*; train it on"):
        references.prepare(MadeUpGame(answer, SIX_PROBES))


def test_running_out_of_memory_stays_what_it_is() -> None:
    def answer(_model: nn.Module) -> Interactions:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        ReferenceModels(FOUR).prepare(MadeUpGame(answer, SIX_PROBES))


def test_references_say_how_many_they_are_and_how_they_vote() -> None:
    assert repr(ReferenceModels([Numbered(0), Fixed()], 2)) == "ReferenceModels(2 Fixed/Numbered, vote=2, num_raters=2)"
