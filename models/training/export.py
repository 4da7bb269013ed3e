"""From a finished training to a potential: its card, its weights and the report beside them."""

from __future__ import annotations

import json
from typing import Any

import torch

from equipot.cards import FORMAT_VERSION, LevelOfTheory, PotentialCard, TestError
from equipot.cards import TrainingData as TrainingDataOnCard
from equipot.elements import SYMBOLS
from equipot.models.loading import save_potential
from equipot.models.training.config import yaml_sha256
from equipot.models.training.datasets import REFERENCE_SENTENCES, TrainingData
from equipot.models.training.domain import fit_domain
from equipot.models.training.evaluation import ALL, Comparison
from equipot.models.training.loop import Trainer
from equipot.models.training.report import write_report

REPORT = "report"
VALIDATION = "validation"
#: kinds of frames beyond these stay out of the card (not out of the report)
MAX_KINDS_ON_CARD = 60


def export(trainer: Trainer, yaml_text: str, *, plots: bool = True) -> PotentialCard:
    """Judge the averaged weights on validation and test sets; write potential and report into the folder."""
    config, data = trainer.config, trainer.data
    n_frames = len(trainer.valid) + sum(len(frames) for level in data.levels for frames in level.tests.values())
    trainer.progress.say(f"Judging the potential on {n_frames} frames.")
    comparisons = {VALIDATION: trainer.judge(trainer.valid)}
    for head, level in enumerate(data.levels):
        if head and len(level.valid):
            comparisons[f"{level.level_of_theory}: {VALIDATION}"] = trainer.judge(trainer.store(level.valid, head))
        for name, frames in level.tests.items():
            named = f"{level.level_of_theory}: {name}" if head else name
            comparisons[named] = trainer.judge(trainer.store(frames, head))
    domain = fit_domain(trainer.average, trainer.train, trainer.valid)
    given = config.isolated_atom_energies_ev
    sentence = REFERENCE_SENTENCES[given if isinstance(given, str) else "given"]
    card = PotentialCard(
        format_version=FORMAT_VERSION,
        name=config.full_name,
        aliases=config.aliases,
        description=config.description,
        elements=[SYMBOLS[z] for z in data.elements],
        cutoff_ang=config.network.cutoff_ang,
        level_of_theory=config.level_of_theory,
        has_stress=config.learns_stress and bool(trainer.train.has_virial.any()),
        architecture=trainer.average.architecture.as_dict(),
        n_parameters=sum(p.numel() for p in trainer.average.parameters()),
        energy_reference=config.energy_reference or sentence,
        isolated_atom_energies_ev=data.isolated_atom_energies_ev,
        levels=[_level_on_card(level) for level in data.levels] if data.others else [],
        charges=list(data.charges) if config.is_told_charge else [],
        domain_threshold=domain.threshold,
        training_data=TrainingDataOnCard(
            description=config.data.description or f"{len(data.train)} frames",
            source=config.data.source,
            licence=config.data.licence,
            n_frames=sum(len(level.train) for level in data.levels),
            sha256=data.sha256,
        ),
        training=_training(trainer, yaml_text),
        test_errors=[test_error(name, comparison) for name, comparison in comparisons.items()],
        limits=config.limits,
        licence=config.licence,
        weights_sha256="0" * 64,
    )
    card = save_potential(trainer.folder, card, trainer.average, domain)
    write_report(trainer.folder / REPORT, card.name, comparisons, trainer.log.rows, plots=plots)
    return card


def _level_on_card(level: TrainingData) -> LevelOfTheory:
    return LevelOfTheory(
        level_of_theory=level.level_of_theory,
        isolated_atom_energies_ev=level.isolated_atom_energies_ev,
        charges=sorted({int(q) for q in level.train.charge}),
        n_frames=len(level.train),
    )


def test_error(name: str, comparison: Comparison) -> TestError:
    """Errors on a set of frames as a card has them, kinds of frames included where there are several."""
    kinds = comparison.by_config_type()
    summary = kinds.pop(ALL)
    n_frames = int(summary.pop("n_frames"))
    if len(kinds) > MAX_KINDS_ON_CARD:
        kinds = {}
    return TestError(test_set=name, n_frames=n_frames, by_config_type=kinds, **summary)


def _training(trainer: Trainer, yaml_text: str) -> dict[str, Any]:
    config, position = trainer.config, trainer.position
    parts = {"seed", "network", "loss", "final_stage", "optimiser"}
    n_atoms_per_s = [row["atoms_per_s"] for row in trainer.log.rows]
    return {
        "configuration": json.loads(config.model_dump_json(include=parts)),
        "yaml": yaml_text,
        "yaml_sha256": yaml_sha256(yaml_text),
        "n_steps": position.step,
        "n_passes": position.pass_number,
        "wall_time_s": round(position.seconds),
        "atoms_per_s": round(sum(n_atoms_per_s) / len(n_atoms_per_s)) if n_atoms_per_s else None,
        "hardware": position.origin["hardware"],
        "torch": torch.__version__,
        "reproducible": config.is_reproducible,
    }
