"""Codecs: means, distributions and losses against known numbers."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Normal

from modules.functional.transforms import signed_hyperbolic, symexp, symlog, to_two_hot
from modules.networks.value_codecs import Bernoulli, Normalized, Quantiles, Scalar, TwoHot

UNIT = {"low": 0.0, "high": 4.0, "bins": 5, "spacing": "identity"}
"""Bins 0, 1, 2, 3, 4."""


def logits_of(weights: Tensor) -> Tensor:
    return torch.log(weights + 1e-30)


def test_scalar_loss_is_torchs_normal_without_the_constant() -> None:
    codec, prediction, target = Scalar(), torch.randn(4, 3), torch.randn(4, 3)
    constant = 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(codec.loss(prediction, target), -Normal(prediction, 1.0).log_prob(target) - constant)
    assert torch.equal(codec.mean(prediction), prediction)
    assert torch.equal(codec.atoms(prediction)[0], prediction.unsqueeze(-1))


def test_transformed_scalar_learns_the_transform_and_tells_the_number() -> None:
    codec = Scalar("signed_hyperbolic", eps=1e-2)
    target = torch.tensor([-1e4, 0.0, 3.0])
    prediction = torch.tensor([-199.01, 0.5, 1.03])
    error = prediction - torch.tensor([-99.005 - 100.0, 0.0, 1.03])
    torch.testing.assert_close(codec.loss(prediction, target), 0.5 * error.square(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(codec.mean(signed_hyperbolic(target, 1e-2)), target)


def test_bernoulli_loss_is_torchs_and_is_least_at_soft_targets() -> None:
    codec, prediction, hard = Bernoulli(), torch.randn(4, 3), torch.randint(2, (4, 3)).float()
    torch.testing.assert_close(codec.loss(prediction, hard), -BernoulliDistribution(logits=prediction).log_prob(hard))
    logit = torch.logit(torch.tensor(0.99)).requires_grad_()
    (gradient,) = torch.autograd.grad(codec.loss(logit, torch.tensor(0.99)), logit)
    assert abs(gradient.item()) < 1e-6
    assert codec.mean(logit).item() == pytest.approx(0.99)
    values, probability = codec.atoms(logit.detach())
    assert values.tolist() == [0.0, 1.0]
    torch.testing.assert_close(probability, torch.tensor([0.01, 0.99]))


# --------------------------------------------------------------------------------------------------------- two-hot
def test_two_hot_with_equal_classes() -> None:
    codec, prediction = TwoHot(), torch.zeros(4, 3, 255)
    torch.testing.assert_close(codec.mean(prediction), torch.zeros(4, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(codec.loss(prediction, torch.ones(4, 3)), torch.full((4, 3), math.log(255)))


def test_two_hot_mean_of_the_targets_own_weights_is_the_target() -> None:
    codec = TwoHot()
    target = torch.tensor([-1e5, -3.3, 0.0, 0.01, 42.0, 1e6])
    weights = to_two_hot(symlog(target), codec.bins)
    torch.testing.assert_close(codec.mean(logits_of(weights)), target, rtol=1e-4, atol=1e-6)
    logits = logits_of(weights).requires_grad_()
    (gradient,) = torch.autograd.grad(codec.loss(logits, target).sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros(6, 255), rtol=0, atol=1e-5)  # nothing is left to learn
    best = -(weights * torch.log(weights.clamp(min=1e-30))).sum(-1)
    torch.testing.assert_close(codec.loss(logits, target), best, rtol=1e-3, atol=1e-4)


def test_two_hot_gradient_does_not_grow_with_the_target() -> None:
    codec = TwoHot()
    logits = torch.zeros(255, requires_grad=True)
    norms = [torch.autograd.grad(codec.loss(logits, torch.tensor(x)), logits)[0].norm() for x in (1.0, 1e3, 1e6)]
    assert max(norms) < 1.01


def test_mean_of_an_uncertain_number_with_and_without_bias() -> None:
    # Even chances of 0 and 80, which the transform maps to 0 and log 81: the expected bin, log 9, is that of 8.
    biased, unbiased = (TwoHot(bins=3, low=0.0, high=math.log(81), unbiased=x) for x in (False, True))
    logits = torch.tensor([0.0, -200.0, 0.0])
    assert biased.mean(logits).item() == pytest.approx(8.0, rel=1e-5)
    assert unbiased.mean(logits).item() == pytest.approx(40.0, rel=1e-5)
    for codec in (biased, unbiased):  # the distribution itself is the same
        values, probability = codec.atoms(logits)
        torch.testing.assert_close(values, torch.tensor([0.0, 8.0, 80.0]))
        torch.testing.assert_close(probability, torch.tensor([0.5, 0.0, 0.5]))


@pytest.mark.parametrize("unbiased", [False, True])
def test_either_mean_tells_a_certain_number(unbiased) -> None:
    codec = TwoHot(bins=601, low=-300.0, high=300.0, spacing="signed_hyperbolic", unbiased=unbiased)
    target = torch.tensor([-5e4, -17.3, 0.0, 0.2, 2500.0])
    logits = torch.zeros(5, 601, requires_grad=True)
    (gradient,) = torch.autograd.grad(codec.loss(logits, target).sum(), logits)
    weights = 1.0 / 601 - gradient  # the gradient of a cross-entropy is the prediction minus the target's weights
    torch.testing.assert_close(codec.mean(logits_of(weights.clamp(min=0.0))), target, rtol=1e-3, atol=1e-2)


def test_symmetric_unbiased_bins_start_at_zero() -> None:
    codec = TwoHot(unbiased=True)
    torch.testing.assert_close(codec.bins, symexp(torch.linspace(-20.0, 20.0, 255)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(codec.mean(torch.zeros(2, 255)), torch.zeros(2), rtol=0, atol=1e-12)


def test_a_distribution_as_target_is_projected_as_in_c51() -> None:
    codec, logits = TwoHot(**UNIT), torch.randn(2, 5)
    atoms = torch.tensor([[-3.0, 0.5, 2.0], [1.25, 9.0, 3.0]])
    probability = torch.tensor([[0.5, 0.2, 0.3], [0.4, 0.6, 0.0]])
    projected = torch.tensor([[0.6, 0.1, 0.3, 0.0, 0.0], [0.0, 0.3, 0.1, 0.0, 0.6]])
    expected = -(projected * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(codec.loss(logits, atoms, probability), expected)


# ------------------------------------------------------------------------------------------------------- quantiles
def test_quantile_loss_by_definition() -> None:
    torch.manual_seed(0)
    codec = Quantiles(count=4, kappa=0.5)
    prediction, atoms, probability = torch.randn(3, 4), torch.randn(3, 6), torch.randn(3, 6).softmax(-1)
    expected = torch.zeros(3)
    for row in range(3):
        for i, share in enumerate((0.125, 0.375, 0.625, 0.875)):
            for j in range(6):
                error = (atoms[row, j] - prediction[row, i]).item()
                huber = 0.5 * error**2 if abs(error) <= 0.5 else 0.5 * (abs(error) - 0.25)
                expected[row] += probability[row, j] * abs(share - (error < 0)) * huber / 0.5
    torch.testing.assert_close(codec.loss(prediction, atoms, probability), expected)


def test_quantile_loss_of_a_number_is_that_of_a_certain_distribution() -> None:
    codec, prediction, target = Quantiles(count=4), torch.randn(3, 2, 4), torch.randn(3, 2)
    certain = codec.loss(prediction, target.unsqueeze(-1), torch.ones(3, 2, 1))
    torch.testing.assert_close(codec.loss(prediction, target), certain)


def test_least_quantile_loss_is_at_the_quantiles() -> None:
    codec = Quantiles(count=2, kappa=1e-3)
    atoms, probability = torch.tensor([0.0, 10.0, 20.0, 30.0]), torch.full((4,), 0.25)
    prediction = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([prediction], lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        codec.loss(prediction, atoms, probability).backward()
        optimizer.step()
    low, high = prediction.tolist()  # anything between the first two atoms is a lower quartile
    assert -0.5 <= low <= 10.5
    assert 19.5 <= high <= 30.5
    assert high - low > 9.0


def test_quantiles_of_a_transform_are_told_in_the_rewards_units() -> None:
    codec = Quantiles(count=2, transform="symlog")
    prediction = symlog(torch.tensor([[0.0, 100.0]]))
    torch.testing.assert_close(codec.mean(prediction), torch.tensor([50.0]))
    values, probability = codec.atoms(prediction)
    torch.testing.assert_close(values, torch.tensor([[0.0, 100.0]]))
    assert probability.tolist() == [[0.5, 0.5]]
    assert codec.loss(torch.full((2,), 3.0), symexp(torch.tensor(3.0))).item() < 1e-9


# ------------------------------------------------------------------------------------------------------ normalised
def normalized() -> Normalized:
    codec = Normalized(tasks=2)
    codec.mu.copy_(torch.tensor([10.0, -100.0]))
    codec.sigma.copy_(torch.tensor([2.0, 50.0]))
    return codec


def test_normalized_mean_and_loss_of_the_chosen_task() -> None:
    codec, task = normalized(), torch.tensor([1, 0])
    prediction = torch.tensor([[1.0, 3.0], [2.0, 5.0]])
    assert codec.mean(prediction, task).tolist() == [50.0, 14.0]
    assert codec.loss(prediction, torch.tensor([-50.0, 8.0]), task=task).tolist() == [2.0, 4.5]
    values, probability = codec.atoms(prediction, task)
    assert values.tolist() == [[50.0], [14.0]]
    assert probability.tolist() == [[1.0], [1.0]]


def test_normalized_means_of_all_actions_of_a_task() -> None:
    prediction = torch.arange(12.0).view(2, 3, 2)  # [B, A, K]
    means = normalized().mean(prediction, torch.tensor([[1], [0]]))
    assert means.tolist() == [[-50.0, 50.0, 150.0], [22.0, 26.0, 30.0]]


def test_several_tasks_need_the_task() -> None:
    with pytest.raises(ValueError, match="a value of 2 tasks needs the task of each number"):
        normalized().mean(torch.zeros(3, 2))


def test_updated_statistics_are_those_of_the_targets() -> None:
    codec = Normalized(tasks=2)
    targets = torch.tensor([[1e4 - 3.0, 1e4 + 3.0], [0.0, 0.0]]).double()
    sums = targets.sum(-1), targets.square().sum(-1), torch.tensor([2.0, 0.0]).double()
    scale, shift = codec.update_statistics(*sums, decay=0.1)
    assert codec.mu.tolist() == [1e4, 0.0]
    assert codec.sigma.tolist() == pytest.approx([3.0, 1.0])
    assert codec.weight.tolist() == [0.1, 0.0]
    assert scale.tolist() == pytest.approx([1 / 3, 1.0])
    assert shift.tolist() == pytest.approx([-1e4 / 3, 0.0])
    assert set(codec.state_dict()) == {"mu", "nu", "sigma", "weight"}


# -------------------------------------------------------------------------------------------------------------- all
CODECS = {
    "scalar": Scalar("symlog"),
    "bernoulli": Bernoulli(),
    "two-hot": TwoHot(bins=9, low=-2.0, high=2.0),
    "quantiles": Quantiles(count=6),
    "normalized": Normalized(),
}


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_loss_of_a_distribution_is_the_expected_loss(codec) -> None:
    torch.manual_seed(0)
    prediction = torch.randn(3, *[codec.width] * (codec.width > 1))
    atoms, probability = torch.rand(3, 4), torch.randn(3, 4).softmax(-1)
    expected = sum(probability[:, j] * codec.loss(prediction, atoms[:, j]) for j in range(4))
    torch.testing.assert_close(codec.loss(prediction, atoms, probability), expected)


@pytest.mark.compile
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_codecs_compile_into_one_graph(codec) -> None:
    torch.manual_seed(0)

    def everything(prediction: Tensor, target: Tensor, atoms: Tensor, probability: Tensor) -> list[Tensor]:
        losses = [codec.loss(prediction, target), codec.loss(prediction, atoms, probability)]
        return [codec.mean(prediction), *codec.atoms(prediction), *losses]

    inputs = torch.randn(3, *[codec.width] * (codec.width > 1)), torch.rand(3), torch.rand(3, 4), torch.rand(3, 4)
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), everything(*inputs))


def test_arguments_of_one_name_have_one_default() -> None:
    # A config that names another class keeps the arguments that it also has, with the defaults of the class before.
    defaults: dict[str, set[object]] = {}
    for codec in (Scalar, Bernoulli, TwoHot, Quantiles, Normalized):
        for name, parameter in inspect.signature(codec.__init__).parameters.items():
            defaults.setdefault(name, set()).add(parameter.default)
    assert {name for name, found in defaults.items() if len(found) > 1} == set()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoHot(bins=1), "bins must be at least 2"),
        (lambda: TwoHot(low=3.0, high=3.0), "the range from low to high must rise"),
        (lambda: Quantiles(count=1), "count must be at least 2"),
        (lambda: Quantiles(kappa=0.0), "kappa must be positive"),
        (lambda: Normalized(tasks=0), "tasks must be at least 1"),
        (lambda: Normalized(smallest=2.0, largest=1.0), "smallest must lie in"),
        (lambda: Scalar("symlog", eps=1e-2), "eps would be ignored"),
    ],
)
def test_mistakes_are_named(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
