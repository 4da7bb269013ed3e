"""Work spread over threads, each of which lets torch use one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Condition
from typing import Generic, TypeVar

LARGE_SYSTEM_ATOMS = 1_000  # above, one call uses all threads
LARGE_THREADS_PIN = f"threads above {LARGE_SYSTEM_ATOMS} atoms"  # among the pins of a provider
AHEAD = 4  # items put in for each thread keep helpers busy while their results are looked at

A = TypeVar("A")
B = TypeVar("B")


class _Place(Generic[A, B]):
    """An item in a line, and what became of it."""

    def __init__(self, item: A) -> None:
        self.item = item
        self.is_done = False
        self.result: B
        self.error: BaseException | None = None

    def work(self, function: Callable[[A], B]) -> None:
        try:
            self.result = function(self.item)
        except BaseException as error:
            self.error = error
        self.is_done = True


class Line(Generic[A, B]):
    """A function of items that are put in one by one; results are taken out in the same order.

    Helpers compute ahead. Who takes a result out works along as long as it is not there, so `n` threads in all are at
    work. Made by `Threads.line`.
    """

    def __init__(self, function: Callable[[A], B], helpers: ThreadPoolExecutor | None, n: int) -> None:
        self.n_ahead = AHEAD * n  #: items that are well kept in it
        self._function = function
        self._places: deque[_Place[A, B]] = deque()
        self._waiting: SimpleQueue[_Place[A, B] | None] = SimpleQueue()
        self._changed = Condition()
        self._helping: list[Future[None]] = []
        if helpers is not None:
            self._helping = [helpers.submit(self._help) for _ in range(n - 1)]

    def put(self, item: A) -> None:
        place: _Place[A, B] = _Place(item)
        self._places.append(place)
        self._waiting.put(place)

    def take(self) -> B:
        """The result of the item that was put in first. Raises what its function raised."""
        place = self._places.popleft()
        while not place.is_done:
            try:
                other = self._waiting.get_nowait()
            except Empty:
                with self._changed:
                    self._changed.wait_for(lambda: place.is_done)
            else:
                assert other is not None
                other.work(self._function)
                if other.error is not None and not isinstance(other.error, Exception):
                    raise other.error  # Ctrl-C does not wait for its turn
        if place.error is not None:
            raise place.error
        return place.result

    def close(self) -> None:
        """Let nobody begin another item, and wait until all have stopped."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._helping:
            self._waiting.put(None)
        for each in self._helping:
            each.result()

    def _help(self) -> None:
        with torch_threads(1):
            while (place := self._waiting.get()) is not None:
                place.work(self._function)
                with self._changed:
                    self._changed.notify()


class Threads:
    """`n` threads, the calling one among them. How many there are decides no result."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._helpers = ThreadPoolExecutor(n - 1, thread_name_prefix="forces") if n > 1 else None

    @contextmanager
    def line(self, function: Callable[[A], B], n: int | None = None) -> Iterator[Line[A, B]]:
        """A line at which at most `n` threads are at work."""
        line = Line(function, self._helpers, max(1, min(n or self.n, self.n)))
        with torch_threads(1):
            try:
                yield line
            finally:
                line.close()

    def map(self, function: Callable[[A], B], items: Sequence[A], n: int | None = None) -> list[B]:
        """The function of every item, in order."""
        with self.line(function, min(n or self.n, len(items))) as line:
            for item in items:
                line.put(item)
            return [line.take() for _ in items]


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
