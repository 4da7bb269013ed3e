"""The training itself: steps, validations, states on disk.

Everything a step does follows from the configuration, the data and the step's number. So a training that was killed
and resumed ends in the weights of one that was not, bit by bit (on a CPU with one thread).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from equipot.errors import NonFiniteError, NotResumableError
from equipot.models.network import Architecture, Network
from equipot.models.training import schedule
from equipot.models.training.batches import BatchPlan, FrameStore
from equipot.models.training.config import TrainingConfig
from equipot.models.training.datasets import TrainingData
from equipot.models.training.evaluation import Comparison, compare
from equipot.models.training.frames import FrameSet, concatenate
from equipot.models.training.gradients import CompiledGradients, eager_gradients
from equipot.models.training.hardware import hardware
from equipot.models.training.log import LOG, Log
from equipot.models.training.muon import muon_for
from equipot.models.training.progress import TrainingProgress
from equipot.models.training.reference import compositions
from equipot.models.training.state import Position, read_state, write_state
from equipot.models.training.steps import (
    EagerSteps,
    Learner,
    Made,
    Rates,
    RecordedSteps,
    Steps,
    planned_steps,
)

FRAMES_TO_CALIBRATE = 25


def fit_binding(counts: np.ndarray, energy_ev: np.ndarray) -> np.ndarray:
    """Mean energy of a bound atom of each element relative to the free one, eV, by least squares on compositions.

    counts (n_frames, n_elements), energy_ev (n_frames,). Where the compositions do not determine it (one molecule),
    the solution of least norm shares the energy out.
    """
    scale = 1.0 / counts.sum(1)
    solution: np.ndarray = np.linalg.lstsq(counts * scale[:, None], energy_ev * scale, rcond=1e-8)[0]
    return solution


@dataclass
class Meter:
    """Mean loss and speed since it was made, without waiting for the device at every step."""

    loss_sum: torch.Tensor
    n_losses: int
    since_s: float
    n_atoms: int = 0

    @classmethod
    def at(cls, position: Position, device: torch.device, loss_sum: float = 0.0, n_losses: int = 0) -> Meter:
        """A meter that starts at a position, with losses from before."""
        return cls(torch.tensor(loss_sum, dtype=torch.float64, device=device), n_losses, position.seconds)

    def add(self, made: Made) -> None:
        """Count steps."""
        self.loss_sum += made.loss_sum
        self.n_losses += made.n_steps
        self.n_atoms += made.n_atoms

    @property
    def mean_loss(self) -> float:
        return float(self.loss_sum) / max(self.n_losses, 1)

    def atoms_per_s(self, position: Position) -> float:
        """Atoms trained on in a second, up to this position."""
        return self.n_atoms / max(position.seconds - self.since_s, 1e-9)


class Trainer:
    """One training run in a folder: state that is saved, and the steps that change it."""

    def __init__(
        self,
        config: TrainingConfig,
        data: TrainingData,
        folder: Path,
        device: torch.device,
        progress: TrainingProgress,
    ) -> None:
        self.config, self.data, self.folder, self.device, self.progress = config, data, folder, device, progress
        cutoff_ang = config.network.cutoff_ang
        together = concatenate([replace(level.train, level_of_theory="") for level in data.levels])
        head = np.repeat(np.arange(len(data.levels)), [len(level.train) for level in data.levels])
        self.train = FrameStore(together, cutoff_ang, self.reference_ev, self.architecture, head)
        self.valid = self.store(data.valid)
        o = config.optimiser
        by_edges = o.edges_per_batch is not None
        self.plan = BatchPlan(
            self.train.n_edges if by_edges else self.train.sizes,
            self.train.n_slots,
            o.edges_per_batch or o.atoms_per_batch,
            config.seed,
        )
        self.train.weigh(config.loss.by_config_type)
        if data.others:
            self.train.weigh_heads([level.weight for level in data.levels])
        self.is_resident = self.train.move_to(device)
        self.valid.move_to(device)
        self.position = Position(origin=self._origin())
        self.dtype = torch.float32
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            first = self._new_network(self.dtype)
            self._generators = self._generator_states()
        first.binding_ev.copy_(torch.tensor(self._binding_ev()))
        if config.network.is_calibrated:
            first.calibrate(*self.train.batch(range(min(FRAMES_TO_CALIBRATE, len(self.train))), self.dtype).inputs)
        self._use(first.state_dict(), first.state_dict(), None)
        self._resume()
        self.log = Log(folder / LOG, self.position.step)

    # ---- making what is trained

    @property
    def architecture(self) -> Architecture:
        """What the network looks like."""
        data = self.data
        return Architecture(
            elements=tuple(data.elements),
            n_heads=len(data.levels),
            charges=data.charges if self.config.is_told_charge else (),
            **asdict(self.config.network),
        )

    @property
    def reference_ev(self) -> np.ndarray:
        """Energies of free atoms (n_heads, 119)."""
        return np.stack([level.reference_ev for level in self.data.levels])

    def store(self, frames: FrameSet, head: int = 0) -> FrameStore:
        """Frames of one level of theory, as the network takes them."""
        heads = np.full(len(frames), head)
        return FrameStore(frames, self.config.network.cutoff_ang, self.reference_ev, self.architecture, heads)

    def _new_network(self, dtype: torch.dtype) -> Network:
        return Network(self.architecture).to(self.device, dtype)

    def _binding_ev(self) -> np.ndarray:
        """Mean energy of a bound atom (n_heads n_elements,); of further levels, where it is not that of the first."""
        found: list[np.ndarray] = []
        for level in self.data.levels:
            frames = level.train.select(level.train.charge == 0) if (level.train.charge == 0).any() else level.train
            counts = compositions(frames, self.data.elements)
            free = counts @ np.nan_to_num(level.reference_ev[self.data.elements])
            known = found[0] if found else np.zeros(len(self.data.elements))
            found.append(known + fit_binding(counts, frames.energy_ev - free - counts @ known))
        return np.concatenate(found)

    def _use(
        self,
        weights: dict[str, torch.Tensor],
        average: dict[str, torch.Tensor],
        memory: dict[int, dict[str, torch.Tensor]] | None,
    ) -> None:
        """Networks and an optimiser of the present precision with these contents.

        They are built anew: constants such as quadrature points come from float64, not from rounded ones.
        """
        self.network, self.average = self._new_network(self.dtype), self._new_network(self.dtype)
        self.network.load_state_dict(weights)
        self.average.load_state_dict(average)
        self.average.requires_grad_(False)
        self.optimiser = self._new_optimiser()
        if memory:
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({"state": memory, "param_groups": groups})

    def _new_optimiser(self) -> torch.optim.Optimizer:
        o = self.config.optimiser
        if o.kind == "muon":
            return muon_for(self.network, o.learning_rate, o.weight_decay)
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=o.learning_rate,
            weight_decay=o.weight_decay,
            amsgrad=True,
            fused=True,
            capturable=self.device.type == "cuda",
        )

    # ---- the loop

    def run(self, should_stop: Callable[[], bool] = lambda: False, stop_after_s: float = float("inf")) -> bool:
        """Train to the end, or until told to stop or `stop_after_s` is over; True at the end. The state is on disk.

        Several trainings may run in threads of one process: each has its own stream on the device.
        """
        started = time.monotonic()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self._stream():
            self._set_generators()
            while not self.is_done:
                self._switch_precision()
                with closing(self.steps()) as steps:
                    stopped = self._train(steps, lambda: should_stop() or time.monotonic() - started > stop_after_s)
                if stopped:
                    break
        return self.is_done

    @property
    def is_done(self) -> bool:
        """Whether the last step has been made."""
        return schedule.share_done(self.position, self.config.optimiser) >= 1.0

    def steps(self) -> Steps:
        """Makes the steps from the present place on, in the present precision."""
        p, o = self.position, self.config.optimiser
        is_compiled = o.compile and self.device.type == "cpu"
        gradients = CompiledGradients(self.progress.say) if is_compiled else eager_gradients
        learner = Learner(self.network, self.average, self.optimiser, o.clip_norm, gradients)
        planned = planned_steps(
            self.plan, self.data.elements, self.config.seed, p.step, (p.pass_number, p.batch_in_pass)
        )
        is_recorded = self.device.type == "cuda" and self.is_resident
        kind = RecordedSteps if is_recorded or is_compiled else EagerSteps
        return kind(learner, self.train, planned, self.dtype, self.device)

    def advance(self, steps: Steps) -> Made:
        """Make the next steps, up to where something else is due."""
        position, done = self.position, schedule.share_done(self.position, self.config.optimiser)
        made = steps.make(self._rates(steps.at_once), schedule.loss_part(self.config, done))
        schedule.pass_steps(self.config, position, made.n_steps)
        position.pass_number, position.batch_in_pass = made.next_place
        return made

    def _rates(self, n_at_most: int) -> list[Rates]:
        """Rates of the next steps, none of them beyond a validation, a stage, a precision or the end."""
        config, o = self.config, self.config.optimiser
        at = replace(self.position)
        rates: list[Rates] = []
        first = schedule.share_done(at, o)
        while len(rates) < n_at_most:
            done = schedule.share_done(at, o)
            is_other = schedule.precision(o, done) != schedule.precision(o, first) or done >= 1.0
            if rates and (is_other or schedule.final_stage(config, done) != schedule.final_stage(config, first)):
                break
            rates.append(Rates(schedule.learning_rate(config, at, done), schedule.average_decay(config, at, done)))
            schedule.pass_steps(config, at, 1)
            if at.step % o.validate_every == 0:
                break
        return rates

    def _train(self, steps: Steps, should_stop: Callable[[], bool]) -> bool:
        """Steps in one precision; True if they were stopped."""
        o, position = self.config.optimiser, self.position
        row = Meter.at(position, self.device, position.loss_sum, position.n_losses)
        shown = Meter.at(position, self.device)
        saved = last = time.monotonic()
        while True:
            rate = schedule.learning_rate(self.config, position, schedule.share_done(position, o))
            made = self.advance(steps)
            now = time.monotonic()
            position.seconds += now - last
            last = now
            for meter in (row, shown):
                meter.add(made)
            if self.progress.is_due:
                self.progress.show(position.step, shown.mean_loss, shown.atoms_per_s(position))
                shown = Meter.at(position, self.device)
            if position.step % o.validate_every == 0 or self.is_done:
                self._validate(row, rate)
                row, last = Meter.at(position, self.device), time.monotonic()
            if now - saved > self.config.checkpoint_every_s:
                self._save(row)
                saved = last = time.monotonic()
            stopped = should_stop()
            if stopped or self.is_done or schedule.precision(o, schedule.share_done(position, o)) != self.dtype:
                self._save(row)
                return stopped

    def _stream(self) -> AbstractContextManager[object]:
        """A stream of the device for this training alone."""
        if self.device.type != "cuda":
            return nullcontext()
        torch.cuda.synchronize(self.device)
        return torch.cuda.stream(torch.cuda.Stream(self.device))

    # ---- judging and saving

    def judge(self, store: FrameStore) -> Comparison:
        """What the averaged weights say of frames."""
        return compare(self.average, store)

    def _validate(self, meter: Meter, rate: float) -> None:
        self._refuse_non_finite(meter)
        summary = self.judge(self.valid).summary()
        loss, position = self.config.loss, self.position
        total = loss.energy * summary["energy_mae_mev_per_atom"] + loss.force * summary["force_vector_mae_mev_per_ang"]
        schedule.note_validation(self.config, position, total)
        self.log.add(
            {
                "step": position.step,
                "seconds": round(position.seconds, 1),
                "atoms_per_s": round(meter.atoms_per_s(position)),
                "learning_rate": rate,
                "loss": meter.mean_loss,
                **{name: value for name, value in summary.items() if name != "n_frames"},
            }
        )
        self.progress.mark(position.step)
        self.progress.say(
            f"step {position.step}/{self.config.optimiser.n_steps}  {position.seconds:.0f} s  "
            f"{meter.atoms_per_s(position):.0f} atoms/s  validation MAE "
            f"{summary['energy_mae_mev_per_atom']:.2f} meV/atom, {summary['force_mae_mev_per_ang']:.1f} meV/Å"
        )

    def _switch_precision(self) -> None:
        """Go on in float64 where the configuration says so."""
        wanted = schedule.precision(self.config.optimiser, schedule.share_done(self.position, self.config.optimiser))
        if wanted != self.dtype:
            self.dtype = wanted
            self._use(self.network.state_dict(), self.average.state_dict(), self.optimiser.state_dict()["state"])

    def _save(self, meter: Meter) -> None:
        """Write the state, unless it is worth nothing: NonFiniteError then."""
        position = self.position
        self._refuse_non_finite(meter)
        position.loss_sum, position.n_losses = float(meter.loss_sum), meter.n_losses
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, memory in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in memory.items()}
        tensors |= {f"generator.{name}": value for name, value in self._generator_states().items()}
        write_state(self.folder, position, tensors)

    def _refuse_non_finite(self, meter: Meter) -> None:
        weights = torch.stack([value.isfinite().all() for value in self.network.parameters()])
        if not bool(weights.all()) or not np.isfinite(float(meter.loss_sum)):
            raise NonFiniteError(
                f"The training went wrong before step {self.position.step}: weights or loss are not finite.",
                hint="A lower learning_rate or clip_norm may help; the last state on disk is from before.",
            )

    def _resume(self) -> None:
        found = read_state(self.folder)
        if found is None:
            return
        position, tensors, is_newest = found
        self._compare_origin(position)
        self.position = position
        memory: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, what = name.split(".")
                memory.setdefault(int(index), {})[what] = value
        parts = {part: _part(tensors, part) for part in ("network", "average", "generator")}
        self.dtype = next(iter(parts["network"].values())).dtype
        self._use(parts["network"], parts["average"], memory)
        self._generators = parts["generator"]
        older = "" if is_newest else " (the newest state is damaged; this is the one before)"
        self.progress.say(f"Going on from step {position.step}{older}.")

    # ---- where a state comes from

    def _origin(self) -> dict[str, object]:
        return {
            "data": self.data.sha256,
            "torch": torch.__version__,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "hardware": hardware(self.device),
        }

    def _compare_origin(self, position: Position) -> None:
        """Refuse to go on with other data; say so if the last bits may differ."""
        here, there = self.position.origin, position.origin
        if here["data"] != there["data"]:
            raise NotResumableError(
                "The data are not those this training was begun with.",
                hint="Begin again in another folder (--out), or put the files back.",
            )
        changed = [name for name in ("torch", "device", "threads") if here[name] != there[name]]
        if changed:
            what = ", ".join(f"{name} {there[name]} -> {here[name]}" for name in changed)
            self.progress.say(f"Not bit by bit what it would have been: {what}.", style="yellow")

    def _generator_states(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_generators(self) -> None:
        torch.set_rng_state(self._generators["cpu"])
        if self.device.type == "cuda" and "cuda" in self._generators:
            torch.cuda.set_rng_state(self._generators["cuda"], self.device)


def _part(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
