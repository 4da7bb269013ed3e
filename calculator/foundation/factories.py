"""How the foundation models of others are made: one function each, called with `device` and, if it has one, `dtype`.

Their packages are imported when a function is called. None of them is asked to add dispersion: NAME+d3 does that.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from equipot.errors import InvalidParameterError

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

NEQUIP_MODEL = "EQUIPOT_NEQUIP_MODEL"


def sevennet_0(device: str | None = None) -> BaseCalculator:
    """SevenNet-0 (July 2024), float32. Park et al., J. Chem. Theory Comput. 20, 4857, 2024."""
    return _sevennet("7net-0", device)


def sevennet_l3i5(device: str | None = None) -> BaseCalculator:
    """SevenNet with l up to 3 and five layers, float32: more accurate, several times slower."""
    return _sevennet("7net-l3i5", device)


def chgnet(device: str | None = None) -> BaseCalculator:
    """CHGNet 0.3.0, float32. Deng et al., Nat. Mach. Intell. 5, 1031, 2023."""
    return _chgnet("0.3.0", device)


def chgnet_r2scan(device: str | None = None) -> BaseCalculator:
    """CHGNet fine-tuned to r2SCAN, float32."""
    return _chgnet("r2scan", device)


def mace_mp_0(device: str | None = None, dtype: str = "float64") -> BaseCalculator:
    """MACE-MP-0, medium. Batatia et al., arXiv 2401.00096."""
    return _mace_mp("medium", device, dtype)


def mace_mpa_0(device: str | None = None, dtype: str = "float64") -> BaseCalculator:
    """MACE-MPA-0, medium."""
    return _mace_mp("medium-mpa-0", device, dtype)


def mace_off23(device: str | None = None, dtype: str = "float64") -> BaseCalculator:
    """MACE-OFF23, medium. Kovács et al., J. Am. Chem. Soc. 147, 17598, 2025."""
    from mace.calculators import mace_off

    with _quietly():
        return mace_off(model="medium", device=_device(device), default_dtype=dtype)


def nequip(device: str | None = None, path: str | None = None) -> BaseCalculator:
    """A NequIP model that `nequip-compile` made: the file at `path`, or at EQUIPOT_NEQUIP_MODEL."""
    from nequip.integrations.ase import NequIPCalculator

    file = path or os.environ.get(NEQUIP_MODEL)
    if not file:
        raise InvalidParameterError(
            f"It is not said which NequIP model: {NEQUIP_MODEL} is not set.",
            pointer="/model",
            hint=f"Compile one with nequip-compile, and set {NEQUIP_MODEL} to the file it wrote.",
        )
    return NequIPCalculator.from_compiled_model(file, device=_device(device))


def orb_v3(device: str | None = None) -> BaseCalculator:
    """Orb v3, conservative, all neighbours, OMat24. Rhodes et al., arXiv 2504.06231."""
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.inference.calculator import ORBCalculator

    model, adapter = pretrained.orb_v3_conservative_inf_omat(device=_device(device), precision="float32-highest")
    return ORBCalculator(model, adapter, device=_device(device))


def mattersim(device: str | None = None, dtype: str = "float32") -> BaseCalculator:
    """MatterSim v1, 5 million parameters. Yang et al., arXiv 2405.04967."""
    from mattersim.forcefield import MatterSimCalculator

    return MatterSimCalculator(load_path="MatterSim-v1.0.0-5M.pth", device=_device(device), dtype=dtype)


def uma_omat(device: str | None = None) -> BaseCalculator:
    """UMA-S 1.1 for inorganic materials. Wood et al., arXiv 2506.23971. Its weights ask for an account at their hub."""
    return _uma("omat", device)


def uma_omol(device: str | None = None) -> BaseCalculator:
    """UMA-S 1.1 for molecules; charge and spin are those of `atoms.info`."""
    return _uma("omol", device)


def _sevennet(name: str, device: str | None) -> BaseCalculator:
    from sevenn.calculator import SevenNetCalculator

    with _quietly():
        return SevenNetCalculator(name, device=_device(device))


def _chgnet(name: str, device: str | None) -> BaseCalculator:
    with _quietly():
        from chgnet.model.dynamics import CHGNetCalculator
        from chgnet.model.model import CHGNet

        model = CHGNet.load(model_name=name, use_device=_device(device), check_cuda_mem=False, verbose=False)
        return CHGNetCalculator(model, use_device=_device(device), on_isolated_atoms="error")


def _mace_mp(name: str, device: str | None, dtype: str) -> BaseCalculator:
    from mace.calculators import mace_mp

    with _quietly():
        return mace_mp(model=name, device=_device(device), default_dtype=dtype, dispersion=False)


def _uma(task: str, device: str | None) -> BaseCalculator:
    from fairchem.core import FAIRChemCalculator, pretrained_mlip

    unit = pretrained_mlip.get_predict_unit("uma-s-1p1", device=_device(device))
    return FAIRChemCalculator(unit, task_name=task)


def _device(device: str | None) -> str:
    if device not in (None, "auto"):
        return str(device)
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _quietly() -> Iterator[Any]:
    """What a package prints and warns of while it loads goes nowhere: results stand on stdout."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
