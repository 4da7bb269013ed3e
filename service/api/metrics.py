"""Numbers for Prometheus: requests as they happen, the queue and the workers as they are when asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


#: what workers count, and what it means
WORK = {
    "busy_seconds": "Time workers had something to do",
    "model_seconds": "Of it, time inside the model",
    "evaluations": "Calls of the model",
    "systems": "Systems evaluated",
    "atom_steps": "Atoms evaluated, each time",
    "memory_splits": "Batches divided because memory ran out",
    "retries": "Jobs given to another worker because theirs was lost",
    "claims": "Shards taken up",
    "wait_seconds": "From submission to the first claim, summed over shards",
    "shards_done": "Shards that ran to their end",
    "shards_failed": "Shards that ended with a problem",
    "shards_cancelled": "Shards stopped on request",
}


class _Work(Collector):
    """The workers' counters, and the two ratios everybody wants."""

    counters: Mapping[str, float] = {}

    def collect(self) -> Iterator[Metric]:
        for name, meaning in WORK.items():
            yield CounterMetricFamily(f"equipot_{name}", meaning, value=self.counters.get(name, 0.0))
        ratios = (
            ("equipot_batch_fill", "Systems in one call of the model, mean", "systems", "evaluations", 1.0),
            ("equipot_us_per_atom_step", "Microseconds for an atom and step, mean", "model_seconds", "atom_steps", 1e6),
        )
        for name, meaning, above, below, factor in ratios:
            n = self.counters.get(below, 0.0)
            yield GaugeMetricFamily(name, meaning, value=factor * self.counters.get(above, 0.0) / n if n else 0.0)


class Metrics:
    """One registry per app, so that two apps in one process do not share counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "equipot_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "equipot_http_request_seconds", "Time to answer", ["method", "route"], registry=self.registry
        )
        self._queue = Gauge("equipot_queue", "The queue, by what is counted", ["what"], registry=self.registry)
        self._workers = Gauge("equipot_workers", "Live workers", registry=self.registry)
        self._waiting = Gauge(
            "equipot_queue_waiting", "What waits for a worker", ["device", "what"], registry=self.registry
        )
        self._work = _Work()
        self.registry.register(self._work)

    def seen(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        method = method if method in METHODS else "other"  # anybody can invent one
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(
        self,
        queue: dict[str, float],
        n_workers: int,
        depth: Mapping[str, Sequence[int]],
        counters: Mapping[str, float],
    ) -> bytes:
        """The page a scraper reads; `depth` is JobStore.depth, `counters` what the workers counted."""
        for device, counts in depth.items():
            for what, n in zip(("shards", "systems", "atoms"), counts, strict=True):
                self._waiting.labels(device, what).set(n)
        self._work.counters = counters
        for what, value in queue.items():
            self._queue.labels(what).set(value)
        self._workers.set(n_workers)
        return generate_latest(self.registry)
