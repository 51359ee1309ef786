"""Ensembles of heads: laws that they recover, what falls with data and what stays, whom they learn from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor

from modules.functional.atoms import moments, quantiles
from modules.functional.member_spread import bootstrap_mask
from modules.networks.blocks import DenseStack
from modules.networks.reward_models import StepReward, ValuePrefix
from modules.networks.value_codecs import Bernoulli, Quantiles, Scalar, TwoHot, ValueCodec
from modules.networks.value_ensemble import EnsembleHead, Members, losses_of, means_of, variances_of

TRUNK = partial(DenseStack, layers=1, activation="relu", norm="layer")
NEAR = partial(TwoHot, 31, -1.5, 1.5, "signed_hyperbolic", unbiased=True)
"""Bins among which no number of these tests lies exactly, but 0: from -4.9 to 4.9."""


def wasserstein(number: Tensor, probability: Tensor, law: dict[float, float]) -> float:
    """The area between both distribution functions."""
    edges = torch.cat([number.flatten(), torch.tensor([*law])]).sort().values
    below = (probability.flatten() * (number.flatten() <= edges.unsqueeze(-1))).sum(-1)
    true = sum(p * (edges >= x) for x, p in law.items())
    return float(((below - true).abs()[:-1] * edges.diff()).sum())


def descend(module: torch.nn.Module, losses: object, steps: int, lr: float = 1e-2) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        losses().mean().backward()  # type: ignore[operator]
        optimizer.step()


@pytest.mark.parametrize("ensemble", [False, True])
def test_the_law_of_a_delayed_reward_is_recovered(ensemble: bool) -> None:
    """A reward of 1 comes with a chance of 0.3, and then at step 2 or 4, as likely; the prefix is a coin each step."""
    torch.manual_seed(0)
    head = partial(EnsembleHead, codec=NEAR, members=3) if ensemble else None
    model = ValuePrefix(4, 16, TRUNK, None if ensemble else NEAR, memory=16, head=head)
    latents = torch.eye(4).unsqueeze(1)
    g = torch.Generator().manual_seed(0)

    def predictions() -> Tensor:
        memory, found = torch.zeros(1, model.memory_width), []
        for latent in latents:
            prediction, memory = model(latent, memory)
            found.append(prediction)
        return torch.stack(found)

    def losses() -> Tensor:
        comes, early = torch.rand(2, 256, generator=g)
        at = torch.where(early < 0.5, 2, 4)
        target = (comes < 0.3) & (at <= torch.arange(1, 5).unsqueeze(1))
        episode = torch.randint(1 << 20, (256,), generator=g)
        return losses_of(model.head, predictions().expand(-1, 256, -1), target.float(), episode)

    for lr, steps in ((2e-2, 120), (5e-3, 80), (1e-3, 40)):
        descend(model, losses, steps, lr)
    number, probability = model.head.atoms(predictions().detach()[:, 0])
    for step, chance in enumerate([0.0, 0.15, 0.15, 0.3]):
        law = {0.0: 1.0 - chance, 1.0: chance}
        assert wasserstein(number[step], probability[step], law) < 0.05
        mean, variance = moments(number[step], probability[step])
        assert abs(float(mean) - chance) < 0.04
        assert abs(float(variance) - chance * (1.0 - chance)) < 0.06
    tails = quantiles(number[3], probability[3], torch.tensor([0.5, 0.9]))
    torch.testing.assert_close(tails, torch.tensor([0.0, 1.0]), atol=0.35, rtol=0.0)


def test_a_mean_of_transformed_bins_is_biased_and_one_of_numbers_is_not() -> None:
    """A reward of 10 with a chance of 0.1: by classes at its two numbers, the mean is 1, not `h^-1` of a mean."""
    grid = {"bins": 3, "low": 0.0, "high": 2.0 * 2.3266248, "spacing": "signed_hyperbolic"}  # h(10) is the second
    logits = torch.tensor([0.9, 0.1, 1e-30]).log()
    found = TwoHot(**grid, unbiased=True).mean(logits)  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.tensor(1.0), rtol=1e-4, atol=0.0)
    biased = TwoHot(**grid).mean(logits)  # type: ignore[arg-type]
    assert float(biased) == pytest.approx(0.5184, abs=1e-3)


def test_epistemic_variance_falls_with_data_and_aleatoric_stays() -> None:
    """An arm that pays 1 or -1: what is not known of its mean is about one part in `n` of the variance, 1."""
    g = torch.Generator().manual_seed(0)
    reward = torch.rand(512, generator=g).lt(0.5).float() * 2.0 - 1.0
    arm = torch.tensor([[1.0, 0.0]])

    def fitted(count: int) -> tuple[float, float]:
        torch.manual_seed(0)
        head = EnsembleHead(2, 16, TRUNK, NEAR, members=8)
        index = torch.arange(count)
        descend(head, lambda: head.bootstrapped_loss(head(arm).expand(count, -1), reward[:count], index), 120)
        spread = head.codec.spread(head(arm).detach())
        return float(spread.epistemic), float(spread.aleatoric)

    few, many = fitted(16), fitted(512)
    assert 0.25 / 16 < few[0] < 4.0 / 16
    assert many[0] < 4.0 / 512
    assert few[1] == pytest.approx(1.0, abs=0.3)
    assert many[1] == pytest.approx(1.0, abs=0.1)


def test_where_there_are_no_data_members_keep_disagreeing_by_their_priors() -> None:
    torch.manual_seed(0)
    head = EnsembleHead(2, 16, TRUNK, NEAR, members=5)
    seen, never = torch.tensor([[1.0, 0.0]]).expand(64, 2), torch.tensor([[-1.0, 1.0]])
    index = torch.arange(64)
    descend(head, lambda: head.bootstrapped_loss(head(seen), torch.ones(64), index), 100)
    known, unknown = (head.codec.spread(head(x).detach()).epistemic[0] for x in (seen[:1], never))
    assert unknown > 20.0 * known
    assert not [name for name, _ in head.named_parameters() if "priors" in name]
    assert {"priors.hidden", "priors.output"} <= head.state_dict().keys()


def test_a_member_learns_of_its_own_episodes_alone() -> None:
    torch.manual_seed(0)
    head = EnsembleHead(3, 8, TRUNK, Scalar, members=4, bootstrap=0.5)
    features, target = torch.randn(2, 3, 3), torch.randn(2, 3)
    episode = torch.tensor([0, 0, 312])
    mask = bootstrap_mask(episode, 4, 0.5)
    assert not torch.equal(mask[0], mask[2])
    prediction = head(features)
    loss = head.bootstrapped_loss(prediction, target, episode)
    for t in range(2):
        for b in range(3):
            errors = [0.5 * float(prediction[t, b, m].detach() - target[t, b]) ** 2 for m in range(4) if mask[b, m]]
            assert float(loss[t, b].detach()) == pytest.approx(sum(errors) / 4 / 0.5, rel=1e-5)
    (slope,) = torch.autograd.grad(loss.sum(), prediction)
    assert torch.equal(slope[0] != 0.0, mask)


def learns_of(rank: int) -> Tensor:
    head = EnsembleHead(3, 8, TRUNK, Scalar, members=4)
    prediction = torch.ones(1, 64, 4, requires_grad=True)
    loss = head.bootstrapped_loss(prediction, torch.zeros(1, 64), torch.arange(64))
    return torch.autograd.grad(loss.sum(), prediction)[0][0] != 0.0


def test_episodes_of_two_ranks_have_masks_of_their_own(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, learns_of)
    assert torch.equal(first, learns_of(0))  # as in a single process
    assert torch.equal(second, bootstrap_mask(torch.arange(64), 4, 0.5, 1))
    assert 0.35 < (first == second).float().mean() < 0.65


@pytest.mark.parametrize("codec", [Scalar, Bernoulli, NEAR, partial(Quantiles, 4)])
def test_members_are_each_what_the_codec_says(codec) -> None:
    one: ValueCodec = codec()
    members = Members(one, 3)
    prediction, target = torch.randn(5, members.width), torch.rand(5)
    split = prediction.view(5, 3, -1).unbind(1) if one.width > 1 else prediction.unbind(1)
    torch.testing.assert_close(members.means(prediction), torch.stack([one.mean(x) for x in split], -1))
    torch.testing.assert_close(members.mean(prediction), members.means(prediction).mean(-1))
    losses = torch.stack([one.loss(x, target) for x in split], -1)
    torch.testing.assert_close(members.losses(prediction, target), losses)
    torch.testing.assert_close(members.loss(prediction, target), losses.mean(-1))
    atoms, shares = torch.rand(5, 2), torch.rand(5, 2).softmax(-1)
    expected = torch.stack([one.loss(x, atoms, shares) for x in split], -1)
    torch.testing.assert_close(members.losses(prediction, atoms, shares), expected)
    # The mixture has the sum of both parts as its variance.
    mean, variance = moments(*members.atoms(prediction))
    spread = members.spread(prediction)
    torch.testing.assert_close(mean, spread.mean)
    torch.testing.assert_close(variance, spread.aleatoric + spread.epistemic)


def test_rewards_are_told_by_member_or_as_they_are() -> None:
    torch.manual_seed(0)
    plain, ensemble = StepReward(4, 8, TRUNK), StepReward(4, 8, TRUNK, head=partial(EnsembleHead, members=3))
    x = torch.rand(6, 4)
    prediction, _ = plain(x, torch.zeros(6, 0))
    assert torch.equal(means_of(plain.head, prediction), plain.head.mean(prediction))
    index = torch.arange(6)
    assert torch.equal(losses_of(plain.head, prediction, x[:, 0], index), plain.head.loss(prediction, x[:, 0]))
    assert variances_of("reward", plain.head, prediction, index >= 0) == {}
    prediction, _ = ensemble(x, torch.zeros(6, 0))
    assert isinstance(ensemble.head, EnsembleHead)
    spread, found = ensemble.head.codec.spread(prediction), variances_of("reward", ensemble.head, prediction, index < 4)
    torch.testing.assert_close(found["reward_epistemic"], spread.epistemic[:4].mean().detach())
    torch.testing.assert_close(found["reward_aleatoric"], spread.aleatoric[:4].mean().detach())
    assert variances_of("reward", ensemble.head, prediction, index < 0) == {
        "reward_epistemic": 0.0,
        "reward_aleatoric": 0.0,
    }
    assert means_of(ensemble.head, prediction).shape == (6, 3)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="members must be at least 2, got 1"):
        EnsembleHead(2, 8, TRUNK, members=1)
    with pytest.raises(ValueError, match="bootstrap must lie in"):
        EnsembleHead(2, 8, TRUNK, bootstrap=0.0)
    with pytest.raises(ValueError, match="codec would be ignored"):
        StepReward(4, 8, TRUNK, Scalar, head=EnsembleHead)
