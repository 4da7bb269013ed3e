"""Compiled code is called without Python's lock, gives what torch's own loader gives, and says what is wrong."""

from __future__ import annotations

import threading
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from equipot.models.unlocked import UnlockedRunner

pytestmark = pytest.mark.timeout(1200)  # compiling takes half a minute on a quiet machine


class Powers(torch.nn.Module):
    """Something that takes its time."""

    def forward(self, matrix: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for _ in range(4):
            matrix = torch.tanh(matrix @ matrix + shift)
        return matrix, matrix[(10.0 * shift).long()].sum(0)


@pytest.fixture(scope="module")
def package(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    size = torch.export.Dim("size", min=2)
    shapes = ({0: size, 1: size}, {0: size})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of itself
        exported = torch.export.export(Powers(), (torch.zeros(8, 8), torch.zeros(8)), dynamic_shapes=shapes)
        torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "powers.pt2"))
    return folder / "powers.pt2"


def test_the_bits_are_those_of_the_loader_of_torch(package: Path) -> None:
    runner = UnlockedRunner(package, 2)
    loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)
    for size in (2, 5, 64):
        matrix, shift = torch.rand(size, size) - 0.5, torch.rand(size) / 10
        got, expected = runner.boxed_run([matrix, shift]), loader.boxed_run([matrix, shift])
        assert [tensor.shape for tensor in got] == [(size, size), (size,)]
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_python_goes_on_while_the_code_runs(package: Path) -> None:
    """With the lock held the main thread would get no processor time while the other computes."""
    runner = UnlockedRunner(package, 2)
    matrix, shift = torch.rand(1500, 1500), torch.rand(1500)
    taken_s: list[float] = []

    def compute() -> None:
        before = time.thread_time()
        runner.boxed_run([matrix, shift])
        taken_s.append(time.thread_time() - before)

    worker = threading.Thread(target=compute)
    before = time.thread_time()
    worker.start()
    while worker.is_alive():
        sum(range(100))
    ours_s = time.thread_time() - before
    assert taken_s[0] > 0.05, "too short to show anything"
    assert ours_s > 0.3 * taken_s[0]


def test_many_threads_at_once_each_get_their_own_numbers(package: Path) -> None:
    runner = UnlockedRunner(package, 2)
    inputs = [(torch.rand(40 + k, 40 + k), torch.rand(40 + k)) for k in range(6)]  # sizes differ, and so do indices
    expected = [runner.boxed_run(pair) for pair in inputs]
    wrong: list[int] = []

    def compute(k: int) -> None:
        for _ in range(50):
            if not all(torch.equal(a, b) for a, b in zip(runner.boxed_run(inputs[k]), expected[k], strict=True)):
                wrong.append(k)

    threads = [threading.Thread(target=compute, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_cannot_be_computed_is_an_error_that_says_why(package: Path) -> None:
    runner = UnlockedRunner(package, 1)
    with pytest.raises(ValueError, match="takes 2 inputs, not 1"):
        runner.boxed_run([torch.zeros(8, 8)])
    with pytest.raises(RuntimeError, match="index out of bounds"):
        runner.boxed_run([torch.zeros(8, 8), torch.full((8,), 5.0)])
    with zipfile.ZipFile(package.parent / "empty.pt2", "w"):
        pass
    with pytest.raises(ValueError, match="holds 0 libraries"):
        UnlockedRunner(package.parent / "empty.pt2", 1)
