"""Searches by mctx for `bench_search.py`; it runs in an environment that has mctx.

    .venv-mctx/bin/python benchmarks/peers/mctx_speed.py SETTING < lines

`SETTING` is JSON text: rule, simulations, deepest path, threads, searches of a round, gamma, the file with weights and
roots, and the file that the draws of the first search are written to. The first line printed has the visits of that
search; then each line read is answered by the time of a round.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

SETTING = json.loads(sys.argv[1])
if SETTING["threads"] == 1:  # read when jax is imported
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU's memory is for both sides

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import mctx  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_platforms", SETTING["device"])
jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU it would be TensorFloat-32


def recurrent(problem: dict[str, Any], key: Any, action: Any, embedding: Any) -> Any:
    """The MLP of `bench_search.py`."""
    actions = problem["logits"].shape[1]
    hidden = jax.nn.relu(jnp.concatenate([embedding, jax.nn.one_hot(action, actions)], 1) @ problem["dynamics"])
    state = jnp.tanh(hidden @ problem["state"])
    head = jax.nn.relu(state @ problem["trunk"]) @ problem["head"]
    reward = (hidden @ problem["reward"])[:, 0]
    discount = jnp.full_like(reward, SETTING["gamma"])
    step = mctx.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=head[:, :actions], value=head[:, -1])
    return step, state


@jax.jit
def search(problem: dict[str, Any], key: Any) -> Any:
    """Action, weights and visits of each root."""
    root = mctx.RootFnOutput(prior_logits=problem["logits"], value=problem["value"], embedding=problem["embedding"])
    policy = mctx.gumbel_muzero_policy if SETTING["rule"] == "gumbel" else mctx.muzero_policy
    found = policy(
        problem, key, root, recurrent, num_simulations=SETTING["simulations"], max_depth=SETTING["deepest"]
    )  # fmt: skip
    return found.action, found.action_weights, found.search_tree.summary().visit_counts


def noise(key: Any, shape: tuple[int, ...]) -> Any:
    """Draws at the root, as mctx makes them."""
    if SETTING["rule"] == "gumbel":
        return jax.random.gumbel(jax.random.split(key)[1], shape)
    return jax.random.dirichlet(jax.random.split(key, 3)[1], alpha=jnp.full(shape[1:], 0.3), shape=shape[:1])


def main() -> None:
    """Search once, then time one round per line."""
    problem = {name: jnp.asarray(x) for name, x in np.load(SETTING["problem"]).items()}
    key = jax.random.PRNGKey(0)
    np.save(SETTING["noise"], np.asarray(noise(key, problem["logits"].shape)))
    visits = np.asarray(search(problem, key)[2]).astype(int).tolist()
    versions = {name: version(name) for name in ("mctx", "jax")}
    print(json.dumps({"visits": visits, "versions": versions}), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(SETTING["repeats"]):
            key = jax.random.split(key)[0]
            jax.block_until_ready(search(problem, key))
        spent = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps([1e3 * seconds / SETTING["repeats"] for seconds in spent]), flush=True)


if __name__ == "__main__":
    main()
