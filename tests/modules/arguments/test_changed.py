"""Every argument of every agent, changed where a run is continued: the run follows it, or it is refused by name."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import armor_agents
import atac_agents
import dreamer_agents
import pytest
import r2d2_agents
import torch
from a2c_agents import layer, make, windows
from resumed_agents import equal, go_on, resume, saved
from torch import Tensor

from callbacks.kl_balancing import KLBalancing
from datamodules.synthetic import MixtureTask
from modules.agent.agent import Agent
from modules.agent.entropy_floor import EntropyFloor
from modules.agent.warm_start import WarmStart
from modules.algorithms.armor import ARMOR
from modules.algorithms.atac import ATAC
from modules.algorithms.moe_regression import MoERegression
from modules.experts.layer import SparseMoE
from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.recurrent import LSTM
from modules.networks.value_codecs import TwoHot
from modules.networks.value_heads import Head, PopArtHead
from modules.trust.hints import dataclass_of, hints_of
from modules.world_model.actor_critic import ActorCritic
from modules.world_model.disagreement_penalty import DisagreementPenalty
from modules.world_model.latents import CategoricalLatent
from modules.world_model.plan2explore import Plan2Explore

DATA = MixtureTask(tasks=4, features=3, batch_size=32, updates_per_epoch=10, validation_size=32)
MIXTURE: dict[str, Any] = {"num_experts": 4, "k": 2, "hidden": 6, "routing": "bias_balanced"}
RELAXED: dict[str, Any] = {"estimator": "gumbel_softmax", "temperature": 1.0}
EXPLORING: dict[str, Any] = {"members": 2, "hidden": [8], "until": 1000, "extrinsic_scale": 0.1}


def atac(**changes: Any) -> ATAC:
    settings = {
        "warm_start.updates": 1, "actor.average_rate": 0.1, "critic.value_range": (-0.1, 0.1), "entropy.target": 0.5
    }  # fmt: skip
    return atac_agents.make_agent(**{**settings, **changes})


def armor(**changes: Any) -> ARMOR:
    settings = {"actor.average_rate": 0.1, "critic.value_range": (-0.1, 0.1), "entropy.target": 0.5}
    return armor_agents.make_agent(**{**settings, **changes})


def dreamer(**changes: Any) -> Agent:
    """Names with a dot are of the latent, the behaviour, its policy, the exploration, or the pessimism."""
    parts: dict[str, dict[str, Any]] = {
        "latent": {"groups": 3, "classes": 4, **RELAXED},
        "policy": dict(RELAXED),
        "behaviour": {"actor_gradient": "both", "slow_interval": 1, "slow_rate": 0.5},
        "exploration": dict(EXPLORING),
        "pessimism": {"members": 2, "hidden": [8]},
    }
    for name in [name for name in changes if "." in name]:
        part, _, argument = name.partition(".")
        parts[part][argument] = changes.pop(name)
    for name, part_of in (("exploration", Plan2Explore), ("pessimism", DisagreementPenalty)):
        changes.setdefault(name, partial(part_of, **parts[name]))
    return dreamer_agents.make_agent(
        model={"latent": partial(CategoricalLatent, **parts["latent"]), **changes.pop("world_model", {})},
        behaviour={"discrete": partial(DiscreteActor, **parts["policy"]), **parts["behaviour"]},
        **{"free_nats": 0.05, **changes},
    )


def r2d2(**changes: Any) -> Agent:
    return r2d2_agents.make_agent(changes.pop("network", None), **changes)


def regression(**changes: Any) -> Agent:
    torch.manual_seed(0)
    network = partial(SparseMoE, **{**MIXTURE, **changes.pop("network", {})})
    agent = MoERegression(network, DATA.spaces, **changes)
    agent.total_updates = 20
    return agent


AGENTS: dict[str, tuple[Callable[..., Agent], Callable[[Any], Any]]] = {
    "A2C": (make, windows),
    "ATAC": (atac, lambda agent: atac_agents.make_batch()),
    "ARMOR": (armor, lambda agent: atac_agents.make_batch()),
    "DreamerV2": (dreamer, dreamer_agents.make_sequence),
    "R2D2": (r2d2, r2d2_agents.make_batch),
    "MoERegression": (regression, lambda _: DATA.draw(32, "seen", torch.Generator().manual_seed(1))),
}
OTHERS: dict[str, dict[str, Any]] = {
    # The value at a change; all of these show within a few updates.
    "A2C": {
        "discount": 0.5, "lambda_": 0.5, "advantage": "gae", "entropy": 1.0, "critic_scale": 2.0, "lr": 1e-2,
        "clip_norm": 1e-3, "residual_weight": 0.5,
    },
    "ATAC": {
        "beta": 0.5, "discount": 0.5, "critic_lr": 1e-2, "actor_lr": 1e-2, "pessimism": "initial",
        "critic.residual_weight": 0.1, "critic.roles": "split", "critic.target_rate": 0.5,
        "critic.projection_radius": 0.1, "critic.value_range": None, "critic.clip": "backup", "actor.critic": 1,
        "actor.interval": 2, "actor.average_rate": 0.5, "actor.log_std_range": (-1.0, -0.9), "entropy.target": 0.6,
        "entropy.reduction": "mean", "entropy.log_temperature_range": (0.5, 9.0),
    },
    "ARMOR": {
        "beta": 0.5, "discount": 0.5, "critic_lr": 1e-2, "actor_lr": 1e-2, "dynamics.lr": 1e-2,
        "dynamics.adversarial": 9.0, "rollouts.horizon": 1, "rollouts.interval": 2, "critic.residual_weight": 0.1,
        "critic.target_rate": 0.5, "critic.projection_radius": 0.1, "critic.value_range": None,
        "critic.clip": "backup", "actor.critic": 1, "actor.interval": 2, "actor.average_rate": 0.5,
        "actor.log_std_range": (-1.0, -0.9), "entropy.target": 0.6, "entropy.reduction": "mean",
        "entropy.log_temperature_range": (0.5, 9.0),
    },
    "DreamerV2": {
        "discount": 0.5, "model_lr": 1e-2, "model_clip_norm": 1e-3, "kl_alpha": 0.1, "kl_scale": 9.0, "free_nats": 1.0,
        "free_per_step": True, "reward_loss_scale": 9.0, "reconstruction_loss_scale": 9.0,
        "discount_loss_scale": 9.0, "reward_transform": "tanh", "exploration.until": 2,
        "gradient_heads": ["decoder"], "latent.temperature": 0.5, "latent.unimix": 0.3, "policy.temperature": 0.5,
        "policy.unimix": 0.3, "behaviour.horizon": 3, "behaviour.lambda_": 0.1, "behaviour.actor_gradient": "dynamics",
        "behaviour.mix": 0.9, "behaviour.entropy": "linear(1, 0.5, 9)", "behaviour.actor_lr": 1e-2,
        "behaviour.critic_lr": 1e-2, "behaviour.slow_interval": 2, "behaviour.slow_rate": 0.1,
        "behaviour.critic_target": "online", "behaviour.return_scale": "percentiles",
        "behaviour.residual_weight": 0.5, "behaviour.value_of": "future", "pessimism.scale": 9.0, "pessimism.lr": 1e-2,
        "exploration.lr": 1e-2, "exploration.intrinsic_scale": 9.0, "exploration.extrinsic_scale": 9.0,
    },
    "R2D2": {
        "discounts": [0.5], "n_step": 1, "lr": 1e-3, "adam_eps": 1.0, "clip_norm": 1e-3, "target_period": 3, "eta": 0.1,
        "epsilon": 1.0, "epsilon_alpha": 0.0, "residual_weight": 0.5,
    },
    "MoERegression": {"lr": 1e-2, "schedule": "constant", "network": {"k": 1}},
}  # fmt: skip
REFUSED: dict[str, dict[str, tuple[Any, str]]] = {
    # The value at a change, and what names it.
    "A2C": {
        "trunk": (partial(DenseStack, layers=2), "torso|perception"), "units": (9, "torso|perception"),
        "critic": (PopArtHead, "critic.codec.mu"),
    },
    "ATAC": {
        "seeds": (2, "members"), "hidden": ([8], "actor"),
        "seed": (1, r"model\.seed was 0 .* is 1 now.*seed_everything"),
        "trunk": (layer, "actor"), "warm_start.updates": (9, r"model\.warm_start\.updates was 1 .* is 9 now"),
        "warm_start.critic": (False, r"model\.warm_start\.critic was true .* false"),
        "warm_start.loss": ("squared_error", r"model\.warm_start\.loss was likelihood .* squared_error"),
        "warm_start.saturation": (0.01, r"model\.warm_start\.saturation was 0\.0 .* 0\.01"),
        "warm_start.patience": (2, r"model\.warm_start\.patience was null .* is 2"),
        "adaptive_beta.tolerance": (1.5, r"model\.adaptive_beta\.tolerance was null .* is 1\.5"),
        "critic.layer_norm": (True, r"model\.critic\.layer_norm was false .* true"),
        "entropy.initial_temperature": (0.1, r"model\.entropy\.initial_temperature was 1\.0 .* 0\.1 now"),
        "initializer": ("torch_default", r"model\.initializer was xavier_normal"),
        "actor.average_rate": (None, "average_actor"),
    },
    "ARMOR": {
        "seeds": (2, "members"), "hidden": ([8], "actor"), "seed": (1, r"model\.seed was 0"),
        "warm_start.updates": (9, r"model\.warm_start\.updates was 1 .* is 9 now"),
        "warm_start.critic": (False, r"model\.warm_start\.critic was true .* false"),
        "warm_start.loss": ("squared_error", r"model\.warm_start\.loss was likelihood .* squared_error"),
        "warm_start.saturation": (0.01, r"model\.warm_start\.saturation was 0\.0 .* 0\.01"),
        "warm_start.patience": (2, r"model\.warm_start\.patience was null .* is 2"),
        "dynamics.hidden": ((9,), "dynamics"),
        "dynamics.terminations": (False, r"model\.dynamics\.terminations was true .* false"),
        "rollouts.capacity": (300, r"model\.rollouts\.capacity was 200 .* is 300 now"),
        "critic.roles": ("split", r"critic\.roles must be twin"),
        "critic.layer_norm": (True, r"model\.critic\.layer_norm was false .* true"),
        "entropy.initial_temperature": (0.1, r"model\.entropy\.initial_temperature was 1\.0 .* 0\.1 now"),
        "initializer": ("xavier_normal", r"model\.initializer was torch_default"),
    },
    "DreamerV2": {
        "world_model": ({"discount": False}, r"world_model\.discount\S+ is \[.*\] in the file, nothing"),
        "exploration": (None, "exploration"), "exploration.members": (3, "exploration"),
        "latent.groups": (4, "latent|rssm"),
        "pessimism": (None, "pessimism"), "pessimism.members": (3, "pessimism"), "pessimism.hidden": ([9], "pessimism"),
        "exploration.hidden": ([9], "exploration"), "behaviour.units": (9, "behaviour"),
        "behaviour.trunk": (partial(DenseStack, layers=2), "behaviour"),
        "behaviour.critic": (partial(Head, codec=TwoHot), "behaviour"),
    },
    "R2D2": {"network": ({"memory": partial(LSTM, width=8, span=5)}, r"model\.network\.memory\.span was null .* is 5")},
    "MoERegression": {"network": ({"num_experts": 5}, r"model\.network\.num_experts was 4 .* 5 now")},
}  # fmt: skip
ELSEWHERE = {
    "spaces": "from the data, whose spaces are compared",
    "compile": "speed alone",
    "shared_batch": "what a batch holds, of data.minibatches",
    "task_key": "checked against the value head at the start",
    **dict.fromkeys(("discrete", "continuous", "behaviour.discrete", "behaviour.continuous"), "see policy.unimix"),
    **dict.fromkeys(("encoder", "memory"), "networks, whose weights are compared"),
    **dict.fromkeys(("internal", "internal.key", "internal.weights"), "of events that are told, see test_tunable.py"),
    "reference_policy": "read at the start of every fit",
    **dict.fromkeys(("trust.radius", "trust.order", "trust.lr"), "of a policy that has been cloned, see its tests"),
    "trust.headroom": "of what the data's returns are, see its tests",
    **dict.fromkeys(("optimizer", "replay_value_loss_scale"), "of the third version, see test_dreamer_v3.py"),
    "entropy.share": "of a floor that is not given, of numbered actions",
    "trust.limit": "judges alone",
    "trust.updates": "the end of the run alone",
    "adaptive_beta.lr": "of a beta that is learned",
    **dict.fromkeys(("behaviour", "exploration", "warm_start", "actor", "critic", "entropy"), "one by one above"),
    **dict.fromkeys(("adaptive_beta", "trust", "dynamics", "rollouts"), "see their fields"),
}


def with_buffers(agent: Agent) -> Agent:
    """The agent as earlier versions saved it, with all buffers that follow its arguments."""
    for module in agent.modules():
        module._non_persistent_buffers_set -= {"beta", "temperature"}
    return agent


@pytest.mark.parametrize(
    ("make_one", "dropped"),
    [
        (lambda: atac_agents.make_agent(beta=[1.0, 4.0]), {"beta"}),
        (
            lambda: dreamer_agents.make_agent(behaviour={"discrete": partial(DiscreteActor, **RELAXED)}),
            {"world_model.rssm.latent.temperature", "behaviour.actor.temperature"},
        ),
    ],
    ids=["atac", "dreamer"],
)
def test_what_earlier_versions_saved_besides_is_left_out(make_one: Callable[[], Agent], dropped: set[str]) -> None:
    checkpoint = saved(with_buffers(make_one()))
    agent = make_one()
    assert checkpoint["state_dict"].keys() - agent.state_dict().keys() == dropped
    with torch.no_grad():
        for value in agent.parameters():
            value.zero_()
    resume(agent, checkpoint)
    for name, value in agent.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, checkpoint["state_dict"][name]), name
    checkpoint["state_dict"]["other.temperature"] = torch.zeros(())
    with pytest.raises(ValueError, match=r"other\.temperature is .* in the file, nothing of that name in the model"):
        resume(agent, checkpoint)


@pytest.fixture(scope="module", params=AGENTS)
def case(request: pytest.FixtureRequest) -> tuple[str, Callable[..., Agent], Any, dict[str, Any], list[Tensor]]:
    """An agent's name, maker and batch, a checkpoint of it, and what three more updates would do."""
    name = request.param
    maker, batch_of = AGENTS[name]
    agent = maker()
    batch = batch_of(agent)
    go_on(agent, batch, 2)
    checkpoint = saved(agent)
    return name, maker, batch, checkpoint, go_on(agent, batch, 3)


def test_a_changed_argument_takes_effect_or_is_refused_by_name(case: Any) -> None:
    name, maker, batch, checkpoint, whole = case
    assert equal(go_on(resume(maker(), checkpoint), batch, 3), whole), "unchanged"
    for argument, value in OTHERS[name].items():
        assert not equal(go_on(resume(maker(**{argument: value}), checkpoint), batch, 3), whole), argument
    for argument, (value, said) in REFUSED[name].items():
        with pytest.raises(ValueError, match=said):
            resume(maker(**{argument: value}), checkpoint)


@pytest.mark.parametrize(
    ("name", "argument"),
    [("A2C", "residual_weight"), ("R2D2", "residual_weight"), ("DreamerV2", "behaviour.residual_weight")],
)
def test_with_a_bellman_residual_a_resumed_agent_is_the_uninterrupted_one(name: str, argument: str) -> None:
    maker, batch_of = AGENTS[name]
    agent = maker(**{argument: 0.5})
    batch = batch_of(agent)
    go_on(agent, batch, 2)
    checkpoint = saved(agent)
    whole = go_on(agent, batch, 3)
    assert equal(go_on(resume(maker(**{argument: 0.5}), checkpoint), batch, 3), whole)


@pytest.mark.parametrize("name", AGENTS)
def test_no_argument_is_forgotten(name: str) -> None:
    known = {*OTHERS[name], *REFUSED[name], *ELSEWHERE}
    cls = AGENTS[name][0]().__class__
    groups = {argument: dataclass_of(hint) for argument, hint in hints_of(cls).items()}
    for group, kind in groups.items():
        if kind is not None and group != "spaces":
            assert {f"{group}.{field.name}" for field in dataclasses.fields(kind)} <= known
    inner = {"behaviour.": ActorCritic, "exploration.": Plan2Explore, "pessimism.": DisagreementPenalty}
    for prefix, part in {"": cls, **inner}.items():
        if not prefix or name == "DreamerV2":
            own = set(inspect.signature(part).parameters) - {"space", "d_features", "rssm", "d_action"}
            assert {prefix + argument for argument in own} - known <= {"exploration.behaviour"}


def test_the_start_of_the_game_moves_while_it_lies_ahead() -> None:
    agent, batch = atac(**{"warm_start.updates": 6}), atac_agents.make_batch()
    go_on(agent, batch, 2)
    checkpoint = saved(agent)
    earlier = resume(atac(**{"warm_start.updates": 4}, actor_lr=1e-2), checkpoint)
    assert earlier.actor_optimizer.param_groups[0]["lr"] == earlier.critic_lr
    go_on(earlier, batch, 2)
    assert earlier.phase == "training"
    assert earlier.actor_optimizer.param_groups[0]["lr"] == 1e-2
    with pytest.raises(ValueError, match=r"warm_start\.updates was 6 .* is 2 now.*update 2"):
        resume(atac(**{"warm_start.updates": 2}), checkpoint)


def test_fields_that_a_checkpoint_lacks_had_their_defaults() -> None:
    """As in files of versions before the field; those that an agent is made of again have theirs, too."""
    agent = atac_agents.make_agent(warm_start=WarmStart(1))
    go_on(agent, atac_agents.make_batch(), 2)
    checkpoint = saved(agent)
    del checkpoint["hyper_parameters"]["warm_start"]["critic"]
    del checkpoint["hyper_parameters"]["entropy"]
    resume(atac_agents.make_agent(warm_start=WarmStart(1)), checkpoint)
    for start in ("warm_start.critic", False, "true"), ("entropy.initial_temperature", 0.5, "1.0"):
        name, value, before = start
        with pytest.raises(ValueError, match=rf"model\.{re.escape(name)} was {before} in the checkpoint"):
            resume(atac_agents.make_agent(**{"warm_start.updates": 1, name: value}), checkpoint)
    again = Agent.restored(checkpoint, "x.ckpt")
    assert (again.warm_start, again.entropy) == (WarmStart(1), EntropyFloor())
    again.on_load_checkpoint(copy.deepcopy(checkpoint))


def test_a_checkpoint_of_another_version_says_so() -> None:
    checkpoint = saved(atac())
    flat = copy.deepcopy(checkpoint)
    flat["hyper_parameters"]["warm_start_updates"] = flat["hyper_parameters"].pop("warm_start")["updates"]
    said = "ATAC has no argument warm_start_updates; it was written by an earlier version of reverie, or a later one$"
    with pytest.raises(ValueError, match=f"^this checkpoint: {said}"):
        resume(atac(), flat)
    with pytest.raises(ValueError, match=rf"^x\.ckpt: {said}"):
        Agent.restored(flat, "x.ckpt")
    checkpoint["hyper_parameters"]["trunk"] = {"class_path": "modules.networks.experts.SparseMoE"}
    with pytest.raises(ValueError, match=r"modules\.networks\.experts\.SparseMoE, and .* in this version of reverie$"):
        Agent.restored(checkpoint, "x.ckpt")


def test_another_start_of_a_scale_that_was_learned_is_refused() -> None:
    state = KLBalancing(target=2.0, scale=1.0).state_dict()
    KLBalancing(target=3.0, scale=1.0, dual_lr=0.1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"KLBalancing\.scale was 1\.0 .* is 0\.5 now"):
        KLBalancing(target=2.0, scale=0.5).load_state_dict(state)


def test_bins_that_a_value_was_learned_for_are_fixed() -> None:
    head = partial(Head, codec=partial(TwoHot, bins=5))
    checkpoint = saved(make(critic=head))
    resume(make(critic=head), checkpoint)
    with pytest.raises(ValueError, match=r"model\.critic\.codec\.high was 20\.0 .* is 9\.0 now"):
        resume(make(critic=partial(Head, codec=partial(TwoHot, bins=5, high=9.0))), checkpoint)
