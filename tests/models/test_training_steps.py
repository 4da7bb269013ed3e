"""Steps in padded shapes, as they are recorded on a GPU, are the steps that are made one by one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from equipot.models.network import Sizes
from equipot.models.potential import Potential
from equipot.models.spherical import Harmonics
from equipot.models.training.config import DataPart, OptimiserPart, TrainingConfig
from equipot.models.training.datasets import TrainingData
from equipot.models.training.frames import FrameSet
from equipot.models.training.gradients import CompiledGradients, Gradients, eager_gradients
from equipot.models.training.loop import Trainer
from equipot.models.training.progress import TrainingProgress
from equipot.models.training.steps import EagerSteps, RecordedSteps, padded_length
from tests.models.conftest import ethanol, slab, triclinic_crystal
from tests.models.test_training_batches import frame_of

N_STEPS = 12
SIZES = Sizes(n_channels=4, n_pair_channels=2, n_message_channels=2, l_max=1, l_hidden=1, n_basis=4, readout_width=4)


def trained(
    tiny: Potential,
    folder: Path,
    kind: type[EagerSteps] | type[RecordedSteps],
    optimiser: str,
    gradients: Gradients = eager_gradients,
) -> Trainer:
    """A few steps on molecules, a crystal and a slab, made one way or the other, in float64."""
    structures = [*(ethanol(seed) for seed in range(5)), triclinic_crystal(), slab()]
    frames = FrameSet.from_frames([frame_of(structure, tiny) for structure in structures], "tiny")
    reference = np.full(119, np.nan)
    reference[np.unique(frames.numbers)] = 0.0
    config = TrainingConfig(
        name="x",
        level_of_theory="none",
        data=DataPart.model_validate({"train": ["none.npz"], "valid": {"n_frames": 1}}),
        network=SIZES,
        optimiser=OptimiserPart.model_validate(
            {
                "kind": optimiser,
                "n_steps": N_STEPS,
                "atoms_per_batch": 20,
                "warmup_steps": 3,
                "validate_every": 5,
                "float64_fraction": 1.0,
            }
        ),
    )
    data = TrainingData(frames, frames.select([0]), {}, reference, {}, [])
    trainer = Trainer(config, data, folder, torch.device("cpu"), TrainingProgress(1, quiet=True))
    trainer._switch_precision()
    eager = trainer.steps()
    assert isinstance(eager, EagerSteps)
    planned, learner = eager._planned, replace(eager._learner, gradients=gradients)
    with closing(kind(learner, trainer.train, planned, trainer.dtype, trainer.device)) as steps:
        while not trainer.is_done:
            made = trainer.advance(steps)
            assert bool(made.loss_sum.isfinite())
    return trainer


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_steps_of_recorded_shapes_are_those_made_one_by_one(tiny: Potential, tmp_path: Path, optimiser: str) -> None:
    one_by_one = trained(tiny, tmp_path, EagerSteps, optimiser)
    recorded = trained(tiny, tmp_path, RecordedSteps, optimiser)
    assert recorded.position.step == one_by_one.position.step == N_STEPS
    assert recorded.position.pass_number == one_by_one.position.pass_number > 1
    for network in ("network", "average"):
        ours, theirs = getattr(recorded, network).state_dict(), getattr(one_by_one, network).state_dict()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-6, atol=1e-8, msg=f"{network} {name}")


@pytest.mark.long
def test_compiled_steps_are_those_made_one_by_one(tiny: Potential, tmp_path: Path) -> None:
    said: list[str] = []
    one_by_one = trained(tiny, tmp_path, EagerSteps, "muon")
    compiled = trained(tiny, tmp_path, RecordedSteps, "muon", CompiledGradients(said.append, most_shapes=1))
    assert said == [said[0]]
    assert said[0].startswith("Compiling the step for batches of")
    for name, value in compiled.network.state_dict().items():
        torch.testing.assert_close(value, one_by_one.network.state_dict()[name], rtol=1e-6, atol=1e-8, msg=name)


def test_a_step_that_cannot_be_compiled_is_computed_eagerly(
    tiny: Potential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    said: list[str] = []
    trained(tiny, tmp_path, RecordedSteps, "muon", CompiledGradients(said.append, most_shapes=1))
    assert "no compiler" in said[-1]


def test_harmonics_by_monomials_are_those_of_the_recurrence() -> None:
    vectors = torch.randn(5, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for l_max in range(5):
        harmonics = Harmonics(l_max).double()
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        torch.testing.assert_close(harmonics.by_monomials(unit), harmonics.by_recurrence(unit), rtol=0, atol=1e-13)


def test_lengths_grow_by_a_quarter_at_most() -> None:
    lengths = [padded_length(n) for n in range(1, 300)]
    assert all(n <= length <= max(1.25 * n, n + 1) for n, length in enumerate(lengths, start=1))
    assert len(set(lengths)) < 35
