"""A job as a notebook shows it: its state, a plot of its time series, and its structure to turn and its frames to play.

Self-contained, nothing is loaded from anywhere: the plot is SVG in the colours of the notebook, and the viewer a few
kilobytes of script in a frame of its own (sandboxed, so that what a job says cannot reach the notebook). Where
scripts do not run, as in a notebook that is not trusted, the state and the plot are still there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from equipot.elements import COVALENT_RADII_ANG, SYMBOLS, formula

if TYPE_CHECKING:
    from equipot.service.client.job import AsyncJob

MOST_ATOMS = 2000  # drawn; of more the first
MOST_NUMBERS = 60_000  # coordinates in the page: frames are left out until they fit
MOST_FRAMES = 100
MOST_POINTS = 400
WIDTH, HEIGHT, MARGIN = 420, 150, (60, 12, 20, 22)  # of a plot, px; left, right, top, bottom
QUANTITIES = (  # of the time series, what is plotted, its name, and whether its axis is logarithmic
    ("energy_ev", "energy / eV", False),
    ("fmax_ev_per_ang", "largest force / (eV/Å)", True),
    ("temperature_k", "temperature / K", False),
)
GREEN, RED, AMBER, BLUE = "#1a7f37", "#cf222e", "#9a6700", "#0969da"
COLOURS = {"succeeded": GREEN, "failed": RED, "partially_succeeded": AMBER, "cancelled": AMBER}


async def job_html(job: AsyncJob) -> str:
    """The job as HTML, as it is now."""
    await job.refresh()
    parts = [_summary(job)]
    if job.record.kind != "singlepoint":
        parts += plots(await job.thermo(0), job.record.kind)
    if scene := await _scene(job):
        parts.append(viewer(scene))
    return f'<div style="font-family:system-ui,sans-serif;max-width:900px">{"".join(parts)}</div>'


def _summary(job: AsyncJob) -> str:
    record, progress = job.record, job.progress
    colour = COLOURS.get(record.state.value, BLUE)
    outcomes = ", ".join(f"{n} {outcome.replace('_', ' ')}" for outcome, n in record.outcomes.items())
    facts = [record.kind, record.model, f"step {progress.step}/{progress.n_steps}"]
    facts += [f"{progress.n_done}/{progress.n_systems} systems"] if progress.n_systems > 1 else []
    facts += [outcomes] if outcomes else []
    lines = [f'<b style="color:{colour}">{escape(record.state.value.replace("_", " "))}</b> ']
    lines.append(" · ".join(escape(str(fact)) for fact in facts))
    lines.append(f"<br><code>{escape(job.id)}</code> {escape(record.name)}")
    notes = [warning.message for warning in record.warnings[:3]]
    if record.error is not None:
        notes.append(f"{record.error.get('detail', '')} {record.error.get('hint', '')}")
    lines += [f'<br><span style="color:{AMBER}">{escape(note)}</span>' for note in notes]
    return f"<div>{''.join(lines)}</div>"


def plots(rows: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """The curves of a time series as SVG: energy, and force or temperature."""
    left_out = "temperature_k" if kind == "relax" else "fmax_ev_per_ang"
    found = []
    for name, title, logarithmic in QUANTITIES:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        points = [point for point in points if not logarithmic or point[1] > 0]
        if name != left_out and len(points) > 1:
            thinned = points[:: max(1, len(points) // MOST_POINTS)]
            thinned += [] if thinned[-1] == points[-1] else [points[-1]]
            found.append(_curve(thinned, title, logarithmic))
    return found


def _curve(points: Sequence[tuple[float, float]], title: str, logarithmic: bool) -> str:
    left, right, top, bottom = MARGIN
    x, y = np.array(points, dtype=float).T
    shown = np.log10(y) if logarithmic else y
    low, high = float(shown.min()), float(shown.max())
    pad = 0.05 * (high - low) or max(abs(high), 1.0) * 1e-6
    low, high = low - pad, high + pad
    across = left + (x - x[0]) / max(x[-1] - x[0], 1) * (WIDTH - left - right)
    down = HEIGHT - bottom - (shown - low) / (high - low) * (HEIGHT - top - bottom)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))

    def label(value: float) -> str:
        return f"{10**value:.3g}" if logarithmic else f"{value:.6g}"

    text = 'fill="currentColor" font-size="10" opacity="0.8"'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" style="display:inline-block;max-width:100%">'
        f'<path d="M{left},{top}V{HEIGHT - bottom}H{WIDTH - right}" fill="none" stroke="currentColor" opacity="0.5"/>'
        f'<polyline points="{line}" fill="none" stroke="#0072B2" stroke-width="1.5"/>'
        f'<text x="{left}" y="{top - 7}" {text}>{escape(title)}</text>'
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end" {text}>{label(high - pad)}</text>'
        f'<text x="{left - 4}" y="{HEIGHT - bottom}" text-anchor="end" {text}>{label(low + pad)}</text>'
        f'<text x="{left}" y="{HEIGHT - bottom + 13}" {text}>{x[0]:.0f}</text>'
        f'<text x="{WIDTH - right}" y="{HEIGHT - bottom + 13}" text-anchor="end" {text}>step {x[-1]:.0f}</text></svg>'
    )


async def _scene(job: AsyncJob) -> dict[str, Any] | None:
    """The first system: elements and frames, as many as a page can carry."""
    n_frames = await job.n_frames(0)
    if not n_frames:
        return None
    stride = -(-n_frames // MOST_FRAMES)
    (line, *_) = (await job.trajectory("jsonl", system=0, stop=1)).splitlines()
    n_atoms = len(json.loads(line)["numbers"])
    stride = max(stride, -(-3 * n_atoms * n_frames // MOST_NUMBERS))
    lines = (await job.trajectory("jsonl", system=0, stride=stride)).splitlines()
    frames = [json.loads(each) for each in lines]
    if (n_frames - 1) % stride:
        frames += [json.loads(each) for each in (await job.trajectory("jsonl", system=0, start=-1)).splitlines()]
    return scene(frames)


def scene(frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the viewer draws, from frames in the JSON form."""
    numbers = np.array(frames[0]["numbers"])[:MOST_ATOMS]
    return {
        "title": formula(np.array(frames[0]["numbers"])),
        "symbols": [SYMBOLS[number] for number in numbers],
        "radii": [round(float(COVALENT_RADII_ANG[number]), 2) for number in numbers],
        "steps": [frame["info"].get("step", k) for k, frame in enumerate(frames)],
        "cells": [frame.get("cell") for frame in frames],
        "frames": [np.round(np.array(frame["positions"])[:MOST_ATOMS], 3).ravel().tolist() for frame in frames],
    }


def viewer(scene: Mapping[str, Any]) -> str:
    """The scene in a frame of its own."""
    data = json.dumps(scene, separators=(",", ":")).replace("<", "\\u003c")
    page = files("equipot.service.client").joinpath("viewer.html").read_text(encoding="utf-8")
    document = escape(page.replace("/*SCENE*/null", data), quote=True)
    style = "display:block;width:100%;max-width:420px;height:330px;border:0"
    title = f"Structure of {escape(str(scene['title']))}"
    return f'<iframe sandbox="allow-scripts" title="{title}" style="{style}" srcdoc="{document}"></iframe>'
