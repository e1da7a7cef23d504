import math
import random
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.evidence import Evidence, InputAgreement, OrderShape, ParameterNoise, ProbeGame, ReferenceModels
from lightning_interactions.game.baselines import Constant, TrainingMean, Zeros
from lightning_interactions.game.players import FeatureGroups, ImagePatches
from lightning_interactions.game.tasks import Classification, Regression
from lightning_interactions.measuring import Extraction, InteractionMeter, ProbeSampling
from lightning_interactions.measuring.facts import facts_of
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.measuring.meter import HELD_OUT, TRAINING, Ranks
from lightning_interactions.records import EvidenceWeights, Interactions, Probes, SplitMeasurement, TimePoint
from lightning_interactions.records.measurement import INPUT_FIELDS
from tests.measuring.models import NUM_PLAYERS, TableModel, table_probes

QUICK = Extraction(tolerance=1e-3)


def both_splits() -> dict[str, Probes]:
    return {TRAINING: table_probes(1), HELD_OUT: table_probes(2).select([0, 1, 2])}


def meter_with(evidence: Evidence | None = None, **settings: Any) -> InteractionMeter:
    return InteractionMeter(evidence=evidence, extraction=settings.pop("extraction", QUICK), **settings)


def assert_same(found: SplitMeasurement, expected: SplitMeasurement, atol: float = 0.0) -> None:
    for name in INPUT_FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=atol, equal_nan=True)
    for name, part in vars(expected.strength).items():
        torch.testing.assert_close(getattr(found.strength, name), part, rtol=0, atol=atol, equal_nan=True)


class Watched(Evidence):
    """Everything generalizes; keeps what it is told, and has a rater that doubles the last weights."""

    def __init__(self) -> None:
        self.prepared: list[ProbeGame] = []
        self.told: list[dict[str, Any]] = []

    @property
    def models_beside(self) -> int:
        return 1

    def prepare(self, game: ProbeGame) -> Any:
        self.prepared.append(game)
        return len(self.prepared)

    def raters(self, model: nn.Module) -> Generator[nn.Module, None, None]:
        assert isinstance(model, TableModel)
        kept = model.last.weight.detach().clone()
        try:
            with torch.no_grad():
                model.last.weight *= 2
            yield model
        finally:
            with torch.no_grad():
                model.last.weight.copy_(kept)

    def weigh(
        self,
        interactions: Interactions,
        threshold: float,
        *,
        prepared: Any = None,
        ratings: Sequence[Interactions] = (),
        counterpart: Interactions | None = None,
    ) -> EvidenceWeights:
        self.told.append({"own": interactions, "prepared": prepared, "ratings": ratings, "counterpart": counterpart})
        everything = torch.ones_like(interactions.effects)
        return EvidenceWeights(everything, everything)


# One measurement


def test_a_measurement_holds_the_facts_of_both_splits() -> None:
    meter, model = meter_with(OrderShape()), TableModel()
    assert meter.prepare(both_splits(), model=model) is meter
    assert meter.splits == (TRAINING, HELD_OUT)
    measurement = meter.measure(model, TimePoint(3, 40))
    assert measurement.time == TimePoint(3, 40)
    assert measurement.seconds > 0
    assert measurement.held_out is not None
    assert [len(measurement.training), len(measurement.held_out)] == [5, 3]
    for name, probes in both_splits().items():
        weights = OrderShape().weigh(meter.interactions[name], 0.05)
        assert_same(measurement.splits[name], facts_of(meter.interactions[name], weights, 0.05, Classification(), probes))
    assert meter.measure(model).time == TimePoint(0, 0)
    assert_same(meter.measure(model).training, measurement.training)


def test_evidence_is_told_what_belongs_to_its_split() -> None:
    evidence, model = Watched(), TableModel()
    meter = meter_with(evidence).prepare(both_splits())
    assert [len(game.probes) for game in evidence.prepared] == [5, 3]
    measured = meter.measure_splits(model)
    training, held_out = evidence.told
    assert [training["prepared"], held_out["prepared"]] == [1, 2]
    for own, other, game in ((training, held_out, evidence.prepared[0]), (held_out, training, evidence.prepared[1])):
        assert own["counterpart"] is other["own"]
        (rating,) = own["ratings"]
        torch.testing.assert_close(own["own"].offset, game.interactions(model).offset)
        with torch.no_grad():
            model.last.weight *= 2
        torch.testing.assert_close(rating.effects, game.interactions(model).effects)
        with torch.no_grad():
            model.last.weight /= 2
    assert torch.equal(measured[TRAINING].non_generalizable, torch.zeros(5, dtype=torch.float64))


def test_a_split_alone_has_no_counterpart_and_no_held_out_measurement() -> None:
    evidence = Watched()
    measurement = meter_with(evidence).prepare({TRAINING: table_probes()}).measure(TableModel())
    assert measurement.held_out is None
    assert evidence.told[0]["counterpart"] is None


def test_splits_may_be_added_later() -> None:
    evidence, model = Watched(), TableModel()
    meter = meter_with(evidence, baseline=TrainingMean()).prepare({TRAINING: table_probes()})
    first, baseline = meter.measure(model), meter.baseline_values
    meter.prepare({HELD_OUT: table_probes(2)}, model=model)
    assert meter.baseline_values is baseline
    assert len(evidence.prepared) == 2
    second = meter.measure(model)
    assert second.held_out is not None
    assert_same(second.training, first.training)
    assert_same(second.held_out, meter_with(Watched(), baseline=TrainingMean()).prepare(
        {TRAINING: table_probes(), HELD_OUT: table_probes(2)}).measure_splits(model)[HELD_OUT])  # fmt: skip


def test_other_splits_than_training_and_held_out_are_measured_by_name() -> None:
    meter = meter_with(OrderShape()).prepare({"asked": table_probes()})
    assert list(meter.measure_splits(TableModel())) == ["asked"]
    with pytest.raises(ValueError, match="InteractionMeter: expected training probes"):
        meter.measure(TableModel())
    assert meter_with(OrderShape()).measure_splits(TableModel()) == {}


@pytest.mark.slow
def test_inputs_of_nan_are_left_out() -> None:
    for evidence in (ParameterNoise(), OrderShape(), InputAgreement(), ReferenceModels([TableModel()])):
        meter = meter_with(evidence).prepare(both_splits())
        measurement = meter.measure(TableModel(broken=(2.0,)))
        assert measurement.training.measured.tolist() == [True, False, True, True, True]
        assert measurement.training.loss.isnan().tolist() == [False, True, False, False, False]
        assert math.isfinite(measurement.training.loss.nanmean())


# Settings


def test_forwards_of_a_measurement_are_counted() -> None:
    for evidence, models in ((OrderShape(), 1), (ParameterNoise(num_draws=2), 3)):
        meter = meter_with(evidence)
        assert meter.forwards == 0
        meter.prepare(both_splits())
        assert meter.forwards == models * (5 + 3) * 2**NUM_PLAYERS


def test_the_meter_says_what_it_is_made_of() -> None:
    meter = meter_with(OrderShape(), players=FeatureGroups([[0, 1], [2, 3]]), baseline=Constant(0.5))
    said = repr(meter)
    for part in (meter.task, meter.players, meter.baseline, meter.evidence, QUICK):
        assert repr(part) in said
    assert "not prepared" in said
    assert "training: 5" in repr(meter.prepare({TRAINING: table_probes()}))


def test_settings_are_primitives_that_tell_measurements_apart() -> None:
    def settings(**changed: Any) -> dict[str, Any]:
        return meter_with(**changed).settings

    assert all(isinstance(value, (str, int, float, bool, type(None))) for value in settings().values())
    assert settings() == settings()
    for changed in (
        {"task": Regression()},
        {"players": FeatureGroups()},
        {"baseline": Constant(0.1)},
        {"evidence": ParameterNoise(scale=0.3)},
        {"extraction": Extraction(threshold=0.1)},
        {"extraction": Extraction(noise_tolerance=0.05)},
        {"chance_level": False},
    ):
        assert settings(**changed) != settings()
    assert settings(extraction=Extraction(tolerance=1e-3, batch_size=3, max_players=4)) == settings()
    default, chosen = meter_with(), meter_with(players=FeatureGroups(), baseline=Zeros())
    default.prepare({TRAINING: table_probes()})
    assert default.settings == chosen.settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 1.0),
        ("threshold", -0.1),
        ("threshold", math.nan),
        ("noise_tolerance", -0.1),
        ("noise_tolerance", math.inf),
        ("tolerance", 0.0),
        ("tolerance", 1.0),
        ("max_players", 0),
        ("batch_size", 0),
    ],
)
def test_extraction_settings_that_make_no_sense_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Extraction: expected {field} .*, got {value}"):
        Extraction(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training", 0),
        ("held_out", -1),
        ("training", (torch.zeros(3, 2), torch.zeros(2))),
        ("held_out", (torch.zeros(3, 2), torch.zeros(()))),
    ],
    ids=["none", "negative", "too few targets", "no rows"],
)
def test_probe_settings_that_make_no_sense_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"ProbeSampling: .*{field}"):
        ProbeSampling(**{field: value})


def test_probe_settings_know_what_is_given_and_how_many_are_drawn() -> None:
    sampling = ProbeSampling(training=7, held_out=(torch.zeros(3, 2), torch.zeros(3)), seed=5)
    assert [sampling.number(name) for name in (TRAINING, HELD_OUT)] == [7, 0]
    given = sampling.given(HELD_OUT)
    assert given is not None
    assert [len(tree) for tree in given] == [3, 3]
    assert sampling.given(TRAINING) is None
    assert repr(sampling) == "ProbeSampling(training=7, held_out=Probes(3 of torch.float32 (3, 2)), seed=5)"


def test_too_many_players_name_the_setting_that_allows_them() -> None:
    meter = meter_with(extraction=Extraction(max_players=3))
    with pytest.raises(ValueError, match=r"players: 4 players would take 128 forwards .*Extraction\(max_players=4\)"):
        meter.prepare(both_splits())
    assert meter.splits == ()


def test_the_baseline_value_is_chosen_once_by_the_training_probes_or_a_sample() -> None:
    sample = table_probes(5)
    for prepared, expected in (
        (meter_with(baseline=TrainingMean()).prepare(both_splits()), table_probes(1)),
        (meter_with(baseline=TrainingMean()).prepare(both_splits(), sample=sample), sample),
    ):
        assert prepared.baseline_values is not None
        assert torch.equal(prepared.baseline_values[""], expected.groups[0].inputs.tree.mean(dim=0))


def test_a_baseline_value_that_does_not_fit_later_probes_is_refused() -> None:
    meter = meter_with(OrderShape(), players=FeatureGroups(), baseline=TrainingMean()).prepare({TRAINING: table_probes()})
    with pytest.raises(ValueError, match="baseline: expected a value that broadcasts"):
        meter.prepare({HELD_OUT: Probes.of((torch.zeros(2, 3), torch.zeros(2)))})
    with pytest.raises(ValueError, match="baseline: expected a value that broadcasts"):
        meter.prepare({HELD_OUT: Probes.of(({"x": torch.zeros(2, 3)}, torch.zeros(2)))})


def test_the_only_masked_leaf_may_have_another_name_in_later_probes() -> None:
    meter = meter_with(OrderShape(), players=FeatureGroups(), baseline=TrainingMean()).prepare({TRAINING: table_probes()})
    meter.prepare({HELD_OUT: Probes.of(({"x": torch.zeros(2, 4)}, torch.zeros(2)))})
    assert meter.baseline_values is not None
    assert torch.equal(meter.baseline_values["x"], meter.baseline_values[""])


def test_a_model_that_does_not_fit_is_found_out_when_it_is_prepared() -> None:
    meter = meter_with(OrderShape())
    meter.prepare(both_splits())
    with pytest.raises(ValueError, match="score: expected labels from 0 to 1"):
        meter_with(OrderShape()).prepare(both_splits(), model=nn.Linear(NUM_PLAYERS, 2, dtype=torch.float64))


# Several processes


class Sums:
    """Adds up what ranks have that are threads, each of which waits for the others.

    Attributes:
        counts: How many sums each rank has taken part in.
    """

    def __init__(self, num_ranks: int) -> None:
        self.counts = [0] * num_ranks
        self._barrier, self._parts = threading.Barrier(num_ranks, timeout=120), [torch.zeros(0)] * num_ranks

    def total(self, rank: int, tensor: Tensor) -> Tensor:
        self.counts[rank], self._parts[rank] = self.counts[rank] + 1, tensor
        self._barrier.wait()
        everybodys = torch.stack(list(self._parts)).sum(dim=0)
        self._barrier.wait()
        return everybodys


def on_ranks(
    evidence: Callable[[], Evidence], num_ranks: int, model: Callable[[], nn.Module]
) -> tuple[list[dict[str, SplitMeasurement]], list[int], list[set[str]]]:
    """Measure on ranks that are threads and wait for each other's sums; count these, and list the splits that are left out."""
    sums = Sums(num_ranks)

    def run(rank: int) -> tuple[dict[str, SplitMeasurement], int, set[str]]:
        meter = meter_with(evidence(), ranks=Ranks(rank, num_ranks, partial(sums.total, rank))).prepare(both_splits())
        before = sums.counts[rank]
        return meter.measure_splits(model()), sums.counts[rank] - before, set(meter.left_out)

    with ThreadPoolExecutor(num_ranks) as pool:
        measured, num_sums, left_out = zip(*pool.map(run, range(num_ranks)), strict=True)
    return list(measured), list(num_sums), list(left_out)


@pytest.fixture
def kept_random_state() -> Iterator[None]:
    """Threads that give the global random state back one after the other do not leave it as it was."""
    with preserve_random_state(torch.device("cpu"), 0):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("kept_random_state")
@pytest.mark.parametrize("num_ranks", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 7))])
@pytest.mark.parametrize(
    "evidence",
    [ParameterNoise, OrderShape, InputAgreement, lambda: ReferenceModels([TableModel()])],
    ids=["noise", "shape", "agreement", "references"],
)
def test_ranks_measure_the_same_with_a_single_sum(evidence: Callable[[], Evidence], num_ranks: int) -> None:
    alone = meter_with(evidence()).prepare(both_splits()).measure_splits(TableModel(broken=(2.0,)))
    by_rank, num_sums, _ = on_ranks(evidence, num_ranks, lambda: TableModel(broken=(2.0,)))
    assert num_sums == [1] * num_ranks
    for measured in by_rank:
        for name, expected in alone.items():
            assert_same(measured[name], expected, atol=1e-2)
            assert_same(measured[name], by_rank[0][name])
            torch.testing.assert_close(measured[name].loss, expected.loss, equal_nan=True)


class Failing(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise RuntimeError("this rank alone")


@pytest.mark.usefixtures("kept_random_state")
@pytest.mark.parametrize("evidence", [ParameterNoise, OrderShape], ids=["noise", "shape"])
def test_a_rank_that_fails_keeps_no_other_waiting_and_its_inputs_have_no_numbers(evidence: Callable[[], Evidence]) -> None:
    sums = Sums(2)

    def run(rank: int) -> dict[str, SplitMeasurement] | Exception:
        meter = meter_with(evidence(), ranks=Ranks(rank, 2, partial(sums.total, rank))).prepare(both_splits())
        try:
            return meter.measure_splits(Failing() if rank == 1 else TableModel())
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        measured, failure = pool.map(run, range(2))
    assert sums.counts[0] == sums.counts[1]
    assert str(failure) == "this rank alone"
    assert isinstance(measured, dict)
    for split in measured.values():
        assert split.measured.tolist() == [row % 2 == 0 for row in range(len(split))]


def test_evidence_with_other_raters_than_it_says_is_refused() -> None:
    class Uncounted(ParameterNoise):
        models_beside = 1

    meter = meter_with(Uncounted()).prepare(both_splits())
    with pytest.raises(ValueError, match="models_beside=1, got 2"):
        meter.measure_splits(TableModel())


@pytest.mark.usefixtures("kept_random_state")
@pytest.mark.parametrize(
    ("broken", "expected"),
    [((1.0, 3.0, 5.0), set()), ((1.0, 2.0, 3.0, 4.0, 5.0), {TRAINING, HELD_OUT})],
    ids=["one rank's", "all"],
)
def test_a_split_is_left_out_where_no_rank_could_measure_it(broken: tuple[float, ...], expected: set[str]) -> None:
    # The first of two ranks has the first, third and fifth probe.
    assert on_ranks(OrderShape, 2, lambda: TableModel(broken=broken))[2] == [expected, expected]


# Without a trace


class Traced(nn.Module):
    """Draws random numbers, counts its forwards in a buffer, and has dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(NUM_PLAYERS, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("count", torch.zeros(()))
        self.fail = False

    def forward(self, inputs: Tensor) -> Tensor:
        assert not self.training
        self.count = self.count + 1
        if self.fail:
            raise RuntimeError("broken")
        random.random(), np.random.rand()
        return self.layers(inputs) + torch.rand(1)


def random_states() -> list[Any]:
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("evidence", [ParameterNoise(), OrderShape()])
def test_measuring_leaves_no_trace(evidence: Evidence, fail: bool) -> None:
    torch.manual_seed(0)
    model = Traced().train()
    model.layers[1].eval()
    inputs = torch.randn(4, NUM_PLAYERS, generator=torch.Generator().manual_seed(1))
    meter = meter_with(evidence).prepare({TRAINING: Probes.of((inputs, torch.tensor([0, 1, 2, 0])))}, model=model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradients, states = [torch.ones_like(one) for one in model.parameters()], random_states()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    model.fail = fail
    with pytest.raises(RuntimeError, match="broken") if fail else nullcontext():
        meter.measure(model)
    assert random_states() == states
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is gradient for one, gradient in zip(model.parameters(), gradients, strict=True))
    assert torch.is_grad_enabled()
    # What the model draws is the same at every measurement.
    if not fail:
        assert_same(meter.measure(model).training, meter.measure(model).training)


def test_raters_are_closed_and_weights_restored_when_extraction_fails() -> None:
    class FailsLater(TableModel):
        fail_at = math.inf

        def forward(self, inputs: Tensor) -> Tensor:
            self.fail_at -= 1
            if self.fail_at == 0:
                raise RuntimeError("broken")
            return super().forward(inputs)

    for evidence in (Watched(), ParameterNoise()):
        model = FailsLater()
        meter = meter_with(evidence).prepare(both_splits())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.fail_at = 4
        with pytest.raises(RuntimeError, match="broken"):
            meter.measure(model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Models and inputs of other kinds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.slow
def test_models_of_another_dtype_are_measured(dtype: torch.dtype) -> None:
    model = TableModel()
    expected = meter_with(OrderShape()).prepare(both_splits()).measure(model).training
    found = meter_with(OrderShape()).prepare(both_splits(), model=model.to(dtype)).measure(model).training
    torch.testing.assert_close(found.full_score, expected.full_score, rtol=0, atol=1e-4 if dtype is torch.float32 else 0.2)
    assert all(parameter.dtype == dtype for parameter in model.parameters())


def test_the_trainers_precision_is_used_if_asked_for() -> None:
    def autocast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    probes = {TRAINING: Probes.of((table_probes().groups[0].inputs.tree.float(), torch.tensor([0, 2, 1, 1, 0])))}
    model = TableModel().float()

    def score(trainer_precision: bool) -> Tensor:
        extraction = Extraction(tolerance=1e-3, trainer_precision=trainer_precision)
        meter = meter_with(OrderShape(), extraction=extraction, forward_context=autocast, players=FeatureGroups())
        return meter.prepare(probes).measure(model).training.full_score

    own = score(False)
    assert torch.equal(own, meter_with(OrderShape()).prepare(probes).measure(model).training.full_score)
    assert not torch.equal(own, score(True))


class ImageAndAge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.of_image = nn.Conv2d(1, 3, 2)
        self.of_age = nn.Linear(1, 3)

    def forward(self, image: Tensor, age: Tensor) -> dict[str, Tensor]:
        return {"logits": self.of_image(image).tanh().mean(dim=(2, 3)) + self.of_age(age[:, None])}


class Diagnosis(Classification):
    def unpack(self, batch: Any) -> tuple[Any, Any]:
        return {"image": batch["image"], "age": batch["age"]}, batch["label"]

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        return model(**inputs)["logits"]


@pytest.mark.parametrize("evidence", [ParameterNoise(), ReferenceModels([ImageAndAge(), ImageAndAge()])])
def test_dictionaries_with_images_of_several_sizes_are_measured_from_end_to_end(evidence: Evidence) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "image": torch.randn(count, 1, size, size, generator=generator),
            "age": torch.rand(count, generator=generator),
            "label": torch.arange(count) % 3,
        }
        for count, size in ((3, 4), (2, 6))
    ]
    task, model = Diagnosis(), ImageAndAge()
    probes = Probes.of(*map(task.unpack, batches))
    meter = meter_with(evidence, task=task, players=ImagePatches(2, 2)).prepare({TRAINING: probes}, model=model)
    split = meter.measure(model).training
    assert split.measured.all()
    logits = torch.cat([model(batch["image"], batch["age"])["logits"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    expected = nn.functional.cross_entropy(logits, labels, reduction="none").double()
    torch.testing.assert_close(split.loss, expected.detach(), rtol=1e-4, atol=1e-5)
    # The age is never masked.
    nothing = torch.cat([model(torch.zeros_like(batch["image"]), batch["age"])["logits"] for batch in batches])
    torch.testing.assert_close(split.empty_score, task.score(nothing, labels).double().detach(), rtol=1e-4, atol=1e-5)
