"""Mixtures of experts inside any agent: noise, balance, hyper-parameters, checkpoints of pruned layers."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from checkpoint_files import write_checkpoint
from pytorch_lightning import Trainer
from tensordict import TensorDict
from torch import Tensor, nn
from toy_run import ToyData, make_trainer

from callbacks.checkpointing import Checkpoint, ExactResume
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam, weighted_sum
from modules.batch import Spaces
from modules.contracts import Update
from modules.experts.layer import SparseMoE, sparse_layers
from modules.experts.residual_stack import ResidualStack
from modules.networks.auxiliary_losses import collecting
from modules.networks.blocks import MLP
from modules.networks.resizing import shrink_layers
from modules.networks.updates import hold_noise

SPACES = Spaces(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,)))
MIXTURE = functools.partial(SparseMoE, num_experts=4, hidden=8)


class Fitting(Agent):
    """Fits the sine of random inputs with a network that learns and a frozen copy of it."""

    def __init__(self, network: Callable[[int, int], nn.Module], spaces: Spaces = SPACES) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        self.make_network = network
        self.switches: list[list[bool | None]] = []
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.network = self.make_network(3, 2)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = make_adam(self.network.parameters(), 1e-2)

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        return self.network(observation), state

    def learn(self, batch: TensorDict) -> Update:
        self.switches.append([layer.noise for layer in sparse_layers(self).values()])
        x = torch.rand(32, 3)
        self.target(x)
        with collecting(self.network) as auxiliary:
            error = (self.network(x) - x[:, :2].sin()).square().mean()
        losses, weights = auxiliary.losses, auxiliary.weights
        descend(self.optimizer, weighted_sum({"error": error, **losses}, {"error": 1.0, **weights}))
        return Update({"error": error.detach(), **{name: loss.detach() for name, loss in losses.items()}})


def fit(folder: Path, agent: Agent, epochs: int = 2, ckpt_path: Path | None = None) -> Trainer:
    trainer = make_trainer(folder, epochs, [ExactResume(), Checkpoint(monitor="none", every_n_updates=0)])
    torch.manual_seed(0)
    trainer.fit(agent, datamodule=ToyData(environment=None), ckpt_path=ckpt_path)
    return trainer


# ---------------------------------------------------------------------------------------------------------------- noise
def test_noise_is_drawn_in_updates_of_a_trainer_alone(tmp_path: Path) -> None:
    agent = Fitting(functools.partial(ResidualStack, depth=1, experts=MIXTURE)).train()
    x = torch.rand(64, 3)
    assert torch.equal(agent.act(x, explore=True)[0], agent.act(x, explore=True)[0])
    fit(tmp_path, agent, epochs=1)
    assert agent.switches == [[True, False]] * 10  # the copy never draws any
    agent.train()
    assert torch.equal(agent.act(x, explore=True)[0], agent.act(x, explore=True)[0])
    agent.update(TensorDict({}, []))  # by hand: what tests and compilers compare
    assert agent.switches[-1] == [False, False]


class Late(Fitting):
    """Makes a network outside of `build`."""

    def __init__(self, network: Callable[[int, int], nn.Module], spaces: Spaces = SPACES) -> None:
        super().__init__(network, spaces)
        self.other = network(3, 2)
        self.other_optimizer = make_adam(self.other.parameters(), 1e-2)


def test_networks_made_outside_of_build_draw_noise_in_updates_alone_once_a_run_begins(tmp_path: Path) -> None:
    agent = Late(MIXTURE)
    fit(tmp_path, agent, epochs=1)
    assert agent.switches == [[True, False, True]] * 10  # the network, its copy, the other one
    assert agent.other.noise is False


def test_noise_is_off_again_after_an_update_that_failed() -> None:
    agent = Fitting(MIXTURE)
    agent.update = lambda batch: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        agent.training_step(None, 0)
    assert agent.network.noise is False  # type: ignore[comparison-overlap]


def test_a_layer_that_is_set_to_no_noise_gets_none_and_one_set_to_always_is_refused(tmp_path: Path) -> None:
    agent = Fitting(functools.partial(MIXTURE, noise=False))
    fit(tmp_path, agent, epochs=1)
    assert agent.switches == [[False, False]] * 10
    with pytest.raises(ValueError, match=r"^network: an agent draws noise in updates alone"):
        Fitting(functools.partial(MIXTURE, noise=True))
    with pytest.raises(ValueError, match=r"^SparseMoE: an agent draws noise in updates alone"):
        hold_noise(MIXTURE(3, 2, noise=True))


def test_a_network_that_is_a_mixture_itself_and_too_small_for_a_state_is_told_without_a_path() -> None:
    with pytest.raises(ValueError, match=r"^the state holds 4 experts, this layer 3"):
        shrink_layers(MIXTURE(3, 2, num_experts=3), MIXTURE(3, 2).state_dict())


def test_ranks_draw_different_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in (0, 1, 0):
        monkeypatch.setattr(Agent, "rank", rank)
        torch.manual_seed(0)  # as Lightning does on every rank
        Fitting.setup(Fitting(MIXTURE), "fit")
        drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


# -------------------------------------------------------------------------------------------------------------- balance
def test_the_bias_of_layers_that_learn_moves_once_per_update(tmp_path: Path) -> None:
    agent, moved = Fitting(functools.partial(MIXTURE, routing="bias_balanced")), []
    router, advance = agent.network.router, agent.advance  # type: ignore[union-attr]

    def watched() -> None:
        before = router.bias.clone()
        advance()
        moved.append(float((router.bias - before).abs().max()))

    agent.advance = watched  # type: ignore[method-assign]
    fit(tmp_path, agent, epochs=1)
    assert len(moved) == 10
    assert all(0 < step <= 1.5e-3 for step in moved)
    assert agent.network.expert_counts.sum() == 10 * 32 * 2  # type: ignore[union-attr, operator]
    assert not agent.target.router.bias.any()  # type: ignore[union-attr, operator]


def test_balancing_losses_are_logged_by_name(tmp_path: Path) -> None:
    agent = Fitting(functools.partial(ResidualStack, depth=2, experts=MIXTURE, placement="last"))
    fit(tmp_path, agent, epochs=1)
    assert {"fitting/error", "fitting/blocks.1/importance", "fitting/blocks.1/load"} <= agent.latest_metrics.keys()


class Forgetful(Fitting):
    """Fits without the scope; the loss of a second network goes through the first."""

    def build(self, spaces: Spaces) -> None:
        super().build(spaces)
        self.actor = nn.Linear(3, 3)
        self.actor_optimizer = make_adam(self.actor.parameters(), 1e-2)
        self.trained: tuple[torch.optim.Adam, ...] = (self.optimizer, self.actor_optimizer)

    def learn(self, batch: TensorDict) -> Update:
        x = torch.rand(32, 3)
        for optimizer in self.trained:
            descend(optimizer, self.network(self.actor(x)).square().mean())
        return Update({"error": x.mean()})


@pytest.mark.parametrize(
    ("network", "path"),
    [
        (MIXTURE, "network"),
        (functools.partial(ResidualStack, depth=2, experts=MIXTURE, placement="last"), r"network\.blocks\.1"),
    ],
)
def test_an_agent_that_forgets_the_scope_is_told_once(network: Any, path: str, tmp_path: Path) -> None:
    agent = Forgetful(network)
    with pytest.warns(UserWarning, match=rf"^{path} is trained without .*: Forgetful collects none") as told:
        fit(tmp_path, agent, epochs=1)
    assert len([one for one in told if "balancing" in str(one.message)]) == 1


def test_a_scope_a_loss_that_only_goes_through_and_losses_without_weight_are_no_reason_to_warn(tmp_path: Path) -> None:
    through = Forgetful(MIXTURE)
    through.trained = (through.actor_optimizer,)
    weightless = Forgetful(functools.partial(MIXTURE, loss_weights={"importance": 0.0, "load": 0.0}))
    lossless = Forgetful(functools.partial(MIXTURE, routing="bias_balanced"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*balancing")
        for agent in (Fitting(MIXTURE), through, weightless, lossless):
            fit(tmp_path, agent, epochs=1)


# ---------------------------------------------------------------------------------------------------------- checkpoints
def test_a_network_given_in_python_comes_back_from_the_file_alone(tmp_path: Path) -> None:
    stack = functools.partial(ResidualStack, depth=2, experts=functools.partial(MIXTURE, k=1), placement="every_other")
    agent = Fitting(stack)
    fit(tmp_path, agent)
    restored = Fitting.from_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert isinstance(restored, Fitting)
    x = torch.rand(16, 3)
    assert torch.equal(restored.act(x, explore=False)[0], agent.eval().act(x, explore=False)[0])
    assert restored.hparams["network"]["init_args"]["experts"]["init_args"] == {"num_experts": 4, "hidden": 8, "k": 1}
    trainer = make_trainer(tmp_path / "again", 3, [Checkpoint(monitor="none")])
    trainer.fit(restored, datamodule=ToyData(environment=None), ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert isinstance(Fitting.from_checkpoint(tmp_path / "again/checkpoints/last.ckpt"), Fitting)


class Own(nn.Linear):
    """A user's own layer."""


def test_copies_of_an_own_agent_with_an_own_layer_need_no_trust(tmp_path: Path) -> None:
    agent = Fitting(functools.partial(ResidualStack, depth=2, experts=Own)).eval()
    fit(tmp_path, agent)
    path, x = tmp_path / "checkpoints/last.ckpt", torch.rand(16, 3)
    for again in (
        pickle.loads(pickle.dumps(agent.copy_for_acting(agent.state_dict())))(),  # as a collecting process gets it
        agent.with_weights_of(path),  # as the final evaluation plays the best
    ):
        assert isinstance(again, Fitting)
        assert torch.equal(again.act(x, explore=False)[0], agent.act(x, explore=False)[0])
        assert again.updates == agent.updates
    with pytest.raises(ValueError, match=rf"experts of ResidualStack names {__name__}\.Own, .*trust=\['{__name__}'\]$"):
        Fitting.from_checkpoint(path)
    assert isinstance(Agent.from_checkpoint(path, trust=[__name__]), Fitting)
    assert isinstance(Agent.load_from_checkpoint(path, trust=[__name__]), Fitting)


def test_a_network_that_no_file_could_name_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"^Fitting\.network must be a class that can be imported[^\n]*$"):
        Fitting(lambda d_in, d_out: MLP(d_in, d_out))


@pytest.mark.parametrize(
    "network",
    [
        MIXTURE,
        functools.partial(MIXTURE, num_shared_experts=1, routing="bias_balanced"),
        functools.partial(SparseMoE, num_experts=4, expert=MLP),
        functools.partial(MIXTURE, num_experts=8, routing="hierarchical", groups=4),
        functools.partial(ResidualStack, depth=2, experts=MIXTURE),
    ],
    ids=["mixture", "bias", "modules", "hierarchical", "stack"],
)
def test_a_run_whose_experts_were_pruned_goes_on_exactly(network: Any, tmp_path: Path) -> None:
    kept = torch.tensor([0, 2, 3])

    def start() -> Fitting:
        torch.manual_seed(1)
        return Fitting(network)

    def prune(agent: Fitting) -> None:
        for layer in sparse_layers(agent.network).values():
            layer.keep(kept, [agent.optimizer])
        for layer in sparse_layers(agent.target).values():
            layer.keep(kept)

    class Pruned(Fitting):
        """Loses an expert after five updates."""

        def advance(self) -> None:
            super().advance()
            if self.updates == 5:
                prune(self)

    torch.manual_seed(1)
    whole = Pruned(network)
    fit(tmp_path / "whole", whole, epochs=2)
    torch.manual_seed(1)
    fit(tmp_path / "half", Pruned(network), epochs=1)
    path = tmp_path / "half/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["agent"]["class_path"] = f"{__name__}.Fitting"
    torch.save(checkpoint, path)

    resumed = start()
    fit(tmp_path / "half", resumed, epochs=2, ckpt_path=path)
    assert {layer.num_experts for layer in sparse_layers(resumed).values()} == {3}
    for (name, p), q in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    for mine, other in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert torch.equal(mine["exp_avg"], other["exp_avg"])
    restored = Fitting.from_checkpoint(path)
    x = torch.rand(16, 3)
    assert restored.act(x, explore=False)[0].shape == (16, 2)


def test_a_checkpoint_with_more_experts_is_refused_by_name(tmp_path: Path) -> None:
    agent = write_checkpoint(tmp_path / "a.ckpt", trunk=MIXTURE)
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    fewer = type(agent)(agent.spaces, hidden=[16, 16], trunk=functools.partial(MIXTURE, num_experts=3))
    with pytest.raises(ValueError, match=r"does not fit the configured model: actor\.network\.trunks\.0: .*4 experts"):
        fewer.on_load_checkpoint(checkpoint)
    other = type(agent)(agent.spaces, hidden=[16, 16], trunk=functools.partial(MIXTURE, hidden=16))
    with pytest.raises(
        ValueError, match=r"actor\.network\.trunks\.0\.experts\.first\.weight is \[4, 3, 8\] in the file"
    ):
        other.on_load_checkpoint(checkpoint)
    dense = type(agent)(agent.spaces, hidden=[16, 16])
    with pytest.raises(ValueError, match=r"actor\.network\.\S+ is \[.*nothing of that name in the model"):
        dense.on_load_checkpoint(checkpoint)
