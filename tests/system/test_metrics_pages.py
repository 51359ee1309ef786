"""Every metric that an agent or a callback emits is explained in a table of the documentation, and no other is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import a2c_agents
import armor_agents
import atac_agents
import cql_agents
import dreamer_agents
import dynamics_agents
import ftw_agents
import gymnasium as gym
import merlin_agents
import muzero_agents
import numpy as np
import ppo_agents
import pytest
import r2d2_agents
import sac_agents
import simple_agents
import td3_bc_agents
import torch
import yaml

import reverie
from callbacks.evaluation.report import score
from callbacks.experts.experts import load_metrics
from callbacks.kl_balancing import KLBalancing
from callbacks.popart import PopArt
from datamodules.recorded.dataset_info import DatasetInfo
from datamodules.synthetic import MixtureTask
from modules.agent.adaptive_beta import AdaptiveBeta
from modules.agent.agent import Agent
from modules.agent.trust_region import TrustRegion
from modules.agent.warm_start import WarmStart
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.algorithms.iql import IQL
from modules.algorithms.moe_regression import MoERegression
from modules.experts.layer import SparseMoE
from modules.experts.residual_stack import ResidualStack
from modules.networks.value_heads import PopArtHead
from modules.networks.video_unet import VideoUNet
from modules.wall_time import OTHER
from modules.world_model.disagreement_penalty import DisagreementPenalty
from modules.world_model.plan2explore import Plan2Explore
from modules.world_model.vector_quantised import VectorQuantisedLatent

ROOT = Path(reverie.__file__).parent
HEADER = "Metric | Meaning | In a healthy run"
MIXTURE = partial(SparseMoE, num_experts=4, k=2, hidden=6)
SWITCH = partial(SparseMoE, num_experts=4, k=2, hidden=6, routing="top_k")


def tables(page: Path) -> Iterator[str]:
    """The names in the first column of a page's tables of metrics."""
    rows = iter(page.read_text().splitlines())
    for row in rows:
        if row != HEADER:
            continue
        next(rows)
        for line in rows:
            if "|" not in line:
                break
            yield from re.findall(r"`([^`]+)`", line.split(" | ")[0])


PAGES = {page.stem: list(tables(page)) for page in sorted((ROOT / "docs").glob("*.md"))}


def matches(name: str, metric: str) -> bool:
    """Whether a name of a table is meant for a metric: words in capital letters stand for anything."""
    pattern = re.escape(name)
    return re.fullmatch(re.sub(r"(?<![A-Za-z])[A-Z]+(?![A-Za-z])", ".+", pattern), metric) is not None


def updated(agent: Agent, batch: Any, *callbacks: Any) -> set[str]:
    """Metrics of one update, without the agent's group and its members."""
    for callback in callbacks:
        agent.attach(callback)
    return {*agent.update(batch).metrics}


def with_popart(agent: Any) -> PopArt:
    callback = PopArt()
    callback.optimizers = agent.configure_optimizers()
    return callback


def atac() -> set[str]:
    batch = atac_agents.make_batch()
    playing = atac_agents.make_agent(trunk=MIXTURE, hidden=[8])
    cloning = atac_agents.make_agent(trunk=SWITCH, hidden=[8], warm_start=WarmStart(updates=9))
    numbers = atac_agents.make_agent(atac_agents.NUMBERED)
    adaptive = atac_agents.make_agent(warm_start=WarmStart(updates=9), adaptive_beta=AdaptiveBeta(1.5))
    held = atac_agents.make_agent(warm_start=WarmStart(updates=1, patience=1), trust=TrustRegion(radius=0.1))
    updated(held, batch)
    held.advance()
    held_out = {*playing.evaluate_losses(batch), *numbers.evaluate_losses(atac_agents.make_numbered_batch())}
    held_out |= {*held.evaluate_losses(batch)}
    learned = set().union(*(updated(agent, batch) for agent in (playing, cloning, adaptive, held)))
    return learned | {f"validation/{name}" for name in held_out}


def armor() -> set[str]:
    batch = atac_agents.make_batch()
    cloning = armor_agents.make_agent()
    playing = armor_agents.make_agent(warm_start=WarmStart(updates=1, patience=1), trust=TrustRegion(radius=0.1))
    held_out = {*cloning.evaluate_losses(batch), *playing.evaluate_losses(batch)}
    learned = updated(cloning, batch) | updated(playing, batch)
    playing.advance()
    held_out |= {*playing.evaluate_losses(batch)}
    return learned | updated(playing, batch) | {f"validation/{name}" for name in held_out}


def cloning() -> set[str]:
    batch, spaces = atac_agents.make_batch(), atac_agents.SPACES
    agent = BehaviorCloning(spaces, hidden=[8], trunk=SWITCH)
    numbers = BehaviorCloning(dataclasses.replace(spaces, action=gym.spaces.Discrete(2)), hidden=[8])
    held_out = {*agent.evaluate_losses(batch)}
    held_out |= {*numbers.evaluate_losses(batch._replace(action=(batch.reward > 0).long()))}
    return updated(agent, batch) | {f"validation/{name}" for name in held_out}


def td3_bc() -> set[str]:
    batch = atac_agents.make_batch()
    agents = [td3_bc_agents.make_agent(trunk=trunk, hidden=[8], actor_interval=1) for trunk in (MIXTURE, SWITCH)]
    held_out = {f"validation/{name}" for name in agents[0].evaluate_losses(batch)}
    return held_out.union(*(updated(agent, batch) for agent in agents))


def sac() -> set[str]:
    batch, numbered = atac_agents.make_batch(), atac_agents.make_numbered_batch()
    agents = [sac_agents.make_agent(trunk=trunk, hidden=[8]) for trunk in (MIXTURE, SWITCH)]
    numbers = sac_agents.make_agent(atac_agents.NUMBERED, gradient="straight_through")
    held_out = {*agents[0].evaluate_losses(batch), *numbers.evaluate_losses(numbered)}
    learned = updated(agents[0], batch) | updated(agents[1], batch) | updated(numbers, numbered)
    return learned | {f"validation/{name}" for name in held_out}


def cql() -> set[str]:
    batch = atac_agents.make_batch()
    agents = [cql_agents.make_agent(trunk=trunk, hidden=[8]) for trunk in (MIXTURE, SWITCH)]
    held_out = {f"validation/{name}" for name in agents[0].evaluate_losses(batch)}
    return updated(agents[0], batch) | updated(agents[1], batch) | held_out


def iql() -> set[str]:
    batch, spaces = atac_agents.make_batch(), atac_agents.SPACES
    agents = [IQL(spaces, hidden=[8], trunk=trunk) for trunk in (MIXTURE, SWITCH)]
    numbers = IQL(dataclasses.replace(spaces, action=gym.spaces.Discrete(2)), hidden=[8])
    held_out = {*agents[0].evaluate_losses(batch)}
    held_out |= {*numbers.evaluate_losses(batch._replace(action=(batch.reward > 0).long()))}
    return updated(agents[0], batch) | updated(agents[1], batch) | {f"validation/{name}" for name in held_out}


def dynamics() -> set[str]:
    agent, batch = dynamics_agents.make(), dynamics_agents.linear()
    return updated(agent, batch) | {f"validation/{name}" for name in agent.evaluate_losses(batch)}


def dreamer() -> set[str]:
    agent = dreamer_agents.make_agent(
        a2c_agents.GAMES,
        model={"latent": partial(VectorQuantisedLatent, groups=2, codes=3), "trunk": MIXTURE},
        behaviour={"trunk": SWITCH},
        exploration=partial(Plan2Explore, hidden=[8]),
        pessimism=partial(DisagreementPenalty, hidden=[8]),
    )
    plain = dreamer_agents.make_agent(behaviour={"critic": PopArtHead})
    names = updated(plain, dreamer_agents.make_sequence(plain), with_popart(plain), KLBalancing())
    third = dreamer_agents.make_agent(**dreamer_agents.third_version())
    names |= updated(agent, dreamer_agents.make_sequence(agent)) | updated(third, dreamer_agents.make_sequence(third))
    twice = {name for name in names if name.startswith("exploration/") and name.partition("/")[2] in names}
    return names - twice  # the exploring behaviour emits what the task's does


def r2d2() -> set[str]:
    agent = r2d2_agents.make_agent(network={"trunk": MIXTURE})
    return updated(agent, r2d2_agents.make_batch(agent))


def muzero() -> set[str]:
    agents = [
        muzero_agents.make_agent(**muzero_agents.KINDS[kind])
        for kind in ("EfficientZero", "mixture", "ensemble", "values")
    ]
    return set().union(*(updated(agent, muzero_agents.make_batch(agent)) for agent in agents))


def a2c() -> set[str]:
    agent, plain = a2c_agents.make(**a2c_agents.TASKS), a2c_agents.make(trunk=MIXTURE)
    names = updated(agent, a2c_agents.windows(agent), with_popart(agent))
    return names | updated(plain, a2c_agents.windows(plain))


def merlin() -> set[str]:
    names: set[str] = set()
    for settings in ({"trunk": MIXTURE}, merlin_agents.SETTINGS["picture and vector"]):
        agent = merlin_agents.make(**settings)
        environment = settings.get("environment", merlin_agents.CUE)
        names |= updated(agent, next(merlin_agents.played(agent, environment))[0])
    return names


def ftw() -> set[str]:
    agent, plain = ftw_agents.make(), ftw_agents.make(trunk=MIXTURE)
    batches = (next(merlin_agents.played(each, ftw_agents.PICTURES))[0] for each in (agent, plain))
    return set().union(*map(updated, (agent, plain), batches))


def ppo() -> set[str]:
    agent, plain = ppo_agents.make(**ppo_agents.TASKS), ppo_agents.make(trunk=MIXTURE)
    names = updated(agent, a2c_agents.windows(agent), with_popart(agent))
    return names | updated(plain, a2c_agents.windows(plain))


def simple() -> set[str]:
    agent = simple_agents.make(
        video=partial(VideoUNet, context=1, levels=2, hidden=4, downs=2, bits=2, group=2), model_updates=1
    )
    names = updated(agent, simple_agents.windows())
    agent.advance()
    return names | updated(agent, simple_agents.windows())


def moe_regression() -> set[str]:
    data = MixtureTask(tasks=4, features=3, batch_size=32, updates_per_epoch=2, validation_size=16)
    agent = MoERegression(partial(ResidualStack, width=8, depth=2, experts=SWITCH), data.spaces)
    noisy = MoERegression(partial(ResidualStack, width=8, depth=2, experts=MIXTURE), data.spaces)
    held_out = agent.evaluate_losses(next(iter(data.val_dataloader())))
    batch = next(iter(data.train_dataloader()))
    return updated(agent, batch) | updated(noisy, batch) | {f"validation/{name}" for name in held_out}


AGENTS: dict[str, tuple[Callable[[], set[str]], str]] = {
    "atac": (atac, "atac"),
    "armor": (armor, "armor"),
    "cql": (cql, "cql"),
    "cloning": (cloning, "cloning"),
    "td3_bc": (td3_bc, "td3_bc"),
    "iql": (iql, "iql"),
    "sac": (sac, "sac"),
    "dynamics": (dynamics, "dynamics"),
    "dreamer": (dreamer, "dreamer"),
    "r2d2": (r2d2, "r2d2"),
    "muzero": (muzero, "muzero"),
    "a2c": (a2c, "popart"),
    "merlin": (merlin, "merlin"),
    "ftw": (ftw, "ftw"),
    "ppo": (ppo, "ppo"),
    "simple": (simple, "simple"),
    "moe": (moe_regression, "moe"),
}


@pytest.mark.parametrize("name", AGENTS)
def test_the_page_of_an_algorithm_explains_what_it_emits(name: str) -> None:
    emitted, page = AGENTS[name][0](), AGENTS[name][1]
    explained = [*PAGES[page], *(n for n in PAGES["popart"] if n.startswith("popart/"))]
    assert emitted
    assert sorted(m for m in emitted if not any(matches(n, m) for n in explained)) == []
    own = [n for n in PAGES[page] if not n.startswith(("evaluation/", "world_model/", "experts/", "popart/"))]
    assert sorted(n for n in own if not any(matches(n, m) for m in emitted)) == []


def test_the_pages_explain_what_callbacks_emit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {
        "trainer": {
            "max_epochs": 1,
            "logger": {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "log"}},
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "callbacks+": [
                {"class_path": "callbacks.experts.experts.Experts"},
                {"class_path": "callbacks.world_model.latent_probe.LatentProbe",
                 "init_args": {"labels": {"class_path": "datamodules.envs.labels.CatchLabels"}, "streams": 4,
                               "length": 10}},
            ],
        },
        "data": {
            "init_args": {"prefill": 120, "steps_per_epoch": 8, "environments": 4, "updates_per_step": 0.5,
                          "capacity": 1000, "batch_size": 2},
        },
        "model": {
            "init_args": {"behaviour": {"init_args": {"trunk": {
                "class_path": "modules.experts.layer.SparseMoE", "init_args": {"num_experts": 2, "k": 1, "hidden": 4},
            }}}},
        },
        "evaluation": {"episodes": 1, "final_episodes": 1, "parallel": 1},
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    reverie.main(["fit", "--config", "dreamer/catch", "--config", "small.yaml"])
    (path,) = tmp_path.glob("log/**/metrics.csv")
    emitted = {name for name in path.read_text().splitlines()[0].split(",") if "/" in name}
    emitted = {re.sub("^(best|last|random_policy)/", "evaluation/", name) for name in emitted}
    emitted |= {f"experts/x/{name}" for name in load_metrics(torch.tensor([3, 1]))}
    known = DatasetInfo("x", "0", None, 1, 1, np.ones(1), np.ones(1), 0.0, 1.0, "by hand", "")
    played = score(np.ones(3), known, updates=0, kind="curve", label="policy", member="", numbers={"success_rate": 1.0})
    emitted |= {*played.metrics("evaluation")}
    explained = [*PAGES["metrics"], *PAGES["moe"], *PAGES["dreamer"]]
    groups = ("dreamerv2/",)
    left = sorted(m for m in emitted if not m.startswith(groups) and not any(matches(n, m) for n in explained))
    assert left == []
    for word in (
        "evaluation/return",
        "collection/episodes",
        "throughput/updates_per_second",
        "time/acting",
        "experts/",
        "world_model/",
        "world_model/probe/",
    ):
        assert any(m.startswith(word) for m in emitted), word


def test_every_activity_whose_time_is_told_is_explained() -> None:
    sources = (path for room in ("modules", "datamodules", "callbacks") for path in (ROOT / room).rglob("*.py"))
    timed = {name for path in sources for name in re.findall(r'\btimed\("(\w+)"\)', path.read_text())}
    explained = {name.removeprefix("time/") for name in PAGES["metrics"] if name.startswith("time/")}
    assert explained == timed | {OTHER}
