"""What a person sees of a training: a bar on a terminal, a line now and then in a file; all of it on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

UPDATE_EVERY_S = 0.5
LINE_EVERY_S = 30.0


class TrainingProgress:
    """Shows how far a training is; `quiet` shows nothing."""

    def __init__(self, n_steps: int, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._n_steps = n_steps
        self._last_line = self._last_update = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("training", total=n_steps, numbers="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def is_due(self) -> bool:
        """Whether it is time to show numbers: asking the device for them makes it wait."""
        every = UPDATE_EVERY_S if self._bar is not None else LINE_EVERY_S
        return time.monotonic() - (self._last_update if self._bar is not None else self._last_line) >= every

    def show(self, step: int, loss: float, atoms_per_s: float) -> None:
        """The numbers of the moment."""
        numbers = f"step {step}/{self._n_steps}  loss {loss:.4g}  {atoms_per_s:.0f} atoms/s"
        self._last_update = self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        else:
            self._console.print(Text(numbers), soft_wrap=True)

    def mark(self, step: int) -> None:
        """Move the bar to a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._last_line = time.monotonic()
        self._console.print(Text(text, style=style), soft_wrap=True)
