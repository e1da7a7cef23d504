"""Interactions of many players from the values of some coalitions: a sparse regression that measures its own error.

The exact extraction needs all ``2^n`` values. Here values of drawn coalitions are approximated by a sparse sum of AND and OR
terms: all sets up to a small order are candidates, and larger ones that a search finds in what is left unexplained. The
coalitions are divided in three: most are fitted, some choose the sparsity and decide whether larger sets are taken up, and
the rest are held out and only measure the error.
"""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from lightning_interactions.functional.precision import full_precision
from lightning_interactions.functional.sampled.lasso import lasso_path, least_squares
from lightning_interactions.functional.sampled.selection import CoalitionParts, TermFit, select_terms
from lightning_interactions.functional.sampled.terms import Terms, all_terms, count_terms, term_matrix
from lightning_interactions.records import SampledInteractions

__all__ = ["fit_interactions", "predict_values"]

HELD_OUT, VALIDATION = 0.1, 0.2
"""Fractions of the coalitions."""

FEWEST_COALITIONS = 50
"""With fewer the held-out error would rest on less than five coalitions."""

MAX_ENTRIES = 2**27
"""Entries of the largest matrix, coalitions by candidates: half a gigabyte in float32."""

NEGLIGIBLE = 1e-5
"""Effects below this fraction of the largest are rounding and are dropped."""


def fit_interactions(
    masks: Bool[Tensor, "coalitions players"],
    values: Float[Tensor, "inputs coalitions"],
    *,
    order: int = 2,
    max_order: int = 8,
    generator: Generator | None = None,
) -> SampledInteractions:
    """Fit a sparse sum of AND and OR interactions to the values of some coalitions.

    Unlike :func:`extract_interactions`, the sum does not match the values exactly: look at ``rms_error`` first.

    Args:
        masks: The coalitions, distinct, true for the players that stay; :func:`draw_coalitions` makes good ones.
        values: ``v(T)`` of each input on these coalitions, float32 or float64, any real scores.
        order: All sets of at most so many players are candidates, as AND and as OR.
        max_order: Sets of up to so many players are searched for in what the candidates leave unexplained.
        generator: Decides, on the CPU, which coalitions are fitted, validate and are held out; a fixed one if left out.

    Returns:
        The interactions of all inputs, in the dtype and on the device of ``values``, with the error on held-out coalitions.

    Raises:
        ValueError: If masks and values do not fit each other, repeat a coalition, are too few or not finite, or if the orders
            make no sense or more candidates than fit into memory.

    Source:
        The AND-OR form is that of Li & Zhang 2023 (arXiv 2304.13312). Sparse regression on sampled coalitions as in Kang et
        al. 2025 (SPEX, arXiv 2502.13870) and Butler et al. 2025 (ProxySPEX, arXiv 2505.17495), which use the Fourier basis.
    """
    _check(masks, values, order, max_order)
    masks, values = masks.to(values.device), values.detach()
    order, max_order = min(order, masks.shape[1]), min(max_order, masks.shape[1])
    parts = _draw_parts(len(masks), generator, values.device)
    with torch.no_grad(), full_precision(values.device):
        base = all_terms(masks.shape[1], order, values.device)
        holds = term_matrix(base, masks, values.dtype)
        holds -= holds[parts.fitted].mean(dim=0)
        fits = [select_terms(masks, row, base, holds, range(order + 1, max(order, max_order) + 1), parts) for row in values]
        return _measured(masks, values, fits, parts, order, max_order)


def predict_values(
    interactions: SampledInteractions, masks: Bool[Tensor, "coalitions players"]
) -> Float[Tensor, "inputs coalitions"]:
    """Add up the fitted interactions on any coalitions.

    Args:
        interactions: The result of :func:`fit_interactions`.
        masks: Coalitions of the same players.

    Returns:
        Approximate values in score units; they are as far off as ``interactions.rms_error`` says for coalitions of the
        kind that were fitted.

    Raises:
        ValueError: If the masks are no boolean masks of the same players.
    """
    num_players = interactions.players.shape[1]
    if masks.ndim != 2 or masks.dtype != torch.bool or masks.shape[1] != num_players:
        raise ValueError(
            f"predict_values: expected boolean masks [coalitions, {num_players}], one column a player, got {masks.dtype} of "
            f"shape {tuple(masks.shape)}"
        )
    effects = interactions.effects
    terms = Terms(interactions.players, interactions.is_or)
    with full_precision(effects.device):
        holds = term_matrix(terms, masks.to(effects.device), effects.dtype)
        return effects @ holds.T + interactions.offset[:, None]


def _final(fit: TermFit, masks: Tensor, values: Tensor, used: Tensor) -> tuple[Terms, Tensor, Tensor]:
    """Estimate the effects once more, from all coalitions that are not held out; return terms, effects and offset.

    A refit keeps the selected terms; the lasso, whose penalty is what was selected, may choose others.
    """
    terms = fit.terms if fit.refitted else fit.candidates
    holds = term_matrix(terms, masks[used], values.dtype)
    average, mean = holds.mean(dim=0), values[used].mean()
    holds -= average
    target = values[used] - mean
    spread = target.square().mean().sqrt()
    effects = torch.zeros_like(average)
    if fit.refitted:
        effects = least_squares(holds, target)
    elif len(fit.terms):
        for coefficients in lasso_path(holds, target / spread, fit.penalties):
            effects = spread * coefficients
    selected = (effects.abs() > NEGLIGIBLE * effects.abs().amax()).nonzero().flatten()
    return terms.select(selected), effects[selected], mean - average @ effects


def _measured(
    masks: Tensor, values: Tensor, fits: list[TermFit], parts: CoalitionParts, order: int, max_order: int
) -> SampledInteractions:
    """Put the inputs' sums on one list of interactions and measure them on the held-out coalitions."""
    used = torch.cat([parts.fitted, parts.validation])
    finals = [_final(fit, masks, row, used) for fit, row in zip(fits, values, strict=True)]
    listed, position = torch.unique(torch.cat([terms.key() for terms, _, _ in finals]), dim=0, return_inverse=True)
    terms = Terms.from_key(listed)
    effects = values.new_zeros(len(values), len(terms))
    for row, (_, own, _), index in zip(effects, finals, position.split([len(own) for _, own, _ in finals]), strict=True):
        row[index] = own
    offset = torch.stack([offset for _, _, offset in finals])
    expected = effects @ term_matrix(terms, masks[parts.held_out], values.dtype).T + offset[:, None]
    held_out = values[:, parts.held_out]
    errors = held_out - expected
    rms, spread = errors.square().mean(dim=1).sqrt(), held_out.std(dim=1, correction=0)
    blind_spot = (
        f"The values of {len(masks)} of 2^{masks.shape[1]} coalitions were seen and are not matched exactly: on "
        f"{len(parts.held_out)} that were held out, the root mean square error is {rms.median():.3g} score units, "
        f"{(rms.sum() / spread.sum()).nan_to_num():.1%} of the spread of the values ({rms.max():.3g} for the worst input), so "
        "an interaction with a much smaller effect cannot be told from what is left unexplained. "
        + (
            f"Sets of more than {order} players were candidates only where a search came upon them, going from smaller sets "
            f"with correlated values to larger ones; none has more than {max_order}. Interactions that none of their subsets "
            "announces, such as parities, are missed."
            if max_order > order
            else f"Sets of more than {order} players were no candidates."
        )
    )
    return SampledInteractions(
        players=terms.players,
        is_or=terms.is_or,
        effects=effects,
        offset=offset,
        rms_error=rms,
        max_error=errors.abs().amax(dim=1),
        spread=spread,
        num_forwards=len(masks),
        num_held_out=len(parts.held_out),
        order=order,
        blind_spot=blind_spot,
    )


def _draw_parts(num_coalitions: int, generator: Generator | None, device: torch.device) -> CoalitionParts:
    if generator is None:
        generator = Generator().manual_seed(0)
    rows = torch.randperm(num_coalitions, generator=generator).to(device)
    num_held_out, num_validation = int(HELD_OUT * num_coalitions), int(VALIDATION * num_coalitions)
    held_out, validation, fitted = rows.tensor_split([num_held_out, num_held_out + num_validation])
    return CoalitionParts(fitted, validation, held_out)


def _check(masks: Tensor, values: Tensor, order: int, max_order: int) -> None:
    if masks.ndim != 2 or masks.dtype != torch.bool:
        raise ValueError(
            f"fit_interactions: expected boolean masks [coalitions, players], got {masks.dtype} of shape {tuple(masks.shape)}"
        )
    if values.ndim != 2 or values.dtype not in (torch.float32, torch.float64) or values.shape[1] != len(masks):
        raise ValueError(
            f"fit_interactions: expected float32 or float64 values [inputs, {len(masks)}], one column a coalition, got "
            f"{values.dtype} of shape {tuple(values.shape)}; add a first axis for a single input"
        )
    if not len(values):
        raise ValueError("fit_interactions: expected at least one input, got values of none")
    if len(masks) < FEWEST_COALITIONS:
        raise ValueError(
            f"fit_interactions: expected at least {FEWEST_COALITIONS} coalitions, so that some can be held out, got "
            f"{len(masks)}; draw more, or evaluate all and use extract_interactions"
        )
    num_distinct = len(torch.unique(masks, dim=0))
    if num_distinct < len(masks):
        raise ValueError(
            f"fit_interactions: expected distinct coalitions, got {len(masks) - num_distinct} repeated ones, which could be "
            "fitted and held out at once; leave them out"
        )
    broken = (~values.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"fit_interactions: expected finite values, got NaN or infinity for {len(broken)} of {len(values)} inputs "
            f"(first rows: {broken[:5]}); leave those inputs out"
        )
    if order < 1 or max_order < 1:
        raise ValueError(f"fit_interactions: expected orders of at least 1, got order={order} and max_order={max_order}")
    num_candidates = count_terms(masks.shape[1], order)
    if num_candidates * len(masks) > MAX_ENTRIES:
        raise ValueError(
            f"fit_interactions: expected at most {MAX_ENTRIES} entries of coalitions by candidates, got {len(masks)} by "
            f"{num_candidates}, all sets of up to {order} of {masks.shape[1]} players; lower the order: larger sets are "
            "searched for anyway, up to max_order"
        )
