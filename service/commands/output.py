"""Where a run on this machine puts its files, and what it leaves there at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipot.errors import InvalidParameterError
from equipot.service.run_files import FILE_FORMATS, FINAL, JOB_NOTE, NOTE, RESULT, SUMMARY, TRAJECTORY, write_json

if TYPE_CHECKING:
    from equipot.simulation.trajectory import Frame


@dataclass(frozen=True)
class Output:
    """A run folder, and perhaps one file that is all the user wants to keep of it.

    With a file, the run lives in `FILE.run` until it has ended; the file then holds the trajectory of a dynamics, or
    the final structures of everything else.
    """

    folder: Path
    file: Path | None = None

    @classmethod
    def choose(
        cls, kind: str, inputs: Sequence[Path], given: Path | None, overwrite: bool, *, remote: bool = False
    ) -> Output:
        """What -o says, or a folder named after the first input. Raises InvalidParameterError rather than overwrite.

        What is fetched from a service (`remote`) leaves no run behind, so its files may be replaced one by one.
        """
        if given is None:
            stem = inputs[0].name.removesuffix(".gz").rsplit(".", 1)[0] or inputs[0].name
            output = cls(Path(f"{stem}-{kind}"))
        elif given.suffix.lower() in FILE_FORMATS and not given.is_dir():
            output = cls(given.with_name(given.name + ".run"), given)
        elif (
            given.suffix
            and not given.exists()
            and given.suffix.lower() in (".cif", ".vasp", ".pdb", ".json", ".h5", ".h5md")
        ):
            raise InvalidParameterError(
                f"Results cannot be written as {given.suffix}.",
                hint=f"Give a folder, or a file ending in {', '.join(FILE_FORMATS)}; for others see equipot export.",
            )
        else:
            output = cls(given)
        if not (remote and overwrite):
            output._make_room(overwrite)
        return output

    @classmethod
    def of_run(cls, folder: Path) -> Output:
        """The output a run was begun with."""
        try:
            file = json.loads((folder / NOTE).read_text())["file"]
        except (OSError, ValueError, KeyError):
            file = None
        return cls(folder, None if file is None else folder.parent / file)

    def note_file(self) -> None:
        """Note where the results belong in the end, for `resume` of a run elsewhere."""
        if self.file is not None:
            self.begin([])

    def begin(self, names: Sequence[str]) -> None:
        """Note what `resume` must know."""
        self.folder.mkdir(parents=True, exist_ok=True)
        note = {"file": None if self.file is None else self.file.name, "names": list(names)}
        (self.folder / NOTE).write_text(json.dumps(note))

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """While the first files are written: say so if nothing can be written there."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InvalidParameterError(
                f"{self.folder} cannot be written: {reason}.", hint="Choose another place with -o."
            ) from error

    def names(self, n_systems: int) -> list[str]:
        """What the systems of a run were called on the command line."""
        try:
            names = json.loads((self.folder / NOTE).read_text())["names"]
        except (OSError, ValueError, KeyError):
            names = []
        return [*names, *(f"system {idx}" for idx in range(len(names), n_systems))]

    def finish(self, kind: str, document: Mapping[str, Any]) -> list[Path]:
        """Write what users open: trajectory, final structures and results; gives the paths of those that matter."""
        from equipot.simulation.analysis.summary import draw_summary
        from equipot.simulation.exports import export
        from equipot.simulation.trajectory import read_frames

        if self.file is not None:
            frames = read_frames(self.folder) if kind == "md" else _last_frames(self.folder)
            partial = self.file.with_name(f".{self.file.name}.part")
            export(frames, FILE_FORMATS[self.file.suffix.lower()], partial)
            partial.replace(self.file)
            shutil.rmtree(self.folder)
            return [self.file]
        if kind != "singlepoint":
            _write_trajectory(self.folder)
            draw_summary(self.folder, self.folder / SUMMARY)
        export(_last_frames(self.folder), "extxyz", self.folder / FINAL)
        write_json(self.folder / RESULT, document)
        return [self.folder / name for name in (TRAJECTORY, FINAL, RESULT, SUMMARY) if (self.folder / name).exists()]

    def _make_room(self, overwrite: bool) -> None:
        from equipot.simulation.trajectory import REQUEST

        taken = [path for path in (self.file, self.folder) if path is not None and _holds_something(path)]
        if not taken:
            return
        holds_run = (self.folder / REQUEST).exists() or (self.folder / JOB_NOTE).exists()
        if not overwrite:
            resume = f"Go on with it: equipot resume {self.folder}. Or choose" if holds_run else "Choose"
            raise InvalidParameterError(
                f"{taken[0]} exists already.", hint=f"{resume} another place with -o, or --overwrite."
            )
        if self.folder in taken:
            if not holds_run:
                raise InvalidParameterError(
                    f"{self.folder} holds something that is not a run: it is not removed.", hint="Choose another -o."
                )
            shutil.rmtree(self.folder)


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _last_frames(folder: Path) -> Iterator[Frame]:
    """The last frame of every system."""
    from equipot.simulation.trajectory import frame_index, read_frames

    last = {reference.system: number for number, reference in enumerate(frame_index(folder))}
    for _, number in sorted(last.items()):
        yield from read_frames(folder, start=number, stop=number + 1)


def _write_trajectory(folder: Path) -> None:
    """All frames in one .traj: the segment itself if there is one only."""
    from equipot.simulation.exports import export
    from equipot.simulation.segments import SEGMENTS
    from equipot.simulation.trajectory import attempts_begun, read_frames

    target = folder / TRAJECTORY
    target.unlink(missing_ok=True)
    segments = attempts_begun(folder)
    if len(segments) == 1:
        try:
            os.link(folder / SEGMENTS / f"{segments[0]:04d}.traj", target)
        except OSError:
            export(read_frames(folder), "traj", target)
    else:
        export(read_frames(folder), "traj", target)
