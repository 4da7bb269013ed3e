"""What is announced of the foundation models of others. Imports none of them.

Each is there under its name once its package is installed: `pip install 'equipot[sevennet]'` and the like. The weights
of SevenNet and CHGNet are in their packages; the others fetch theirs when they are first used, or are told where.
"""

from __future__ import annotations

from typing import Any

# The 89 elements of the Materials Project's trajectories: up to plutonium but Po, At, Rn, Fr and Ra.
MATERIALS_PROJECT = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Ac Th Pa U Np Pu"
).split()
ORGANIC = "H C N O F P S Cl Br I".split()
UP_TO_BISMUTH = MATERIALS_PROJECT[: MATERIALS_PROJECT.index("Bi") + 1]

PBE_U = "PBE and PBE+U (Materials Project)"


def _model(name: str, factory: str, package: str, extra: str, level_of_theory: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "factory": f"equipot.calculator.foundation.factories:{factory}",
        "requires": package,
        "extra": extra,
        "elements": MATERIALS_PROJECT,
        "level_of_theory": level_of_theory,
        "functional": "pbe",
        **more,
    }


SEVENNET_0 = _model("sevennet-0", "sevennet_0", "sevenn", "sevennet", PBE_U, licence="MIT")
SEVENNET_L3I5 = _model("sevennet-l3i5", "sevennet_l3i5", "sevenn", "sevennet", PBE_U, licence="MIT")
CHGNET = _model("chgnet", "chgnet", "chgnet", "chgnet", PBE_U, licence="BSD-3-Clause")
CHGNET_R2SCAN = _model(
    "chgnet-r2scan",
    "chgnet_r2scan",
    "chgnet",
    "chgnet",
    "r2SCAN (MatPES)",
    functional="r2scan",
    licence="BSD-3-Clause",
)
MACE_MP_0 = _model("mace-mp-0", "mace_mp_0", "mace", "mace", PBE_U, licence="MIT")
MACE_MPA_0 = _model("mace-mpa-0", "mace_mpa_0", "mace", "mace", PBE_U, licence="MIT")
MACE_OFF23 = _model(
    "mace-off23",
    "mace_off23",
    "mace",
    "mace",
    "ωB97M-D3(BJ)/def2-TZVPPD (SPICE)",
    elements=ORGANIC,
    functional=None,  # dispersion is in it
    licence="ASL (weights: academic use only)",
)
NEQUIP = _model(
    "nequip-oam",
    "nequip",
    "nequip",
    "nequip",
    "PBE and PBE+U (OMat24, then MPtrj and sAlex)",
    licence="see the model at EQUIPOT_NEQUIP_MODEL",
)
ORB_V3 = _model("orb-v3", "orb_v3", "orb_models", "orb", "PBE and PBE+U (OMat24)", licence="Apache-2.0")
MATTERSIM = _model("mattersim-v1", "mattersim", "mattersim", "mattersim", "PBE and PBE+U", licence="MIT")
UMA_OMAT = _model(
    "uma-s-omat", "uma_omat", "fairchem", "fairchem", "PBE and PBE+U (OMat24)", licence="FAIR Chemistry (weights)"
)
UMA_OMOL = _model(
    "uma-s-omol",
    "uma_omol",
    "fairchem",
    "fairchem",
    "ωB97M-V/def2-TZVPD (OMol25)",
    elements=UP_TO_BISMUTH,
    functional=None,  # dispersion is in it
    licence="FAIR Chemistry (weights)",
)
