"""Work spread over threads, each of which lets torch use one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

LARGE_SYSTEM_ATOMS = 1_000  # above, one call uses all threads
LARGE_THREADS_PIN = f"threads above {LARGE_SYSTEM_ATOMS} atoms"  # among the pins of a provider

A = TypeVar("A")
B = TypeVar("B")


class Batch(Generic[A, B]):
    """A function of many items, on its way: helpers are at it, and whoever finishes it works along."""

    def __init__(self, function: Callable[[A], B], items: Sequence[A]) -> None:
        self._function, self._items = function, items
        self._results: dict[int, B] = {}
        self._waiting = iter(range(len(items)))  # `next` of it is atomic
        self._helping: list[Future[None]] = []

    def spread(self, helpers: ThreadPoolExecutor, n_helpers: int) -> None:
        """Let so many helpers work on it as soon as they are done with what came before."""
        self._helping = [helpers.submit(self._help_out) for _ in range(n_helpers)]

    def finish(self) -> list[B]:
        """The results, in order. An exception ends it when all have stopped."""
        with torch_threads(1):
            try:
                self._work()
            finally:
                self.abandon()
        return [self._results[place] for place in range(len(self._items))]

    def abandon(self) -> None:
        """Let nobody begin another item, and wait until all have stopped. Raises what a helper came upon."""
        for _ in self._waiting:
            pass
        for each in self._helping:
            each.result()

    def _work(self) -> None:
        for place in self._waiting:
            self._results[place] = self._function(self._items[place])

    def _help_out(self) -> None:
        with torch_threads(1):
            self._work()


class Threads:
    """`n` threads, the calling one among them. How many there are decides no result."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._helpers = ThreadPoolExecutor(n - 1, thread_name_prefix="forces") if n > 1 else None

    def begin(self, function: Callable[[A], B], items: Sequence[A], n: int | None = None) -> Batch[A, B]:
        """The function of every item, on at most `n` threads; the calling one joins with `finish`."""
        batch = Batch(function, items)
        n_helpers = min(n or self.n, self.n, len(items)) - 1
        if self._helpers is not None:
            batch.spread(self._helpers, max(n_helpers, 0))
        return batch

    def map(self, function: Callable[[A], B], items: Sequence[A], n: int | None = None) -> list[B]:
        """The function of every item, in order."""
        return self.begin(function, items, n).finish()


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let the torch of this thread use n threads of its own."""
    import torch

    before = torch.get_num_threads()
    if before == n:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
