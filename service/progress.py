"""How far a run or a job is, for whoever watches: a bar on a terminal or in a notebook, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from equipot.simulation.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 5.0
LEAST_SHARE = 0.1  #: of many relaxations, before it is said how long the rest will take
Where = Literal["terminal", "notebook", "log"]


class RunProgress:
    """Shows how far a run is; `update` takes what a run reports, `thermo` the latest rows of its time series.

    On a terminal a bar, in a notebook one too, elsewhere a line every five seconds without control codes.
    """

    def __init__(self, what: str, *, quiet: bool = False, console: Console | None = None) -> None:
        self._what = what
        self._numbers = ""
        self._pace = _Pace()
        self._display: _Display | None = None
        if not quiet:
            kind: Where = where() if console is None else ("terminal" if console.is_terminal else "log")
            displays: dict[Where, type[_Display]] = {"terminal": _Bar, "notebook": _NotebookBar, "log": _Lines}
            self._display = displays[kind](what, console)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.end()

    def thermo(self, row: Mapping[str, Any]) -> None:
        """Remember the latest numbers."""
        parts = []
        if (energy := row.get("energy_ev")) is not None:
            parts.append(f"E {energy:.4f} eV")
        if (fmax := row.get("fmax_ev_per_ang")) is not None:
            parts.append(f"fmax {fmax:.4f} eV/Å")
        if (cell := row.get("cell_force_ev_per_ang")) is not None:  # what a relaxing cell is judged by as well
            parts.append(f"cell {cell:.4f} eV/Å")
        if (temperature := row.get("temperature_k")) is not None:
            parts.append(f"T {temperature:.0f} K")
        self._numbers = "  ".join(parts)

    def update(self, progress: Progress) -> None:
        """Show the smallest step of a system that has not ended, and how many have."""
        if self._display is None:
            return
        several = progress.n_systems > 1
        parts = [f"{progress.n_done}/{progress.n_systems} systems"] if several else []
        parts.append(f"step {progress.step}/{progress.n_steps}")
        if self._numbers and not several:
            parts.append(self._numbers)
        share = progress.n_done / progress.n_systems if several else progress.step / max(progress.n_steps, 1)
        over = progress.n_done == progress.n_systems
        left = self._pace.left(share)
        relaxes = self._what == "relax"
        if left and not over and not (relaxes and several and share < LEAST_SHARE):  # first none ends, then all at once
            parts.append(f"{'at most' if relaxes and not several else 'about'} {left} left")
        self._display.show(share, "  ".join(parts), over)


@contextmanager
def watching(
    what: str, on_progress: Callable[[Progress], None] | None, shown: bool | None
) -> Iterator[Callable[[Progress], None] | None]:
    """Whom to tell of progress: the caller's own function, else a display where somebody looks (or if `shown`)."""
    if on_progress is not None or shown is False or (shown is None and where() == "log"):
        yield on_progress
        return
    with RunProgress(what) as display:
        yield display.update


def where() -> Where:
    """Where this program shows itself."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
        return "notebook"
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "log"


class _Pace:
    """How long it will take, from how long it has taken."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None

    def left(self, share: float) -> str:
        """The time left in words, once there is something to go by."""
        if self._began is None:
            self._began = (time.monotonic(), share)
        since_s, done = time.monotonic() - self._began[0], share - self._began[1]
        if since_s < LINE_EVERY_S / 2 or done <= 0:
            return ""
        return duration(since_s * (1 - share) / done)


def duration(seconds: float) -> str:
    """A time in one unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class _Display(Protocol):
    def __init__(self, what: str, console: Console | None) -> None: ...
    def show(self, share: float, text: str, over: bool) -> None: ...
    def end(self) -> None: ...


class _Bar:
    """A line of a terminal that fills up and disappears at the end."""

    def __init__(self, what: str, console: Console | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            console=console or Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None, text="")
        self._bar.start()

    def show(self, share: float, text: str, over: bool) -> None:
        self._bar.update(self._task, completed=share, total=1.0, text=text)

    def end(self) -> None:
        self._bar.stop()


class _Lines:
    """A line every few seconds, and one at the end: readable in a log file."""

    def __init__(self, what: str, console: Console | None) -> None:
        self._what, self._last_line, self._last_text = what, 0.0, ""

    def show(self, share: float, text: str, over: bool) -> None:
        due = over or not self._last_line or time.monotonic() - self._last_line >= LINE_EVERY_S
        if due and text != self._last_text:
            self._last_line, self._last_text = time.monotonic(), text
            print(f"{self._what}: {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        pass


class _NotebookBar:
    """A bar of HTML that is redrawn in its place; needs no widgets."""

    def __init__(self, what: str, console: Console | None) -> None:
        self._what = what
        self._handle: Any = None

    def show(self, share: float, text: str, over: bool) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        line = f'<progress value="{share:.4f}" max="1"></progress> {escape(self._what)}: {escape(text)}'
        html = HTML(f'<div style="font-family:monospace">{line}</div>')
        if self._handle is None:
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)

    def end(self) -> None:
        pass
