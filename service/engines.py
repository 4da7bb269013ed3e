"""Potentials kept warm: one for each set of weights, dtype and device."""

from __future__ import annotations

import structlog

from equipot.errors import NotResumableError
from equipot.models.loading import load_potential
from equipot.params import Device, Dtype
from equipot.service.meter import Meter, MeteredProvider
from equipot.simulation.native import NativeProvider
from equipot.simulation.threads import torch_threads

log = structlog.get_logger()


class Engines:
    """Loads a potential when it is first asked for and keeps it as long as the process lives."""

    def __init__(self, n_threads: int | None = None, compile: bool = False, meter: Meter | None = None) -> None:
        """n_threads: see NativeProvider; compile: see load_potential, on CPUs only."""
        self._n_threads = n_threads
        self._compile = compile
        self._meter = meter or Meter()
        self._providers: dict[tuple[str | bool | None, ...], MeteredProvider] = {}
        self._names: list[str] = []

    @property
    def names(self) -> list[str]:
        """What is loaded, as `name dtype device`."""
        return list(self._names)

    def get(
        self,
        model: str,
        sha256: str | None,
        dtype: Dtype,
        device: Device,
        level_of_theory: str | None = None,
        *,
        reproducible: bool = False,
        compile: bool | None = None,
    ) -> MeteredProvider:
        """Forces from this potential, at its first level of theory or the one named.

        `reproducible` matters on GPUs only, `compile` on CPUs only.

        Raises UnknownModelError if it is not registered, NotResumableError if its weights are not the ones with
        `sha256` (None takes whatever is there).
        """
        compiled = device != "cuda" and (self._compile if compile is None else compile)
        how = (dtype, device, reproducible and device == "cuda", compiled)
        if sha256 is not None and (sha256, *how, level_of_theory) in self._providers:
            return self._providers[sha256, *how, level_of_theory]
        with torch_threads(1):  # compiled code has the number of threads built in
            potential = load_potential(model, device, dtype, compiled, level_of_theory)
        if sha256 not in (None, potential.sha256):
            raise NotResumableError(
                f"The weights of {model!r} on this worker are not those the job was submitted with "
                f"({potential.sha256[:12]}… instead of {str(sha256)[:12]}…).",
                hint="Give all workers the same weights; a job never changes its weights.",
            )
        key = (potential.sha256, *how, level_of_theory)
        if key not in self._providers:
            native = NativeProvider(potential, self._n_threads, reproducible=reproducible)
            self._providers[key] = MeteredProvider(native, self._meter)
            self._names.append(f"{potential.name} {dtype} {device}")
            log.info("potential loaded", model=potential.name, sha256=potential.sha256[:12], dtype=dtype, device=device)
        self._providers.setdefault((potential.sha256, *how, potential.level_of_theory), self._providers[key])
        return self._providers[key]
