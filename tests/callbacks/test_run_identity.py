import gc
import pickle
import weakref
from typing import Any

import pytest

from lightning_interactions.callbacks.run_identity import RunIdentity
from lightning_interactions.records import History, TimePoint
from tests.helpers.models import PlainTabularClassifier, tabular_data
from tests.helpers.run_records import some_history

HISTORY = some_history()
LAST = HISTORY.measurements[-1].time
LATER = TimePoint(LAST.epoch + 1, LAST.step + 1)
MODEL, DATA = PlainTabularClassifier(), tabular_data(4)


def watched(model: Any = MODEL, data: Any = DATA) -> RunIdentity:
    """A run that has begun."""
    identity = RunIdentity()
    assert not identity.why_another(History(), TimePoint(0, 0), model, data)
    return identity


@pytest.mark.parametrize("now", [LAST, LATER])
def test_a_fit_that_begins_where_the_history_ends_goes_on(now: TimePoint) -> None:
    assert not watched().why_another(HISTORY, now, MODEL, DATA)


@pytest.mark.parametrize("now", [TimePoint(0, 0), TimePoint(LAST.epoch, LAST.step - 1), TimePoint(LAST.epoch - 1, 0)])
def test_a_fit_that_begins_before_is_another_one(now: TimePoint) -> None:
    assert str(LAST.epoch) in watched().why_another(HISTORY, now, MODEL, DATA)


def test_a_state_is_gone_on_with_once_whatever_module_and_data() -> None:
    identity = watched()
    identity.resume()
    assert not identity.why_another(HISTORY, LAST, PlainTabularClassifier(), tabular_data(4))
    assert identity.why_another(HISTORY, LAST, MODEL, DATA)


@pytest.mark.parametrize(("other", "named"), [((PlainTabularClassifier(), DATA), "module"), ((MODEL, tabular_data(4)), "data")])
def test_another_module_or_other_data_are_another_run(other: tuple[Any, Any], named: str) -> None:
    assert named in watched().why_another(HISTORY, LATER, *other)


def test_what_cannot_be_told_is_the_same() -> None:
    # There are no weak references to a list.
    assert not watched(data=[1, 2]).why_another(HISTORY, LATER, MODEL, [3])
    assert not watched(data=None).why_another(HISTORY, LATER, MODEL, None)
    assert not pickle.loads(pickle.dumps(watched())).why_another(HISTORY, LATER, PlainTabularClassifier(), DATA)


def test_module_and_data_are_not_kept_alive() -> None:
    model = PlainTabularClassifier()
    identity, alive = watched(model), weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert not identity.why_another(HISTORY, LATER, PlainTabularClassifier(), DATA)
