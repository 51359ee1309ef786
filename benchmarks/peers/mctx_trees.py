"""Trees that mctx searches in random games of few states, for tests; it runs in an environment that has mctx.

    python -m venv .venv-mctx
    .venv-mctx/bin/python -m pip install mctx==0.0.71 "jax[cpu]==0.10.2"
    .venv-mctx/bin/python benchmarks/peers/mctx_trees.py tests/data/mctx

A game is a table: of each state the logits of a policy and a value, and of each action there the reward, the discount
and the next state. A file has a game, the draws that mctx made at the root, and each tree that it made, whole.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mctx
import numpy as np

STATES, ROWS = 60, 4
CASES: dict[str, dict[str, Any]] = {
    "gumbel": {"rule": "gumbel", "actions": 6, "simulations": 16, "considered": 16},
    "gumbel_few": {"rule": "gumbel", "actions": 20, "simulations": 8, "considered": 4},
    "gumbel_many": {"rule": "gumbel", "actions": 5, "simulations": 64, "considered": 3},
    "gumbel_masked": {"rule": "gumbel", "actions": 7, "simulations": 24, "considered": 7, "masked": True},
    "gumbel_two_players": {"rule": "gumbel", "actions": 4, "simulations": 32, "considered": 4, "gamma": -1.0},
    "gumbel_shallow": {"rule": "gumbel", "actions": 3, "simulations": 32, "considered": 3, "max_depth": 2},
    "puct": {"rule": "puct", "actions": 6, "simulations": 50},
    "puct_few": {"rule": "puct", "actions": 12, "simulations": 9},
    "puct_masked": {"rule": "puct", "actions": 7, "simulations": 30, "masked": True, "share": 0.0},
    "puct_two_players": {"rule": "puct", "actions": 4, "simulations": 40, "gamma": -1.0},
    "puct_shallow": {"rule": "puct", "actions": 3, "simulations": 30, "max_depth": 3},
}


def make_game(rng: np.random.Generator, actions: int, gamma: float) -> dict[str, Any]:
    """Tables of a game, rounded, so that its file says all of it; one step in ten ends the episode."""
    shape = STATES, actions
    ends = rng.random(shape) < 0.1
    return {
        "logits": rng.normal(size=shape).round(3).tolist(),
        "value": rng.normal(size=STATES).round(3).tolist(),
        "reward": rng.normal(size=shape).round(3).tolist(),
        "discount": np.where(ends, 0.0, gamma).tolist(),
        "next": rng.integers(STATES, size=shape).tolist(),
    }


def make_case(name: str, case: dict[str, Any], seed: int) -> dict[str, Any]:
    """One game, searched by mctx from several states."""
    rng = np.random.default_rng(seed)
    game = make_game(rng, case["actions"], case.get("gamma", 0.97))
    tables = {key: jnp.asarray(x) for key, x in game.items()}
    start = jnp.arange(ROWS)
    valid = np.ones((ROWS, case["actions"]), bool)
    if case.get("masked"):
        valid = rng.random(valid.shape) < 0.5
        valid[0] = False
        valid[:, 2] = True  # the first row has no other choice

    def recurrent(params: Any, key: Any, action: Any, state: Any) -> Any:
        after = tables["next"][state, action]
        step = mctx.RecurrentFnOutput(
            reward=tables["reward"][state, action],
            discount=tables["discount"][state, action],
            prior_logits=tables["logits"][after],
            value=tables["value"][after],
        )
        return step, after

    key = jax.random.PRNGKey(seed)
    root = mctx.RootFnOutput(prior_logits=tables["logits"][start], value=tables["value"][start], embedding=start)
    shared = {"num_simulations": case["simulations"], "max_depth": case.get("max_depth"), "invalid_actions": ~valid}
    shape = root.prior_logits.shape
    if case["rule"] == "gumbel":
        noise = jax.random.gumbel(jax.random.split(key)[1], shape)  # as mctx draws it
        found = mctx.gumbel_muzero_policy(
            None, key, root, recurrent, max_num_considered_actions=case["considered"], **shared
        )
        assert np.allclose(found.search_tree.extra_data.root_gumbel, noise)
    else:
        alpha = jnp.full(shape[1:], 0.3)
        noise = jax.random.dirichlet(jax.random.split(key, 3)[1], alpha=alpha, shape=shape[:1])  # as mctx draws it
        share = case.get("share", 0.25)
        found = mctx.muzero_policy(None, key, root, recurrent, dirichlet_fraction=share, **shared)
    tree = found.search_tree
    return {
        "name": name,
        "case": case,
        "game": game,
        "valid": valid.tolist(),
        "noise": np.asarray(noise, np.float64).tolist(),
        "children": np.asarray(tree.children_index).tolist(),
        "visits": np.asarray(tree.children_visits).tolist(),
        "value": np.asarray(tree.node_values[:, 0], np.float64).round(6).tolist(),
        "target": np.asarray(found.action_weights, np.float64).round(6).tolist(),
        "action": np.asarray(found.action).tolist() if case["rule"] == "gumbel" else None,
    }


def main() -> None:
    """Write a file for each case."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, case) in enumerate(CASES.items()):
        text = json.dumps(make_case(name, case, seed), separators=(",", ":"))
        (folder / f"{name}.json").write_text(text + "\n")
        print(name, len(text))


if __name__ == "__main__":
    main()
