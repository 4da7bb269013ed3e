"""A line gives back in order what was put in, whoever computed it."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from equipot.simulation.threads import Threads


@pytest.mark.parametrize("n", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(n: int) -> None:
    def late(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    with Threads(n).line(late) as line:
        for item in range(20):
            line.put(item)
        assert [line.take() for _ in range(20)] == [item * item for item in range(20)]


def test_helpers_compute_while_nobody_takes() -> None:
    together = threading.Barrier(3, timeout=30)  # broken unless three threads wait for it

    def wait(item: int) -> int:
        return together.wait()

    with Threads(4).line(wait) as line:
        for item in range(3):
            line.put(item)
        assert sorted(line.take() for _ in range(3)) == [0, 1, 2]


def test_what_a_function_raises_comes_when_its_item_does() -> None:
    def picky(item: int) -> int:
        if item == 1:
            raise ValueError("not this one")
        return item

    with Threads(2).line(picky) as line:
        for item in range(3):
            line.put(item)
        assert line.take() == 0
        with pytest.raises(ValueError, match="not this one"):
            line.take()
        assert line.take() == 2


def test_a_line_that_is_closed_begins_nothing_more_and_leaves_its_threads_free() -> None:
    begun: list[int] = []

    def slow(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        return item

    threads = Threads(2)
    with threads.line(slow) as line:
        for item in range(100):
            line.put(item)
        line.take()
    n_begun = len(begun)
    assert n_begun < 10
    assert threads.map(lambda item: -item, [1, 2, 3]) == [-1, -2, -3]
    assert len(begun) == n_begun


def test_torch_uses_one_thread_in_each_and_as_many_as_before_afterwards() -> None:
    def n_threads(item: int) -> int:
        time.sleep(0.01)
        return torch.get_num_threads()

    before = torch.get_num_threads()
    assert Threads(3).map(n_threads, range(9)) == [1] * 9
    assert torch.get_num_threads() == before
