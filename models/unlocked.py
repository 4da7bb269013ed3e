"""Code compiled by AOTInductor, called without Python's global lock, so that threads compute at the same time.

torch's own loader keeps the lock while the compiled code runs. The code is reached through its C interface instead
(torch/csrc/inductor/aoti_runtime/interface.h), by ctypes, which lets the lock go.
"""

from __future__ import annotations

import ctypes
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

_POINTER = ctypes.c_void_p
_SIZE = ctypes.c_size_t
_aoti: Any = torch._C._aoti


class UnlockedRunner:
    """The function in a package (.pt2) for the CPU; up to `n_runners` threads are in it at a time."""

    def __init__(self, package: Path, n_runners: int) -> None:
        """Raises OSError, ValueError or RuntimeError if the package holds no library that can be called this way."""
        self._package = package
        self.library = _library_of(package)
        container = _POINTER()
        create = self.library.AOTInductorModelContainerCreateWithDevice
        _check(create(ctypes.byref(container), _SIZE(n_runners), b"cpu", None))
        self.container = container
        n_inputs, n_outputs = _SIZE(), _SIZE()
        _check(self.library.AOTInductorModelContainerGetNumInputs(container, ctypes.byref(n_inputs)))
        _check(self.library.AOTInductorModelContainerGetNumOutputs(container, ctypes.byref(n_outputs)))
        self._n_inputs, self._n_outputs = n_inputs.value, n_outputs.value
        self._run = self.library.AOTInductorModelContainerRun
        self._run.argtypes = [_POINTER, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _POINTER]

    def boxed_run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs for these inputs. Raises RuntimeError, or ValueError for a wrong number of inputs."""
        if len(inputs) != self._n_inputs:
            raise ValueError(f"the compiled code takes {self._n_inputs} inputs, not {len(inputs)}")
        handles = _aoti.unsafe_alloc_void_ptrs_from_tensors(list(inputs))  # the code below frees them
        given = (_POINTER * len(handles))(*[_pointer(handle, None) for handle in handles])
        made = (_POINTER * self._n_outputs)()
        if self._run(self.container, given, len(handles), made, self._n_outputs, None, None) != 0:
            outputs = self._loader.boxed_run(list(inputs))  # which says what is wrong
        else:
            outputs = _aoti.alloc_tensors_by_stealing_from_void_ptrs([_capsule(each, None, None) for each in made])
        return list(outputs)

    @cached_property
    def _loader(self) -> Any:
        return _aoti.AOTIModelPackageLoader(str(self._package), "model", False, 1, -1)


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = _POINTER, [ctypes.py_object, ctypes.c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [_POINTER, ctypes.c_char_p, _POINTER]


def _library_of(package: Path) -> ctypes.CDLL:
    """The one library in a package; its file can go as soon as it is loaded."""
    with zipfile.ZipFile(package) as archive, tempfile.TemporaryDirectory(prefix="equipot-") as folder:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        if len(names) != 1:
            raise ValueError(f"{package.name} holds {len(names)} libraries, not one")
        return ctypes.CDLL(archive.extract(names[0], folder))


def _check(code: int) -> None:
    if code != 0:
        raise RuntimeError(f"the compiled code could not be set up (code {code})")
