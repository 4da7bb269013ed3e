"""Analyses give back what is known of ideal gases, crystals, random walks and oscillators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from equipot.errors import InvalidParameterError, InvalidStructureError
from equipot.params import MDParams
from equipot.simulation.analysis import (
    Track,
    displacement_parameters,
    mean_square_displacement,
    radial_distribution,
    velocity_autocorrelation,
    vibrational_density_of_states,
)
from equipot.simulation.analysis.msd import msd_ang2
from equipot.simulation.analysis.rdf import heights_ang
from equipot.simulation.run import Run
from equipot.units import ANG_PER_FS2_PER_EV_PER_ANG_U, KB_EV_PER_K, SPEED_OF_LIGHT_CM_PER_FS

SKEWED_ANG = np.array([[9.0, 0.0, 0.0], [4.0, 8.0, 0.0], [-3.0, 2.0, 10.0]])


def track(positions: np.ndarray, numbers: Any = 18, spacing_fs: float = 10.0, **more: Any) -> Track:
    """A track of positions (n_frames, n_atoms, 3)."""
    n_frames, n_atoms, _ = positions.shape
    known: dict[str, Any] = {
        "numbers": np.broadcast_to(numbers, n_atoms).copy(),
        "masses_u": np.full(n_atoms, 39.948),
        "pbc": (False,) * 3,
        "fixed_atoms": (),
        "step": np.arange(n_frames),
        "time_fs": spacing_fs * np.arange(n_frames),
        "positions_ang": positions,
        "cells_ang": None,
        "velocities_ang_per_fs": None,
        "is_unwrapped": True,
    }
    if "cells_ang" in more:
        known["pbc"] = (True,) * 3
    return Track(**{**known, **more})


def in_cell(positions: np.ndarray, cell: np.ndarray, **more: Any) -> Track:
    return track(positions, cells_ang=np.broadcast_to(cell, (len(positions), 3, 3)), **more)


# -- radial distribution


def test_an_ideal_gas_of_any_size_in_any_cell_has_g_of_one() -> None:
    """Partial ones too; far from its cell, as unwrapped atoms are; with errors of the right size."""
    random = np.random.default_rng(1)
    fractions = random.uniform(-3, 3, (300, 24, 3))
    found = radial_distribution(
        in_cell(fractions @ SKEWED_ANG, SKEWED_ANG, numbers=[1] * 3 + [8] * 21), bin_ang=0.25, n_blocks=20
    )
    assert set(found.g) == {"H-H", "H-O", "O-O", "all"}
    assert found.r_ang[-1] + 0.125 <= heights_ang(SKEWED_ANG).min() / 2
    for pair, g in found.g.items():
        shells = found.r_ang > 1.0  # below, a shell has too few pairs for a normal error
        deviation = (g - 1)[shells] / found.g_error[pair][shells]
        assert abs(np.mean(deviation)) < 4 / np.sqrt(shells.sum()), pair
        assert 0.5 < np.std(deviation) < 1.7, pair
    assert np.average(found.g["all"], weights=found.r_ang**2) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("shape", ["cube", "primitive"])
def test_shells_of_fcc_copper_have_their_radii_and_numbers(shape: str) -> None:
    a = 3.6
    atoms = bulk("Cu", a=a, cubic=True).repeat(4) if shape == "cube" else bulk("Cu", a=a).repeat(7)
    found = radial_distribution([atoms], bin_ang=0.02, unwrapped=True)
    edges = found.r_ang + found.bin_ang / 2
    for shell, n_within in zip((1, 2, 3, 4), (12, 18, 42, 54), strict=True):
        radius = a * np.sqrt(shell / 2)
        assert found.coordination["Cu-Cu"][np.searchsorted(edges, radius + 0.03)] == pytest.approx(n_within)
    highest = found.r_ang[np.argmax(found.g["Cu-Cu"])]
    assert highest == pytest.approx(a / np.sqrt(2), abs=found.bin_ang)
    between = (found.r_ang > 1.03 * a / np.sqrt(2)) & (found.r_ang < 0.97 * a)
    assert not found.g["Cu-Cu"][between].any()


def test_g_is_that_of_mdanalysis_in_a_skewed_cell() -> None:
    import MDAnalysis
    from MDAnalysis.analysis.rdf import InterRDF
    from MDAnalysis.coordinates.memory import MemoryReader
    from MDAnalysis.lib.mdamath import triclinic_box

    random = np.random.default_rng(2)
    lower = np.linalg.cholesky(SKEWED_ANG @ SKEWED_ANG.T)  # the same cell as MDAnalysis turns it
    positions = random.uniform(0, 1, (40, 30, 3)) ** 1.5 @ lower
    numbers = np.array([14] * 10 + [8] * 20)
    found = radial_distribution(in_cell(positions, lower, numbers=numbers), r_max_ang=3.5, bin_ang=0.1)
    universe = MDAnalysis.Universe.empty(30, trajectory=False)
    box = np.broadcast_to(triclinic_box(*lower), (40, 6))
    universe.trajectory = MemoryReader(positions.astype(np.float32), dimensions=box.astype(np.float32))
    silicon, oxygen = universe.atoms[:10], universe.atoms[10:]
    theirs = InterRDF(silicon, oxygen, nbins=35, range=(0.0, 3.5)).run()
    assert np.allclose(found.g["O-Si"], theirs.results.rdf, rtol=1e-4, atol=0.02)  # single precision moves a pair
    same = InterRDF(oxygen, oxygen, nbins=35, range=(0.0, 3.5), exclusion_block=(1, 1)).run()
    assert np.allclose(found.g["O-O"], same.results.rdf, rtol=1e-4, atol=0.02)


def test_a_frame_of_a_breathing_cell_is_normalised_by_its_own_volume() -> None:
    random = np.random.default_rng(3)
    scales = np.linspace(0.8, 1.25, 400)
    cells = scales[:, None, None] * SKEWED_ANG
    positions = np.einsum("fai,fij->faj", random.uniform(0, 1, (400, 20, 3)), cells)
    found = radial_distribution(track(positions, cells_ang=cells), bin_ang=0.3)
    assert np.abs(found.g["all"][3:] - 1).max() < 0.06
    assert found.remarks


def test_a_radial_distribution_is_refused_where_it_means_nothing() -> None:
    positions = np.random.default_rng(4).uniform(0, 5, (3, 4, 3))
    with pytest.raises(InvalidStructureError, match="periodic in all three"):
        radial_distribution(track(positions))
    with pytest.raises(InvalidParameterError, match="half the shortest height"):
        radial_distribution(in_cell(positions, SKEWED_ANG), r_max_ang=6.0)


# -- mean-square displacement


def test_the_fft_gives_the_sum_over_all_origins() -> None:
    positions = np.random.default_rng(5).normal(size=(37, 5, 3)).cumsum(axis=0) + 100
    direct = [((positions[lag:] - positions[: 37 - lag]) ** 2).sum(axis=2).mean() for lag in range(37)]
    assert msd_ang2(positions) == pytest.approx(np.array(direct), rel=1e-9)


def test_the_diffusion_of_random_walks_is_right_within_its_error() -> None:
    """50 walks of known D: the deviations are normal with the errors given, neither too small nor too large."""
    random = np.random.default_rng(6)
    spacing_fs, step_ang = 20.0, 0.1
    wanted = step_ang**2 / (2 * spacing_fs / 1000) * 1e-4
    deviations = []
    for _ in range(50):
        walk = random.normal(0, step_ang, (400, 16, 3)).cumsum(axis=0)
        found = mean_square_displacement(track(walk, spacing_fs=spacing_fs), remove_drift=False).diffusion["Ar"]
        deviations.append((found.coefficient_cm2_per_s - wanted) / found.error_cm2_per_s)
        assert found.coefficient_cm2_per_s == pytest.approx(wanted, rel=0.3)
        assert found.exponent == pytest.approx(1, abs=0.2)
    # an error from five blocks makes Student's distribution of four degrees of freedom: its median is 0.74
    assert abs(np.mean(deviations)) < 0.6
    assert 0.5 < np.median(np.abs(deviations)) < 1.1


def test_ballistic_motion_grows_like_the_square_of_time_and_is_not_called_diffusion() -> None:
    velocities = np.random.default_rng(7).normal(0, 1e-3, (1, 8, 3))
    times_fs = 10.0 * np.arange(200)[:, None, None]
    found = mean_square_displacement(track(velocities * times_fs), remove_drift=False)
    squares = (velocities**2).sum(axis=2).mean() * (1000 * found.lag_ps) ** 2
    assert found.msd_ang2["Ar"] == pytest.approx(squares, rel=1e-6, abs=1e-9)
    assert found.diffusion["Ar"].exponent == pytest.approx(2, abs=1e-3)
    assert any("not like t" in remark for remark in found.remarks)


def test_drift_is_no_diffusion_once_it_is_removed() -> None:
    random = np.random.default_rng(8)
    walk = random.normal(0, 0.1, (300, 40, 3)).cumsum(axis=0)
    drift = np.array([0.3, 0.0, 0.0]) * np.arange(300)[:, None, None]
    alone = mean_square_displacement(track(walk), remove_drift=True)
    drifting = mean_square_displacement(track(walk + drift), remove_drift=True)
    kept = mean_square_displacement(track(walk + drift), remove_drift=False)
    assert drifting.msd_ang2["Ar"] == pytest.approx(alone.msd_ang2["Ar"], rel=1e-8, abs=1e-8)
    assert kept.msd_ang2["Ar"][-1] > 5 * alone.msd_ang2["Ar"][-1]


def test_wrapped_positions_of_others_are_unwrapped_and_ours_are_left_alone() -> None:
    random = np.random.default_rng(9)
    walk = random.normal(0, 0.5, (200, 10, 3)).cumsum(axis=0) + random.uniform(0, 8, (1, 10, 3))
    wrapped = (walk @ np.linalg.inv(SKEWED_ANG) % 1.0) @ SKEWED_ANG
    images = [Atoms("Ar10", positions=p, cell=SKEWED_ANG, pbc=True) for p in wrapped]
    wanted = mean_square_displacement(track(walk)).msd_ang2["Ar"]
    found = mean_square_displacement(images, spacing_fs=10.0).msd_ang2["Ar"]
    assert found == pytest.approx(wanted, rel=1e-8, abs=1e-8)
    untouched = mean_square_displacement(in_cell(10 * walk, SKEWED_ANG)).msd_ang2["Ar"]
    assert untouched == pytest.approx(100 * wanted, rel=1e-8, abs=1e-6)


def test_a_breathing_cell_displaces_no_atom_that_rests_in_it() -> None:
    cells = (1 + 0.05 * np.sin(np.arange(100)))[:, None, None] * SKEWED_ANG
    fractions = np.random.default_rng(10).uniform(-2, 3, (1, 6, 3))
    found = mean_square_displacement(
        track(np.einsum("fai,fij->faj", fractions + 0 * cells[:, :1], cells), cells_ang=cells)
    )
    assert found.msd_ang2["Ar"] == pytest.approx(0, abs=1e-18)


def test_directions_can_be_chosen() -> None:
    walk = np.random.default_rng(11).normal(0, 0.1, (600, 30, 3)).cumsum(axis=0) * [1.0, 1.0, 0.0]
    flat = mean_square_displacement(track(walk), axes="xy").diffusion["Ar"].coefficient_cm2_per_s
    space = mean_square_displacement(track(walk)).diffusion["Ar"].coefficient_cm2_per_s
    assert flat == pytest.approx(1.5 * space)
    with pytest.raises(InvalidParameterError, match="axes"):
        mean_square_displacement(track(walk), axes="xq")


def test_an_msd_of_too_few_or_uneven_frames_is_refused() -> None:
    walk = np.zeros((30, 2, 3))
    with pytest.raises(InvalidParameterError, match="19 frames are too few"):
        mean_square_displacement(track(walk[:19]))
    uneven = np.r_[0.0:28.0, 30.0, 31.0]
    with pytest.raises(InvalidParameterError, match="not equally spaced"):
        mean_square_displacement(track(walk, time_fs=uneven))
    with pytest.raises(InvalidParameterError, match="no time"):
        mean_square_displacement(track(walk, time_fs=None))
    with pytest.raises(InvalidParameterError, match="does not fit"):
        mean_square_displacement(track(walk), fit_ps=(0.1, 0.2))


def test_the_end_of_a_run_that_is_off_the_beat_is_left_out() -> None:
    walk = np.random.default_rng(12).normal(size=(41, 3, 3)).cumsum(axis=0)
    times = np.r_[10.0 * np.arange(40), 393.0]
    late = mean_square_displacement(track(walk, time_fs=times))
    assert np.array_equal(late.msd_ang2["all"], mean_square_displacement(track(walk[:40])).msd_ang2["all"])


# -- vibrations


@pytest.fixture(scope="module")
def oscillating(forces: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A dynamics of independent oscillators at constant energy."""
    structure = forces.oscillators(12)
    params = MDParams(
        ensemble="nve", n_steps=6000, timestep_fs=2.0, temperature_k=300, seed=3, save_every=4, remove_com=False
    )
    directory = tmp_path_factory.mktemp("runs") / "springs"
    with Run.start(directory, kind="md", structures=[structure], params=params, provider=forces.Springs()) as run:
        while run.advance():
            pass
    return directory


def oscillator_per_cm(stiffness_ev_per_ang2: float, mass_u: float, timestep_fs: float) -> float:
    """Of an oscillator that velocity Verlet moves: sin(ω' Δt / 2) = ω Δt / 2."""
    omega = np.sqrt(stiffness_ev_per_ang2 * ANG_PER_FS2_PER_EV_PER_ANG_U / mass_u)
    moved = 2 / timestep_fs * np.arcsin(omega * timestep_fs / 2)
    return float(moved / (2 * np.pi * SPEED_OF_LIGHT_CM_PER_FS))


def test_the_spectrum_of_oscillators_is_one_line_at_their_wavenumber_and_counts_them(oscillating: Any) -> None:
    found = vibrational_density_of_states(oscillating, remove_drift=False)
    wanted = oscillator_per_cm(2.0, 39.948, 2.0)
    assert wanted == pytest.approx(116.7, abs=0.2)
    assert found.peak_per_cm() == pytest.approx(wanted, abs=0.02 * found.resolution_per_cm)
    assert np.trapezoid(found.density_per_cm["all"], found.wavenumber_per_cm) == pytest.approx(36)
    near = np.abs(found.wavenumber_per_cm - wanted) < 2 * found.resolution_per_cm
    inside = np.trapezoid(np.where(near, found.density_per_cm["all"], 0), found.wavenumber_per_cm)
    assert inside == pytest.approx(36, rel=2e-3)
    half = found.density_per_cm["all"] > 0.5 * found.density_per_cm["all"].max()
    width = half.sum() * found.wavenumber_per_cm[1]
    assert width == pytest.approx(found.resolution_per_cm, rel=0.3)
    assert not found.remarks


def test_the_autocorrelation_of_an_oscillator_is_a_cosine(oscillating: Any) -> None:
    found = velocity_autocorrelation(oscillating, remove_drift=False, max_lag_ps=2.0)
    omega = 2 * np.pi * SPEED_OF_LIGHT_CM_PER_FS * oscillator_per_cm(2.0, 39.948, 2.0)
    assert found.normalised() == pytest.approx(np.cos(omega * 1000 * found.lag_ps), abs=5e-3)
    assert found.lag_ps[-1] == pytest.approx(2.0)
    speeds = Track.of(oscillating).needed_velocities()
    assert found.vacf_ang2_per_fs2["all"][0] == pytest.approx((speeds**2).sum(axis=2).mean())


def test_each_element_gets_its_share_of_the_states() -> None:
    """Two kinds of oscillators in equipartition: as many states each as they have coordinates, at their own lines."""
    random = np.random.default_rng(13)
    times, spacing = 4.0 * np.arange(4000), 4.0
    masses = np.array([12.0] * 4 + [48.0] * 8)
    lines = np.where(masses < 20, 800.0, 400.0)
    phases = random.uniform(0, 2 * np.pi, (12, 3))
    angles = 2 * np.pi * SPEED_OF_LIGHT_CM_PER_FS * lines[None, :, None] * times[:, None, None] + phases
    velocities = np.sqrt(2 / masses)[:, None] * np.cos(angles)
    numbers = np.where(masses < 20, 6, 22)
    given = track(0 * velocities, numbers, spacing, masses_u=masses, velocities_ang_per_fs=velocities)
    found = vibrational_density_of_states(given, remove_drift=False)
    for symbol, n_atoms, line in (("C", 4, 800), ("Ti", 8, 400)):
        assert np.trapezoid(found.density_per_cm[symbol], found.wavenumber_per_cm) == pytest.approx(
            3 * n_atoms, rel=1e-3
        )
        assert found.peak_per_cm(symbol) == pytest.approx(line, abs=0.2)
    assert found.density_per_cm["all"] == pytest.approx(found.density_per_cm["C"] + found.density_per_cm["Ti"])


def test_what_is_saved_too_seldom_for_its_vibrations_says_so() -> None:
    velocities = np.random.default_rng(14).normal(size=(64, 2, 3))
    given = track(0 * velocities, 1, spacing_fs=50.0, velocities_ang_per_fs=velocities)
    (remark,) = vibrational_density_of_states(given).remarks
    assert "up to 334 cm⁻¹" in remark
    assert "Save every 4.3 fs" in remark


def test_without_velocities_there_is_no_spectrum() -> None:
    with pytest.raises(InvalidParameterError, match="no velocities"):
        velocity_autocorrelation(track(np.zeros((40, 2, 3))))


# -- displacement parameters


def einstein_crystal(random: np.random.Generator, u: np.ndarray, n_frames: int, cell: np.ndarray, **more: Any) -> Track:
    """Atoms about lattice sites, each with a normal distribution of its own covariance (n_atoms, 3, 3)."""
    sites = random.uniform(0, 1, (len(u), 3)) @ cell
    noise = random.normal(size=(n_frames, len(u), 3))
    away = np.einsum("aij,faj->fai", np.linalg.cholesky(u), noise)
    return in_cell(sites + away, cell, **more)


def test_u_of_an_einstein_crystal_is_kt_over_its_force_constants() -> None:
    """Within the errors given, and symmetric and positive."""
    random = np.random.default_rng(15)
    stiffness = np.array([[2.0, 0.3, 0.0], [0.3, 5.0, 0.4], [0.0, 0.4, 9.0]])
    wanted = KB_EV_PER_K * 300 * np.linalg.inv(stiffness)
    u = np.broadcast_to(wanted, (20, 3, 3))
    found = displacement_parameters(einstein_crystal(random, u, 4000, SKEWED_ANG), remove_drift=False, n_blocks=10)
    assert found.u_cart_ang2 == pytest.approx(u, abs=5 * found.u_cart_error_ang2.max())
    deviations = (found.u_cart_ang2 - wanted) / found.u_cart_error_ang2
    assert 0.6 < np.sqrt((deviations**2).mean()) < 1.7
    assert found.u_iso_ang2 == pytest.approx(np.trace(wanted) / 3, rel=0.05)
    assert np.array_equal(found.u_cart_ang2, found.u_cart_ang2.transpose(0, 2, 1))
    assert (np.linalg.eigvalsh(found.u_cart_ang2) > 0).all()
    assert not found.remarks


def test_u_in_the_convention_of_cif_gives_the_same_debye_waller_factors() -> None:
    """exp[-2π² Σ h_i h_j a*_i a*_j U_ij] is exp[-½ qᵀ U_cart q] for every reflection, in a skewed cell."""
    random = np.random.default_rng(16)
    u = np.broadcast_to(np.diag([0.01, 0.02, 0.03]), (3, 3, 3))
    found = displacement_parameters(einstein_crystal(random, u, 200, SKEWED_ANG))
    reciprocal = np.linalg.inv(SKEWED_ANG).T
    lengths = np.linalg.norm(reciprocal, axis=1)
    for h in random.integers(-5, 6, (20, 3)):
        q = 2 * np.pi * h @ reciprocal
        scaled = h * lengths
        for cart, cif in zip(found.u_cart_ang2, found.u_cif_ang2, strict=True):
            assert 2 * np.pi**2 * scaled @ cif @ scaled == pytest.approx(0.5 * q @ cart @ q, rel=1e-9)


def test_u_in_an_orthogonal_cell_is_the_cartesian_one() -> None:
    random = np.random.default_rng(17)
    u = np.broadcast_to(np.diag([0.01, 0.02, 0.03]), (3, 3, 3))
    found = displacement_parameters(einstein_crystal(random, u, 100, np.diag([4.0, 5.0, 6.0])))
    assert found.u_cif_ang2 == pytest.approx(found.u_cart_ang2, rel=1e-12)


def test_a_drifting_crystal_has_the_u_of_one_at_rest() -> None:
    random = np.random.default_rng(18)
    u = np.broadcast_to(0.01 * np.eye(3), (50, 3, 3))
    rest = einstein_crystal(random, u, 500, SKEWED_ANG)
    drift = np.linspace(0, 7, 500)[:, None, None] * np.array([1.0, 0.5, -0.3])
    moving = in_cell(rest.positions_ang + drift, SKEWED_ANG)
    found = displacement_parameters(moving, remove_drift=True)
    assert found.u_cart_ang2 == pytest.approx(displacement_parameters(rest, remove_drift=True).u_cart_ang2, abs=1e-9)
    kept = displacement_parameters(moving, remove_drift=False)
    assert (kept.u_iso_ang2 > 1).all()
    assert "moved on" in kept.remarks[0]


def test_a_supercell_is_folded_into_its_unit_cell() -> None:
    random = np.random.default_rng(19)
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat((2, 1, 3))
    u = np.where(salt.numbers == 11, 0.02, 0.01)[:, None, None] * np.eye(3)
    away = np.einsum("aij,faj->fai", np.sqrt(u), random.normal(size=(400, len(salt), 3)))
    given = in_cell(salt.positions + away, salt.cell.array, numbers=salt.numbers)
    found = displacement_parameters(given, supercell=(2, 1, 3), remove_drift=False)
    assert found.n_members.tolist() == [6] * 8
    assert found.cell_ang == pytest.approx(5.64 * np.eye(3))
    assert found.u_iso_ang2[found.numbers == 11] == pytest.approx(0.02, rel=0.05)
    assert found.u_iso_ang2[found.numbers == 17] == pytest.approx(0.01, rel=0.05)
    with pytest.raises(InvalidStructureError, match="no 3 x 1 x 1 supercell"):
        displacement_parameters(given, supercell=(3, 1, 1))


def test_a_cif_with_displacements_is_read_back_by_others(tmp_path: Any) -> None:
    import ase.io
    from ase.io.cif import parse_cif

    random = np.random.default_rng(20)
    u = np.broadcast_to(np.diag([0.01, 0.02, 0.03]), (4, 3, 3))
    found = displacement_parameters(einstein_crystal(random, u, 200, SKEWED_ANG, numbers=[14, 14, 8, 8]))
    path = found.to_cif(tmp_path / "x.cif")
    atoms: Any = ase.io.read(path)
    assert atoms.get_chemical_formula() == "O2Si2"
    assert atoms.cell.cellpar() == pytest.approx(Atoms(cell=SKEWED_ANG).cell.cellpar(), abs=1e-4)
    apart = atoms.get_scaled_positions() - found.fractions
    assert apart - np.round(apart) == pytest.approx(0, abs=1e-5)
    (block,) = parse_cif(str(path))
    assert block["_atom_site_aniso_label"] == found.labels
    assert block["_atom_site_aniso_u_13"] == pytest.approx(found.u_cif_ang2[:, 0, 2], abs=1e-6)


def test_displacement_parameters_are_refused_of_what_is_no_crystal() -> None:
    with pytest.raises(InvalidStructureError, match="periodic"):
        displacement_parameters(track(np.zeros((40, 2, 3))))
    with pytest.raises(InvalidParameterError, match="too few"):
        displacement_parameters(in_cell(np.zeros((5, 2, 3)), SKEWED_ANG))
