"""Small runs of some sixty updates, with everything that a run writes: one of every algorithm and kind of data."""

from __future__ import annotations

from pathlib import Path

from fit_command import write_dataset

LOGGED = ("--trainer.log_every_n_steps", "5")
SMALL_EVALUATION = (
    "--evaluation.episodes", "1", "--evaluation.final_episodes", "2", "--evaluation.parallel", "2",
)  # fmt: skip
PLAYED = (
    *LOGGED, *SMALL_EVALUATION, "--data.environments", "2", "--data.prefill", "60", "--data.steps_per_epoch", "80",
    "--data.updates_per_step", "0.25", "--data.capacity", "120", "--trainer.max_epochs", "3",
    "--checkpoint.every_n_updates", "7",
)  # fmt: skip
WORLD, BEHAVIOUR = "--model.world_model.init_args.", "--model.behaviour.init_args."
NETWORK, REPLAY = "--model.network.init_args.", "--data.replay.init_args."

CASES = {
    "atac": (
        "--model", "ATAC", "--model.hidden", "[16,16]", "--model.actor_lr", "1e-3", "--model.warm_start.updates", "30",
        "--data", "OfflineDataModule", "--data.source", "tiny.npz", "--data.batch_size", "32",
        "--data.normalize_observation", "true", "--data.updates_per_epoch", "20", "--checkpoint.every_n_updates", "7",
        "--checkpoint.keep_last", "3", "--trainer.max_epochs", "3", *LOGGED,
    ),
    "dreamer": (
        "--config", "dreamer/cartpole", f"{WORLD}deter", "8", f"{WORLD}hidden", "8", f"{WORLD}units", "8",
        f"{BEHAVIOUR}units", "8", f"{BEHAVIOUR}horizon", "3", "--data.batch_size", "3", "--data.sequence_length", "6",
        *PLAYED,
    ),
    "r2d2": (
        "--config", "r2d2/tmaze", f"{NETWORK}units", "8", f"{NETWORK}memory.init_args.width", "8",
        "--model.n_step", "2", "--model.target_period", "7", f"{REPLAY}burn_in", "2", f"{REPLAY}overlap", "2",
        "--data.environment_arguments.corridor", "3", "--data.batch_size", "5", "--data.sequence_length", "5", *PLAYED,
    ),
    "muzero": (
        "--config", "muzero/cartpole", "--model.model.init_args.latent", "8", "--model.model.init_args.units", "8",
        "--model.search.simulations", "3", "--model.value_target.init_args.n", "2", "--model.unroll", "2",
        "--model.target_period", "7", "--data.sequence_length", "4", f"{REPLAY}overlap", "3", "--data.batch_size", "5",
        "--data.normalize_observation", "false", *PLAYED,
    ),
    "sac": ("--config", "sac/pendulum", "--model.hidden", "[8]", "--data.batch_size", "8", *PLAYED),
}  # fmt: skip
"""Arguments of `reverie fit` by name, in a folder of `prepare`."""


def prepare(folder: Path) -> None:
    """The files that the runs begin with."""
    write_dataset(folder / "tiny.npz")
