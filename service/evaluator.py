"""The worker's side of `POST /v1/evaluate`: a thread that answers questions while the worker runs its shards."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
from redis.exceptions import RedisError

from equipot.errors import EquipotError
from equipot.params import Device
from equipot.service.desk import Desk
from equipot.service.engines import Engines
from equipot.simulation.providers import Evaluation, System
from equipot.simulation.reports import listed
from equipot.structure import structure_from_json

log = structlog.get_logger()

WAIT_S = 1.0  #: for a question, and so how long stopping takes
MOST_AT_ONCE = 64  #: questions whose structures share a pass
PAUSE_S = 1.0  #: when Redis is away

Question = tuple[str, dict[str, Any]]


class Evaluator:
    """Answers questions with potentials of its own, so that no shard waits for it and none shares its state.

    What several callers ask of one potential at the same time is computed in one call.
    """

    def __init__(self, desk: Desk, device: str) -> None:
        self._desk = desk
        self._device = device
        self._engines = Engines(n_threads=1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._answer_on, daemon=True, name="evaluator")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Answer what has been taken, and no more."""
        self._stopped.set()
        self._thread.join()

    def _answer_on(self) -> None:
        while not self._stopped.is_set():
            try:
                questions = self._desk.take(self._device, WAIT_S, MOST_AT_ONCE)
                for alike in _alike(questions):
                    self._answer(alike)
            except RedisError as error:
                log.warning("cannot look for evaluations", error=str(error))
                self._stopped.wait(PAUSE_S)

    def _answer(self, questions: Sequence[Question]) -> None:
        """One pass for questions about one potential."""
        try:
            answers = self._computed([question for _, question in questions])
        except Exception as error:
            problem = error if isinstance(error, EquipotError) else EquipotError(f"{type(error).__name__}: {error}")
            log.warning("evaluation failed", error=str(problem))
            answers = [{"error": problem.as_problem()}] * len(questions)
        for (number, _), answer in zip(questions, answers, strict=True):
            self._desk.answer(number, answer)

    def _computed(self, questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        first = questions[0]
        device: Device = first["device"] if self._device == "cuda" else "cpu"
        provider = self._engines.get(
            first["model"], first["sha256"], first["dtype"], device, first.get("level_of_theory")
        )
        systems = [
            System.of(structure_from_json(data), key=object())
            for question in questions
            for data in question["structures"]
        ]
        try:
            evaluations = iter(provider.evaluate(systems))
        finally:
            for system in systems:
                provider.forget(system.key)
        about = {name: provider.identity[name] for name in ("dtype", "device", "level_of_theory")}
        return [
            {**about, "items": [_item(next(evaluations)) for _ in question["structures"]]} for question in questions
        ]


def _alike(questions: Sequence[Question]) -> list[list[Question]]:
    """Grouped by potential and precision, in the order of arrival."""
    groups: dict[tuple[str, ...], list[Question]] = {}
    for number, question in questions:
        key = tuple(str(question.get(name)) for name in ("sha256", "dtype", "device", "level_of_theory"))
        groups.setdefault(key, []).append((number, question))
    return list(groups.values())


def _item(evaluation: Evaluation) -> dict[str, Any]:
    """One structure's numbers, or the problem that kept them from being computed."""
    if evaluation.error is not None:
        return {"error": evaluation.error.as_problem()}
    if not evaluation.is_finite:
        return {"error": EquipotError("Energy or forces are not finite.").as_problem()}
    return {
        "energy_ev": evaluation.energy_ev,
        "energies_ev": listed(evaluation.energies_ev),
        "forces_ev_per_ang": listed(evaluation.forces_ev_per_ang),
        "stress_ev_per_ang3": listed(evaluation.stress_ev_per_ang3),
        "domain_distance": _finite(evaluation.domain_distance),
        "uncertainty_ev_per_ang": _finite(evaluation.uncertainty_ev_per_ang),
        "error": None,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
