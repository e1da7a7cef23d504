import pytest
import torch

from lightning_interactions.game import row_keys as module
from lightning_interactions.game.row_keys import RowMemory, row_keys, tensor_keys
from lightning_interactions.records import Rows

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int16,
    torch.uint8,
    torch.bool,
    torch.cfloat,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_have_equal_keys_where_they_are_equal(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randint(0, 2, (200, 3, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    keys = tensor_keys(rows)
    equal = (rows[:, None] == rows[None]).flatten(2).all(dim=2)
    assert torch.equal(keys[:, None] == keys[None], equal)
    assert torch.equal(tensor_keys(rows[[5, 5, 3]]), keys[[5, 5, 3]])
    assert torch.equal(tensor_keys(rows.transpose(1, 2).contiguous().transpose(1, 2)), keys)
    monkeypatch.setattr(module, "MOST_ENTRIES", 30)
    assert torch.equal(tensor_keys(rows), keys)


def test_keys_look_at_all_tensors_of_a_row() -> None:
    same, other = torch.zeros(2, 3), torch.tensor([1, 2])
    assert row_keys(Rows.of(same)).unique().numel() == 1
    assert row_keys(Rows.of((same, other))).unique().numel() == 2
    swapped = row_keys(Rows.of((torch.tensor([1, 2]), torch.tensor([2, 1]))))
    assert swapped.unique().numel() == 2
    assert tensor_keys(torch.zeros(0, 3)).shape == (0,)
    assert tensor_keys(torch.zeros(2, 0)).tolist() == [0, 0]


def test_what_is_known_is_not_asked_for_again() -> None:
    asked: list[list[float]] = []

    def double(rows: Rows) -> torch.Tensor:
        asked.append(rows.tree[:, 0].tolist())
        return rows.tree * 2

    memory = RowMemory()
    table = torch.arange(4.0)[:, None]
    assert memory.recall(Rows.of(table[[1, 2, 1, 1]]), double).flatten().tolist() == [2, 4, 2, 2]
    assert memory.recall(Rows.of(table), double).flatten().tolist() == [0, 2, 4, 6]
    assert sorted(asked[0]) == [1, 2]
    assert sorted(asked[1]) == [0, 3]
    assert memory.recall(Rows.of(table[:1]).select([]), double).shape == (0, 1)


def test_the_oldest_is_forgotten() -> None:
    memory, table = RowMemory(most=3), torch.arange(4.0)[:, None]
    for rows in (table, table + 10):
        assert torch.equal(memory.recall(Rows.of(rows), lambda inputs: inputs.tree * 2), rows * 2)
    assert len(memory) == 7
