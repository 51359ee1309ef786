"""Heads of values: shapes, streams and rescaling."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from modules.networks.blocks import DenseStack
from modules.networks.value_codecs import Bernoulli, Normalized, Quantiles, Scalar, TwoHot
from modules.networks.value_heads import ActionHead, Head

TRUNK = functools.partial(DenseStack, layers=2)
FEATURES = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
CODECS = {
    "scalar": (Scalar, 1),
    "transformed": (functools.partial(Scalar, "signed_hyperbolic"), 1),
    "bernoulli": (Bernoulli, 1),
    "two-hot": (functools.partial(TwoHot, bins=7), 7),
    "quantiles": (functools.partial(Quantiles, count=6), 6),
    "normalized": (Normalized, 1),
}


@pytest.mark.parametrize(("codec", "width"), CODECS.values(), ids=CODECS)
def test_shapes_types_and_gradients(codec, width) -> None:
    head = Head(5, 8, TRUNK, codec)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = head(FEATURES)
    assert prediction.dtype == torch.float32
    assert prediction.shape == ((4, 3) if width == 1 else (4, 3, width))
    assert head.mean(prediction).shape == (4, 3)
    values, probability = head.atoms(prediction)
    assert values.shape == probability.shape
    assert values.shape[:-1] == (4, 3)
    loss = head.loss(head(FEATURES), torch.rand(4, 3))
    assert loss.shape == (4, 3)
    loss.sum().backward()
    assert head.output.weight.grad is not None
    assert head.output.weight.grad.any()


def test_a_copy_has_a_codec_of_its_own() -> None:
    head = Head(5, 8, TRUNK, Normalized)
    twin = copy.deepcopy(head)
    head.codec.mu.fill_(7.0)
    assert twin.mean(torch.zeros(3)).tolist() == [0.0] * 3
    assert head.mean(torch.zeros(3)).tolist() == [7.0] * 3


@pytest.mark.parametrize("duelling", [True, False])
@pytest.mark.parametrize(("codec", "width"), CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("discounts", [1, 3])
def test_axes_of_actions_discounts_and_outputs(duelling, codec, width, discounts) -> None:
    head = ActionHead(5, 8, TRUNK, 4, codec, duelling, discounts)
    prediction = head(FEATURES)
    axes = (3, 4) if discounts == 3 else (4,)
    assert prediction.shape == (4, 3, *axes, *([width] if width > 1 else []))
    assert head.mean(prediction).shape == (4, 3, *axes)


@pytest.mark.parametrize("discounts", [1, 3])
def test_duelling_is_the_state_plus_what_an_action_adds_to_the_mean_action(discounts) -> None:
    head = ActionHead(5, 8, TRUNK, 4, functools.partial(Quantiles, count=6), discounts=discounts)
    advantage = head.output(head.trunk(FEATURES)).view(4, 3, discounts, 4, 6)
    value = head.value_output(head.value_trunk(FEATURES)).view(4, 3, discounts, 6)
    expected = torch.empty(4, 3, discounts, 4, 6)
    for action in range(4):
        expected[..., action, :] = value + advantage[..., action, :] - sum(advantage[..., a, :] for a in range(4)) / 4
    found = head(FEATURES)
    torch.testing.assert_close(found, expected if discounts > 1 else expected.squeeze(2))


def test_without_streams_the_output_layer_is_the_prediction() -> None:
    head = ActionHead(5, 8, TRUNK, 4, duelling=False)
    torch.testing.assert_close(head(FEATURES), head.output(head.trunk(FEATURES)))
    assert not [name for name in head.state_dict() if name.startswith("value")]


def test_classes_start_equal() -> None:
    head = ActionHead(5, 8, TRUNK, 4, TwoHot)
    torch.testing.assert_close(head.mean(head(FEATURES)), torch.zeros(4, 3, 4), rtol=0, atol=1e-12)


MAKERS = {
    "head": lambda codec: Head(5, 8, TRUNK, codec),
    "duelling": lambda codec: ActionHead(5, 8, TRUNK, 4, codec),
    "plain": lambda codec: ActionHead(5, 8, TRUNK, 4, codec, duelling=False),
    "discounts": lambda codec: ActionHead(5, 8, TRUNK, 4, codec, discounts=2),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("tasks", [1, 3])
def test_rescaling_scales_and_shifts_the_prediction_of_each_output(make, tasks) -> None:
    head = make(functools.partial(Normalized, tasks))
    for layer, _ in head.output_layers:
        torch.nn.init.normal_(layer.bias)
    before, parameters = head(FEATURES), [id(p) for p in head.parameters()]
    scale, shift = torch.tensor([0.5, 3.0, 1.0][:tasks]).double(), torch.tensor([2.0, -1.0, 0.0][:tasks]).double()
    head.rescale(scale, shift)
    torch.testing.assert_close(head(FEATURES), (before * scale + shift).float())
    assert [id(p) for p in head.parameters()] == parameters  # what optimisers hold


@pytest.mark.parametrize("arguments", [{"actions": 0}, {"actions": 2, "discounts": 0}])
def test_mistakes_are_named(arguments) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        ActionHead(5, 8, TRUNK, **arguments)
