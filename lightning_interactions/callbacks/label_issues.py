"""Finding out which labels a module had to memorise, with the meter of a run."""

from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_interactions.analysis import find_label_issues
from lightning_interactions.callbacks.precision import dtypes_named, forward_context
from lightning_interactions.callbacks.preparation import Preparation
from lightning_interactions.callbacks.probes import moved
from lightning_interactions.evidence import InputAgreement
from lightning_interactions.measuring.meter import HELD_OUT
from lightning_interactions.records import LabelIssues
from lightning_interactions.references.internals import classes

__all__ = ["label_issues_of"]


def label_issues_of(preparation: Preparation, model: LightningModule, inputs: Any, targets: Any = None) -> LabelIssues:
    """Judge the labels of inputs; see :meth:`~lightning_interactions.InteractionMonitor.label_issues`.

    Args:
        preparation: That of the run; its players, baseline values and evidence are used, by this process alone.
        model: The monitored module.
        inputs: A tree of tensors ``[inputs, ...]``, or a whole batch.
        targets: The targets that it was trained with; ``None`` beside a whole batch.

    Raises:
        ValueError: If there was no run, there is no input, or inputs or targets do not fit.
    """
    if preparation.meter.baseline_values is None:
        raise ValueError("InteractionMonitor: expected a run that this monitor has watched, got none; train with it first")
    trainer = model._trainer if isinstance(model._trainer, classes("Trainer")) else None
    with preparation.shadow(trainer, model) as shadow, forward_context(trainer, preparation.settings.extraction)():
        handed_in = (moved(tree, model.device) for tree in (inputs, targets))
        asked, places, number = preparation.settings.task.given(shadow, *handed_in)
    if not number:
        raise ValueError("InteractionMonitor: expected at least one input to find label issues in, got none")
    numbers = torch.full((len(fields(LabelIssues)), number), torch.nan, dtype=torch.float64)
    refused = preparation.evidence.refused
    rows = torch.tensor([fingerprint not in refused for fingerprint in asked.fingerprints])
    if not bool(rows.any()):
        return LabelIssues(*numbers)
    splits = {"asked": asked.select(rows)}
    if isinstance(preparation.evidence.current, InputAgreement) and HELD_OUT in preparation.keeper.probes:
        splits = {HELD_OUT: preparation.keeper.probes[HELD_OUT].to(model.device), **splits}
    meter = preparation.meter_alone(trainer)
    with dtypes_named(trainer, preparation.settings.extraction):
        meter.prepare(splits, model=model)
    found = find_label_issues(meter.measure_splits(model)["asked"])
    numbers[:, places[rows]] = torch.stack(list(vars(found).values()))
    return LabelIssues(*numbers)
