"""The numbers that the sources of the presets give.

A key with a dot in front is of the config itself, such as `.trainer.max_epochs`; others are arguments of the model or,
after `data.`, of the data. Where a preset leaves an argument out, its default counts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from callbacks.popart import PopArt
from modules.functional import popart
from modules.world_model import actor_critic

ABSENT = "<absent>"


class Source(NamedTuple):
    """A preset and the numbers of what it follows.

    Attributes:
        configs: in the order in which they are given.
        source: where the numbers stand.
        numbers: by argument.
    """

    configs: tuple[str, ...]
    source: str
    numbers: dict[str, Any]


OFFICIAL: dict[str, Any] = {
    "beta": 16, "discount": 0.99, "hidden": [256, 256, 256], "initializer": "xavier_normal", "critic_lr": 5e-4,
    "actor_lr": 5e-7, "pessimism": "relative", "warm_start.updates": 100_000, "warm_start.critic": True,
    "actor.critic": 0, "actor.interval": 1, "actor.average_rate": None, "actor.log_std_range": [math.log(1e-5), 2.0],
    "critic.roles": "twin", "critic.target_rate": 0.005, "critic.residual_weight": 0.5,
    "critic.projection_radius": 100, "critic.value_range": None, "critic.clip": "bootstrap", "entropy.target": "auto",
    "entropy.reduction": "sum", "entropy.initial_temperature": 1.0,
    "data.batch_size": 256, "data.truncation": "drop", "data.normalize_observation": False, "data.reward_scale": 1.0,
}  # fmt: skip
LIGHT: dict[str, Any] = {
    "beta": 3, "initializer": "torch_default", "actor.critic": 1, "critic.clip": "backup", "entropy.reduction": "mean",
    "actor.log_std_range": [math.log(1e-5), math.log(10.0)],
}  # fmt: skip
ATAC2: dict[str, Any] = {
    "beta": 3, "initializer": "torch_default", "critic.roles": "split", "actor.critic": 1, "critic.clip": "backup",
    "actor_lr": 5e-5, "actor.interval": 100, "warm_start.critic": False, "critic.projection_radius": None,
    "entropy.target": None, "actor.log_std_range": [math.log(1e-5), math.log(10.0)],
}  # fmt: skip
DREAMER: dict[str, Any] = {  # `defaults` of the authors' configs.yaml
    "discount": 0.99, "kl_alpha": 0.8, "kl_scale": 1.0, "free_nats": 0.0, "free_per_step": False,
    "reward_loss_scale": 1.0, "discount_loss_scale": 1.0, "reward_transform": "tanh", "model_lr": 1e-4,
    "model_clip_norm": 100, "gradient_heads": ["decoder", "reward", "discount"], "exploration": None,
    "world_model.latent.groups": 32, "world_model.latent.classes": 32, "world_model.latent.unimix": 0.0,
    "world_model.latent.estimator": "straight_through", "world_model.units": 400, "world_model.depth": 48,
    "world_model.trunk.layers": 4, "world_model.trunk.activation": "elu", "world_model.trunk.norm": "none",
    "world_model.activation": "elu", "world_model.norm": "none", "world_model.symlog": False,
    "world_model.discount": True,
    "behaviour.horizon": 15, "behaviour.lambda_": 0.95, "behaviour.actor_gradient": "auto", "behaviour.units": 400,
    "behaviour.mix": 0.1, "behaviour.entropy": 2e-3, "behaviour.actor_lr": 8e-5, "behaviour.critic_lr": 2e-4,
    "behaviour.slow_interval": 100, "behaviour.slow_rate": 1.0, "behaviour.critic_target": "slow",
    "behaviour.return_scale": "none", "behaviour.trunk.layers": 4, "behaviour.trunk.activation": "elu",
    "behaviour.trunk.norm": "none",
    "data.environments": 1, "data.updates_per_step": 1 / 5, "data.prefill": 10_000, "data.pretrain_updates": 1,
    "data.batch_size": 16, "data.sequence_length": 50, "data.capacity": 2_000_000,
    "data.replay.prioritize_ends": True,
}  # fmt: skip
ATARI: dict[str, Any] = {
    **DREAMER, "world_model.deter": 600, "world_model.hidden": 600, "discount": 0.999, "model_lr": 2e-4,
    "behaviour.actor_lr": 4e-5, "behaviour.critic_lr": 1e-4, "behaviour.entropy": 1e-3, "kl_scale": 0.1,
    "discount_loss_scale": 5.0, "behaviour.actor_gradient": "reinforce",  # what `auto` is for discrete actions
    "data.updates_per_step": 1 / 16, "data.prefill": 50_000,
    "data.environment_arguments.repeat_action_probability": 0.25,  # `sticky_actions`
    "data.environment_arguments.full_action_space": False,  # `all_actions`
    "data.environment_arguments.max_num_frames_per_episode": 4 * 27_000,
    "data.wrappers.0.noop_max": 30, "data.wrappers.0.frame_skip": 4, "data.wrappers.0.screen_size": 64,
    "data.wrappers.0.terminal_on_life_loss": False, "data.wrappers.0.grayscale_obs": True,
    ".trainer.max_epochs": 500, "data.steps_per_epoch": 100_000,  # `steps: 5e7`
}  # fmt: skip
PAPER: dict[str, Any] = {"discount": 0.995, "data.updates_per_step": 1 / 4, "data.batch_size": 50}
CRAFTER: dict[str, Any] = {
    **DREAMER, "world_model.deter": 1024, "world_model.hidden": 1024, "discount": 0.999, "model_lr": 1e-4,
    "behaviour.actor_lr": 1e-4, "behaviour.critic_lr": 1e-4, "behaviour.entropy": 3e-3, "world_model.norm": "layer",
    "world_model.trunk.norm": "layer", "behaviour.trunk.norm": "layer",
}  # fmt: skip
DMC: dict[str, Any] = {
    **DREAMER, "world_model.deter": 200, "world_model.hidden": 200, "model_lr": 3e-4, "behaviour.actor_lr": 8e-5,
    "behaviour.critic_lr": 8e-5, "behaviour.entropy": 1e-4, "free_nats": 1.0, "world_model.discount": False,
    "reward_transform": "identity", "behaviour.actor_gradient": "dynamics",  # what `auto` is for boxes
    "data.prefill": 1000, "data.pretrain_updates": 100, "data.replay.prioritize_ends": False,
    "data.wrappers.0.count": 2,
}  # fmt: skip
V3: dict[str, Any] = {  # `defaults` and `size12m` of the authors' configs.yaml
    "world_model.latent.groups": 32, "world_model.latent.classes": 16, "world_model.latent.unimix": 0.01,
    "world_model.rssm.blocks": 8, "world_model.deter": 2048, "world_model.hidden": 256, "world_model.units": 256,
    "world_model.depth": 16, "world_model.symlog": True, "world_model.activation": "silu", "world_model.norm": "rms",
    "world_model.trunk.layers": 3, "world_model.trunk.activation": "silu", "world_model.trunk.norm": "rms",
    "world_model.trunk.start": "truncated_normal", "world_model.head_trunk.layers": 1,
    "world_model.head_trunk.norm": "rms", "world_model.discount": True, "world_model.reward.codec.bins": 255,
    "world_model.reward.codec.low": -20, "world_model.reward.codec.high": 20,
    "world_model.reward.codec.unbiased": True, "behaviour.critic.codec.bins": 255,
    "behaviour.critic.codec.unbiased": True, "behaviour.units": 256, "behaviour.trunk.layers": 3,
    "behaviour.trunk.norm": "rms", "behaviour.discrete.unimix": 0.01, "behaviour.discrete.output_scale": 0.01,
    "behaviour.continuous.output_scale": 0.01, "behaviour.continuous.min_std": 0.1,
    "behaviour.continuous.max_std": 1.0, "behaviour.actor_gradient": "reinforce", "behaviour.value_of": "future",
    "behaviour.critic_target": "online", "behaviour.slow_interval": 1, "behaviour.slow_rate": 0.02,
    "behaviour.return_scale": "percentiles", "behaviour.entropy": 3e-4, "behaviour.horizon": 15,
    "behaviour.lambda_": 0.95, "behaviour.actor_lr": None, "behaviour.critic_lr": None, "model_lr": None,
    "discount": 1 - 1 / 333, "kl_alpha": 1 / 1.1, "kl_scale": 1.1,  # `dyn` 1 and `rep` 0.1
    "free_nats": 1.0, "free_per_step": True, "reward_loss_scale": 1.0, "discount_loss_scale": 1.0,
    "replay_value_loss_scale": 0.3, "reward_transform": "identity", "optimizer.lr": 4e-5, "optimizer.clip": 0.3,
    "optimizer.eps": 1e-20, "optimizer.beta1": 0.9, "optimizer.beta2": 0.999, "optimizer.warmup": 1000,
    "data.batch_size": 16, "data.sequence_length": 64,
}  # fmt: skip


UNSEEN = ("world_model.depth", "behaviour.discrete")
"""Numbers of what the Control Suite from vectors does not have."""


def v3_of_size(classes: int) -> dict[str, Any]:
    """The numbers of another of the authors' sizes, of which all widths are multiples."""
    units = 16 * classes
    wide = ("world_model.hidden", "world_model.units", "behaviour.units")
    return V3 | dict.fromkeys(wide, units) | {
        "world_model.latent.classes": classes, "world_model.depth": classes, "world_model.deter": 8 * units
    }  # fmt: skip


R2D2: dict[str, Any] = {
    "discounts": [0.997], "n_step": 5, "lr": 1e-4, "adam_eps": 1e-3, "clip_norm": 40, "target_period": 2500,
    "eta": 0.9, "epsilon": 0.4, "epsilon_alpha": 8, "residual_weight": 0.0, "network.memory.width": 512,
    "network.units": 512, "network.duelling": True, "data.batch_size": 64, "data.sequence_length": 80,
    "data.replay.burn_in": 40, "data.replay.overlap": 40, "data.replay.alpha": 0.9, "data.replay.beta": 0.6,
    "data.replay.refresh_states": False, "data.environment_arguments.repeat_action_probability": 0.0,
    "data.wrappers.0.noop_max": 30, "data.wrappers.0.frame_skip": 4,
    "data.environment_arguments.max_num_frames_per_episode": 108_000,
}  # fmt: skip
TD3_BC: dict[str, Any] = {
    "alpha": 2.5, "discount": 0.99, "hidden": [256, 256], "initializer": "torch_default", "critic_lr": 3e-4,
    "actor_lr": 3e-4, "actor_interval": 2, "noise_deviation": 0.2, "noise_limit": 0.5, "critic.target_rate": 0.005,
    "critic.residual_weight": 0.0, "critic.projection_radius": None, "critic.layer_norm": False,
    "critic.value_range": None, "data.batch_size": 256, "data.normalize_observation": True, "data.truncation": "drop",
    "data.reward_scale": 1.0, "data.updates_per_epoch": 5000, ".trainer.max_epochs": 200, ".evaluation.episodes": 10,
}  # fmt: skip

CQL_D3RLPY: dict[str, Any] = {
    "conservative_weight": 5.0, "discount": 0.99, "hidden": [256, 256], "initializer": "torch_default",
    "actor_lr": 1e-4, "critic_lr": 3e-4, "temperature_lr": 1e-4, "initial_temperature": 1.0, "target_entropy": "auto",
    "multiplier.lr": 1e-4, "action_samples": 10, "backup": "likeliest", "critic.target_rate": 0.005,
    "critic.residual_weight": 0.0, "critic.projection_radius": None, "critic.value_range": None,
    "critic.layer_norm": False, "data.batch_size": 256,
}  # fmt: skip
IQL_D3RLPY: dict[str, Any] = {
    "expectile": 0.7, "inverse_temperature": 3.0, "max_weight": 100.0, "discount": 0.99, "hidden": [256, 256],
    "initializer": "torch_default", "actor_lr": 3e-4, "critic_lr": 3e-4, "critic.target_rate": 0.005,
    "critic.residual_weight": 0.0, "critic.projection_radius": None, "critic.value_range": None,
    "critic.layer_norm": False, "data.batch_size": 256, "data.updates_per_epoch": 10_000, ".trainer.max_epochs": 100,
}  # fmt: skip
CONFIGS_YAML = "github.com/danijar/dreamerv2, dreamerv2/configs.yaml: defaults and "
SOURCES = {
    "official": Source(("atac/official",), "github.com/microsoft/ATAC, scripts/main.py and src/atac/atac.py", OFFICIAL),
    "light": Source(
        ("atac/official", "atac/light"), "github.com/microsoft/lightATAC, main.py, atac.py, policy.py", OFFICIAL | LIGHT
    ),
    "atac2": Source(
        ("atac/official", "atac/atac2"),
        "github.com/chinganc/lightATAC (dev), main2.py, atac2.py, policy.py", OFFICIAL | ATAC2,
    ),
    "td3_bc": Source(
        ("td3_bc/mujoco",), "github.com/sfujim/TD3_BC, main.py and TD3_BC.py; d3rlpy 2.8.1, TD3PlusBCConfig", TD3_BC
    ),
    "cql": Source(("cql/mujoco",), "d3rlpy 2.8.1, CQLConfig", CQL_D3RLPY),
    "iql": Source(
        ("iql/mujoco",),
        "d3rlpy 2.8.1, IQLConfig; github.com/ikostrikov/implicit_q_learning, configs/mujoco_config.py", IQL_D3RLPY,
    ),
    "atari_repo": Source(("dreamer/atari_repo",), f"{CONFIGS_YAML}atari; train.py, common/envs.py", ATARI),
    "atari_paper": Source(
        ("dreamer/atari_repo", "dreamer/atari_paper"), "arXiv 2010.02193, appendix; the rest as the code", ATARI | PAPER
    ),
    "crafter": Source(("dreamer/crafter",), f"{CONFIGS_YAML}crafter", CRAFTER),
    "dmc": Source(("dreamer/dmc",), f"{CONFIGS_YAML}dmc_vision", DMC),
    "v3": Source(
        ("dreamer/atari_repo", "dreamer/v3"), "github.com/danijar/dreamerv3, dreamerv3/configs.yaml", V3
    ),
    **{
        f"v3_{million}m": Source(
            ("dreamer/atari_repo", "dreamer/v3", f"dreamer/v3_{million}m"),
            f"github.com/danijar/dreamerv3, dreamerv3/configs.yaml, size{million}m", v3_of_size(classes),
        )
        for million, classes in ((12, 16), (25, 24), (50, 32))
    },
    "v3_dmc": Source(
        ("dreamer/v3_dmc",), "github.com/danijar/dreamerv3, dreamerv3/configs.yaml, dmc_proprio and size1m",
        {key: number for key, number in v3_of_size(4).items() if not key.startswith(UNSEEN)},
    ),
    "r2d2": Source(("r2d2/atari",), "openreview.net/forum?id=r1lyTjAqYX, appendix", R2D2),
}  # fmt: skip
CONSTANTS = {
    # Ours, and the source's: those of the three optimisers of configs.yaml, and of Hessel et al. 2019.
    "Adam's epsilon of DreamerV2": (actor_critic.ADAM_EPS, 1e-5),
    "clip of DreamerV2": (actor_critic.CLIP_NORM, 100),
    "weight decay of DreamerV2": (actor_critic.DECAY, 1e-6),
    "step of PopArt's statistics": (PopArt().decay, 3e-4),
    "smallest deviation of PopArt": (popart.SMALLEST, 1e-4),
    "largest deviation of PopArt": (popart.LARGEST, 1e6),
}
