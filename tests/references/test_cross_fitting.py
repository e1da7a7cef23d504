from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import InteractionMonitor, ReferenceModels, fit_reference_models
from lightning_interactions.evidence import fingerprints
from lightning_interactions.game.margin import label_margin
from lightning_interactions.game.scores import prediction
from tests.callbacks.runs import TINY_SET_UP, quiet_trainer
from tests.callbacks.test_held_out_references import Tables
from tests.helpers.models import (
    GloballyAugmentedDataset,
    PlainTabularClassifier,
    StreamedDataset,
    TabularClassifier,
    tabular_data,
    tabular_loader,
)

pytestmark = TINY_SET_UP

DATA = tabular_data(90, seed=4)
PRINTS = fingerprints(DATA.tensors[0])


def cross_fit(data: Any = None, model: LightningModule | None = None, **options: Any) -> ReferenceModels:
    settings: dict[str, Any] = {"folds": 3, "num_models": 2, "max_epochs": 1, "screen_labels": False, "accelerator": "cpu"}
    loader = DataLoader(DATA, batch_size=8, shuffle=True) if data is None else data
    return fit_reference_models(TabularClassifier() if model is None else model, loader, **{**settings, **options})


@pytest.mark.parametrize("early_stopping", [True, False])
def test_every_training_input_is_left_with_its_judges(early_stopping: bool) -> None:
    references = cross_fit(early_stopping=early_stopping)
    assert len(references.models) == 6
    assert references.num_voters == 2
    assert references.refused == frozenset()
    times_seen = Counter(fingerprint for seen in references.seen for fingerprint in seen)
    assert times_seen == dict.fromkeys(PRINTS, 4)
    for fold in range(3):
        assert references.seen[2 * fold] == references.seen[2 * fold + 1]
        assert len(references.seen[2 * fold]) == 60
    assert references.seen[0] | references.seen[2] == frozenset(PRINTS)


def test_the_seed_decides_on_the_parts() -> None:
    seen = [cross_fit(seed=seed, num_models=1, early_stopping=False).seen for seed in (0, 0, 1)]
    assert seen[0] == seen[1] != seen[2]


def test_a_run_is_judged_on_all_of_its_training_data(tmp_path: Path) -> None:
    loader = DataLoader(DATA, batch_size=8, shuffle=True)
    references = cross_fit(loader, num_models=1)
    monitor = InteractionMonitor(evidence=references, num_training_probes=20, num_held_out_probes=6, figures=False)
    quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(TabularClassifier(), loader, tabular_loader(12, seed=1))
    assert monitor.history.epochs == [0, 1]
    assert len(monitor.state_dict()["probes"]["training"]["inputs"]) == 20
    last = monitor.history.measurements[-1]
    assert last.held_out_summary is not None
    assert all(0 <= summary.share <= 1 for summary in (last.training_summary, last.held_out_summary))


def test_a_data_module_gives_its_training_data_and_its_hooks() -> None:
    inner = Tables()
    references = cross_fit(inner, early_stopping=False, num_models=1)
    trained_on = frozenset(fingerprints(2 * tabular_data(40).tensors[0][inner.training.indices]))
    assert frozenset().union(*references.seen) == trained_on


def test_inputs_that_occur_in_several_parts_do_not_become_probes(tmp_path: Path) -> None:
    inputs, targets = DATA.tensors
    twice = TensorDataset(torch.cat([inputs[:30], inputs[:15]]), torch.cat([targets[:30], targets[:15]]))
    loader = DataLoader(twice, batch_size=8)
    references = cross_fit(loader, num_models=1, early_stopping=False)
    assert references.refused
    assert references.refused <= frozenset(PRINTS[:15])
    monitor = InteractionMonitor(evidence=references, num_training_probes=15, num_held_out_probes=4, figures=False)
    with pytest.warns(UserWarning, match="none of these becomes a probe"):
        quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(TabularClassifier(), loader, tabular_loader(12, seed=1))
    probes = fingerprints(monitor.state_dict()["probes"]["training"]["inputs"])
    assert references.refused.isdisjoint(probes)


def test_random_augmentation_in_the_dataset_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"18 of 18 came out differently the second time; take random"):
        cross_fit(DataLoader(GloballyAugmentedDataset(DATA), batch_size=8))


def test_random_augmentation_in_a_hook_is_refused() -> None:
    class Augmented(TabularClassifier):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            inputs: Tensor = batch[0]
            return (inputs + torch.rand(1) if self.training else inputs, batch[1])

    with pytest.raises(MisconfigurationException, match=r"but 60 samples gave \d+ different inputs or more; move random"):
        cross_fit(model=Augmented(), max_epochs=2, early_stopping=False)


def test_data_without_indices_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="folds and cache_dir need data with indices"):
        cross_fit(DataLoader(StreamedDataset(DATA, 90), batch_size=8))


@pytest.mark.parametrize("folds", [1, 0, -1])
def test_fewer_than_two_folds_are_refused(folds: int) -> None:
    with pytest.raises(MisconfigurationException, match=f"folds of at least 2, or none, got {folds}"):
        cross_fit(folds=folds)


def test_more_folds_than_inputs_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="one input for each of 9 folds, got 8; use fewer"):
        cross_fit(tabular_loader(8), folds=9, early_stopping=False)


def test_votes_are_counted_among_the_models_of_a_fold() -> None:
    assert cross_fit(vote=2, early_stopping=False).vote == 2
    with pytest.raises(MisconfigurationException, match="a number from 1 to 2"):
        cross_fit(vote=3)


def test_cross_fitted_models_are_saved_and_loaded(tmp_path: Path) -> None:
    references = cross_fit(model=PlainTabularClassifier(), early_stopping=False)
    references.save(tmp_path / "references.pt")
    loaded = ReferenceModels.load(tmp_path / "references.pt", PlainTabularClassifier())
    assert (loaded.seen, loaded.num_voters) == (references.seen, 2)


# Screening


def striking_data(num_inputs: int = 120) -> tuple[TensorDataset, Tensor]:
    """Generate rows whose first feature says the class beyond doubt, and change every tenth label."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (num_inputs,), generator=generator)
    inputs = torch.randn(num_inputs, 4, generator=generator)
    inputs[:, 0] = 4.0 * (targets - 1)
    wrong = torch.arange(num_inputs) % 10 == 0
    return TensorDataset(inputs, torch.where(wrong, (targets + 1) % 3, targets)), wrong


class EagerClassifier(PlainTabularClassifier):
    """Learns within a few epochs."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def screen(model: LightningModule | None = None, **options: Any) -> tuple[ReferenceModels, frozenset[str], frozenset[str]]:
    """Cross-fit with screening; also the fingerprints of inputs with wrong and with right labels."""
    data, wrong = striking_data()
    loader = DataLoader(data, batch_size=8, shuffle=True)
    settings = {"folds": 2, "num_models": 1, "max_epochs": 15, "screen_labels": None}
    prints = fingerprints(data.tensors[0])
    of_wrong = frozenset(one for one, is_wrong in zip(prints, wrong.tolist(), strict=True) if is_wrong)
    return (
        cross_fit(loader, EagerClassifier() if model is None else model, **{**settings, **options}),
        of_wrong,
        frozenset(prints) - of_wrong,
    )


def test_contradicted_labels_are_trained_on_by_no_judge() -> None:
    references, wrong, right = screen()
    seen = frozenset().union(*references.seen)
    assert len(wrong) == 12
    assert len(seen & wrong) <= 1
    assert len(seen & right) >= 0.9 * len(right)
    assert references.refused == frozenset()


def test_screening_can_be_left_out() -> None:
    references, wrong, right = screen(screen_labels=False)
    assert frozenset().union(*references.seen) == wrong | right


def test_another_score_is_not_screened() -> None:
    references, wrong, right = screen(score=lambda outputs, _targets: outputs[:, 0], early_stopping=False, max_epochs=1)
    assert frozenset().union(*references.seen) == wrong | right


def test_screened_models_come_back_from_a_cache_bit_by_bit(tmp_path: Path) -> None:
    first, second, plain = (screen(max_epochs=4, **options)[0] for options in (2 * [{"cache_dir": tmp_path}] + [{}]))
    assert len(list(tmp_path.iterdir())) == 4
    for references in (second, plain):
        assert references.seen == first.seen
        for model, other in zip(references.models, first.models, strict=True):
            assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_screening_leaves_the_global_generators_alone() -> None:
    model = EagerClassifier()
    state = torch.get_rng_state()
    screen(model, max_epochs=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_margin_is_the_difference_to_the_most_likely_other_class() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [3.0, 3.0, 0.0]])
    assert label_margin(logits, torch.tensor([0, 1, 2])).tolist() == [-3, 2, -3]
    assert label_margin(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0])).tolist() == [2, -2]


def test_random_labels_are_not_screened_away() -> None:
    data, _ = striking_data()
    generator = torch.Generator().manual_seed(1)
    shuffled = TensorDataset(data.tensors[0], torch.randint(0, 3, (120,), generator=generator))
    references = cross_fit(
        DataLoader(shuffled, batch_size=8), EagerClassifier(learning_rate=0.01), folds=2, num_models=3, screen_labels=True,
        max_epochs=10,
    )  # fmt: skip
    assert len(frozenset().union(*references.seen)) > 100


@pytest.mark.parametrize("schedule", ["linear", "one cycle"])
def test_screening_leaves_schedules_their_number_of_epochs(schedule: str) -> None:
    class Scheduled(EagerClassifier):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            epochs = self.trainer.max_epochs
            assert epochs is not None
            if schedule == "linear":
                scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
            else:
                scheduler = torch.optim.lr_scheduler.OneCycleLR(
                    optimizer, 0.05, total_steps=int(self.trainer.estimated_stepping_batches)
                )
            return [optimizer], [scheduler]

    references, wrong, _ = screen(Scheduled())
    assert len(frozenset().union(*references.seen) & wrong) <= 2


def test_screening_trains_no_model_further() -> None:
    class Counting(EagerClassifier):
        steps = 0

        def training_step(self, batch: Any, _batch_index: int = 0) -> Tensor:
            Counting.steps += 1
            return self.loss(batch)

    screen(Counting(), max_epochs=1, min_epochs=1, early_stopping=False)
    # 120 inputs in two folds: four models of 60 (or fewer, where screened) inputs in batches of 8.
    assert 28 <= Counting.steps <= 32


@pytest.mark.parametrize("options", [{"folds": None}, {"score": prediction, "early_stopping": False}])
def test_screening_that_cannot_be_done_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="screen_labels needs folds and the log-odds as the score"):
        cross_fit(**{"screen_labels": True, **options})


def test_models_that_know_no_training_probe_are_refused(tmp_path: Path) -> None:
    references = cross_fit(num_models=1)
    monitor = InteractionMonitor(evidence=references, num_training_probes=8, num_held_out_probes=4, figures=False)
    other = DataLoader(tabular_data(40, seed=9), batch_size=8)
    with pytest.raises(MisconfigurationException, match="none of the 8 training probes is among what they were trained on"):
        quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(TabularClassifier(), other, tabular_loader(12, seed=1))


def test_a_data_module_that_splits_at_random_leaves_the_global_generators_alone() -> None:
    class Splits(Tables):
        def setup(self, stage: str) -> None:
            torch.rand(1)
            super().setup(stage)

    model = TabularClassifier()
    state = torch.get_rng_state()
    cross_fit(Splits(), model, num_models=1, early_stopping=False)
    assert torch.equal(torch.get_rng_state(), state)
