"""Numbers for Prometheus: requests as they happen, the queue and the workers as they are when asked."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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

    def seen(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        method = method if method in METHODS else "other"  # anybody can invent one
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self, queue: dict[str, float], n_workers: int) -> bytes:
        """The page a scraper reads."""
        for what, value in queue.items():
            self._queue.labels(what).set(value)
        self._workers.set(n_workers)
        return generate_latest(self.registry)
