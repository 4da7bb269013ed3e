"""The molecules the `organic` potential has seen: hand-written ones and scaffolds with substituents.

Everything is a neutral closed-shell molecule of H, C, N and O. Stereochemistry is left open: a molecule's
conformers may come out as any isomer, and all of them share one identity, the canonical SMILES without stereo
marks, by which training and test are kept apart.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

import yaml

Split = Literal["train", "valid", "test"]

VALID_SHARE, TEST_SHARE = 0.05, 0.07
MAX_ATOMS = 36

# Never trained on, whatever the hash says; acetylacetone as diketone and as enol, glucose as ring and as chain.
EXTERNAL_TEST = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "acetylacetone": "CC(=O)CC(C)=O",
    "acetylacetone, enol": "CC(=O)C=C(C)O",
    "azobenzene": "c1ccc(N=Nc2ccccc2)cc1",
    "salicylic acid": "O=C(O)c1ccccc1O",
    "alanine dipeptide": "CNC(=O)C(C)NC(C)=O",
    "glucose": "OCC1OC(O)C(O)C(O)C1O",
    "glucose, chain": "OCC(O)C(O)C(O)C(O)C=O",
    "uracil": "O=c1cc[nH]c(=O)[nH]1",
}

# What every chemist tries first, and the partners of the clusters: always trained on.
ALWAYS_TRAIN = (
    "[H][H] O N C N#N [C-]#[O+] O=C=O C#N OO NN C=O CO CC C=C C#C CCO CN CC=O CC(C)=O CC(=O)O OC=O NC=O COC "
    "c1ccccc1 CNC CC#N CCC C=CC=C CNC(C)=O C1CC1"
).split()

SCAFFOLDS = (
    "C{}",
    "CC{}",
    "CC(C){}",
    "CCC{}",
    "C=C{}",
    "C=CC{}",
    "C#CC{}",
    "C1CC1{}",
    "C1CCC1{}",
    "C1CCCC1{}",
    "C1OC1{}",
    "C1CCOC1{}",
    "C1CCNC1{}",
    "c1ccccc1{}",
    "Cc1ccc({})cc1",
    "Oc1ccc({})cc1",
    "c1cccnc1{}",
    "c1ccncc1{}",
    "c1cc[nH]c1{}",
    "c1ccoc1{}",
    "c1[nH]cnc1{}",
    "n1cccn1{}",
    "CC(=O)C{}",
    "COC{}",
    "NC(=O)C{}",
    "CN(C)C{}",
    "OCC{}",
    "c1ccccc1C{}",
    "O=C1CCCC1{}",
    "C1CCN(CC1){}",
)

SUBSTITUENTS = (
    "C CC O OC OC=O N NC N(C)C C=O C(C)=O C(=O)O C(=O)OC C(N)=O C(=O)NC C#N [N+](=O)[O-] C=C C#C CO CN N=C=O "
    "N=[N+]=[N-] NC(C)=O NC(N)=O OC(C)=O C=NO C(C)(C)O CC#N C1CC1"
).split()

LINKERS = (
    "{}O{}",
    "{}N{}",
    "{}C(=O){}",
    "{}C(=O)O{}",
    "{}C(=O)N{}",
    "{}N=C{}",
    "{}N=N{}",
    "{}C(=O)C(=O){}",
    "{}OC(=O)N{}",
    "{}NC(=O)N{}",
    "{}C=C{}",
    "{}C#C{}",
)
# End groups: as written after a bond, and turned round to be written before one.
ENDS = {
    "C": "C",
    "CC": "CC",
    "C(C)C": "CC(C)",
    "C=C": "C=C",
    "C#C": "C#C",
    "CO": "OC",
    "CC#N": "N#CC",
    "c1ccco1": "o1cccc1",
}


def raw_smiles() -> list[str]:
    """Every SMILES of the list as written, before canonicalisation; duplicates are possible."""
    text = (Path(__file__).parent / "molecules.yaml").read_text(encoding="utf-8")
    families: dict[str, str] = yaml.safe_load(text)
    smiles = [*ALWAYS_TRAIN, *EXTERNAL_TEST.values()]
    smiles += [s for family in families.values() for s in family.split()]
    smiles += [scaffold.format(substituent) for scaffold, substituent in product(SCAFFOLDS, SUBSTITUENTS)]
    smiles += [linker.format(left, right) for linker, left, right in product(LINKERS, ENDS.values(), ENDS)]
    return smiles


def canonical(smiles: str) -> str:
    """A molecule's identity: RDKit's canonical SMILES without stereo marks. ValueError if RDKit refuses it."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"RDKit cannot read the SMILES {smiles!r}")
    return str(Chem.MolToSmiles(molecule, isomericSmiles=False))


def molecule_list() -> list[str]:
    """Canonical SMILES of all molecules, without repeats, sorted: H, C, N, O; neutral; closed shell; 2 to 36 atoms.

    Enumerated combinations outside these bounds are dropped.
    """
    from rdkit import Chem

    kept: set[str] = set()
    for smiles in sorted({canonical(s) for s in raw_smiles()}):
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        atoms = list(molecule.GetAtoms())
        if {a.GetSymbol() for a in atoms} - {"H", "C", "N", "O"} or not 2 <= len(atoms) <= MAX_ATOMS:
            continue
        if Chem.GetFormalCharge(molecule) != 0 or any(a.GetNumRadicalElectrons() for a in atoms):
            continue
        kept.add(smiles)
    return sorted(kept)


def split_of(smiles: str) -> Split:
    """Which split a molecule belongs to, from its identity alone; `smiles` must be canonical."""
    if smiles in _external_test():
        return "test"
    if smiles in _always_train():
        return "train"
    u = int.from_bytes(hashlib.sha256(smiles.encode()).digest()[:8], "big") / 2.0**64
    if u < TEST_SHARE:
        return "test"
    return "valid" if u < TEST_SHARE + VALID_SHARE else "train"


@cache
def _external_test() -> frozenset[str]:
    return frozenset(canonical(s) for s in EXTERNAL_TEST.values())


@cache
def _always_train() -> frozenset[str]:
    return frozenset(canonical(s) for s in ALWAYS_TRAIN)
