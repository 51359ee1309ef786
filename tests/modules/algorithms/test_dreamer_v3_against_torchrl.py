"""One update of the third version has the losses of TorchRL's, on the same weights, windows, noise and trajectories."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dreamer_agents import make_agent, make_sequence, third_version
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.objectives import DreamerV3ActorLoss, DreamerV3ValueLoss
from torchrl.objectives.utils import ValueEstimators
from torchrl_dreamer import FEATURES, HORIZON, Chance, model_loss, of_head, policy_of, value_of, windows

from modules.algorithms.dreamer import DreamerV2
from modules.batch import SequenceBatch

STEPS, ROWS, ACTIONS = 6, 4, 3


def by_row(x: Tensor) -> Tensor:
    """`[T, B, ...]` to TorchRL's `[B, T, ...]`."""
    return x.transpose(0, 1)


@pytest.fixture
def agent() -> DreamerV2:
    made = make_agent(**third_version())
    with torch.no_grad():  # outputs that start at zero would make many numbers the same
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


class Update:
    """The losses of ours, with what was inferred and imagined on the way."""

    def __init__(self, agent: DreamerV2, batch: SequenceBatch, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = {}

        def keep(owner: Any, name: str) -> None:
            whole = getattr(owner, name)

            def call(*given: Any, **named: Any) -> Any:
                kept[name] = whole(*given, **named)
                return kept[name]

            monkeypatch.setattr(owner, name, call)

        keep(agent.world_model.rssm, "observe")
        keep(agent.world_model.rssm, "imagine")
        monkeypatch.setattr("modules.world_model.shared_optimizer.descend_parts", lambda *_: torch.zeros(()))
        torch.manual_seed(7)
        # TorchRL draws for the prior, too, and then for the posterior, step by step.
        posterior = torch.rand(STEPS, 2, ROWS, agent.world_model.rssm.latent.groups)[:, 1]
        noise = agent.draw_noise(STEPS, ROWS)._replace(posterior=posterior)
        self.metrics = {name: float(x) for name, x in agent.update(batch, noise).metrics.items()}
        self.observed, (self.states, self.actions) = kept["observe"], kept["imagine"]


def test_the_world_models_losses(agent: DreamerV2, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_sequence(agent)
    mine = Update(agent, batch, monkeypatch)
    loss = model_loss(agent, ACTIONS)
    torch.manual_seed(7)
    losses, after = loss(windows(agent, batch))
    torch.testing.assert_close(by_row(after["next", "belief"]), mine.observed.state.h.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_row(after["next", "state"]), mine.observed.state.z.detach(), rtol=1e-5, atol=1e-5)
    theirs = {name: losses[f"loss_model_{name}"].item() for name in ("reco", "reward", "continue")}
    kl = (losses["loss_model_dynamic"] + losses["loss_model_representation"]).item()
    found = mine.metrics
    assert 2.0 * found["observation_loss"] == pytest.approx(theirs["reco"], rel=1e-5)
    assert found["reward_loss"] == pytest.approx(theirs["reward"], rel=1e-5)
    assert found["discount_loss"] == pytest.approx(theirs["continue"], rel=1e-5)
    assert found["kl_loss"] == pytest.approx(kl, rel=1e-5)


class AsImagined(nn.Module):
    """In the place of TorchRL's environment: the trajectories that our model imagined."""

    def __init__(self, agent: DreamerV2, update: Update) -> None:
        super().__init__()
        z, h = (x.detach().transpose(0, 1) for x in (update.states.z, update.states.h))
        reward = agent.world_model.expected_reward(update.states.features).detach().T.unsqueeze(-1)
        self.rows = len(z)
        self.content = {
            "state": z[:, :-1], "belief": h[:, :-1], "action": update.actions.detach().transpose(0, 1),
            "next": {"state": z[:, 1:], "belief": h[:, 1:], "reward": reward[:, 1:]},
        }  # fmt: skip

    def reset(self, start: TensorDict) -> TensorDict:
        return start

    def rollout(self, max_steps: int, **_: Any) -> TensorDict:
        return TensorDict(self.content, [self.rows, max_steps])


def test_the_losses_of_actor_critic_and_what_was_played(agent: DreamerV2, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, learner = make_sequence(agent), agent.behaviour
    mine = Update(agent, batch, monkeypatch)

    online = value_of(learner.critic)
    going_on = TensorDictModule(Chance(of_head(agent.world_model.discount)), FEATURES, ["continuation"])
    actor_loss = DreamerV3ActorLoss(
        policy_of(learner.actor), online, AsImagined(agent, mine),
        continuation_model=going_on, imagination_horizon=learner.horizon, use_reinforce=True,
    )  # fmt: skip
    # The model's own chance of going on holds the discount.
    actor_loss.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=0.95)
    features = {"state": mine.observed.state.z.detach(), "belief": mine.observed.state.h.detach()}
    start = TensorDict({key: x.flatten(0, 1) for key, x in features.items()}, [STEPS * ROWS])
    losses, imagined = actor_loss(start)
    found = mine.metrics
    assert found["actor_loss"] == pytest.approx(losses["loss_actor"].item(), rel=1e-5, abs=1e-6)
    assert found["imagined_return"] == pytest.approx(imagined["lambda_target"].mean().item(), rel=1e-5)

    # The slow critic is a copy of what the value loss is made with; the learned one comes into its place afterwards.
    value_loss = DreamerV3ValueLoss(value_of(learner.slow_critic), "two_hot", slow_critic_regularization=1.0)
    value_loss.value_model_params.data.update_(TensorDict.from_module(online).data)
    assert found["critic_loss"] == pytest.approx(value_loss(imagined)[0]["loss_value"].item(), rel=1e-5)
    ends = {"terminated": batch.terminated, "done": batch.terminated | batch.truncated}
    after = {name: by_row(x).unsqueeze(-1) for name, x in {"reward": batch.reward, **ends}.items()}
    bootstrap = by_row(imagined["lambda_target"][:, 0, 0].view(STEPS, ROWS))
    replay = {**{key: by_row(x) for key, x in features.items()}, "bootstrap": bootstrap, "next": after}
    played = value_loss.replay_value_loss(TensorDict(replay, [ROWS, STEPS]), horizon=HORIZON, lmbda=0.95)
    assert found["replay_value_loss"] == pytest.approx(played["loss_replay_value"].item(), rel=1e-5)
