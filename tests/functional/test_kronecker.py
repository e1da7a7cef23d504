import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from lightning_interactions.functional.kronecker import KroneckerProduct, generalized_eigenvectors, power_of_diagonal

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)

ENTRIES = st.integers(-3, 3)
PLAYERS = st.integers(1, 5)
GROUPS = st.sampled_from([None, 1, 2, 3, 4])


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Small integers, on which every product is exact."""
    return torch.tensor([[draw(ENTRIES), draw(ENTRIES)], [draw(ENTRIES), draw(ENTRIES)]], dtype=torch.float64)


def random_values(num_players: int, seed: int = 0, batch: tuple[int, ...] = (3,)) -> Tensor:
    return torch.randint(-9, 10, (*batch, 2**num_players), generator=Generator().manual_seed(seed)).double()


def entry(matrix: Tensor, row: int, column: int, num_players: int) -> float:
    """Multiply the entries that the players' bits pick."""
    product = 1.0
    for player in range(num_players):
        product *= float(matrix[row >> player & 1, column >> player & 1])
    return product


@PROPERTY
@given(matrices(), PLAYERS, GROUPS)
def test_an_entry_is_a_product_over_players(matrix: Tensor, num_players: int, num_groups: int | None) -> None:
    size = 2**num_players
    expected = [[entry(matrix, row, column, num_players) for column in range(size)] for row in range(size)]
    assert KroneckerProduct.power(matrix, num_players, num_groups).dense().tolist() == expected


@PROPERTY
@given(matrices(), PLAYERS, GROUPS)
def test_it_acts_on_the_last_axis_as_the_dense_matrix_does(matrix: Tensor, num_players: int, num_groups: int | None) -> None:
    power = KroneckerProduct.power(matrix, num_players, num_groups)
    for batch in ((), (4,), (2, 3), (0, 2)):
        values = random_values(num_players, batch=batch)
        assert torch.equal(power @ values, values @ power.dense().T)


@pytest.mark.parametrize("num_players", [11, 12, 16])
def test_many_players_are_the_same_as_one_player_at_a_time(num_players: int) -> None:
    matrix = torch.tensor([[1.0, 2.0], [-1.0, 3.0]], dtype=torch.float64)
    values = random_values(num_players, batch=(2,))
    expected = values.reshape(2, *[2] * num_players)
    for axis in range(1, num_players + 1):
        expected = torch.stack(
            [(row[0] * expected.select(axis, 0) + row[1] * expected.select(axis, 1)) for row in matrix], axis
        )
    # All numbers are integers below 2^53.
    assert torch.equal(KroneckerProduct.power(matrix, num_players) @ values, expected.reshape(values.shape))


@PROPERTY
@given(matrices(), matrices(), PLAYERS)
def test_powers_multiply_as_their_matrices_do(first: Tensor, second: Tensor, num_players: int) -> None:
    values = random_values(num_players)
    one_after_the_other = KroneckerProduct.power(first, num_players) @ (KroneckerProduct.power(second, num_players) @ values)
    assert torch.equal(KroneckerProduct.power(first @ second, num_players) @ values, one_after_the_other)


@PROPERTY
@given(matrices(), PLAYERS)
def test_the_transpose_is_the_adjoint(matrix: Tensor, num_players: int) -> None:
    power = KroneckerProduct.power(matrix, num_players)
    values, others = random_values(num_players), random_values(num_players, seed=1)
    assert torch.equal((others * (power @ values)).sum(dim=-1), ((power.T @ others) * values).sum(dim=-1))
    assert torch.equal(power.T.T @ values, power @ values)


@PROPERTY
@given(matrices().filter(lambda matrix: abs(float(torch.linalg.det(matrix))) > 0.5), PLAYERS)
def test_the_power_of_the_inverse_is_the_inverse(matrix: Tensor, num_players: int) -> None:
    values = random_values(num_players)
    forth = KroneckerProduct.power(matrix, num_players) @ values
    back = KroneckerProduct.power(torch.linalg.inv(matrix), num_players) @ forth
    torch.testing.assert_close(back, values, rtol=0, atol=1e-9 * 25**num_players)


def test_unlike_factors_act_on_high_and_low_bits() -> None:
    high, low = torch.arange(4.0).reshape(2, 2), torch.arange(16.0).reshape(4, 4)
    product, values = KroneckerProduct((high, low)), torch.arange(8.0)
    assert torch.equal(product @ values, torch.kron(high, low) @ values)
    assert product.size == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_takes_the_dtype_of_a_tensor(dtype: torch.dtype) -> None:
    values = random_values(4).to(dtype)
    power = KroneckerProduct.power(torch.eye(2), 4).to(values)
    assert power.dense().dtype == (power @ values).dtype == dtype
    assert torch.equal(power @ values, values)


@pytest.mark.parametrize("size", [0, 4, 16])
def test_a_last_axis_of_another_length_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match="8"):
        KroneckerProduct.power(torch.eye(2), 3) @ torch.zeros(2, size)


# Spectra


@PROPERTY
@given(ENTRIES, ENTRIES, PLAYERS)
def test_the_power_of_a_diagonal_is_that_of_the_diagonal_matrix(low: int, high: int, num_players: int) -> None:
    diagonal = torch.tensor([float(low), float(high)])
    dense = KroneckerProduct.power(torch.diag(diagonal), num_players).dense()
    assert torch.equal(torch.diag(power_of_diagonal(diagonal, num_players)), dense)


@PROPERTY
@given(matrices(), matrices())
def test_two_matrices_are_diagonal_in_one_basis(first: Tensor, second: Tensor) -> None:
    first, second = first + first.T, second @ second.T + torch.eye(2)
    eigenvalues, basis = generalized_eigenvectors(first, second)
    assert eigenvalues[0] <= eigenvalues[1]
    torch.testing.assert_close(basis.T @ second @ basis, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(basis.T @ first @ basis, torch.diag(eigenvalues), rtol=0, atol=1e-9)
