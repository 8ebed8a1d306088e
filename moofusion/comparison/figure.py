"""A matplotlib figure that notebooks show by itself, whatever their backend."""

from __future__ import annotations

import base64
import html
import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["ShownFigure", "figure_html"]


class ShownFigure(Figure):
    """A figure outside of pyplot: nothing keeps it open, and a notebook shows it as a value."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        FigureCanvasAgg(self).print_png(buffer)
        return buffer.getvalue()


def figure_html(figure: Figure, alt: str, *, dpi: int = 90) -> str:
    """A figure as an HTML image that holds its own picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
