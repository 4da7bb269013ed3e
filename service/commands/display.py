"""What the command line shows: errors, progress, results. Everything but results goes to stderr."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from equipot.elements import formula
from equipot.errors import EquipotError

MAX_ROWS = 40

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
