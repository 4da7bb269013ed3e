"""What a change of the network is worth: each variant learns acetylacetone for the same time, and is judged.

Beside sizes, losses and batches, changes of the layers that were considered for the potential: products of
independent mixes instead of powers of one function; SwiGLU on the sphere, with a gate of scalars so that it stays
exactly equivariant; messages weighed by a smooth attention; a norm of the features of all degrees together; and
radial functions with less or more freedom.

    python benchmarks/network_variants.py --data data --seconds 150 --device cuda --out variants.json
    python benchmarks/network_variants.py --data data --seconds 450 --only "squared errors" --out squared.json

On a GPU all of them learn side by side, in threads; on a CPU one after the other, or one in each process (--only).
Errors are RMSE on the 50 validation frames in meV and meV/Å; the test sets are not looked at.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from systems import show

from equipot.models.network import Architecture, Bonds, DegreeLinear, Layer, Network
from equipot.models.tensor_product import PolynomialProduct, _apply
from equipot.models.training.config import TrainingConfig
from equipot.models.training.datasets import TrainingData, load_training_data
from equipot.models.training.loop import Trainer
from equipot.models.training.progress import TrainingProgress

HERE = Path(__file__).parent


class IndependentProducts(torch.nn.Module):
    """c1 A1 + c2 A1 A2 + c3 A1 A2 A3 on the sphere, each A another mix of the channels."""

    def __init__(self, product: PolynomialProduct, l_max: int, c: int) -> None:
        super().__init__()
        self.product = product
        self.mixes = torch.nn.ModuleList(DegreeLinear(l_max, c, c) for _ in range(3))

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        f1, f2, f3 = (_apply(self.product.to_grid, mix(x)) for mix in self.mixes)
        c1, c2, c3 = (coefficients[:, power] for power in range(3))
        return _apply(self.product.from_grid, f1 * (c1 + f2 * (c2 + f3 * c3)))


class SphereSwiGLU(torch.nn.Module):
    """A + silu(W A_00) (A1 A2) on the sphere: polynomial in the functions, gated by scalars."""

    def __init__(self, product: PolynomialProduct, l_max: int, c: int) -> None:
        super().__init__()
        self.product = product
        self.mixes = torch.nn.ModuleList(DegreeLinear(l_max, c, c) for _ in range(2))
        self.gate = DegreeLinear(0, c, c)

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        f1, f2 = (_apply(self.product.to_grid, mix(x)) for mix in self.mixes)
        gate = torch.nn.functional.silu(self.gate(x[:1]))
        return _apply(self.product.from_grid, f1 * (coefficients[:, 0] + gate * f2))


class Attention(torch.nn.Module):
    """Weights of neighbours, smooth at the cutoff: e_ij exp(q_i k_j) / (1 + Σ_j e_ij exp(q_i k_j)), one per head."""

    def __init__(self, c: int, n_messages: int, n_heads: int = 4) -> None:
        super().__init__()
        self.n_heads, self.repeat = n_heads, n_messages // n_heads
        self.query, self.key = DegreeLinear(0, c, c), DegreeLinear(0, c, c)

    def heads(self, layer: DegreeLinear, h: torch.Tensor) -> torch.Tensor:
        return layer(h[:1])[0].view(h.shape[1], self.n_heads, -1)


class Norm(torch.nn.Module):
    """x / √(mean of x² over channels and components + 0.1), all degrees together."""

    def __init__(self, product: torch.nn.Module) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        return self.product(x * torch.rsqrt(x.square().mean((0, 2), keepdim=True) + 0.1), coefficients)


class AttentiveLayer(Layer):
    """A layer after the first whose messages are weighed by attention."""

    def __init__(self, a: Architecture, is_first: bool, l_out: int) -> None:
        super().__init__(a, is_first, l_out)
        self.attention = Attention(a.n_channels, a.n_message_channels)

    def send(self, h: torch.Tensor, bonds: Bonds) -> torch.Tensor:
        self.queries = self.attention.heads(self.attention.query, h)
        keys = self.attention.heads(self.attention.key, h).flatten(1).unsqueeze(1)
        sent = super().send(h, bonds)
        return torch.cat([sent, keys.expand(-1, sent.shape[1], -1)], dim=-1)

    def receive(self, received: torch.Tensor | None, bonds: Bonds) -> torch.Tensor:
        assert received is not None
        n = self.queries.shape[1] * self.queries.shape[2]
        keys = received[..., -n:].unflatten(-1, self.queries.shape[1:])
        logits = (keys * self.queries.unsqueeze(1)).sum(-1) / sqrt(self.queries.shape[2])
        nearness = bonds.functions[:, :1].transpose(1, 2)  # b_1 Y_00, positive and smooth at the cutoff
        weight = torch.exp(logits.clamp(max=8.0))
        weight = weight / (1.0 + (nearness * weight).sum(1, keepdim=True))
        scale = torch.cat(
            [
                weight.repeat_interleave(self.attention.repeat, dim=-1),
                torch.ones_like(received[..., self.attention.n_heads * self.attention.repeat : -n]),
            ],
            dim=-1,
        )
        return super().receive(received[..., :-n] * scale, bonds)


def _with_products(kind: type[IndependentProducts] | type[SphereSwiGLU]) -> Callable[[Network], None]:
    def change(network: Network) -> None:
        a = network.architecture
        for layer in network.layers:
            layer.product = kind(layer.product, a.l_max, a.n_channels)

    return change


def _with_norm(network: Network) -> None:
    for layer in network.layers:
        layer.product = Norm(layer.product)


def _with_attention(network: Network) -> None:
    a = network.architecture
    for t in range(1, a.n_layers):
        network.layers[t] = AttentiveLayer(a, False, network.layers[t].l_out)


class DampedBasis(torch.nn.Module):
    """The radial basis with its n-th function divided by √n."""

    def __init__(self, basis: torch.nn.Module, n_basis: int) -> None:
        super().__init__()
        self.basis = basis
        self.register_buffer("factor", torch.arange(1, n_basis + 1, dtype=torch.float64)[:, None] ** -0.5, False)
        self.factor: torch.Tensor

    def forward(self, distance_ang: torch.Tensor) -> torch.Tensor:
        damped: torch.Tensor = self.basis(distance_ang) * self.factor.to(distance_ang.dtype)
        return damped


class PerceptronBasis(torch.nn.Module):
    """The radial basis and a perceptron of it, zero where the basis is: radial functions are no longer linear in it."""

    def __init__(self, basis: torch.nn.Module, n_basis: int, width: int = 32) -> None:
        super().__init__()
        self.basis = basis
        self.first = torch.nn.Parameter(torch.randn(n_basis, width) / sqrt(n_basis))
        self.second = torch.nn.Parameter(0.1 * torch.randn(width, n_basis) / sqrt(width))

    def forward(self, distance_ang: torch.Tensor) -> torch.Tensor:
        basis: torch.Tensor = self.basis(distance_ang)
        hidden = torch.nn.functional.silu(torch.einsum("ans,nw->aws", 3.0 * basis, self.first))
        return basis + 0.5 * torch.einsum("aws,wn->ans", hidden, self.second)


def _with_basis(kind: type[DampedBasis] | type[PerceptronBasis]) -> Callable[[Network], None]:
    def change(network: Network) -> None:
        network.basis = kind(network.basis, network.architecture.n_basis)

    return change


LAYERS: dict[str, Callable[[Network], None]] = {
    "basis weighted by 1/√n": _with_basis(DampedBasis),
    "perceptron between basis and radial functions": _with_basis(PerceptronBasis),
    "independent products": _with_products(IndependentProducts),
    "SwiGLU-S²": _with_products(SphereSwiGLU),
    "attention": _with_attention,
    "merged layer norm": _with_norm,
}
SIZES: dict[str, dict[str, Any]] = {
    "as shipped for acac": {},
    "128 channels": {"n_channels": 128},
    "32 whole functions": {"n_tensor_channels": 32},
    "64 channels along bonds, 48 whole functions": {"n_message_channels": 64, "n_tensor_channels": 48},
    "l_hidden 3": {"l_hidden": 3},
    "l_max 4, l_hidden 3": {"l_max": 4, "l_hidden": 3},
    "three layers": {"n_layers": 3},
    "12 Bessel functions": {"n_basis": 12},
    "cutoff 4 Å": {"cutoff_ang": 4.0},
    "5 Bessel functions": {"n_basis": 5},
    "16 and 32 message channels": {"n_pair_channels": 16, "n_message_channels": 32},
    "l_hidden 3, 32 whole functions": {"l_hidden": 3, "n_tensor_channels": 32},
    "128 channels, 48 whole functions, l_hidden 3": {
        "n_channels": 128,
        "n_tensor_channels": 48,
        "n_message_channels": 64,
        "l_hidden": 3,
    },
}
OPTIMISERS: dict[str, dict[str, Any]] = {
    "weight decay 0.1": {"weight_decay": 0.1},
    "learning rate 0.0006": {"learning_rate": 0.0006},
    "learning rate 0.0012": {"learning_rate": 0.0012},
    "learning rate 0.0048": {"learning_rate": 0.0048},
    "batches of 2": {"atoms_per_batch": 30},
    "batches of 10": {"atoms_per_batch": 150},
}
LOSSES: dict[str, dict[str, Any]] = {
    "squared errors": {"energy_penalty": "l2", "force_penalty": "l2", "energy": 225.0, "force": 0.3333},
    "squared errors, a tenth on energies": {
        "energy_penalty": "l2",
        "force_penalty": "l2",
        "energy": 22.5,
        "force": 0.3333,
    },
    "half the weight on energies": {"energy": 5.0},
    "no loss of repulsion": {"repulsion": 0.0},
}


class VariantTrainer(Trainer):
    """A training of a network that is changed when it is made."""

    change: Callable[[Network], None] | None = None

    @classmethod
    def of(cls, change: Callable[[Network], None] | None) -> type[VariantTrainer]:
        """Trainings of networks with this change."""
        return type("Variant", (cls,), {"change": staticmethod(change) if change else None})

    def _new_network(self, dtype: torch.dtype) -> Network:
        network = super()._new_network(dtype)
        if self.change is not None:
            self.change(network)
        return network.to(self.device, dtype)


@dataclass(frozen=True)
class Variant:
    """What is changed of the training in benchmarks/accuracy/acac.yaml."""

    sizes: Mapping[str, Any] = field(default_factory=dict)
    optimiser: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    layers: Callable[[Network], None] | None = None


def variants(only: list[str]) -> dict[str, Variant]:
    """All of them by name, or only some."""
    everything = {name: Variant(sizes=changes) for name, changes in SIZES.items()}
    everything |= {name: Variant(optimiser=changes) for name, changes in OPTIMISERS.items()}
    everything |= {name: Variant(loss=changes) for name, changes in LOSSES.items()}
    everything |= {name: Variant(layers=change) for name, change in LAYERS.items()}
    return {name: variant for name, variant in everything.items() if not only or name in only}


def trainer_of(
    name: str, config: TrainingConfig, data: TrainingData, given: argparse.Namespace, folder: Path
) -> VariantTrainer:
    """A training of a variant that ends by the clock."""
    variant = variants([])[name]
    fixed = {
        "n_steps": 10**9,
        "max_seconds": given.seconds,
        "float64_fraction": 0.0,
        "validate_every": 1800,
        "compile": False,
    }
    config = config.model_copy(
        update={
            "network": replace(config.network, **variant.sizes),
            "optimiser": config.optimiser.model_copy(update={**fixed, **variant.optimiser}),
            "loss": config.loss.model_copy(update=dict(variant.loss)),
            "checkpoint_every_s": 1e9,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    kind = VariantTrainer.of(variant.layers)
    return kind(config, data, folder, torch.device(given.device), TrainingProgress(1, quiet=True))


def _at(config: TrainingConfig, data: Path) -> TrainingConfig:
    """The configuration with its files in another folder."""
    files = [spec.model_copy(update={"path": data / Path(*spec.path.parts[1:])}) for spec in config.data.train]
    return config.model_copy(update={"data": config.data.model_copy(update={"train": files, "tests": {}})})


def train(name: str, trainer: VariantTrainer, rows: list[dict[str, Any]]) -> None:
    """Train and note the errors; a variant that fails is noted too."""
    row: dict[str, Any] = {"variant": name, "n_parameters": sum(p.numel() for p in trainer.network.parameters())}
    rows.append(row)
    try:
        trainer.run()
        valid, train_errors = trainer.judge(trainer.valid).summary(), trainer.judge(trainer.train).summary()
        row |= {
            "n_steps": trainer.position.step,
            "seconds": round(trainer.position.seconds, 1),
            "energy_rmse_mev": valid["energy_rmse_mev"],
            "force_rmse_mev_per_ang": valid["force_rmse_mev_per_ang"],
            "training_force_rmse_mev_per_ang": train_errors["force_rmse_mev_per_ang"],
        }
    except Exception:
        row["error"] = traceback.format_exc()
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("variants.json"))
    parser.add_argument("--seconds", type=float, default=120.0, help="training time of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of variants")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        config = TrainingConfig.read(HERE / "accuracy" / "acac.yaml", seed=given.seed)
        data = load_training_data(_at(config, given.data))
        trainers = {
            name: trainer_of(name, config, data, given, Path(scratch) / str(i))
            for i, name in enumerate(variants(given.only))
        }
        threads = [threading.Thread(target=train, args=(name, trainer, rows)) for name, trainer in trainers.items()]
        started = time.monotonic()
        for thread in threads:
            thread.start()
            if given.device == "cpu":
                thread.join()
        for thread in threads:
            thread.join()
    given.out.write_text(json.dumps(rows, indent=1) + "\n")
    columns = ["variant", "parameters", "steps", "E", "F", "F training"]
    lines = [
        [
            row["variant"],
            str(row["n_parameters"]),
            str(row.get("n_steps", "-")),
            *(
                f"{row[key]:.2f}" if key in row else "-"
                for key in ("energy_rmse_mev", "force_rmse_mev_per_ang", "training_force_rmse_mev_per_ang")
            ),
        ]
        for row in rows
    ]
    show(f"{given.seconds:.0f} s each ({time.monotonic() - started:.0f} s together), {given.device}", columns, lines)


if __name__ == "__main__":
    main()
