"""Work spread over threads, each of which lets torch use one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

LARGE_SYSTEM_ATOMS = 1_000  # above, one call uses all threads
LARGE_THREADS_PIN = f"threads above {LARGE_SYSTEM_ATOMS} atoms"  # among the pins of a provider

A = TypeVar("A")
B = TypeVar("B")


class Threads:
    """`n` threads, the calling one among them. How many there are decides no result."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._helpers = ThreadPoolExecutor(n - 1, thread_name_prefix="forces") if n > 1 else None

    def map(self, function: Callable[[A], B], items: Sequence[A], n: int | None = None) -> list[B]:
        """The function of every item, in order, on at most `n` threads. An exception ends it when all have stopped."""
        with torch_threads(1):
            n = min(n or self.n, self.n, len(items))
            if self._helpers is None or n <= 1:
                return [function(item) for item in items]
            results: dict[int, B] = {}
            waiting = iter(range(len(items)))  # `next` of it is atomic

            def work() -> None:
                for place in waiting:
                    results[place] = function(items[place])

            def help_out() -> None:
                with torch_threads(1):
                    work()

            helping = [self._helpers.submit(help_out) for _ in range(n - 1)]
            try:
                work()
            finally:
                for _ in waiting:  # after an exception nobody begins another item
                    pass
                for each in helping:
                    each.result()
        return [results[place] for place in range(len(items))]


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
