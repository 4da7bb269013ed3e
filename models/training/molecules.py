"""The molecules the `organic` potential learns from: everyday ones, scaffolds with substituents, real compounds, ions.

Closed-shell molecules and ions of the elements below. Real compounds are the first 5000 of the NCI's public
collection, which comes with RDKit, and what is left of them when a single bond is cut. Stereochemistry is left open:
a molecule's conformers may come out as any isomer, and all of them share one identity, the canonical SMILES without
stereo marks. An ion goes to the split of the neutral molecule it comes from, so training and test share neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

Split = Literal["train", "valid", "test"]

ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br")
VALID_SHARE, TEST_SHARE = 0.02, 0.05
MAX_ATOMS, MAX_HEAVY_ATOMS, MAX_FRAGMENT_HEAVY_ATOMS = 60, 30, 13
ION_SHARE = 0.45  # of the molecules with a site for it that are also there as an ion

# Never trained on, whatever the hash says: molecules of published test sets, and medicines everybody knows.
# Acetylacetone and malonaldehyde as ketones and as enols, glucose as ring and as chain.
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
    "malonaldehyde": "O=CCC=O",
    "malonaldehyde, enol": "O=CC=CO",
    "naphthalene": "c1ccc2ccccc2c1",
    "toluene": "Cc1ccccc1",
    "tropolone": "O=c1cccccc1O",
    "3-(benzyloxy)pyridin-2-amine": "Nc1ncccc1OCc1ccccc1",
    "undecane": "CCCCCCCCCCC",
    "dodecane": "CCCCCCCCCCCC",
    "ibuprofen": "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
    "diclofenac": "O=C(O)Cc1ccccc1Nc1c(Cl)cccc1Cl",
    "fluoxetine": "CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1",
    "penicillin G": "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
    "sulfamethoxazole": "Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1",
    "ciprofloxacin": "O=C(O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O",
    "omeprazole": "COc1ccc2[nH]c(S(=O)Cc3ncc(C)c(OC)c3C)nc2c1",
    "celecoxib": "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1",
    "furosemide": "NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl",
    "warfarin": "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "cimetidine": "CN=C(NCCSCc1[nH]cnc1C)NC#N",
    "captopril": "CC(CS)C(=O)N1CCCC1C(=O)O",
    "metformin": "CN(C)C(=N)NC(=N)N",
    "nicotine": "CN1CCCC1c1cccnc1",
    "bromazepam": "O=C1CN=C(c2ccccn2)c2cc(Br)ccc2N1",
    "fosfomycin": "CC1OC1P(=O)(O)O",
}

# What every chemist tries first, and the partners of the clusters: always trained on.
ALWAYS_TRAIN = (
    "[H][H] O N C N#N [C-]#[O+] O=C=O C#N OO NN C=O CO CC C=C C#C CCO CN CC=O CC(C)=O CC(=O)O OC=O NC=O COC "
    "c1ccccc1 CNC CC#N CCC C=CC=C CNC(C)=O C1CC1 F FF Cl ClCl Br BrBr S P SS CF CCl CBr CS CSC O=S=O O=S(=O)=O S=C=S "
    "ClC(Cl)Cl ClCCl FC(F)F FC(F)(F)F OCl OF FCl ClBr O=C=S CS(C)=O C1CCOC1 OS(O)(=O)=O OP(O)(O)=O CP "
    "[OH3+] [OH-] [NH4+] C[NH3+] [C-]#N O=C[O-] CC(=O)[O-]"
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
    "N=[N+]=[N-] NC(C)=O NC(N)=O OC(C)=O C=NO C(C)(C)O CC#N C1CC1 "
    "F Cl Br C(F)(F)F C(F)F CF CCl CBr S SC CS S(C)=O S(C)(=O)=O S(N)(=O)=O S(=O)(=O)O N=C=S SC#N C(N)=S C(=O)Cl "
    "C(=O)F OC(F)(F)F P(C)C P(=O)(O)O OP(=O)(O)O OS(C)(=O)=O C(Cl)=C C(F)=C SSC C(=O)SC"
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
    "{}S{}",
    "{}SS{}",
    "{}S(=O)(=O){}",
    "{}S(=O)(=O)N{}",
    "{}C(F)(F){}",
    "{}OP(=O)(O){}",
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


# Where a proton is taken up or given off (SMARTS; the first atom is the one that changes).
PROTONATED = (
    "[NX3;H2,H1,H0;!$(N[C,S,P]=[O,N,S]);!$(N[a,N,O,S,P]);!$(NC=C);!$(NC#N)]",
    "[nX2;r6;!$(n[n,o,s])]",
    "[nX2;r5;$(n1c[nX3]cc1)]",
    "[NX2;$(N=C([NX3])[#6,N,#1]);!$(N[N,O,S])]",
)
DEPROTONATED = (
    "[OX2H1;$(OC=O)]",
    "[OX2H1;$(O[S,P]=O)]",
    "[OX2H1;$(Oc)]",
    "[SX2H1]",
    "[NX3H1;$(N(C=O)C=O)]",
    "[NX3;H2,H1;$(NS(=O)=O)]",
)


def raw_smiles() -> list[str]:
    """Every SMILES written in this project, before canonicalisation; duplicates are possible."""
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
    """Canonical SMILES of all molecules and ions, without repeats, sorted.

    What lies outside the bounds (elements, size, open shells, charges beyond one) is dropped.
    """
    from rdkit import rdBase

    with rdBase.BlockLogs():
        wanted = {canonical(s) for s in raw_smiles()}
        compounds = set(_nci_compounds())
        wanted |= compounds
        for smiles in sorted(compounds):
            wanted |= set(_fragments(smiles))
        kept = {s for s in wanted if _is_within_bounds(s)}
        ions = {ion for s in sorted(kept) for ion in _ions(s)}
        return sorted(kept | {s for s in ions if _is_within_bounds(s)})


def everyday_molecules() -> tuple[str, ...]:
    """Identities of what is always trained on, sorted."""
    return tuple(sorted(_always_train()))


@cache
def charge_of(smiles: str) -> int:
    """Total charge in e."""
    from rdkit import Chem

    return int(Chem.GetFormalCharge(Chem.MolFromSmiles(smiles)))


@cache
def parent_of(smiles: str) -> str:
    """Identity of the neutral molecule an ion comes from; of a neutral molecule, its own."""
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    if charge_of(smiles) == 0:
        return smiles
    with rdBase.BlockLogs():
        neutral = rdMolStandardize.Uncharger().uncharge(Chem.MolFromSmiles(smiles))
        try:
            return canonical(Chem.MolToSmiles(neutral))
        except ValueError:  # what a lone proton leaves behind
            return smiles


def split_of(smiles: str) -> Split:
    """Which split a molecule belongs to, from its identity alone; `smiles` must be canonical."""
    if smiles in _always_train():
        return "train"
    parent = parent_of(smiles)
    if parent in _external_test():
        return "test"
    if parent in _always_train():
        return "train"
    u = int.from_bytes(hashlib.sha256(parent.encode()).digest()[:8], "big") / 2.0**64
    if u < TEST_SHARE:
        return "test"
    return "valid" if u < TEST_SHARE + VALID_SHARE else "train"


def _is_within_bounds(smiles: str) -> bool:
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS or "." in smiles:
        return False
    molecule = Chem.AddHs(molecule)
    atoms = list(molecule.GetAtoms())
    return (
        2 <= len(atoms) <= MAX_ATOMS
        and {a.GetSymbol() for a in atoms} <= set(ELEMENTS)
        and abs(Chem.GetFormalCharge(molecule)) <= 1
        and not any(a.GetNumRadicalElectrons() or a.GetIsotope() for a in atoms)
    )


def _nci_compounds() -> Iterator[str]:
    """Canonical SMILES of the first 5000 compounds of the NCI collection; of salts, the largest part."""
    from rdkit import Chem, RDConfig

    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()
    for line in lines:
        molecule = Chem.MolFromSmiles(line.split()[0]) if line.strip() else None
        if molecule is not None:
            parts = Chem.GetMolFrags(molecule, asMols=True)
            largest = max(parts, key=lambda part: part.GetNumHeavyAtoms())
            yield str(Chem.MolToSmiles(largest, isomericSmiles=False))


def _fragments(smiles: str) -> Iterator[str]:
    """What a molecule falls into when one single bond outside rings is cut, hydrogen put at both ends."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    if Chem.GetFormalCharge(molecule):
        return
    for bond in molecule.GetBonds():
        if bond.IsInRing() or bond.GetBondType() != Chem.BondType.SINGLE:
            continue
        for part in Chem.GetMolFrags(Chem.FragmentOnBonds(molecule, [bond.GetIdx()], addDummies=False), asMols=True):
            if 3 <= part.GetNumHeavyAtoms() <= MAX_FRAGMENT_HEAVY_ATOMS:
                found = Chem.MolFromSmiles(Chem.MolToSmiles(part, isomericSmiles=False))
                if found is not None and Chem.GetFormalCharge(found) == 0:
                    yield str(Chem.MolToSmiles(found, isomericSmiles=False))


def _ions(smiles: str) -> Iterator[str]:
    """The molecule with a proton more or less, for a share of those that have a site for it."""
    from rdkit import Chem

    draw = hashlib.sha256(f"ion {smiles}".encode()).digest()
    if draw[0] >= 256 * ION_SHARE or charge_of(smiles):
        return
    molecule = Chem.MolFromSmiles(smiles)
    sites = [
        (match[0], charge)
        for charge, patterns in ((1, PROTONATED), (-1, DEPROTONATED))
        for pattern in patterns
        for match in molecule.GetSubstructMatches(_pattern(pattern))
    ]
    if not sites:
        return
    index, charge = sites[draw[1] % len(sites)]
    changed = Chem.RWMol(molecule)
    atom = changed.GetAtomWithIdx(index)
    atom.SetNumExplicitHs(atom.GetTotalNumHs() + charge)
    atom.SetNoImplicit(True)
    atom.SetFormalCharge(atom.GetFormalCharge() + charge)
    if Chem.SanitizeMol(changed, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
        yield canonical(Chem.MolToSmiles(changed))


@cache
def _pattern(smarts: str) -> Any:
    from rdkit import Chem

    return Chem.MolFromSmarts(smarts)


@cache
def _external_test() -> frozenset[str]:
    return frozenset(canonical(s) for s in EXTERNAL_TEST.values())


@cache
def _always_train() -> frozenset[str]:
    return frozenset(canonical(s) for s in ALWAYS_TRAIN)
