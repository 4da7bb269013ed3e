"""Two plots of a training, drawn without a display: the learning curve, and labels against predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from equipot.models.training.evaluation import Comparison
from equipot.models.training.log import Row
from equipot.units import GPA_PER_EV_PER_ANG3

MAX_POINTS = 20_000
ENERGY_COLOUR, FORCE_COLOUR, RATE_COLOUR = "#1b6ca8", "#c8553d", "#9a9a9a"


def learning_curve_png(title: str, log: Sequence[Row]) -> bytes:
    """Validation errors of energy and force, and the learning rate, over the steps; logarithmic."""
    figure, (errors, rate) = _figure(2, height=5.5, stacked=True)
    steps = [row["step"] for row in log]
    for key, label, colour in (
        ("energy_mae_mev_per_atom", "energy MAE, meV/atom", ENERGY_COLOUR),
        ("force_mae_mev_per_ang", "force MAE, meV/Å", FORCE_COLOUR),
    ):
        errors.plot(steps, [row.get(key, np.nan) for row in log], color=colour, label=label)
    errors.set_yscale("log")
    errors.set_title(title)
    errors.set_ylabel("validation error")
    errors.legend(frameon=False)
    rate.plot(steps, [row.get("learning_rate", np.nan) for row in log], color=RATE_COLOUR)
    rate.set_yscale("log")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    return _png(figure)


def parity_png(title: str, comparison: Comparison) -> bytes:
    """Predictions over labels: binding energy per atom, force components and, where labelled, stress components."""
    panels = [
        ("energy, eV/atom", comparison.energy_ev / comparison.n_atoms[:, None], ENERGY_COLOUR),
        ("force, eV/Å", comparison.forces_ev_per_ang.reshape(-1, 2), FORCE_COLOUR),
        ("stress, GPa", GPA_PER_EV_PER_ANG3 * comparison.stress_ev_per_ang3.reshape(-1, 2), RATE_COLOUR),
    ]
    labelled = [(what, both[~np.isnan(both).any(axis=1)], colour) for what, both, colour in panels]
    labelled = [panel for panel in labelled if len(panel[1])]
    figure, axes = _figure(len(labelled), height=3.8)
    for axis, (what, both, colour) in zip(axes, labelled, strict=True):
        shown = both[np.linspace(0, len(both) - 1, min(MAX_POINTS, len(both))).astype(int)]
        low, high = float(shown.min()), float(shown.max())
        axis.plot([low, high], [low, high], color="black", linewidth=0.8)
        axis.plot(shown[:, 0], shown[:, 1], ".", markersize=2.5, color=colour, rasterized=True)
        axis.set_title(f"RMSE {np.sqrt(((both[:, 1] - both[:, 0]) ** 2).mean()):.3g} {what.split(', ')[1]}", fontsize=9)
        axis.set_xlabel(f"label: {what}")
        axis.set_ylabel("prediction")
    figure.suptitle(title)
    return _png(figure)


def _figure(n_panels: int, height: float, stacked: bool = False) -> tuple[Any, Any]:
    """A figure without pyplot, so that no global state of the user's is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 6.5 if stacked else 3.8 * n_panels
    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.95 / width, right=1 - 0.2 / width, bottom=0.55 / height, top=1 - 0.7 / height, wspace=0.35
    )
    if stacked:
        return figure, figure.subplots(n_panels, 1, sharex=True, height_ratios=[3] + [1] * (n_panels - 1))
    return figure, figure.subplots(1, n_panels, squeeze=False)[0]


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
