"""The update of DreamerV2 on a GPU: its compiled and captured forms agree, also with callbacks that take part in it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from dreamer_agents import IMAGE, PUSH, make_agent, make_sequence
from torch.utils._pytree import tree_map

from callbacks.kl_balancing import KLBalancing
from callbacks.popart import PopArt
from modules.networks.value_heads import PopArtHead
from modules.world_model.latents import GaussianLatent

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SETTINGS: dict[str, dict[str, Any]] = {
    "discrete": {},
    "continuous": {"action": PUSH},
    "image": {"observation": IMAGE},
    "gaussian": {"model": {"latent": partial(GaussianLatent, size=5)}},
    "schedules": {"behaviour": {"actor_gradient": "both", "mix": "linear(0.5, 0, 5)", "entropy": "linear(1, 0, 5)"}},
    "slow critic": {"behaviour": {"slow_interval": 2, "slow_rate": 0.5}},
    "popart": {"behaviour": {"critic": PopArtHead}},
}
UPDATES = 7  # the graph is captured at the second


def learn(name: str, mode: str, device: str, cast: bool = False) -> list[dict[str, torch.Tensor]]:
    """Metrics of every update in one form; batches and noise are those of all other forms."""
    agent = make_agent(**SETTINGS[name], compile=mode)
    batches = [make_sequence(agent, seed=seed) for seed in range(UPDATES)]
    torch.manual_seed(3)
    noises = [agent.draw_noise(*batch.reward.shape) for batch in batches]
    agent.to(device).configure_optimizers()
    balancing, popart = KLBalancing(scale="linear(2, 0.5, 6)", free_nats=0.1), PopArt(decay=0.1)
    agent.attach(balancing, *([popart] if name == "popart" else []))
    balancing.on_fit_start(None, agent)
    found = []
    for batch, noise in zip(batches, noises, strict=True):
        balancing.on_train_batch_start(None, agent, batch, 0)
        here = tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, (batch, noise))
        with torch.autocast(device, torch.bfloat16, enabled=cast):
            metrics = agent.update(*here).metrics
        found.append({key: value.cpu() for key, value in metrics.items()})
        agent.advance()
    return found


@needs_cuda
@pytest.mark.parametrize("mode", ["off", "cell", "update", "captured"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_form_agrees_with_the_eager_one_on_the_cpu(name: str, mode: str) -> None:
    for expected, found in zip(learn(name, "off", "cpu"), learn(name, mode, "cuda"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("name", ["discrete", "continuous", "image"])
def test_captured_bfloat16_products_follow_the_weights(name: str) -> None:
    eager, captured = (learn(name, mode, "cuda", cast=True) for mode in ("off", "captured"))
    for expected, found in zip(eager, captured, strict=True):
        for key in ("observation_loss", "reward_loss", "kl"):
            torch.testing.assert_close(found[key], expected[key], rtol=0.02, atol=0.02)
