"""Batches gathered on the device are the graphs of their frames, and losses what their names say."""

from __future__ import annotations

import itertools
import threading
from copy import deepcopy

import numpy as np
import pytest
import torch

from equipot.models.graph import batch_graphs
from equipot.models.network import Network
from equipot.models.potential import Potential, graph_tensors
from equipot.models.reliability import ByElement
from equipot.models.training.batches import CLOSE_TO, Batch, BatchPlan, BatchShape, ClosePairs, FrameStore, ahead
from equipot.models.training.config import FinalStage, LossPart, TrainingConfig, Weights
from equipot.models.training.domain import fit_domain
from equipot.models.training.evaluation import compare
from equipot.models.training.frames import Frame, FrameSet
from equipot.models.training.losses import LEAST_PUSH_EV_PER_ANG, loss_of, of_stage
from equipot.models.training.schedule import average_decay, learning_rate, note_validation, pass_steps, precision
from equipot.models.training.state import Position
from equipot.structure import Structure
from tests.models.conftest import ethanol, graph_of, slab, small_network, triclinic_crystal

CUTOFF_ANG = 5.0
NO_REFERENCE = np.zeros(119)


def value_of(network: Network, batch: Batch, loss: LossPart) -> float:
    """The loss as a number."""
    return float(loss_of(network, batch, loss).detach())


def frame_of(structure: Structure, tiny: Potential, kind: str = "a") -> Frame:
    """A structure labelled by the tiny potential."""
    prediction = tiny.evaluate(graph_of(structure, tiny.cutoff_ang))
    cell, pbc = structure.cell_ang, np.array(structure.pbc)
    stress = np.full(6, np.nan)
    if cell is not None and pbc.any():
        stress = prediction.stress_ev_per_ang3(abs(float(np.linalg.det(cell))))
    return Frame(
        numbers=structure.numbers,
        positions_ang=structure.positions_ang,
        forces_ev_per_ang=prediction.forces_ev_per_ang,
        energy_ev=prediction.energy_ev,
        cell_ang=np.zeros((3, 3)) if cell is None else cell,
        pbc=pbc,
        stress_ev_per_ang3=stress,
        config_type=kind,
        group="x",
    )


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    """Molecule, crystal, slab, and two atoms out of each other's sight."""
    apart = Structure(np.array([1, 8]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]))
    return [ethanol(), triclinic_crystal(), apart, slab(), ethanol(1)]


@pytest.fixture(scope="module")
def frames(structures: list[Structure], tiny: Potential) -> FrameSet:
    kinds = ("a", "b", "a", "b", "a")
    labelled = [frame_of(structure, tiny, kind) for structure, kind in zip(structures, kinds, strict=True)]
    return FrameSet.from_frames(labelled, "tiny")


@pytest.fixture
def store(frames: FrameSet) -> FrameStore:
    return FrameStore(frames, CUTOFF_ANG, NO_REFERENCE)


@pytest.fixture
def network() -> Network:
    return small_network()


@pytest.mark.parametrize("chosen", [[0], [2], [3, 0, 2], [4, 1, 3, 2, 0]])
def test_a_gathered_batch_is_the_graphs_of_its_frames_side_by_side(
    store: FrameStore, structures: list[Structure], chosen: list[int]
) -> None:
    graph = batch_graphs([graph_of(structures[i], CUTOFF_ANG) for i in chosen])
    expected = graph_tensors(graph, torch.float64, torch.device("cpu"))
    batch = store.batch(chosen, torch.float64)
    for got, wanted in zip(batch.inputs, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, check_dtype=False)
    np.testing.assert_array_equal(batch.system_idx, graph.system_idx)
    assert batch.n_with_virial == sum(i in (1, 3) for i in chosen)


def test_close_pairs_ride_behind_the_labelled_frames(store: FrameStore) -> None:
    pairs = ClosePairs.drawn([1, 6], 5, np.random.default_rng(0))
    batch = store.batch([0, 2], torch.float64, pairs)
    assert (batch.n_labelled, batch.n_pairs, len(batch.forces_ev_per_ang)) == (2, 5, 11)
    numbers, vectors, neighbours, mask, reverse = batch.inputs
    assert mask[11:].sum() == 10
    np.testing.assert_array_equal(numbers[11:], pairs.numbers.ravel())
    np.testing.assert_allclose(vectors[11::2, 0, 2], pairs.distance_ang)
    np.testing.assert_allclose(vectors[12::2, 0, 2], -pairs.distance_ang)
    np.testing.assert_array_equal(neighbours[11:, 0], [12, 11, 14, 13, 16, 15, 18, 17, 20, 19])
    np.testing.assert_array_equal(reverse[reverse], np.arange(len(reverse)))
    assert pairs.distance_ang.max() < CLOSE_TO * 2 * 0.76


def test_the_potential_that_made_the_labels_has_no_error_and_one_ev_more_shows_as_one_ev(
    frames: FrameSet, tiny: Potential
) -> None:
    reference = np.nan_to_num(tiny.reference_ev)
    exact = compare(tiny.network, FrameStore(frames, tiny.cutoff_ang, reference)).summary()
    assert exact["energy_mae_mev"] < 1e-6
    assert exact["force_rmse_mev_per_ang"] < 1e-6
    assert exact["stress_mae_gpa"] < 1e-9
    shifted = FrameSet.from_frames([f._replace(energy_ev=f.energy_ev + 1.0) for f in frames], "tiny")
    store = FrameStore(shifted, tiny.cutoff_ang, reference)
    off = compare(tiny.network, store, atoms_per_batch=1)
    assert off.summary()["energy_mae_mev"] == pytest.approx(1000.0)
    assert off.summary()["energy_mae_mev_per_atom"] == pytest.approx(np.mean(1000.0 / store.sizes))
    assert {kind: errors["n_frames"] for kind, errors in off.by_config_type().items()} == {"all": 5, "a": 3, "b": 2}


def test_a_prediction_that_is_not_a_number_is_not_left_out_of_the_errors(frames: FrameSet, network: Network) -> None:
    broken = deepcopy(network)
    with torch.no_grad():
        broken.linear_readout.fill_(torch.nan)
    summary = compare(broken, FrameStore(frames, CUTOFF_ANG, NO_REFERENCE)).summary()
    assert np.isnan(summary["force_mae_mev_per_ang"])
    assert np.isnan(summary["stress_mae_gpa"])


def test_frames_without_forces_are_judged_by_their_energies(frames: FrameSet, network: Network) -> None:
    bare = FrameSet.from_frames([f._replace(forces_ev_per_ang=np.nan * f.forces_ev_per_ang) for f in frames], "tiny")
    store = FrameStore(bare, CUTOFF_ANG, NO_REFERENCE)
    assert not any(name.startswith("force") for name in compare(network, store).summary())
    only_energy = LossPart(force=0.0, virial=0.0)
    batch = store.batch([0, 1], torch.float64)
    assert value_of(network, batch, LossPart(virial=0.0)) == value_of(network, batch, only_energy)


@pytest.mark.parametrize("with_pairs", [False, True])
def test_room_that_frames_do_not_need_changes_no_loss(store: FrameStore, network: Network, with_pairs: bool) -> None:
    """Two frames in a batch with room for five, for more atoms and for longer rows."""
    chosen = [3, 4]
    pairs = ClosePairs.drawn([1, 6], 5, np.random.default_rng(0)) if with_pairs else None
    tight = store.batch(chosen, torch.float64, pairs)
    need = store.shape_of(chosen)
    shape = BatchShape(need.n_frames + 3, need.n_atoms + 11, need.n_slots + 2)
    frames = torch.tensor([*chosen, *[store.nothing] * 3])
    tensors = None if pairs is None else pairs.tensors(torch.device("cpu"))
    roomy = store.gather(frames, shape, torch.float64, tensors)
    for loss in (LossPart(repulsion=1.0), LossPart(energy_penalty="l2", force_penalty="huber", virial_penalty="l2")):
        assert value_of(network, roomy, loss) == pytest.approx(value_of(network, tight, loss), rel=1e-10)


# ---- order


def test_every_frame_is_used_once_in_a_pass_and_passes_differ() -> None:
    rng = np.random.default_rng(0)
    sizes, slots = rng.integers(3, 30, 1300), rng.integers(5, 60, 1300)
    plan = BatchPlan(sizes, slots, 100, seed=3)
    first, second, again = plan.of_pass(0), plan.of_pass(1), BatchPlan(sizes, slots, 100, seed=3).of_pass(0)
    assert sorted(np.concatenate(first)) == list(range(1300))
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    totals = [int(sizes[batch].sum()) for batch in first]
    assert sum(total < 100 for total in totals) <= 3  # one unfinished batch in each chunk
    assert max(totals) < 130
    padding = np.mean([slots[batch].max() - slots[batch].mean() for batch in first])
    assert padding < 3 < slots.max() - slots.mean()


def test_batches_made_ahead_come_in_order_and_their_errors_come_through() -> None:
    assert list(ahead(lambda: range(20), 3)) == list(range(20))

    def failing() -> itertools.chain[int]:
        return itertools.chain([1, 2], (1 // 0 for _ in range(1)))

    with pytest.raises(ZeroDivisionError):
        list(ahead(failing))
    endless = ahead(itertools.count)
    assert next(endless) == 0
    endless.close()
    assert not any(thread.name == "batches ahead" for thread in threading.enumerate())


# ---- losses


def test_a_loss_is_zero_where_labels_are_met_and_grows_as_its_name_says(frames: FrameSet, network: Network) -> None:
    """Labels of the network itself, then the same with one energy off by a little and by a lot."""
    store = FrameStore(frames, CUTOFF_ANG, NO_REFERENCE)
    own = compare(network, store)
    made = [
        f._replace(energy_ev=float(e[1]), forces_ev_per_ang=forces[..., 1], stress_ev_per_ang3=stress[:, 1])
        for f, e, forces, stress in zip(
            frames,
            own.energy_ev,
            np.split(own.forces_ev_per_ang, np.cumsum(store.sizes)[:-1]),
            np.where(np.isnan(own.stress_ev_per_ang3[..., :1]), np.nan, own.stress_ev_per_ang3),
            strict=True,
        )
    ]
    loss = LossPart(
        energy_penalty="l2",
        force_penalty="huber",
        virial_penalty="l2",
        energy=3.0,
        force=2.0,
        force_delta_ev_per_ang=0.1,
    )
    exact = FrameStore(FrameSet.from_frames(made, "x"), CUTOFF_ANG, NO_REFERENCE)
    assert value_of(network, exact.batch(range(5), torch.float64), loss) == pytest.approx(0.0, abs=1e-18)
    for push in (0.01, 5.0):
        pushed = made[0].forces_ev_per_ang + np.array([push, 0.0, 0.0])
        wrong = [made[0]._replace(energy_ev=made[0].energy_ev + 0.9, forces_ev_per_ang=pushed)]
        batch = FrameStore(FrameSet.from_frames(wrong, "x"), CUTOFF_ANG, NO_REFERENCE).batch([0], torch.float64)
        huber = 0.5 * push**2 / 0.1 if push < 0.1 else push - 0.05
        assert value_of(network, batch, loss) == pytest.approx(3.0 * 0.1**2 + 2.0 * huber)


def test_weights_of_a_config_type_scale_its_frames_alone(frames: FrameSet, network: Network) -> None:
    plain, weighed = (FrameStore(frames, CUTOFF_ANG, NO_REFERENCE) for _ in range(2))
    weighed.weigh({"b": Weights(energy=0.0, force=0.0, virial=0.0), "nothing": Weights(energy=7.0)})
    loss = LossPart(force=0.0, virial=0.0)
    alone = value_of(network, plain.batch([0, 2, 4], torch.float64), loss)
    together = value_of(network, weighed.batch([0, 1, 2, 3, 4], torch.float64), loss)
    assert together == pytest.approx(alone * 3 / 5)


def test_pairs_that_attract_cost_what_they_lack_of_a_push(store: FrameStore, network: Network) -> None:
    pairs = ClosePairs(np.array([[1, 1]]), np.array([0.05]))
    loss = LossPart(energy=0.0, force=0.0, virial=0.0, repulsion=1.0)
    assert value_of(network, store.batch([0], torch.float64, pairs), loss) == 0.0  # ZBL pushes hard enough
    free = ClosePairs(np.array([[1, 1]]), np.array([4.999]))
    lacking = value_of(network, store.batch([0], torch.float64, free), loss)
    assert lacking == pytest.approx(LEAST_PUSH_EV_PER_ANG * np.log(2.0), rel=0.05)


def test_a_pair_that_attracts_wildly_does_not_drown_the_frames(store: FrameStore, network: Network) -> None:
    """Such pairs come up at high learning rates; with a loss in proportion one step in a hundred went astray."""
    loss = LossPart(energy=0.0, force=0.0, virial=0.0, repulsion=1.0)
    near = store.batch([0], torch.float64, ClosePairs(np.array([[6, 6]]), np.array([1.2])))

    def slope(readout: float) -> tuple[float, float]:
        wild = deepcopy(network).double()
        with torch.no_grad():
            wild.linear_readout.sub_(readout)  # attracts
        value = loss_of(wild, near, loss)
        (gradient,) = torch.autograd.grad(value, [wild.linear_readout])
        return float(value.detach()), float(readout * gradient.norm())

    (value, by_readout), (wilder_value, wilder_by_readout) = slope(1e4), slope(1e8)
    assert value > 5 * LEAST_PUSH_EV_PER_ANG
    assert wilder_value == pytest.approx(value + LEAST_PUSH_EV_PER_ANG * np.log(1e4), rel=0.01)
    assert wilder_by_readout == pytest.approx(by_readout, rel=0.01)


# ---- what changes in the course of a training


def config_of(**changes: object) -> TrainingConfig:
    optimiser = {"n_steps": 1000, "learning_rate": 0.1, "warmup_steps": 10, "final_fraction": 0.01}
    stage = changes.pop("final_stage", None)
    return TrainingConfig.model_validate(
        {
            "name": "x",
            "level_of_theory": "x",
            "data": {"train": ["a.xyz"], "valid": {"n_frames": 1}},
            "optimiser": {**optimiser, **changes},
            "final_stage": stage,
        }
    )


def test_the_learning_rate_warms_up_and_follows_its_schedule() -> None:
    rates = {
        kind: [learning_rate(config_of(schedule=kind), Position(step=step), step / 1000) for step in (0, 9, 500, 1000)]
        for kind in ("cosine", "constant")
    }
    assert rates["cosine"] == pytest.approx([0.01, 0.1, 0.1 * 0.505, 0.001], rel=1e-3)
    assert rates["constant"] == pytest.approx([0.01, 0.1, 0.1, 0.1])
    plateau, position = config_of(schedule="plateau", plateau_patience=1, plateau_factor=0.5), Position(step=500)
    for loss in (3.0, 2.0, 2.5, 2.5, 1.0, 1.5, 1.5):
        note_validation(plateau, position, loss)
    assert learning_rate(plateau, position, 0.5) == pytest.approx(0.025)


def test_the_final_stage_changes_weights_rate_and_average_when_it_begins() -> None:
    stage = FinalStage(start=0.5, energy=99.0, learning_rate=1e-4, average="uniform")
    config = config_of(final_stage=stage.model_dump())
    assert of_stage(config.loss, None) == config.loss
    assert (of_stage(config.loss, stage).energy, of_stage(config.loss, stage).force) == (99.0, config.loss.force)
    assert learning_rate(config, Position(step=600), 0.6) == 1e-4
    assert learning_rate(config, Position(step=400), 0.4) > 1e-2
    position, mean, values = Position(step=600), 5.0, [1.0, 2.0, 6.0]
    for value in values:
        decay = average_decay(config, position, 0.6)
        mean = decay * mean + (1.0 - decay) * value
        pass_steps(config, position, 1)
    assert mean == pytest.approx(3.0)


def test_the_last_share_of_the_steps_is_in_double_precision() -> None:
    optimiser = config_of(float64_fraction=0.25).optimiser
    assert [precision(optimiser, done) for done in (0.0, 0.74, 0.75, 1.0)] == [torch.float32] * 2 + [torch.float64] * 2
    assert precision(config_of().optimiser, 1.0) == torch.float32


def test_the_domain_holds_what_was_trained_on_and_not_what_was_crushed(tiny: Potential) -> None:
    molecules = FrameSet.from_frames([frame_of(ethanol(seed), tiny) for seed in range(12)], "x")
    store = FrameStore(molecules, CUTOFF_ANG, NO_REFERENCE)
    network = small_network().float()
    domain = fit_domain(network, store, store)

    def largest(structure: Structure) -> float:
        inputs = graph_tensors(graph_of(structure, CUTOFF_ANG), torch.float32, torch.device("cpu"))
        out = network(*inputs)
        elements = ByElement.of(network.species_of_number[inputs[0]].numpy(), torch.device("cpu"))
        return float(domain.distances(out.descriptors.detach().double(), elements).max())

    inside, crushed = ethanol(3), ethanol(3)
    assert largest(inside) <= 1.01
    assert largest(crushed.moved_to(0.7 * crushed.positions_ang)) > 2.0
