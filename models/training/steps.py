"""How steps are made: one after the other, or recorded once for each shape of batch and replayed.

A step of a small network is hundreds of kernels of a few microseconds, and launching them one by one takes longer than
they do. On a GPU a step is therefore recorded as a CUDA graph, from gathering the batch to averaging the weights; what
differs from step to step (frames, close pairs, learning rate, decay of the average) lies on the device for many steps
ahead, in rows that the graph itself counts through. A replay costs one call.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from equipot.models.network import Network
from equipot.models.training.batches import Batch, BatchPlan, BatchShape, ClosePairs, FrameStore, ahead
from equipot.models.training.config import LossPart
from equipot.models.training.gradients import Gradients, eager_gradients

PAIRS_PER_BATCH = 8
PAIR_STREAM = 7919  # tells the random pairs of a step from the shuffling of a pass
#: steps that are laid out on the device at a time
STEPS_AHEAD = 200
#: rows of neighbours are padded to the next of so many lengths between a power of two and its double
LENGTHS_PER_OCTAVE = 4
#: recording takes the whole device: one at a time in a process
_RECORDING = threading.Lock()


@dataclass(frozen=True)
class Planned:
    """The frames and the close pairs of a step, and the place of the next one: (pass, batch in the pass)."""

    frames: np.ndarray
    pairs: ClosePairs
    next_place: tuple[int, int]


def planned_steps(
    plan: BatchPlan, elements: list[int], seed: int, step: int, place: tuple[int, int]
) -> Iterator[Planned]:
    """What the steps from here on are made of, without end: a function of the seed and the place."""
    number, start = place
    while True:
        batches = plan.of_pass(number)
        for index in range(start, len(batches)):
            pairs = ClosePairs.drawn(elements, PAIRS_PER_BATCH, np.random.default_rng([seed, step, PAIR_STREAM]))
            is_last = index == len(batches) - 1
            yield Planned(batches[index], pairs, (number + 1, 0) if is_last else (number, index + 1))
            step += 1
        number, start = number + 1, 0


@dataclass(frozen=True)
class Rates:
    """What changes from step to step beside the batch."""

    learning_rate: float
    average_decay: float


@dataclass(frozen=True)
class Made:
    """Steps that were made: the sum of their losses (on the device), and the atoms they learned from."""

    loss_sum: torch.Tensor
    n_steps: int
    n_atoms: int
    next_place: tuple[int, int]


class Steps(Protocol):
    """Makes steps down the gradient, up to `at_once` in one go."""

    at_once: int

    def make(self, rates: list[Rates], loss: LossPart) -> Made:
        """As many of the next steps as it likes, one for each of the rates at most, and at least one."""

    def close(self) -> None:
        """Make no more."""


@dataclass(frozen=True, eq=False)
class Learner:
    """What a step changes."""

    network: Network
    average: Network
    optimiser: torch.optim.Optimizer
    clip_norm: float
    gradients: Gradients = eager_gradients

    def learn(self, batch: Batch, loss: LossPart) -> torch.Tensor:
        """A step of the optimiser at its present rate; gives the loss without waiting for it."""
        parameters = list(self.network.parameters())
        value, gradients = self.gradients(self.network, batch, loss)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.optimiser.step()
        return value.detach()

    def set_rate(self, rate: float | torch.Tensor) -> None:
        """The learning rate of the next step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def add_to_average(self, decay: float | torch.Tensor) -> None:
        """Take the weights into their running average."""
        average: list[torch.Tensor] = list(self.average.parameters())
        weights: list[torch.Tensor] = list(self.network.parameters())
        change = list(torch._foreach_sub(weights, average))
        torch._foreach_mul_(change, 1.0 - decay)
        torch._foreach_add_(average, change)


class EagerSteps:
    """Steps one by one; batches come ahead of them if they come from the CPU."""

    at_once = 1

    def __init__(
        self, learner: Learner, store: FrameStore, planned: Iterator[Planned], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._learner, self._store, self._dtype, self._device = learner, store, dtype, device
        self._planned = planned
        is_elsewhere = store.device.type != device.type
        self._ahead = ahead(self._batches) if is_elsewhere else None
        self._source = self._ahead or self._batches()

    def _batches(self) -> Iterator[tuple[Batch, Planned]]:
        for planned in self._planned:
            yield self._store.batch(planned.frames, self._dtype, planned.pairs), planned

    def make(self, rates: list[Rates], loss: LossPart) -> Made:
        """The next step."""
        batch, planned = next(self._source)
        self._learner.set_rate(rates[0].learning_rate)
        value = self._learner.learn(batch if self._ahead is None else batch.to(self._device), loss)
        self._learner.add_to_average(rates[0].average_decay)
        return Made(value, 1, int(self._store.sizes[planned.frames].sum()), planned.next_place)

    def close(self) -> None:
        """Stop making batches ahead."""
        if self._ahead is not None:
            self._ahead.close()


class RecordedSteps:
    """Steps of a few shapes, each recorded as a CUDA graph after its first one.

    On a CPU nothing is recorded, but every step is computed in one of the same padded shapes: for compiled gradients.
    """

    at_once = STEPS_AHEAD

    def __init__(
        self, learner: Learner, store: FrameStore, planned: Iterator[Planned], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._learner, self._store, self._dtype, self._device = learner, store, dtype, device
        self._planned = planned
        self._room = BatchShape(0, 0, 0)
        self._loss: LossPart | None = None
        self._replays: dict[BatchShape, Callable[[], None]] = {}
        self._pool: Any = None  # of memory, shared by all recordings
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._pair_numbers = torch.zeros(STEPS_AHEAD, PAIRS_PER_BATCH, 2, dtype=torch.int64, device=device)
        self._pair_distance = torch.ones(STEPS_AHEAD, PAIRS_PER_BATCH, dtype=torch.float64, device=device)
        self._rates = torch.zeros(STEPS_AHEAD, 2, dtype=torch.float64, device=device)
        self._frames = torch.zeros(STEPS_AHEAD, 0, dtype=torch.int64, device=device)

    def make(self, rates: list[Rates], loss: LossPart) -> Made:
        """Up to STEPS_AHEAD steps; the device has made them when this returns."""
        steps = [next(self._planned) for _ in rates[:STEPS_AHEAD]]
        shapes = [self._store.shape_of(step.frames) for step in steps]
        self._make_room(shapes, loss)
        self._lay_out(steps, rates)
        for shape in shapes:
            padded = BatchShape(self._room.n_frames, self._room.n_atoms, padded_length(shape.n_slots))
            if padded in self._replays:
                self._replays[padded]()
            else:
                self._step(padded)
                self._record(padded)
        loss_sum = self._loss_sum.clone()
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        n_atoms = sum(shape.n_atoms for shape in shapes)
        return Made(loss_sum, len(steps), n_atoms, steps[-1].next_place)

    def close(self) -> None:
        """Let go of what was recorded."""
        self._replays.clear()

    def _make_room(self, shapes: list[BatchShape], loss: LossPart) -> None:
        """Forget what was recorded for less room or for another loss."""
        room = BatchShape(
            max(self._room.n_frames, *(shape.n_frames for shape in shapes)),
            max(self._room.n_atoms, *(shape.n_atoms for shape in shapes)),
            0,
        )
        if room != self._room and self._device.type == "cuda":  # recording takes long: leave room for larger batches
            spread = int(self._store.sizes.max() - self._store.sizes.min())
            room = BatchShape(room.n_frames + room.n_frames // 4 * (spread > 0), room.n_atoms + spread // 4, 0)
        if room != self._room or loss != self._loss:
            self._replays.clear()
            self._room, self._loss = room, loss
            size = (STEPS_AHEAD, room.n_frames)
            self._frames = torch.full(size, self._store.nothing, dtype=torch.int64, device=self._device)

    def _lay_out(self, steps: list[Planned], rates: list[Rates]) -> None:
        """The rows that the graph counts through."""
        n = len(steps)
        frames = np.full((n, self._room.n_frames), self._store.nothing, dtype=np.int64)
        for row, step in zip(frames, steps, strict=True):
            row[: len(step.frames)] = step.frames
        self._frames[:n].copy_(torch.from_numpy(frames))
        self._pair_numbers[:n].copy_(torch.from_numpy(np.stack([step.pairs.numbers for step in steps])))
        self._pair_distance[:n].copy_(torch.from_numpy(np.stack([step.pairs.distance_ang for step in steps])))
        values = [(rate.learning_rate, rate.average_decay) for rate in rates[:n]]
        self._rates[:n].copy_(torch.tensor(values, dtype=torch.float64))
        self._row.zero_()
        self._loss_sum.zero_()

    def _step(self, shape: BatchShape) -> None:
        """The step of the present row; after it comes the next row."""
        assert self._loss is not None
        frames, numbers, distance, rates = (
            rows.index_select(0, self._row)[0]
            for rows in (self._frames, self._pair_numbers, self._pair_distance, self._rates)
        )
        batch = self._store.gather(frames, shape, self._dtype, (numbers, distance))
        rates = rates.to(self._dtype)
        self._learner.set_rate(rates[0])
        self._loss_sum += self._learner.learn(batch, self._loss)
        self._learner.add_to_average(rates[1])
        self._row += 1

    def _record(self, shape: BatchShape) -> None:
        """Record the step of a shape that has just been made once, and so has made what is made only once."""
        if self._device.type != "cuda":
            self._replays[shape] = lambda: self._step(shape)
            return
        stream = torch.cuda.current_stream(self._device)
        with _RECORDING:
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                    self._step(shape)
            except RuntimeError as error:
                warnings.warn(f"Steps are launched kernel by kernel, which is slow: {error}", stacklevel=2)
                self._replays[shape] = lambda: self._step(shape)
                return
            self._pool = graph.pool()
        self._replays[shape] = graph.replay


def padded_length(n: int) -> int:
    """The smallest length that is not below n, of a few in each octave."""
    step = max(1, (1 << (n - 1).bit_length()) // (2 * LENGTHS_PER_OCTAVE))
    return -(-n // step) * step
