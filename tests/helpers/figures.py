"""What a drawn figure holds."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def rendered(figure: Figure) -> bytes:
    """Draw everything: warnings of layout and fonts come only now."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def legend_labels(drawn: Axes | Figure) -> list[str]:
    """Read the legend of axes, or the only one of a figure itself."""
    legend = drawn.legends[0] if isinstance(drawn, Figure) else drawn.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]
