"""Images as they are shown."""

from jaxtyping import Float
from torch import Tensor

from lightning_interactions.records import ProbeGroup

__all__ = ["pixels_of", "target_of"]


def pixels_of(image: Float[Tensor, "1 ..."], channels: int | None) -> Float[Tensor, "height width ..."]:
    """Return the pixels of an image, from its darkest to its brightest value.

    Args:
        image: A batch of one, normalised in whatever way.
        channels: The axis of its channels; ``None`` if it has none.

    Returns:
        ``[height, width, 3]`` in [0, 1] for three channels, and for four without the last one; else the mean over the channels,
        ``[height, width]``.
    """
    own = image[0].detach().cpu().float()
    if channels is not None:
        own = own.movedim(channels - 1, 0)
        own = own[:3].movedim(0, -1) if len(own) in (3, 4) else own.mean(dim=0)
    low, high = own.amin(), own.amax()
    return (own - low) / (high - low).clamp(min=1e-12)


def target_of(probe: ProbeGroup) -> str:
    """Write the target of a single probe, where it is one number: a class, or a value; empty elsewhere."""
    targets = [leaf for leaf in probe.targets.tensors.values() if leaf.numel() == 1]
    if len(targets) != 1:
        return ""
    number = targets[0].item()
    return f"{number:.4g}" if isinstance(number, float) else f"{number}"
