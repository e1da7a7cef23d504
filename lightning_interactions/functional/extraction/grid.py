"""The iteration of the solver, with effects laid out so that few large matrix products serve all inputs.

A Kronecker product of dense factors takes the axis of coalitions apart into one axis for each factor. With the inputs before
the last of them, ``[types, *higher, inputs, lowest]``, every factor acts on all inputs of both types in a single product,
without a transposition; and nothing is allocated within the iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.extraction.feasible_set import FeasibleEffects

__all__ = ["Grid", "Steps"]


class Steps(NamedTuple):
    """Where some iterations lead to, ``[types, models, inputs, coalitions]`` each.

    Attributes:
        state: The state to go on from.
        sparse: The soft threshold of the state: sparse effects beside the feasible set.
        last_sparse: The same one iteration before.
        point: The projection that came last: feasible effects that are not quite sparse.
    """

    state: Tensor
    sparse: Tensor
    last_sparse: Tensor
    point: Tensor


class _Factor(NamedTuple):
    """One factor of a Kronecker product, for both types.

    Attributes:
        matrices: ``[batch, size, size]``; as many for each type as there are states of higher bits.
        is_lowest: Whether it acts on the last axis, from the right, else on one before.
    """

    matrices: Tensor
    is_lowest: bool

    @no_type_check  # called thousands of times
    def view(self, effects: Tensor) -> Tensor:
        """See effects as the matrices that this factor is multiplied with."""
        num, size = self.matrices.shape[:2]
        return effects.view(num, -1, size) if self.is_lowest else effects.view(num, size, -1)

    @no_type_check
    def multiply(self, effects: Tensor, out: Tensor) -> None:
        """Write the product to another tensor."""
        factors = (effects, self.matrices) if self.is_lowest else (self.matrices, effects)
        torch.bmm(*factors, out=out)

    @no_type_check
    def add_multiple(self, effects: Tensor, to: Tensor, weight: float) -> None:
        """Add a multiple of the product to another tensor."""
        to.baddbmm_(*((effects, self.matrices) if self.is_lowest else (self.matrices, effects)), alpha=weight)


@dataclass(frozen=True, eq=False)
class Grid:
    """The feasible set, for effects that are laid out like that.

    Attributes:
        sizes: Coalitions of the players of each factor, from high bits to low ones.
        to_normal: ``U₁⊗ᵀ`` and ``U₂⊗ᵀ``, from the lowest factor to the highest.
        from_normal: ``U₁⊗`` and ``U₂⊗``, from the lowest factor to the highest.
        shares: ``[types, *higher, 1, lowest]``; ``sin`` and ``-cos``, by which the types share in each normal.
    """

    sizes: tuple[int, ...]
    to_normal: tuple[_Factor, ...]
    from_normal: tuple[_Factor, ...]
    shares: Tensor

    @classmethod
    def of(cls, feasible: FeasibleEffects) -> "Grid":
        """Take the feasible set for so many players, in its dtype and on its device."""
        pairs = list(zip(feasible.and_basis.factors, feasible.or_basis.factors, strict=True))
        sizes = tuple(len(of_and) for of_and, _ in pairs)
        to_normal, from_normal, num_higher = [], [], 1
        for place, pair in enumerate(pairs):
            is_lowest = place == len(pairs) - 1
            factor = torch.stack(pair)
            own, transposed = (
                one if is_lowest else one.repeat_interleave(num_higher, dim=0) for one in (factor, factor.mT.contiguous())
            )
            # From the right, the lowest factor acts transposed.
            to_normal.append(_Factor(own if is_lowest else transposed, is_lowest))
            from_normal.append(_Factor(transposed if is_lowest else own, is_lowest))
            num_higher *= sizes[place]
        shares = torch.stack([feasible.sin, -feasible.cos]).unflatten(1, sizes).unsqueeze(-2)
        return cls(sizes, tuple(reversed(to_normal)), tuple(reversed(from_normal)), shares)

    def lay_out(self, effects: Float[Tensor, "_ models inputs coalitions"]) -> Tensor:
        """Copy effects into this layout; the models' inputs come one after the other."""
        laid_out: Tensor = effects.flatten(1, 2).unflatten(-1, self.sizes).movedim(1, -2)
        return laid_out.clone(memory_format=torch.contiguous_format)

    def take_up(self, laid_out: Tensor, num_models: int) -> Float[Tensor, "_ models inputs coalitions"]:
        """Undo :meth:`lay_out`."""
        effects: Tensor = laid_out.movedim(-2, 1).flatten(2).unflatten(1, (num_models, -1))
        return effects

    def iterate(
        self,
        state: Float[Tensor, "2 models inputs coalitions"],
        offset: Float[Tensor, "models inputs coalitions"],
        ridge: Float[Tensor, "inputs 1"],
        *,
        times: int,
        relaxation: float,
    ) -> Steps:
        """Reflect at the soft threshold, project onto the feasible set, go a part of the way there; some times.

        Args:
            state: Where to begin.
            offset: Coordinates of feasible effects orthogonal to the directions.
            ridge: ``ε`` of each input.
            times: Number of iterations.
            relaxation: The part of the way; 2 is all the way to the reflected point.
        """
        num_models = state.shape[1]
        current, (minus_offset,) = self.lay_out(state), -self.lay_out(offset[None])
        shrinking = (1 / (1 + ridge)).repeat(num_models, 1)
        sparse, last_sparse, reflected, *scratch = (torch.empty_like(current) for _ in range(5))
        coordinates = torch.empty_like(minus_offset)
        for _ in range(times):
            sparse, last_sparse = last_sparse, sparse
            self._shrink(current, shrinking, num_models, out=sparse)
            torch.lerp(current, sparse, 2.0, out=reflected)
            self._normal_part(reflected, minus_offset, scratch, out=coordinates)
            current.lerp_(sparse, relaxation)
            self._add_from_normal_part(coordinates, -relaxation, scratch, to=current)
        self._add_from_normal_part(coordinates, -1.0, scratch, to=reflected)
        self._shrink(current, shrinking, num_models, out=last_sparse)
        return Steps(*(self.take_up(part, num_models) for part in (current, last_sparse, sparse, reflected)))

    @no_type_check
    def _shrink(self, state: Tensor, shrinking: Tensor, num_models: int, out: Tensor) -> None:
        """Apply the shrunken soft threshold to lengths over the models, and leave the empty set as it is."""
        if num_models == 1:
            torch.clamp(state, -1.0, 1.0, out=out)
            torch.sub(state, out, out=out)
        else:
            of_models = state.unflatten(-2, (num_models, -1))
            lengths = of_models.norm(dim=-3, keepdim=True)
            torch.mul(of_models, (1 - 1 / lengths).clamp_(min=0), out=out.view(of_models.shape))
        out.mul_(shrinking)
        empty = (slice(None), *[0] * (len(self.sizes) - 1), slice(None), 0)
        out[empty] = state[empty]

    @no_type_check
    def _normal_part(self, effects: Tensor, minus_offset: Tensor, scratch: Sequence[Tensor], out: Tensor) -> None:
        """Find coordinates orthogonal to the directions, as deviations from those of feasible effects."""
        source, (target, other) = effects, scratch
        for factor in self.to_normal:
            factor.multiply(factor.view(source), out=factor.view(target))
            source, target, other = target, other, target
        torch.addcmul(minus_offset, source[0], self.shares[0], out=out)
        out.addcmul_(source[1], self.shares[1])

    @no_type_check
    def _add_from_normal_part(self, coordinates: Tensor, weight: float, scratch: Sequence[Tensor], to: Tensor) -> None:
        """Add a multiple of the effects that have such coordinates."""
        source, target = scratch
        torch.mul(coordinates, self.shares, out=source)
        *factors, highest = self.from_normal
        for factor in factors:
            factor.multiply(factor.view(source), out=factor.view(target))
            source, target = target, source
        highest.add_multiple(highest.view(source), to=highest.view(to), weight=weight)
