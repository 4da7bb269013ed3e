"""Training and evaluation as Python calls; `equipot train` and `equipot evaluate` are made of them.

from equipot.models.training.api import evaluate, train

outcome = train(Path("copper.yaml"))
evaluation = evaluate(outcome.card_path, [Path("test.extxyz")])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from equipot.cards import PotentialCard
from equipot.elements import NUMBERS
from equipot.errors import InvalidParameterError, NotResumableError
from equipot.models.loading import load_potential, resolve_device
from equipot.models.potential import Potential
from equipot.models.training.batches import FrameStore
from equipot.models.training.checks import listed, problems_of, refuse, with_forces_of_single_atoms, without
from equipot.models.training.config import TrainingConfig, read_yaml
from equipot.models.training.conventions import Keys, Units
from equipot.models.training.datasets import load_training_data
from equipot.models.training.evaluation import Comparison, compare
from equipot.models.training.export import export
from equipot.models.training.files import only_process_in, write_whole
from equipot.models.training.frames import concatenate
from equipot.models.training.loop import Trainer
from equipot.models.training.progress import TrainingProgress
from equipot.models.training.reading import DataFile, FileSpec, read_data_file
from equipot.models.training.state import has_state

CONFIG = "config.yaml"
RUNS = Path("runs")


@dataclass(frozen=True)
class TrainingOutcome:
    """Where a training is: its folder, the last step made, and, once it is finished, the card of the potential."""

    folder: Path
    step: int
    card: PotentialCard | None

    @property
    def card_path(self) -> Path:
        """The card of the finished potential."""
        if self.card is None:
            raise InvalidParameterError(
                f"The training in {self.folder} is not finished (step {self.step}).", hint="Go on with resume=True."
            )
        return self.folder / f"{self.card.name}.json"


def train(
    config_path: Path,
    folder: Path | None = None,
    *,
    resume: bool = False,
    device: str | None = None,
    n_threads: int = 1,
    seed: int | None = None,
    skip_bad_frames: bool | None = None,
    stop_after_s: float = float("inf"),
    should_stop: Callable[[], bool] = lambda: False,
    plots: bool = True,
    quiet: bool = False,
) -> TrainingOutcome:
    """Train what a YAML file describes, in a folder (runs/NAME by default).

    `resume` goes on from the state in the folder, if there is one; without it a folder that holds a training is
    refused. `seed` and `skip_bad_frames` go over what the file says. `stop_after_s` writes the state and returns
    after so many seconds, `should_stop` is asked after every step; neither changes a number of the result.
    `plots` draws the pictures of the report.

    Raises InvalidParameterError and FrameError before anything is written, NotResumableError when the folder holds
    another training, NonFiniteError when the weights go astray.
    """
    text = read_yaml(config_path, seed=seed, data__skip_bad_frames=skip_bad_frames)
    config = TrainingConfig.from_text(text, str(config_path))
    folder = folder or RUNS / config.full_name
    text = _text_of_run(folder, config, text, resume)
    with _threads(n_threads), TrainingProgress(config.optimiser.n_steps, quiet=quiet) as progress:
        where = resolve_device(device)
        data = load_training_data(config)
        for remark in data.remarks:
            progress.say(remark)
        with only_process_in(folder):
            trainer = Trainer(config, data, folder, where, progress)
            if trainer.position.step == 0:
                write_whole(folder / CONFIG, text.encode())
            if not trainer.run(should_stop, stop_after_s):
                return TrainingOutcome(folder, trainer.position.step, None)
            card = export(trainer, text, plots=plots)
            return TrainingOutcome(folder, trainer.position.step, card)


def _text_of_run(folder: Path, config: TrainingConfig, text: str, resume: bool) -> str:
    """The configuration a run was begun with, if it is the one given; else the given one for a new run."""
    if not has_state(folder) and not (folder / f"{config.full_name}.json").exists():
        return text
    if not resume:
        raise InvalidParameterError(
            f"{folder} holds a training already.", hint="--resume goes on with it; or choose another --out."
        )
    if not (folder / CONFIG).exists():
        raise NotResumableError(f"{folder} has no {CONFIG}.", hint="Begin again in another folder (--out).")
    begun_text = (folder / CONFIG).read_text(encoding="utf-8")
    begun = TrainingConfig.from_text(begun_text, str(folder / CONFIG))
    same = {"checkpoint_every_s"}
    here, there = config.model_dump(exclude=same), begun.model_dump(exclude=same)
    different = [name for name in here if here[name] != there[name]]
    if different:
        raise NotResumableError(
            f"The training in {folder} was begun with another configuration: {', '.join(different)} differ.",
            hint=f"Go on with {folder / CONFIG}, or begin again in another folder (--out).",
        )
    return begun_text


@contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A potential compared with labelled frames: all files together, and each by its path."""

    potential: PotentialCard
    level_of_theory: str
    together: Comparison
    by_file: dict[str, Comparison]
    remarks: list[str]


def evaluate(
    model: str | Path,
    files: Sequence[Path | FileSpec],
    *,
    keys: Keys | None = None,
    units: Units | None = None,
    skip_bad_frames: bool = False,
    device: str | None = None,
    dtype: str = "float64",
    n_threads: int = 1,
    level_of_theory: str | None = None,
) -> Evaluation:
    """Errors of a potential (a name, or the path of a card) on files of labelled frames; forces may be missing.

    `level_of_theory` is that of the labels, for a potential of several; without it its first.

    Raises FrameError naming the frames that cannot be used, unless they are to be skipped.
    """
    if not files:
        raise InvalidParameterError("There is nothing to evaluate on.", hint="Give one or more files.")
    with _threads(n_threads):
        potential = load_potential(model, device=device, dtype=dtype, level_of_theory=level_of_theory)
        specs = [file if isinstance(file, FileSpec) else FileSpec(path=file) for file in files]
        data, remarks = _checked(specs, potential, keys, units, skip_bad_frames)
        together = concatenate([part.frames for part in data])
        head = np.full(len(together), potential.head)
        architecture = potential.network.architecture
        store = FrameStore(together, potential.cutoff_ang, potential.reference_ev, architecture, head)
        store.move_to(potential.torch_device)
        comparison = compare(potential.network, store)
    sizes = [len(part.frames) for part in data]
    owner = np.repeat(np.arange(len(data)), sizes)
    by_file = {part.path.as_posix(): comparison.of_frames(owner == i) for i, part in enumerate(data)}
    return Evaluation(
        potential.card, potential.level_of_theory, comparison, by_file, remarks + _offset_remark(comparison)
    )


def _checked(
    specs: Sequence[FileSpec], potential: Potential, keys: Keys | None, units: Units | None, skip: bool
) -> tuple[list[DataFile], list[str]]:
    level = potential.level_of_theory
    data = [with_forces_of_single_atoms(read_data_file(spec, level, keys, units)) for spec in specs]
    elements = [NUMBERS[symbol] for symbol in potential.elements]
    charges = potential.charges if potential.network.architecture.charges else None
    problems = [p for part in data for p in problems_of(part, need_forces=False, elements=elements, charges=charges)]
    remarks = [remark for part in data for remark in part.remarks]
    if not skip:
        refuse(problems, data)
    if problems:
        remarks.append(f"Left out because they cannot be used:\n{listed(problems)}")
    data = [part for part in without(data, problems) if len(part.frames)]
    if not data:
        raise InvalidParameterError("No frame is left to evaluate on.")
    return data, remarks


def _offset_remark(comparison: Comparison) -> list[str]:
    """A remark when energies are all off by much the same: then they have another zero, not an error."""
    error = (comparison.energy_ev[:, 1] - comparison.energy_ev[:, 0]) / comparison.n_atoms
    if len(error) > 2 and abs(error.mean()) > 0.5 and abs(error.mean()) > 5 * error.std():
        return [
            f"Energies are off by {error.mean():.3f} eV per atom and vary by {error.std():.3f} only: "
            "the labels seem to have another zero than the potential."
        ]
    return []
