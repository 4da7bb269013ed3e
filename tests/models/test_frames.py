"""Sets of frames: kept whole through files, and refused by frame when a label cannot be trusted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipot.models.training.frames import (
    Frame,
    FrameError,
    FrameSet,
    concatenate,
    minimum_distances_ang,
)
from equipot.models.training.sources import read_extxyz, twin_classes, validation_mask

LEVEL = "made up"


def molecule(n_atoms: int, seed: int = 0, group: str = "C") -> Frame:
    """Atoms about 3 Å apart with small random labels, no cell."""
    random = np.random.default_rng(seed)
    line = 3.0 * np.arange(n_atoms)[:, None] * np.array([1.0, 0.5, 0.0])
    return Frame(
        numbers=random.integers(1, 9, n_atoms),
        positions_ang=line + 0.1 * random.standard_normal((n_atoms, 3)),
        forces_ev_per_ang=random.standard_normal((n_atoms, 3)),
        energy_ev=-10.0 * n_atoms,
        cell_ang=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=np.bool_),
        stress_ev_per_ang3=np.full(6, np.nan),
        config_type="md",
        group=group,
    )


def crystal(seed: int = 1) -> Frame:
    """Two atoms in a cubic cell, with stress."""
    frame = molecule(2, seed, group="Si")
    return frame._replace(
        cell_ang=8.0 * np.eye(3), pbc=np.ones(3, dtype=np.bool_), stress_ev_per_ang3=np.linspace(-0.1, 0.1, 6)
    )


@pytest.fixture
def frames() -> FrameSet:
    """One atom, a molecule, a crystal: different sizes, with and without cell and stress."""
    return FrameSet.from_frames([molecule(1), molecule(5, 2, "CO"), crystal()], LEVEL)


def test_saving_and_loading_changes_nothing(frames: FrameSet, tmp_path: Path) -> None:
    frames.save(tmp_path / "set.npz")
    loaded = FrameSet.load(tmp_path / "set.npz")
    for field in dataclasses.fields(FrameSet):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(frames, field.name))
    assert loaded.sha256() == frames.sha256()
    assert [p.name for p in tmp_path.iterdir()] == ["set.npz"]


def test_the_digest_follows_the_content_alone(frames: FrameSet) -> None:
    again = FrameSet.from_frames(list(frames), LEVEL)
    assert again.sha256() == frames.sha256()
    assert frames.select([1, 0, 2]).sha256() != frames.sha256()
    for name in ("energy_ev", "forces_ev_per_ang", "pbc"):
        changed = getattr(frames, name).copy()
        changed.flat[0] = 1 - changed.flat[0]
        assert dataclasses.replace(frames, **{name: changed}).sha256() != frames.sha256()
    assert dataclasses.replace(frames, level_of_theory="other").sha256() != frames.sha256()


def test_a_frame_is_what_was_put_in(frames: FrameSet) -> None:
    original = molecule(5, 2, "CO")
    for got in (frames.frame(1), frames.frame(-2), list(frames)[1]):
        np.testing.assert_array_equal(got.positions_ang, original.positions_ang)
        np.testing.assert_array_equal(got.numbers, original.numbers)
        assert (got.energy_ev, got.group) == (original.energy_ev, "CO")
    with pytest.raises(IndexError, match="frame 3 of a set of 3"):
        frames.frame(3)


def test_selecting_and_concatenating_undo_each_other(frames: FrameSet) -> None:
    parts = [frames.select([i]) for i in range(3)]
    assert concatenate(parts).sha256() == frames.sha256()
    assert frames.select(np.array([True, False, True])).sha256() == frames.select([0, 2]).sha256()
    assert frames.select([]).n_frames == 0


def test_an_empty_set_is_a_set(tmp_path: Path) -> None:
    empty = FrameSet.from_frames([], LEVEL)
    empty.validate().save(tmp_path / "empty.npz")
    assert len(FrameSet.load(tmp_path / "empty.npz")) == 0


def test_two_levels_of_theory_never_become_one_set(frames: FrameSet) -> None:
    with pytest.raises(FrameError, match="different levels of theory"):
        concatenate([frames, dataclasses.replace(frames, level_of_theory="other")])


def test_a_good_set_is_valid(frames: FrameSet) -> None:
    assert frames.validate() is frames


BAD: list[tuple[str, int, Any, str]] = [
    ("positions_ang", 1, np.nan, "a position that is not finite"),
    ("positions_ang", 1, 1e6, "a position beyond"),
    ("forces_ev_per_ang", 1, np.inf, "a force that is not finite"),
    ("forces_ev_per_ang", 1, 5e3, "a force above .* units"),
    ("energy_ev", 1, np.nan, "an energy that is not finite"),
    ("energy_ev", 1, 1e9, "an energy above .* units"),
    ("numbers", 1, 0, "an impossible atomic number"),
    ("stress_ev_per_ang3", 2, 500.0, "a stress above .* units"),
    ("stress_ev_per_ang3", 2, np.nan, "a stress with some components missing"),
    ("pbc", 1, True, "is periodic but has no cell"),
    ("group", 1, "", "has no group"),
]


@pytest.mark.parametrize(("name", "index", "value", "message"), BAD)
def test_a_bad_label_is_refused_by_the_index_of_its_frame(
    frames: FrameSet, name: str, index: int, value: Any, message: str
) -> None:
    array = getattr(frames, name).copy()
    row = int(frames.offsets[index]) if len(array) == frames.numbers.shape[0] else index
    if array.ndim > 1:
        array[row, 0] = value
    else:
        array[row] = value
    with pytest.raises(FrameError, match=rf"^frame {index} .*{message}"):
        dataclasses.replace(frames, **{name: array}).validate()


def test_two_atoms_at_one_place_are_refused() -> None:
    frame = molecule(3)
    frame.positions_ang[1] = frame.positions_ang[0] + 0.05
    with pytest.raises(FrameError, match=r"frame 1 .* closer than"):
        FrameSet.from_frames([molecule(1), frame], LEVEL).validate()


def test_an_exact_copy_is_refused_and_both_frames_are_named(frames: FrameSet) -> None:
    with pytest.raises(FrameError, match=r"frame 3 .* exact copy of frame 1"):
        frames.select([0, 1, 2, 1]).validate()


def test_a_wrong_shape_is_refused_when_the_set_is_made(frames: FrameSet) -> None:
    with pytest.raises(FrameError, match=r"cell_ang must have shape \(3, 3, 3\)"):
        dataclasses.replace(frames, cell_ang=np.zeros((2, 3, 3)))


def test_another_file_is_not_taken_for_a_set(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    with pytest.raises(FrameError, match="is not a set of frames: it lacks"):
        FrameSet.load(tmp_path / "other.npz")


def test_smallest_distances_look_through_periodic_faces() -> None:
    frame = crystal()._replace(numbers=np.array([14, 6]), positions_ang=np.array([[0.2, 0.0, 0.0], [7.0, 16.0, 0.0]]))
    found = minimum_distances_ang(FrameSet.from_frames([frame], LEVEL))
    assert found[(6, 14)] == pytest.approx(1.2)
    assert found[(6, 6)] == pytest.approx(8.0)
    assert (14, 14) in found


# ---- published sets (sources.py)


def strained(axis: int, amount: float = 0.03) -> Frame:
    """Two-atom body-centred cell stretched along one axis: the three axes give symmetry-equivalent cells."""
    cell = 3.0 * np.eye(3)
    cell[axis, axis] *= 1 + amount
    return crystal()._replace(
        numbers=np.array([42, 42]), cell_ang=cell, positions_ang=np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) @ cell
    )


def test_symmetry_equivalent_cells_are_recognised_as_one_structure() -> None:
    frames = FrameSet.from_frames([strained(0), strained(1, 0.04), strained(1), crystal(), strained(2)], LEVEL)
    classes = twin_classes(frames)
    assert classes[0] == classes[2] == classes[4]
    assert len(set(classes.tolist())) == 3


def test_validation_is_a_twentieth_of_every_large_kind_in_blocks_of_neighbours() -> None:
    strata = ["md"] * 200 + ["surface"] * 5 + ["elastic"] * 40
    held_out = validation_mask(strata)
    assert (held_out == validation_mask(strata)).all()
    assert held_out[:200].sum() == 10
    assert held_out[200:205].sum() == 0
    assert held_out[205:].sum() == 2
    starts = np.flatnonzero(held_out[:200] & ~np.roll(held_out[:200], 1))
    assert len(starts) == 4


def test_a_file_keeps_labels_signs_and_duplicate_flags(tmp_path: Path) -> None:
    lattice = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 pbc="T T T"'
    path = tmp_path / "train.extxyz"
    path.write_text(
        f'2\n{lattice} energy=-3.5 stress="1 6 5 6 2 4 5 4 3" config_type=Elastic sym_dup_in_train=T\n'
        "Mo 0 0 0 0.1 0 0\nTa 2 2 2 -0.1 0 0\n"
        f"1\n{lattice} energy=-1.5 config_type=Elastic\nMo 0 0 0 0 0 0\n"
        '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nMo 0 0 0\n'
    )
    frames = read_extxyz(path, LEVEL, prefix="set:")
    assert frames.config_type.tolist() == ["set:Elastic:sym_dup", "set:Elastic"]
    assert frames.group.tolist() == ["Mo-Ta", "Mo"]
    np.testing.assert_array_equal(frames.stress_ev_per_ang3[0], [1, 2, 3, 4, 5, 6])
    assert np.isnan(frames.stress_ev_per_ang3[1]).all()
    np.testing.assert_array_equal(frames.forces_ev_per_ang[:, 0], [0.1, -0.1, 0.0])
