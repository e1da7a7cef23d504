"""Whether the score of a row depends on the rows that it is scored with."""

import torch
from torch import Tensor, nn

from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.steps.runs import NORMALISE, CompanyError, are_close, fails_alone
from lightning_interactions.records import ProbeGroup, Rows

__all__ = ["CompanyError", "needs_rows_alone"]

MOST_ROWS = 4
"""So many rows of each group are scored alone and together."""

MOST_GROUPS = 4


def needs_rows_alone(game: Game, model: nn.Module) -> str:
    """Score rows alone and together, unmasked and with all players masked, and find out whether that is the same.

    Args:
        game: The game; its task says what is scored.
        model: A model in evaluation mode.

    Returns:
        Why rows must be scored one by one; empty if they may be scored together. Scores that are random need not.

    Raises:
        CompanyError: If rows cannot be scored alone, or all have the same score then.
    """
    if game.task.largest_batch == 1:  # They are scored alone already.
        return ""
    for group in game.probes.groups[:MOST_GROUPS]:
        rows, targets = _with_masked(game, model, group)
        together = _scores(game, model, rows, targets)
        try:
            alone = torch.cat([_scores(game, model, rows.select([row]), targets.select([row])) for row in range(len(rows))])
        except Exception as error:
            raise fails_alone(error) from error
        if _close(together, alone) or not _close(together, _scores(game, model, rows, targets)):
            continue
        if bool((alone == alone[0]).all()):
            raise CompanyError(
                "expected scores of rows that do not depend on the other rows of a batch, but alone all rows have the score "
                f"{float(alone[0]):.4g}; {NORMALISE}"
            )
        return (
            f"the score of a row depends on the other rows of its batch ({float(together[0]):.4g} together, "
            f"{float(alone[0]):.4g} alone), as with batch norm without running statistics"
        )
    return ""


def _with_masked(game: Game, model: nn.Module, group: ProbeGroup) -> tuple[Rows, Rows]:
    some = group.select(range(min(len(group), MOST_ROWS)))
    inputs, baseline = game.converted(model, some.inputs)
    if not baseline:  # Players that mask nothing of the inputs.
        return inputs, some.targets
    nobody = torch.zeros(len(some), game.players.num_players(inputs), dtype=torch.bool, device=inputs.device)
    masked = game.players.mask(inputs, nobody, baseline)
    return inputs.join([masked]), some.targets.join([some.targets])


def _scores(game: Game, model: nn.Module, rows: Rows, targets: Rows) -> Tensor:
    with torch.no_grad(), game.forwards():
        return game.task.scores(model, rows.tree, targets.tree)


def _close(some: Tensor, others: Tensor) -> bool:
    # Forwards run in float32 at best, whatever scores come in.
    return are_close(some.float(), others.float(), some.float())
