"""Where the numbers of a run come from. No torch: the API reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """What a run was computed with; `seeds` are one for all systems, a list of one for each, or None.

    `equipot` is the version that began the run, `dtype` the precision of the forces, `trajectory_dtype` that of the
    arrays in saved frames.
    """

    kind: str
    model: str
    model_sha256: str | None
    level_of_theory: str | None
    dtype: str | None
    device: str | None
    equipot: str
    trajectory_dtype: str
    seeds: int | tuple[int, ...] | None
    system_offset: int
    params: Mapping[str, Any]

    @classmethod
    def of_request(cls, request: Mapping[str, Any]) -> Provenance:
        """From what `request.json` of a run holds."""
        provider, params = request["provider"], request["params"]
        seeds = params.get("seed")
        return cls(
            kind=request["kind"],
            model=provider["model"],
            model_sha256=provider["sha256"],
            level_of_theory=provider["level_of_theory"],
            dtype=provider["dtype"],
            device=provider["device"],
            equipot=provider["equipot"],
            trajectory_dtype=params.get("trajectory_dtype", "float64"),
            seeds=tuple(seeds) if isinstance(seeds, list) else seeds,
            system_offset=request["system_offset"],
            params=params,
        )

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return dict(vars(self))  # `asdict` copies every parameter

    def seed(self, system: int) -> int | None:
        """The seed of a system of the job."""
        if isinstance(self.seeds, tuple):
            return self.seeds[system - self.system_offset]
        return self.seeds

    def tags(self, system: int) -> dict[str, Any]:
        """The few words that go with every frame of a system; what is not known is left out."""
        words = {
            "seed": self.seed(system),
            "model": self.model,
            "model_sha256": self.model_sha256,
            "level_of_theory": self.level_of_theory,
            "dtype": self.dtype,
            "trajectory_dtype": self.trajectory_dtype,
            "equipot": self.equipot,
        }
        return {name: value for name, value in words.items() if value is not None}
