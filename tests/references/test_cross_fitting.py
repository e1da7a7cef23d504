from collections import Counter
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.game.tasks import Regression
from tests.helpers.models import GloballyAugmentedDataset, PlainTabularClassifier, StreamedDataset, tabular_data
from tests.helpers.trainers import TINY_SET_UP
from tests.references.fits import Tables, all_seen, fit, prints, shuffled

pytestmark = TINY_SET_UP

DATA = tabular_data(90, seed=4)


def cross_fit(data: Any = None, model: LightningModule | None = None, **options: Any) -> ReferenceModels:
    loader = shuffled(DATA) if data is None else data
    return fit(model, loader, **{"folds": 3, "screen_labels": False, **options})


def test_every_input_is_left_with_its_raters() -> None:
    references = cross_fit()
    assert (len(references.models), references.num_raters, references.vote) == (6, 2, 2)
    assert references.refused == frozenset()
    assert Counter(fingerprint for seen in references.seen for fingerprint in seen) == dict.fromkeys(prints(DATA.tensors[0]), 4)
    for fold in range(3):
        assert references.seen[2 * fold] == references.seen[2 * fold + 1]
        assert len(references.seen[2 * fold]) == 60


def test_a_data_module_gives_its_training_data_and_its_hooks() -> None:
    inner = Tables()
    model = PlainTabularClassifier()
    state = torch.get_rng_state()
    references = cross_fit(inner, model, patience=None, num_models=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert inner.trainer is None
    assert all_seen(references) == frozenset(prints(2 * tabular_data(40).tensors[0][inner.training.indices]))


def test_inputs_that_occur_in_several_parts_are_refused_as_probes() -> None:
    inputs, targets = DATA.tensors
    twice = TensorDataset(torch.cat([inputs[:30], inputs[:15]]), torch.cat([targets[:30], targets[:15]]))
    references = cross_fit(DataLoader(twice, batch_size=8), num_models=1, patience=None)
    assert references.refused
    assert references.refused <= frozenset(prints(inputs[:15]))


def test_random_augmentation_in_the_dataset_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="18 of 18"):
        cross_fit(DataLoader(GloballyAugmentedDataset(DATA), batch_size=8))


def test_random_augmentation_in_a_hook_is_refused() -> None:
    class Augmented(PlainTabularClassifier):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            inputs: Tensor = batch[0]
            return (inputs + torch.rand(1) if self.training else inputs, batch[1])

    with pytest.raises(MisconfigurationException, match="60 samples gave"):
        cross_fit(model=Augmented(), max_epochs=2, patience=None)


def test_data_without_indices_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="indices"):
        cross_fit(DataLoader(StreamedDataset(DATA, 90), batch_size=8))


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

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def screen(model: LightningModule | None = None, **options: Any) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Cross-fit with screening: what was trained on, inputs with wrong and with right labels."""
    data, wrong = striking_data()
    settings = {"folds": 2, "num_models": 1, "max_epochs": 15, "screen_labels": None, **options}
    references = cross_fit(shuffled(data), EagerClassifier() if model is None else model, **settings)
    assert references.refused == frozenset()
    own = prints(data.tensors[0])
    of_wrong = frozenset(one for one, is_wrong in zip(own, wrong.tolist(), strict=True) if is_wrong)
    return all_seen(references), of_wrong, frozenset(own) - of_wrong


@pytest.mark.slow
def test_disputed_labels_are_trained_on_by_no_rater() -> None:
    seen, wrong, right = screen()
    assert len(wrong) == 12
    assert len(seen & wrong) <= 1
    assert len(seen & right) >= 0.9 * len(right)


@pytest.mark.parametrize("options", [{"screen_labels": False}, {"task": Regression(), "patience": None}], ids=str)
def test_labels_are_not_screened_where_that_is_not_asked_for_or_there_are_no_classes(options: dict[str, Any]) -> None:
    seen, wrong, right = screen(max_epochs=1, **options)
    assert seen == wrong | right


def test_random_labels_are_not_screened_away() -> None:
    data, _ = striking_data()
    labels = torch.randint(0, 3, (120,), generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(data.tensors[0], labels), batch_size=8)
    references = cross_fit(loader, EagerClassifier(), folds=2, num_models=1, screen_labels=True, max_epochs=5)
    assert len(all_seen(references)) > 100


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
                steps = int(self.trainer.estimated_stepping_batches)
                scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
            return [optimizer], [scheduler]

    screen(Scheduled(), max_epochs=2)


def test_screening_trains_no_model_further() -> None:
    class Counting(EagerClassifier):
        steps = 0

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            Counting.steps += 1

    screen(Counting(), max_epochs=1, min_epochs=1, patience=None)
    # 120 inputs in two folds: four models of 60 (or fewer, where screened) inputs in batches of 8.
    assert 28 <= Counting.steps <= 32
