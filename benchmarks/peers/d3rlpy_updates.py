"""Two consecutive updates of d3rlpy's offline algorithms as files that our updates are compared with.

Runs in an environment of its own, which has d3rlpy and not this project:

    python benchmarks/peers/d3rlpy_updates.py tests/data/d3rlpy

writes one `.npz` per case: every parameter before the first and after each update (`initial/...`, `after_1/...`,
`after_2/...`, by the names of d3rlpy's modules), the batches (`batch_1/...`), every random draw in the order of use
(`draws_1/...`) and `about`, a JSON text with the versions, the hyper-parameters and the losses that d3rlpy reports.

Adam's first steps tell little more than signs. What is compared tells more because learning rates are large, target
networks begin far from the networks that they follow, and the second step depends on how the gradients changed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos import BCConfig, CQLConfig, DiscreteBCConfig, IQLConfig, TD3PlusBCConfig
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch
from recorded_draws import (
    ACTION,
    BATCH,
    CHOICES,
    HIDDEN,
    OBSERVATION,
    RATE,
    UPDATES,
    make_batch,
    parameters,
    recorded,
)


@dataclass
class Case:
    """An algorithm with the settings that differ from its defaults, and a name for each draw of one update."""

    config: type[Any]
    encoders: tuple[str, ...]
    draws: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    discrete: bool = False


TWO = ("actor_encoder_factory", "critic_encoder_factory")
CQL_DRAWS = "policy_now", "policy_next", "uniform", "actor"
CASES = {
    "td3_plus_bc": Case(TD3PlusBCConfig, TWO, ("target",)),
    # Noise that reaches its limits and carries actions over theirs.
    "td3_plus_bc_noisy": Case(
        TD3PlusBCConfig, TWO, ("target",), {"target_smoothing_sigma": 1.0, "target_smoothing_clip": 1.5}
    ),
    "iql": Case(IQLConfig, (*TWO, "value_encoder_factory")),
    # Advantages of untrained networks are small: these settings make some weights reach their ceiling.
    "iql_clipped": Case(IQLConfig, (*TWO, "value_encoder_factory"), (), {"weight_temp": 10.0, "max_weight": 1.5}),
    "cql": Case(CQLConfig, TWO, CQL_DRAWS),
    "cql_fixed": Case(CQLConfig, TWO, CQL_DRAWS, {"alpha_learning_rate": 0.0, "initial_alpha": 1.0}),
    "cql_soft": Case(CQLConfig, TWO, ("target", *CQL_DRAWS), {"soft_q_backup": True}),
    "bc": Case(BCConfig, ("encoder_factory",)),
    "discrete_bc": Case(DiscreteBCConfig, ("encoder_factory",), (), {}, True),
    # The likelihood alone, without d3rlpy's penalty on log-probabilities.
    "discrete_bc_plain": Case(DiscreteBCConfig, ("encoder_factory",), (), {"beta": 0.0}, True),
}


def for_d3rlpy(batch: dict[str, np.ndarray]) -> TorchMiniBatch:
    """The batch as d3rlpy's updates take it, without scalers and with steps of one transition."""
    tensors = {name: torch.from_numpy(x) for name, x in batch.items()}
    ones = torch.ones(BATCH, 1)
    return TorchMiniBatch(
        **tensors, next_actions=torch.zeros_like(tensors["actions"]), returns_to_go=0 * ones, intervals=ones,
        device="cpu:0",
    )  # fmt: skip


def run(case: Case) -> dict[str, Any]:
    """Everything about the case's updates by name.

    Raises:
        RuntimeError: an update drew more or fewer times than the case has names.
    """
    d3rlpy.seed(1)
    encoders = {name: VectorEncoderFactory(HIDDEN) for name in case.encoders}
    rates = {f.name: RATE for f in fields(case.config) if f.name.endswith("learning_rate")}
    config = case.config(**{**rates, **encoders, **case.settings})
    algorithm = config.create(device="cpu:0")
    algorithm.create_impl((OBSERVATION,), CHOICES if case.discrete else ACTION)
    modules = algorithm.impl.modules.get_torch_modules()
    for name, module in modules.items():
        if name.startswith("targ_"):
            for p in module.parameters():
                p.data.add_(0.1 * torch.randn_like(p))
    arrays, losses = parameters(modules, "initial"), []
    for update in range(1, UPDATES + 1):
        batch = make_batch(update, case.discrete)
        with recorded() as draws:
            # d3rlpy counts its updates from 0.
            losses.append(algorithm.impl.update(for_d3rlpy(batch), update - 1))
        if len(draws) != len(case.draws):
            raise RuntimeError(f"{case.config.__name__} drew {len(draws)} times, expected {case.draws}")
        arrays |= {f"batch_{update}/{name}": x for name, x in batch.items()}
        arrays |= {f"draws_{update}/{name}": x for name, x in zip(case.draws, draws, strict=True)}
        arrays |= parameters(modules, f"after_{update}")
    plain = (bool, int, float, str)
    settings = {name: x for name, x in vars(config).items() if isinstance(x, plain)}
    versions = {name: version(name) for name in ("d3rlpy", "torch", "numpy")}
    about = {"versions": versions, "algorithm": config.get_type(), "settings": settings, "hidden": HIDDEN}
    return {**arrays, "about": np.array(json.dumps({**about, "losses": losses}))}


def main() -> None:
    """Write one file per case into the folder that is named, of all cases or of those named behind it."""
    torch.set_num_threads(1)
    for name in sys.argv[2:] or CASES:
        np.savez_compressed(Path(sys.argv[1]) / f"{name}.npz", **run(CASES[name]))


if __name__ == "__main__":
    main()
