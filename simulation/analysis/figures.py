"""One look for all figures: a journal column wide, colours that colour-blind readers tell apart, no global state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_IN = 3.4
DOTS_PER_INCH = 300
#: Okabe and Ito, jfly.uni-koeln.de/color, 2008, and black
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: Any = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "mathtext.default": "regular",
    "pdf.fonttype": 42,
}


def new_figure(width_in: float = COLUMN_IN, height_in: float = 2.5) -> Figure:
    """An empty figure that belongs to nobody: pyplot is never touched, so threads do not meet."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(width_in, height_in), dpi=DOTS_PER_INCH, layout="constrained")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure; the ending says the format, .png if there is none."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def panels(figure: Figure, n_panels: int, panel_in: float = 1.15) -> list[Axes]:
    """Panels one above the other with one axis of x."""
    import matplotlib

    figure.set_size_inches(COLUMN_IN, 0.45 + panel_in * n_panels)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots(n_panels, 1, sharex=True, squeeze=False)
    return [row[0] for row in axes]


def single(figure: Figure, x_label: str, y_label: str) -> Axes:
    """One panel with labels."""
    (axes,) = panels(figure, 1, 2.05)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return axes


def legend(axes: Axes, **where: Any) -> None:
    """A legend without a frame, if there is more than one curve."""
    import matplotlib

    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        with matplotlib.rc_context(STYLE):
            axes.legend(handles, labels, **where)


def with_error(value: float, error: float, unit: str = "") -> str:
    """A number with as many digits as its error leaves it, as in 292 ± 3 K or (2.31 ± 0.04)·10⁻⁵ cm² s⁻¹."""
    unit = f" {unit}" if unit else ""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.6g}{unit}".replace("-", "−")
    power = int(np.floor(np.log10(max(abs(value), error))))
    scaled = not -3 <= power <= 4
    scale = 10.0**power if scaled else 1.0
    digits = max(0, -int(np.floor(np.log10(error / scale))))
    words = f"{value / scale:.{digits}f} ± {error / scale:.{digits}f}".replace("-", "−")
    return f"({words})·10$^{{{power}}}${unit}" if scaled else f"{words}{unit}"
