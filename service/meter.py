"""What workers count: sums in Redis, which /metrics shows."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from redis import Redis

from equipot.service.store import COUNTERS
from equipot.simulation.native import NativeProvider
from equipot.simulation.providers import Evaluation, System


class Meter:
    """Adds up in this process, from any thread, and hands the sums to Redis when asked to."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._guard = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Add to sums by name."""
        with self._guard:
            for name, amount in amounts.items():
                self._sums[name] += amount  # type: ignore[assignment]

    def flush(self, redis: Redis) -> None:
        """Add what has come together since the last call to the sums in Redis; it is kept if Redis is away."""
        with self._guard:
            sums, self._sums = self._sums, Counter()
        try:
            pipeline = redis.pipeline()
            for name, amount in sums.items():
                pipeline.hincrbyfloat(COUNTERS, name, float(amount))
            pipeline.execute()
        except BaseException:
            self.add(**sums)
            raise


class MeteredProvider:
    """A force provider whose calls are counted."""

    def __init__(self, provider: NativeProvider, meter: Meter) -> None:
        self.provider = provider  #: whose calls are not counted
        self._meter = meter
        self._n_splits = 0

    @property
    def identity(self) -> dict[str, Any]:
        return self.provider.identity

    @property
    def n_at_once(self) -> int:
        """See NativeProvider."""
        return self.provider.n_at_once

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        begun = time.perf_counter()
        found = self.provider.evaluate(systems)
        n_splits = self.provider.n_splits
        self._meter.add(
            model_seconds=time.perf_counter() - begun,
            evaluations=1,
            systems=len(systems),
            atom_steps=sum(len(system.numbers) for system in systems),
            memory_splits=n_splits - self._n_splits,
        )
        self._n_splits = n_splits
        return found

    def forget(self, key: Hashable) -> None:
        self.provider.forget(key)
