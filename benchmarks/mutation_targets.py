"""The files that mutation testing changes, which of their functions, and the tests that must notice."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Target(NamedTuple):
    """One file.

    Attributes:
        file: path in the repository.
        tests: paths of the test files that belong to it, or of single tests as pytest names them.
        functions: names of those that are changed, methods with their class; empty for all of the file.
        without: parts of the names of tests that are left out, because they take long.
    """

    file: str
    tests: tuple[str, ...]
    functions: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def formulas(name: str, *tests: str) -> Target:
    """All of one file of `modules/functional`, by its own test file and others."""
    own = f"tests/modules/functional/test_{name}.py"
    return Target(f"modules/functional/{name}.py", (own, *tests))


FORMULAS = (
    "cloning",
    "expectiles",
    "deterministic_policy",
    "returns",
    "sequence_targets",
    "planning_targets",
    "unrolled",
    "gradient_estimators",
    "divergences",
    "distributions",
    "pessimism",
    "conservatism",
    "soft_values",
    "popart",
    "proximal",
    "transforms",
    "schedules",
    "statistics",
    "aggregate_scores",
    "held_out",
    "elementwise",
    "weight_gradients",
    "auxiliary_tasks",
    "recurrent_state",
    "external_memory",
    "rank_one_tape",
    "ratings",
    "lookahead_choice",
    "policy_evaluation",
    "bandits",
    "choosing",
    "proposals",
    "atoms",
    "augmentation",
    "board_symmetries",
    "member_spread",
    "probes",
    "headroom",
    "trajectory_weights",
    "laprop_steps",
    "internal_reward",
    "small_objects",
    "bits",
    "frame_classes",
    "evolution",
)
ALGORITHMS = "tests/modules/algorithms"
METRICS = f"{ALGORITHMS}/test_update_metrics.py"
RESIDUALS = f"{ALGORITHMS}/test_bellman_residuals.py"
MIXTURES = f"{ALGORITHMS}/test_dreamer_mixtures.py"
LOSSES = {
    "entropy_floor": Target(
        "modules/agent/entropy_floor.py",
        ("tests/modules/agent/test_entropy_floor.py",),
        ("Temperature.__init__", "Temperature.reduce", "Temperature.update"),
    ),
    "adaptive_beta": Target(
        "modules/agent/adaptive_beta.py",
        ("tests/modules/agent/test_adaptive_beta.py",),
        ("AdaptiveBeta.check", "AdaptiveBeta.make_bound", "BellmanBound.weigh", "BellmanBound._average"),
    ),
    "trust_region": Target(
        "modules/agent/trust_region.py",
        ("tests/modules/agent/test_trust_region.py",),
        (
            "Tether.measure",
            "Tether.distance",
            "Tether.pull",
            "Tether.departure",
            "squared_distance",
            "Tethered.judge",
            "Tethered._held_out",
            "Tethered._measure_spread",
            "Tethered._held_out_trust",
            "Tethered._pull_back",
        ),
        ("two_ranks", "stays_within", "takes_effect"),
    ),
    "action_kinds": Target("modules/agent/action_kinds.py", ("tests/modules/agent/test_action_kinds.py",)),
    "fitted_q": Target(
        "modules/algorithms/fitted_q.py",
        ("tests/modules/algorithms/test_fitted_q.py",),
        ("FittedQ.update", "FittedQ.backup", "FittedQ.actions", "FittedQ.values"),
    ),
    "actor_critic_updates": Target(
        "modules/agent/actor_critic_updates.py",
        ("tests/modules/agent/test_actor_critic_updates.py",),
        (
            "CriticUpdates.pessimism_share",
            "CriticUpdates.target",
            "CriticUpdates.clip_backup",
            "CriticUpdates._clipped",
        ),
    ),
    "descent": Target(
        "modules/agent/descent.py",
        ("tests/modules/agent/test_descent.py",),
        ("weighted_sum", "reset_adam", "descend", "descend_clipped", "_gradients", "_step", "_adam", "_rmsprop"),
    ),
    "moe_regression": Target(
        "modules/algorithms/moe_regression.py",
        (f"{ALGORITHMS}/test_moe_regression.py",),
        ("MoERegression.learn",),
        ("continues", "checkpoint", "one_cycle"),
    ),
    "behavior_cloning": Target(
        "modules/algorithms/behavior_cloning.py",
        (f"{ALGORITHMS}/test_behavior_cloning.py",),
        ("BehaviorCloning.learn", "BehaviorCloning._cloning_loss"),
        ("a_run", "without_held_out", "two_ranks", "recorded"),
    ),
    "dynamics_ensemble": Target(
        "modules/algorithms/dynamics_ensemble.py",
        (f"{ALGORITHMS}/test_dynamics_ensemble.py", "tests/modules/networks/test_dynamics.py"),
        ("DynamicsEnsemble.learn",),
        ("a_run", "two_ranks", "plays"),
    ),
    "dynamics": Target(
        "modules/networks/dynamics.py",
        (f"{ALGORITHMS}/test_dynamics_ensemble.py", "tests/modules/networks/test_dynamics.py"),
        (
            "StepDistribution.sample",
            "StepDistribution.chance_of_ending",
            "StackedDynamics.losses",
            "StackedDynamics.errors",
            "_termination_loss",
            "step_targets",
        ),
        ("a_run", "two_ranks", "plays"),
    ),
    "iql": Target(
        "modules/algorithms/iql.py",
        (f"{ALGORITHMS}/test_iql.py", f"{ALGORITHMS}/test_iql_trunks.py"),
        ("IQL.learn", "IQL._update_critic", "IQL._values", "IQL._state_values"),
        ("two_ranks", "better_of_two", "two_parts", "bad_arguments"),
    ),
    "a2c": Target(
        "modules/algorithms/a2c.py",
        (f"{ALGORITHMS}/test_a2c.py", RESIDUALS, METRICS),
        ("A2C.learn",),
        ("resumed", "presets", "lets_the_small", "imagination"),
    ),
    "on_policy": Target(
        "modules/agent/on_policy.py",
        (f"{ALGORITHMS}/test_a2c.py", METRICS),
        ("OnPolicy.steps_of", "OnPolicy.unit_of", "of"),
        ("resumed", "presets", "lets_the_small", "imagination"),
    ),
    "remembering": Target(
        "modules/agent/remembering.py",
        ("tests/modules/agent/test_remembering.py",),
        ("start_and_noise", "check_longest"),
        ("resumed", "two_ranks", "learns", "export"),
    ),
    "ftw": Target(
        "modules/algorithms/ftw.py",
        (f"{ALGORITHMS}/test_ftw.py",),
        ("FTW.learn", "FTW._tasks", "FTW._control_loss"),
        ("resumed", "two_ranks", "presets"),
    ),
    "two_timescale": Target(
        "modules/networks/two_timescale.py",
        ("tests/modules/networks/test_two_timescale.py",),
        ("TwoTimescale.forward", "TwoTimescale._clock", "TwoTimescale._losses", "TwoTimescale._hand_in"),
        ("compiled", "r2d2"),
    ),
    "merlin": Target(
        "modules/algorithms/merlin.py",
        (f"{ALGORITHMS}/test_merlin.py",),
        ("MERLIN.learn", "MERLIN._start", "MERLIN._prediction_losses"),
        ("resumed", "two_ranks", "presets"),
    ),
    "simple": Target(
        "modules/algorithms/simple.py",
        (f"{ALGORITHMS}/test_simple.py",),
        ("SimPLe.learn", "SimPLe.learn_model", "SimPLe.clip_of", "SimPLe.starts", "SimPLe.imagine", "SimPLe.open_loop"),
        ("resumed", "preset", "two_ranks"),
    ),
    "proximal_updates": Target(
        "modules/agent/proximal_updates.py",
        (f"{ALGORITHMS}/test_ppo.py", f"{ALGORITHMS}/test_ppo_update.py"),
        tuple(f"Proximal.{name}" for name in ("step", "learn", "_look_back", "_deal", "_divergence", "_value_loss")),
        ("resumed", "presets", "two_ranks", "graph", "pace"),
    ),
    "r2d2": Target(
        "modules/algorithms/r2d2.py",
        (f"{ALGORITHMS}/test_r2d2.py", f"{ALGORITHMS}/test_r2d2_states.py", RESIDUALS, METRICS),
        ("R2D2.learn", "R2D2._predict"),
        ("brings_values_closer", "replay_give"),
    ),
    "muzero": Target(
        "modules/algorithms/muzero.py",
        tuple(f"{ALGORITHMS}/test_muzero{part}.py" for part in ("", "_acting", "_bad_input")),
        ("MuZero.learn", "MuZero.noise_for"),
        ("every_kind", "one_graph"),
    ),
    "beliefs": Target("modules/agent/beliefs.py", (f"{ALGORITHMS}/test_muzero.py",), (), ("every_kind", "one_graph")),
    "planning": Target(
        "modules/agent/planning.py",
        ("tests/modules/agent/test_planning.py", "tests/modules/agent/test_planning_ensembles.py"),
    ),
    "atac": Target(
        "modules/algorithms/atac.py",
        (
            f"{ALGORITHMS}/test_atac.py",
            f"{ALGORITHMS}/test_atac_phases.py",
            f"{ALGORITHMS}/test_atac_numbered.py::test_one_update_equals_plain_loops_over_rows_and_actions",
            f"{ALGORITHMS}/test_atac_adaptive_beta.py::test_the_warm_start_keeps_beta_and_the_game_weighs_by_the_new_one",
            METRICS,
            f"{ALGORITHMS}/test_atac_members.py::test_a_member_equals_the_same_run_done_alone",
            f"{ALGORITHMS}/test_atac_trunks.py::test_balancing_losses_enter_the_loss_of_their_own_network_alone",
            f"{ALGORITHMS}/test_atac_trunks.py::test_balancing_losses_of_the_critics_enter_the_loss_of_the_critics",
            f"{ALGORITHMS}/test_atac_trunks.py::test_a_member_equals_the_same_run_done_alone",
        ),
        (
            "ATAC.learn",
            "ATAC._update_critic",
            "ATAC._pessimism_queries",
        ),
        ("same_seed", "users_compile", "terminal_states", "clones_and_the_switch", "low_entropy", "separates"),
    ),
    "armor": Target(
        "modules/algorithms/armor.py",
        (
            f"{ALGORITHMS}/test_armor.py",
            f"{ALGORITHMS}/test_armor_runs.py::test_a_member_equals_the_same_run_done_alone",
        ),
        ("ARMOR.learn", "ARMOR._update_critic", "ARMOR._update_dynamics", "ARMOR.value_ahead"),
        ("compiled",),
    ),
    "learned_model": Target(
        "modules/agent/learned_model.py",
        ("tests/modules/agent/test_learned_model.py",),
        ("ImaginedSteps.write", "ImaginedSteps.sample", "imagine"),
    ),
    "td3_bc": Target(
        "modules/algorithms/td3_bc.py",
        (f"{ALGORITHMS}/test_td3_bc.py",),
        (
            "TD3BC.learn",
            "TD3BC._update_critic",
            "TD3BC._update_actor",
            "TD3BC._target",
            "TD3BC._take_turn",
        ),
        ("two_ranks", "with_alpha_zero"),
    ),
    "sac": Target(
        "modules/algorithms/sac.py",
        (f"{ALGORITHMS}/test_sac.py", f"{ALGORITHMS}/test_sac_members.py"),
        ("SAC.learn", "SAC._update_critic"),
        ("two_ranks", "compiled"),
    ),
    "cql": Target(
        "modules/algorithms/cql.py",
        (
            f"{ALGORITHMS}/test_cql.py",
            f"{ALGORITHMS}/test_cql_critics.py",
            f"{ALGORITHMS}/test_cql_against_d3rlpy.py",
        ),
        ("CQL.learn", "CQL._update_critic", "CQL._next_action", "CQL._sampled_actions"),
        ("it_learns_the_best", "two_ranks", "compiled"),
    ),
    "multiplier": Target(
        "modules/agent/multiplier.py", ("tests/modules/agent/test_multiplier.py",), ("Multiplier.update",)
    ),
    "actor_critic": Target(
        "modules/world_model/actor_critic.py",
        ("tests/modules/world_model/test_actor_critic.py", MIXTURES),
        (
            "ActorCritic.learn",
            "ActorCritic.losses",
            "ActorCritic._actor_loss",
            "ActorCritic._critic_loss",
            "ActorCritic._scale",
        ),
    ),
    "imagined": Target(
        "modules/world_model/imagined.py",
        ("tests/modules/world_model/test_actor_critic.py", f"{ALGORITHMS}/test_dreamer_v3.py"),
        ("course", "values", "by_step"),
    ),
    "shared_optimizer": Target(
        "modules/world_model/shared_optimizer.py",
        (f"{ALGORITHMS}/test_dreamer_v3.py",),
        ("SharedOptimizer._descend_together",),
    ),
    "latent_ensemble": Target(
        "modules/world_model/latent_ensemble.py",
        ("tests/modules/world_model/test_plan2explore.py", "tests/modules/world_model/test_disagreement_penalty.py"),
        ("LatentEnsemble.predict", "LatentEnsemble.disagreement", "LatentEnsemble.arrival", "LatentEnsemble.fit"),
    ),
    "disagreement_penalty": Target(
        "modules/world_model/disagreement_penalty.py",
        ("tests/modules/world_model/test_disagreement_penalty.py",),
        ("DisagreementPenalty.penalised",),
    ),
    "plan2explore": Target(
        "modules/world_model/plan2explore.py",
        ("tests/modules/world_model/test_plan2explore.py",),
        ("Plan2Explore.learn",),
    ),
    "dreamer": Target(
        "modules/algorithms/dreamer.py",
        (f"{ALGORITHMS}/test_dreamer.py", METRICS, MIXTURES),
        ("DreamerV2.learn", "DreamerV2._model_losses"),
        ("learns_from_a_batch", "hundredth", "bfloat16"),
    ),
}
TARGETS = {name: formulas(name) for name in FORMULAS} | LOSSES
"""By short names, in the order in which they run."""


def check_functions(target: Target) -> None:
    """Refuse a target that names what its file does not have, such as a function by a former name.

    Raises:
        ValueError: there is no such function or method.
    """
    tree = ast.parse((ROOT / target.file).read_text())
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for group in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        there |= {f"{group.name}.{node.name}" for node in group.body if isinstance(node, ast.FunctionDef)}
    if missing := sorted(set(target.functions) - there):
        raise ValueError(f"mutation_targets.py: {target.file} has no function {', '.join(missing)}")


def fingerprint(target: Target) -> str:
    """Digest of what a record depends on: the file, its tests, and the helpers that they name."""
    tests = [(ROOT / test.partition("::")[0]).read_text() for test in target.tests]
    helpers = sorted((ROOT / "tests" / "helpers").glob("*.py"))
    named = [helper.read_text() for helper in helpers if any(helper.stem in test for test in tests)]
    text = "\0".join([(ROOT / target.file).read_text(), *tests, *named, json.dumps(target[2:])])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
