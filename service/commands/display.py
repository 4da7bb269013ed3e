"""What the command line shows: errors, progress, results. Everything but results goes to stderr."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from equipot.elements import formula
from equipot.errors import EquipotError

MAX_ROWS = 40
LINE_EVERY_S = 5.0

out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)


def show_error(error: EquipotError) -> None:
    """One panel: what is wrong, where, what to do."""
    lines: list[Text] = [Text(error.detail, style="bold")]
    for culprit in error.culprits[:10]:
        if culprit.message != error.detail and culprit.message not in error.detail:
            lines.append(Text(f"at {culprit.pointer or '/'}: {culprit.message}"))
    if len(error.culprits) > 10:
        lines.append(Text(f"and {len(error.culprits) - 10} more"))
    hints = dict.fromkeys([error.hint, *(culprit.hint for culprit in error.culprits[:10])])
    lines += [Text(hint, style="cyan") for hint in hints if hint]
    err.print(Panel(Group(*lines), title=error.title, title_align="left", border_style="red", subtitle=error.code))


def show_warnings(warnings: Sequence[str]) -> None:
    """Remarks, one to a line."""
    for warning in dict.fromkeys(warnings):
        err.print(Text.assemble(("warning: ", "yellow"), warning))


def show_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout, for other programs."""
    print(json.dumps(document, indent=2, allow_nan=False))


class RunProgress:
    """How far a run is: a bar on a terminal, a line every few seconds in a log file, nothing if quiet.

    `update` takes what a run reports; the latest energy, force and temperature come with rows of the thermo table.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = what
        self._quiet = quiet
        self._numbers = ""
        self._last_line = 0.0
        self._last_text = ""
        self._bar: Progress | None = None
        if err.is_terminal and not quiet:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                console=err,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=None, numbers="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def thermo(self, row: Mapping[str, Any]) -> None:
        """Remember the latest numbers."""
        parts = []
        if (energy := row.get("energy_ev")) is not None:
            parts.append(f"E {energy:.4f} eV")
        if (fmax := row.get("fmax_ev_per_ang")) is not None:
            parts.append(f"fmax {fmax:.4f} eV/Å")
        if (temperature := row.get("temperature_k")) is not None:
            parts.append(f"T {temperature:.0f} K")
        self._numbers = "  ".join(parts)

    def update(self, step: int, n_steps: int, n_done: int, n_systems: int) -> None:
        """Show the smallest step of a system that has not ended, and how many have."""
        several = f"{n_done}/{n_systems} systems  " if n_systems > 1 else ""
        numbers = "" if n_systems > 1 else self._numbers
        if self._bar is not None:
            shown = f"{several}step {step}/{n_steps}  {numbers}"
            self._bar.update(self._task, completed=step, total=max(n_steps, 1), numbers=shown)
            return
        text = f"{self._what}: {several}step {step}/{n_steps}  {numbers}".rstrip()
        due = time.monotonic() - self._last_line >= LINE_EVERY_S or n_done == n_systems
        if not self._quiet and due and text != self._last_text:
            self._last_line, self._last_text = time.monotonic(), text
            err.print(Text(text), soft_wrap=True)


VERDICTS: Mapping[str, tuple[str, str]] = {
    "converged": ("converged", "green"),
    "completed": ("completed", "green"),
    "max_steps": ("not converged", "yellow"),
    "cancelled": ("cancelled", "yellow"),
    "guard_stopped": ("stopped by a guard", "red"),
    "diverged": ("diverged", "red"),
    "rejected": ("rejected", "red"),
    "failed": ("failed", "red"),
}


def show_results(kind: str, results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """The final table, one row for each system, and below it what each verdict means."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("system", overflow="fold")
    table.add_column("formula", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for heading in (
        *(["steps"] if kind != "singlepoint" else []),
        "energy/eV",
        "fmax/(eV/Å)",
        *(["T/K", "time/ps"] if kind == "md" else []),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = results if len(results) <= MAX_ROWS else results[: MAX_ROWS - 1]
    for result, name in zip(shown, names, strict=False):
        table.add_row(*_row(kind, result, name))
    out.print(table)
    if len(shown) < len(results):
        out.print(f"… and {len(results) - len(shown)} more systems")
    _explain(results, names)


def _row(kind: str, result: Mapping[str, Any], name: str) -> list[str | Text]:
    words, style = VERDICTS[result["outcome"]]
    structure = result.get("structure")
    shown_formula = formula(np.array(structure["numbers"])) if structure else ""
    row: list[str | Text] = [escape(name), shown_formula, Text(words, style=style)]
    if kind != "singlepoint":
        row.append(str(result["n_steps"]))
    row += [_number(result["energy_ev"], 6), _number(result["fmax_ev_per_ang"], 4)]
    if kind == "md":
        time_fs = result.get("time_fs")
        row += [_number(result.get("temperature_k"), 1), _number(None if time_fs is None else time_fs / 1000, 3)]
    return row


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _explain(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    from equipot.simulation.verdicts import SENTENCES, Outcome

    counts = Counter(result["outcome"] for result in results)
    for outcome, count in counts.items():
        words, style = VERDICTS[outcome]
        criterion = next(result["criterion"] for result in results if result["outcome"] == outcome)
        criterion = "" if outcome == Outcome.REJECTED else criterion
        how_many = f" ({count} of {len(results)})" if len(results) > 1 else ""
        sentence = f"{SENTENCES[Outcome(outcome)]} [{criterion}]" if criterion else SENTENCES[Outcome(outcome)]
        out.print(Text.assemble((f"{words}{how_many}: ", style), sentence))
    for result, name in zip(results, names, strict=True):
        if result.get("reason"):
            err.print(Text.assemble((f"{name}: ", "red"), f"{result['reason']['detail']} {result['reason']['hint']}"))
    show_warnings(
        [
            f"{name}: {warning}"
            for result, name in zip(results, names, strict=True)
            for warning in result.get("warnings", ())
        ]
    )


def exit_status(results: Sequence[Mapping[str, Any]]) -> int:
    """0 when all went well, 3 when something did not converge, 1 when something failed."""
    outcomes = {result["outcome"] for result in results}
    if outcomes & {"guard_stopped", "diverged", "rejected", "failed", "cancelled"}:
        return 1
    return 3 if "max_steps" in outcomes else 0
