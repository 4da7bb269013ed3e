"""Forces from a potential of ours: system by system on a CPU, side by side on a GPU, within the memory there is."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from equipot.errors import EquipotError, OutOfMemoryError
from equipot.simulation.admission import (
    Admission,
    CudaMemory,
    HostMemory,
    Load,
    is_out_of_memory,
)
from equipot.simulation.providers import (
    Evaluation,
    EvaluationLine,
    System,
    as_equipot_error,
    installed_version,
    numpy_pins,
)
from equipot.simulation.threads import AHEAD, LARGE_SYSTEM_ATOMS, LARGE_THREADS_PIN, Threads, torch_threads

if TYPE_CHECKING:
    from equipot.models.graph import AtomGraph
    from equipot.models.neighbours import NeighbourSearch, Pairs
    from equipot.models.potential import Potential, Prediction
    from equipot.models.shared_graph import SharedGraph
    from equipot.models.whole_call import Found, Helpers, Moved

MOST_ATOMS_UNWATCHED = 250  # for which memory is not looked at, on a CPU


class NativeProvider:
    """Forces from a potential of ours.

    On a CPU every system is computed by its own call, so that batched equals alone to the last bit; calls are spread
    over threads, or, for a large system, one call uses them all. On a GPU systems share passes, as many as fit into
    memory; `reproducible` gives each its own there too.
    """

    def __init__(
        self,
        potential: Potential,
        n_threads: int | None = None,
        *,
        reproducible: bool = False,
        shared: bool | None = None,
        admission: Admission | None = None,
    ) -> None:
        """n_threads None: as many as torch would use, but an eager potential, which holds Python's lock for most of its
        time, computes small systems one after the other. shared None: on GPUs, unless reproducible.
        """
        import torch

        on_gpu = potential.device.startswith("cuda")
        self._potential = potential
        self._shared = (on_gpu and not reproducible) if shared is None else shared
        self._on_gpu = on_gpu
        self._threads = Threads(n_threads or torch.get_num_threads())
        self._n_at_once = self._threads.n if n_threads or potential.execution == "compiled" else 1
        self._admission = admission or Admission(CudaMemory(potential.device) if on_gpu else HostMemory())
        self._memory = self._admission.memory
        self._searches: dict[Hashable, NeighbourSearch] = {}
        self._shared_graphs: dict[tuple[int, ...], SharedGraph] = {}  # of the last evaluation
        self._loads: dict[Hashable, Load] = {}  # of the last evaluation of larger systems

    @property
    def identity(self) -> dict[str, Any]:
        import torch

        return {
            "model": self._potential.name,
            "sha256": self._potential.sha256,
            "level_of_theory": self._potential.level_of_theory,
            "elements": list(self._potential.elements),
            "charges": list(self._potential.charges),
            "trained_on_stress": self._potential.card.has_stress,
            "dtype": self._potential.dtype,
            "device": self._potential.device,
            "pins": {
                "execution": f"native {self._potential.execution}",
                "threads": 1,
                LARGE_THREADS_PIN: self._threads.n,
                "cpu": torch.backends.cpu.get_cpu_capability(),
                **({"batching": "shared" if self._shared else "each alone"} if self._on_gpu else {}),
                **numpy_pins(),
                "torch": installed_version("torch"),
                "vesin": installed_version("vesin"),
            },
        }

    @property
    def n_at_once(self) -> int:
        """Small systems that are computed at the same time on a CPU."""
        return self._n_at_once

    @property
    def n_splits(self) -> int:
        """How often memory ran out and a pass was divided."""
        return self._admission.n_failures

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        return self._evaluate_shared(systems) if self._shared else self._evaluate_each(systems)

    @contextmanager
    def line(self, sizes: Sequence[int]) -> Iterator[EvaluationLine | None]:
        """Small systems side by side; None for one system, or if one of them wants all threads or memory."""
        if self._shared or len(sizes) < 2 or max(sizes) > MOST_ATOMS_UNWATCHED:
            yield None
            return
        with self._line() as line:
            yield line

    @contextmanager
    def _line(self) -> Iterator[EvaluationLine]:
        """Of Python's threads, unless the potential has helpers in compiled code."""
        helpers = self._potential.helpers(self._n_at_once - 1)
        if helpers is None:
            with self._threads.line(self._evaluate_one, self._n_at_once) as line:
                yield line
            return
        try:
            with torch_threads(1):
                yield _CompiledLine(self, helpers, AHEAD * self._n_at_once)
        finally:
            helpers.close()

    def forget(self, key: Hashable) -> None:
        self._searches.pop(key, None)
        self._loads.pop(key, None)

    def _evaluate_each(self, systems: Sequence[System]) -> list[Evaluation]:
        """Small ones spread over the threads; what may need all memory, or gains by all threads, comes by itself."""
        small = [i for i, system in enumerate(systems) if not self._needs_room(system)]
        small.sort(key=lambda i: -len(systems[i].numbers))  # or a thread may begin a long one when the others are done
        evaluations = dict(zip(small, self._evaluate_small([systems[i] for i in small]), strict=True))
        for place, system in enumerate(systems):
            needs = place not in evaluations
            again = not needs and len(small) > 1 and isinstance(evaluations[place].error, OutOfMemoryError)
            if needs or again:
                with torch_threads(self._threads.n if _is_large(system) else 1):
                    evaluations[place] = self._evaluate_one(system, measured=True)
        return [evaluations[place] for place in range(len(systems))]

    def _evaluate_small(self, systems: Sequence[System]) -> list[Evaluation]:
        if len(systems) == 1:
            with torch_threads(1):
                return [self._evaluate_one(systems[0])]
        with self._line() as line:
            for system in systems:
                line.put(system)
            return [line.take() for _ in systems]

    def _search_of(self, system: System) -> NeighbourSearch:
        """Asked for by several threads, each for systems of its own."""
        search = self._searches.get(system.key)
        if search is None:
            search = self._searches[system.key] = self._potential.neighbour_search()
        return search

    def _needs_room(self, system: System) -> bool:
        if len(system.numbers) <= MOST_ATOMS_UNWATCHED:
            return False
        load = self._loads.get(system.key)
        return _is_large(system) or load is None or not self._admission.fits(load, self._n_at_once)

    def _evaluate_one(self, system: System, measured: bool = False) -> Evaluation:
        """Alone. Memory is looked at when neighbours are searched anew: while atoms keep theirs it is the same."""
        search, where = self._search_of(system), (system.numbers, system.positions_ang, system.cell_ang, system.pbc)
        try:
            prediction = self._potential.evaluate_moved(search, *where, system.charge_e)
            if prediction is None:
                graph = search.graph(*where).with_charge(system.charge_e)
                prediction = self._evaluate_graph(graph, system, measured)
        except Exception as error:
            return Evaluation.failed(self._as_equipot_error(error, system), len(system.numbers))
        return self._evaluation(system, prediction)

    def call_for(self, system: System) -> Moved | None:
        """The call by which a compiled potential evaluates a system, after a search for neighbours if need be; None
        if there is none: `_evaluate_one` will do it, or say what is wrong."""
        search, where = self._search_of(system), (system.numbers, system.positions_ang, system.cell_ang, system.pbc)
        try:
            moved = self._potential.moved(search, *where, system.charge_e)
            if moved is None:
                graph = search.graph(*where)
                self._refuse_too_large(Load(graph.n_atoms, graph.neighbours.size), system)
                moved = self._potential.moved(search, *where, system.charge_e)
        except Exception:
            return None
        return moved

    def evaluation_of(self, moved: Moved, found: Found | None, system: System) -> Evaluation:
        """What such a call has found."""
        try:
            prediction = self._potential.prediction_of(moved, found, self._search_of(system), system.charge_e)
        except Exception as error:
            return Evaluation.failed(self._as_equipot_error(error, system), len(system.numbers))
        return self._evaluate_one(system) if prediction is None else self._evaluation(system, prediction)

    def _evaluate_graph(self, graph: AtomGraph, system: System, measured: bool) -> Prediction:
        load = Load(graph.n_atoms, graph.neighbours.size)
        if len(system.numbers) > MOST_ATOMS_UNWATCHED:
            self._loads[system.key] = load
        if not self._on_gpu:
            self._refuse_too_large(load, system)
        if not measured or load.n_slots <= 1.2 * self._admission.largest_slots:
            return self._potential.evaluate(graph)
        with self._memory.measured() as peak:
            prediction = self._potential.evaluate(graph)
        self._admission.learn(load, peak.n_bytes)
        return prediction

    def _refuse_too_large(self, load: Load, system: System) -> None:
        """Where too much memory ends the process instead of raising: try a part first, and believe what it says."""
        admission = self._admission
        while not admission.knows(load):
            before = admission.largest_slots
            self._probe(system, load)
            if admission.largest_slots <= before:  # nothing can be measured here
                return
        if load.n_slots > admission.first_slots and not admission.fits(load):
            raise admission.too_large(load)

    def _probe(self, system: System, load: Load) -> None:
        """Measure the evaluation of a part of a system, without periodic images. Raises OutOfMemoryError."""
        n_atoms = self._admission.probe_size(load)
        part = np.argsort(system.positions_ang[:, 0], kind="stable")[:n_atoms]
        graph = self._potential.neighbour_search().graph(
            system.numbers[part], system.positions_ang[part], None, (False,) * 3
        )
        try:
            with self._memory.measured() as peak:
                self._potential.evaluate(graph)
        except Exception as error:
            raise (self._admission.too_large(load, n_atoms) if is_out_of_memory(error) else error) from error
        self._admission.learn(Load(graph.n_atoms, graph.neighbours.size), peak.n_bytes)

    def _evaluate_shared(self, systems: Sequence[System]) -> list[Evaluation]:
        """As few passes as memory allows."""
        evaluations: dict[int, Evaluation] = {}
        pairs: dict[int, Pairs] = {}
        for place, (system, found) in enumerate(zip(systems, self._pairs(systems), strict=True)):
            if isinstance(found, Exception):
                evaluations[place] = Evaluation.failed(self._as_equipot_error(found, system), len(system.numbers))
            else:
                pairs[place] = found
        places = list(pairs)
        loads = [Load(len(each.numbers), len(each.numbers) * each.n_slots) for each in pairs.values()]
        waiting = [[places[i] for i in chunk] for chunk in self._admission.chunks(loads)]
        known, self._shared_graphs = self._shared_graphs, {}
        while waiting:
            chunk = waiting.pop()
            outcome = self._pass([systems[i] for i in chunk], [pairs[i] for i in chunk], known)
            if not isinstance(outcome, Exception):
                for place, prediction in zip(chunk, outcome, strict=True):
                    evaluations[place] = self._evaluation(systems[place], prediction)
            elif len(chunk) > 1:
                half = len(chunk) // 2 if is_out_of_memory(outcome) else 1
                waiting += [chunk[start : start + half] for start in range(0, len(chunk), half)]
            else:
                system = systems[chunk[0]]
                evaluations[chunk[0]] = Evaluation.failed(self._as_equipot_error(outcome, system), len(system.numbers))
        return [evaluations[place] for place in range(len(systems))]

    def _pairs(self, systems: Sequence[System]) -> list[Pairs | Exception]:
        """The pairs of every system, or what went wrong; who has moved too far is found for all at once."""
        from equipot.models.neighbours import squared_moves

        searches = [self._search_of(system) for system in systems]
        kept = [
            i
            for i, (search, system) in enumerate(zip(searches, systems, strict=True))
            if search.kept is not None and search.kept.has_cell(system.cell_ang)
        ]
        found: dict[int, Pairs | Exception] = {}
        if kept:
            pairs = [searches[i].kept for i in kept]
            starts = np.cumsum([0, *(len(systems[i].numbers) for i in kept[:-1])])
            moves = squared_moves(
                np.concatenate([systems[i].positions_ang for i in kept]),
                np.concatenate([each.positions_ang for each in pairs if each is not None]),
            )
            covers = (np.maximum.reduceat(moves, starts) <= searches[0].squared_leeway).tolist()
            found = {i: each for i, each, still in zip(kept, pairs, covers, strict=True) if still and each is not None}
        stale = [i for i in range(len(systems)) if i not in found]
        found.update(zip(stale, self._threads.map(self._searched, [systems[i] for i in stale]), strict=True))
        return [found[i] for i in range(len(systems))]

    def _searched(self, system: System) -> Pairs | Exception:
        try:
            return self._search_of(system).pairs(system.numbers, system.positions_ang, system.cell_ang, system.pbc)
        except Exception as error:
            return error

    def _pass(
        self, systems: Sequence[System], pairs: Sequence[Pairs], known: Mapping[tuple[int, ...], SharedGraph]
    ) -> list[Prediction] | Exception:
        """One pass over the systems of a chunk, or what went wrong in it."""
        from equipot.models.shared_graph import SharedGraph

        potential = self._potential
        n_atoms = sum(len(each.numbers) for each in pairs)
        load = Load(n_atoms, n_atoms * max(each.n_slots for each in pairs))
        chunk = tuple(id(each) for each in pairs)  # as long as a shared graph lives, so do its pairs
        try:
            with self._memory.measured() as peak:
                shared = known.get(chunk) or SharedGraph(
                    pairs, potential.cutoff_ang, potential.torch_dtype, potential.torch_device
                )
                charge = np.array([round(system.charge_e) for system in systems])
                positions = np.concatenate([system.positions_ang for system in systems])
                predictions = potential.evaluate_many(shared.at(positions, charge))
        except Exception as error:
            failure = error.with_traceback(None)  # its frames hold what fills the memory
        else:
            self._shared_graphs[chunk] = shared
            self._admission.learn(load, peak.n_bytes)
            return predictions
        if is_out_of_memory(failure):
            self._memory.release()
            self._admission.failed(load)
        return failure

    def _evaluation(self, system: System, prediction: Prediction) -> Evaluation:
        stress = None
        if all(system.pbc) and system.cell_ang is not None:
            stress = prediction.stress_ev_per_ang3(float(abs(np.linalg.det(system.cell_ang))))
        return Evaluation(
            energy_ev=prediction.energy_ev,
            energies_ev=prediction.energies_ev,
            forces_ev_per_ang=np.asarray(prediction.forces_ev_per_ang, dtype=np.float64),
            stress_ev_per_ang3=stress,
            domain_distance=prediction.domain_distance,
            uncertainty_ev_per_ang=prediction.uncertainty_ev_per_ang,
        )

    def _as_equipot_error(self, error: Exception, system: System) -> EquipotError:
        if isinstance(error, EquipotError) or not is_out_of_memory(error):
            return as_equipot_error(error)
        pairs = self._searched(system)
        width = 0 if isinstance(pairs, Exception) else pairs.n_slots
        refusal = self._admission.too_large(Load(len(system.numbers), len(system.numbers) * width))
        refusal.__cause__ = error
        return refusal


class _CompiledLine:
    """A line whose calls are made by helpers; all else is done by who puts systems in and takes evaluations out."""

    def __init__(self, provider: NativeProvider, helpers: Helpers, n_ahead: int) -> None:
        self.n_ahead = n_ahead
        self._provider, self._helpers = provider, helpers
        self._places: deque[tuple[System, Moved | None]] = deque()

    def put(self, item: System) -> None:
        moved = self._provider.call_for(item)
        if moved is not None:
            self._helpers.put(moved)
        self._places.append((item, moved))

    def take(self) -> Evaluation:
        system, moved = self._places.popleft()
        if moved is None:
            return self._provider._evaluate_one(system)
        return self._provider.evaluation_of(moved, self._helpers.finish(moved), system)


def _is_large(system: System) -> bool:
    return len(system.numbers) > LARGE_SYSTEM_ATOMS
