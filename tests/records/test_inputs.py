import pytest
import torch
from torch import Tensor

from lightning_interactions.evidence import fingerprints

INPUTS = torch.arange(24, dtype=torch.float32).reshape(4, 2, 3)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def test_equal_inputs_have_equal_fingerprints() -> None:
    digests = fingerprints(INPUTS)
    assert len(digests) == 4
    assert fingerprints(INPUTS.clone()) == digests
    assert fingerprints(INPUTS[[2, 0]]) == [digests[2], digests[0]]
    assert fingerprints(torch.stack([INPUTS[1], INPUTS[1]])) == [digests[1]] * 2


def test_any_other_content_has_another_fingerprint() -> None:
    assert len(set(fingerprints(INPUTS))) == 4
    changed = INPUTS.clone()
    changed[1, 0, 0] = changed[1, 0, 0].nextafter(torch.tensor(100.0))
    same = [one == other for one, other in zip(fingerprints(INPUTS), fingerprints(changed), strict=True)]
    assert same == [True, False, True, True]


def test_floating_point_dtypes_agree_and_integers_differ() -> None:
    inputs = torch.arange(24.0).reshape(4, 2, 3)
    assert fingerprints(inputs.double()) == fingerprints(inputs)
    assert fingerprints(inputs.bfloat16()) == fingerprints(inputs)
    assert set(fingerprints(inputs)).isdisjoint(fingerprints(inputs.int()))


def test_the_shape_matters() -> None:
    assert set(fingerprints(INPUTS)).isdisjoint(fingerprints(INPUTS.reshape(4, 6)))
    assert set(fingerprints(INPUTS)).isdisjoint(fingerprints(INPUTS.reshape(4, 3, 2)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "same",
    [
        lambda inputs: inputs.to(memory_format=torch.channels_last),
        lambda inputs: inputs.transpose(1, 2).contiguous().transpose(1, 2),
        lambda inputs: inputs.repeat_interleave(2, dim=3)[..., ::2],
        lambda inputs: inputs.clone().requires_grad_(),
    ],
    ids=["channels last", "transposed", "strided", "requires grad"],
)
def test_device_and_memory_layout_do_not_matter(device: str, same: object) -> None:
    images = torch.arange(48, dtype=torch.float32).reshape(2, 2, 3, 4)
    assert callable(same)
    elsewhere = same(images.to(device))
    assert isinstance(elsewhere, Tensor)
    assert fingerprints(elsewhere) == fingerprints(images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.long, torch.uint8, torch.bool])
def test_inputs_of_any_dtype_have_fingerprints(dtype: torch.dtype) -> None:
    inputs = torch.tensor([[0, 1], [1, 1], [0, 1]]).to(dtype)
    first, second, third = fingerprints(inputs)
    assert first == third != second


def test_scalars_have_fingerprints() -> None:
    assert len(set(fingerprints(torch.arange(3.0)))) == 3


def test_no_inputs_have_no_fingerprints() -> None:
    assert fingerprints(torch.zeros(0, 3)) == []


def test_fingerprints_are_hexadecimal_and_the_same_in_every_process() -> None:
    # A digest of its own would break files of reference models that were saved before.
    (digest,) = fingerprints(torch.zeros(1, 2))
    assert digest == "21ff1b764ef3e705aee95fe1587a56a6c363c2a069fb1f34e4651c602452d207"
