"""Players that differ from row to row, in games."""

import torch
from torch import Tensor, nn

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureGroups, Tokens
from lightning_interactions.game.tasks import Classification
from lightning_interactions.records import Probes


class Bag(nn.Module):
    """Scores a text by the mean of its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).tanh().mean(dim=1))


class Both(nn.Module):
    """Scores numbers and categories together."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.head = nn.Linear(7, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(torch.cat([inputs["x"], self.embedding(inputs["c"]).flatten(1)], dim=1)).tanh()


def scores(model: nn.Module, inputs: object, target: int) -> Tensor:
    logits = model(inputs)[0]
    others = torch.cat([logits[:target], logits[target + 1 :]])
    return logits[target] - others.logsumexp(dim=0)


def test_texts_with_few_words_have_players_that_change_nothing() -> None:
    torch.manual_seed(0)
    model, lengths = Bag().eval(), torch.tensor([6, 2, 4])
    ids = torch.randint(1, 50, (3, 6)) * (torch.arange(6) < lengths[:, None])
    targets, masks = torch.tensor([0, 2, 1]), coalition_masks(4)
    players = Tokens(4)
    game = Game(Probes.of((ids, targets)), players, {"": torch.tensor(7)}, Classification())
    values = game.values(model)
    words = players.assignments(game.probes.groups[0].inputs)[""]
    for row in range(3):
        for number, stay in enumerate(masks):
            masked = torch.tensor(
                [7 if own >= 0 and not stay[own] else one for one, own in zip(ids[row], words[row], strict=True)]
            )
            assert torch.allclose(values[row, number], scores(model, masked[None], int(targets[row])), atol=1e-5)
    assert torch.equal(values[1], values[1][torch.arange(16) & 3])


def test_numbers_and_categories_are_masked_together() -> None:
    torch.manual_seed(0)
    model = Both().eval()
    inputs = {"x": torch.randn(3, 3), "c": torch.randint(0, 5, (3, 2))}
    players = FeatureGroups([[0, 3], [1], [2, 4]], ("x", "c"))
    baseline = {"x": torch.tensor(0.5), "c": torch.tensor([1, 4])}
    values = Game(Probes.of((inputs, torch.zeros(3, dtype=torch.long))), players, baseline, Classification()).values(model)
    for row in range(3):
        for number, stay in enumerate(coalition_masks(3)):
            masked = {
                "x": torch.where(stay[[0, 1, 2]], inputs["x"][row], baseline["x"])[None],
                "c": torch.where(stay[[0, 2]], inputs["c"][row], baseline["c"])[None],
            }
            assert torch.allclose(values[row, number], scores(model, masked, 0), atol=1e-5)
