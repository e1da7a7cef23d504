from collections import Counter
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions.evidence import ReferenceModels
from tests.helpers.models import GloballyAugmentedDataset, PlainTabularClassifier, StreamedDataset, tabular_data
from tests.helpers.trainers import TINY_SET_UP
from tests.references.fits import Tables, all_seen, fit, prints, shuffled

pytestmark = TINY_SET_UP

DATA = tabular_data(90, seed=4)


def cross_fit(data: Any = None, model: LightningModule | None = None, **options: Any) -> ReferenceModels:
    loader = shuffled(DATA) if data is None else data
    return fit(model, loader, **{"folds": 3, **options})


@pytest.mark.slow
def test_every_input_is_left_with_its_raters() -> None:
    references = cross_fit()
    assert (len(references.models), references.num_raters, references.vote) == (6, 2, "any")
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
