"""Fitted Q evaluation of d3rlpy on a small table, as a file that ours is compared with.

Runs in an environment of its own, which has d3rlpy and not this project:

    python benchmarks/peers/d3rlpy_fqe.py tests/data/d3rlpy/fqe.npz

writes recorded transitions of a random process of few states (`state`, `action`, `reward`, `next_state`, `terminal`),
the `policy`, an action per state, the table `q` that d3rlpy's estimate converges to with one-hot states and a linear
network, `exact`, the solution of Bellman's equation of the recorded process, and `about`, a JSON text.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos import DiscreteBCConfig
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.ope import DiscreteFQE, FQEConfig
from d3rlpy.torch_utility import TorchMiniBatch

STATES, ACTIONS, ROWS, DISCOUNT, UPDATES, TOLERANCE = 5, 2, 200, 0.9, 8000, 3e-4
SETTINGS = {"learning_rate": 0.002, "gamma": DISCOUNT, "target_update_interval": 20}


def record(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Transitions of random states and actions.

    Rewards and values are small: d3rlpy's Huber loss is then a squared error, whose minimum is the mean.
    """
    chances = rng.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
    rewards = rng.uniform(0.0, 0.1, size=(STATES, ACTIONS))
    state, action = rng.integers(STATES, size=ROWS), rng.integers(ACTIONS, size=ROWS)
    next_state = np.array([rng.choice(STATES, p=chances[s, a]) for s, a in zip(state, action, strict=True)])
    reward = rewards[state, action] + rng.normal(0.0, 0.02, ROWS)
    terminal = rng.random(ROWS) < 0.1
    return {"state": state, "action": action, "reward": reward, "next_state": next_state, "terminal": terminal}


def solve(rows: dict[str, np.ndarray], policy: np.ndarray) -> np.ndarray:
    """`[states, actions]` values of the policy in the process that has the recorded frequencies."""
    pair = rows["state"] * ACTIONS + rows["action"]
    count = np.bincount(pair, minlength=STATES * ACTIONS)
    mean = np.bincount(pair, rows["reward"], minlength=STATES * ACTIONS) / count
    moves = np.zeros((STATES * ACTIONS, STATES * ACTIONS))
    np.add.at(moves, (pair, rows["next_state"] * ACTIONS + policy[rows["next_state"]]), 1.0 - rows["terminal"])
    system = np.eye(STATES * ACTIONS) - DISCOUNT * moves / count[:, None]
    return np.linalg.solve(system, mean).reshape(STATES, ACTIONS)


def estimate(rows: dict[str, np.ndarray], policy: np.ndarray) -> np.ndarray:
    """`[states, actions]` values by d3rlpy, all rows in each update."""
    d3rlpy.seed(0)
    # d3rlpy wants a hidden layer; without its activation the network stays linear.
    linear = VectorEncoderFactory([STATES], exclude_last_activation=True)
    actor = DiscreteBCConfig(encoder_factory=linear).create(device="cpu:0")
    actor.create_impl((STATES,), ACTIONS)
    one_hot = torch.eye(STATES)
    with torch.no_grad():
        for p in actor.impl.modules.imitator.parameters():
            p.copy_(torch.eye(STATES) if p.shape == (STATES, STATES) else torch.zeros_like(p))
        actor.impl.modules.imitator._fc.weight.copy_(torch.eye(ACTIONS)[:, policy])
    evaluation = DiscreteFQE(actor, FQEConfig(encoder_factory=linear, **SETTINGS), device="cpu:0")
    evaluation.create_impl((STATES,), ACTIONS)
    column = {name: torch.from_numpy(x).float()[:, None] for name, x in rows.items()}
    batch = TorchMiniBatch(
        observations=one_hot[rows["state"]], actions=column["action"].long(), rewards=column["reward"],
        next_observations=one_hot[rows["next_state"]], next_actions=torch.zeros(ROWS, 1),
        returns_to_go=torch.zeros(ROWS, 1), terminals=column["terminal"], intervals=torch.ones(ROWS, 1),
        device="cpu:0",
    )  # fmt: skip
    for update in range(UPDATES):
        evaluation.impl.update(batch, update)
    states = np.repeat(np.eye(STATES, dtype=np.float32), ACTIONS, axis=0)
    return evaluation.predict_value(states, np.tile(np.arange(ACTIONS), STATES)).reshape(STATES, ACTIONS)


def main() -> None:
    """Write the file.

    Raises:
        RuntimeError: d3rlpy did not converge to the solution.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows, policy = record(rng), rng.integers(ACTIONS, size=STATES)
    exact, q = solve(rows, policy), estimate(rows, policy)
    if (error := np.abs(q - exact).max()) > TOLERANCE:
        raise RuntimeError(f"d3rlpy's estimate is {error} from the solution:\n{q}\n{exact}")
    about = {"versions": {name: version(name) for name in ("d3rlpy", "torch", "numpy")}, "settings": SETTINGS}
    np.savez_compressed(sys.argv[1], **rows, policy=policy, q=q, exact=exact, about=np.array(json.dumps(about)))


if __name__ == "__main__":
    main()
