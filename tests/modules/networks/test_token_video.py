"""Video models of tokens: their losses, what of a window they look at, and rollouts with a cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from catch_clips import random_play, windows

from modules.networks.causal_transformer import CausalTransformer
from modules.networks.quantisers import GumbelQuantiser, VectorQuantiser
from modules.networks.token_video import TokenVideo
from modules.networks.tokens import ImageTokenizer
from modules.networks.video_model import Clip, Foreseen

SPACE = gym.spaces.Box(0, 255, (10, 5, 1), np.uint8)
VECTOR = partial(VectorQuantiser, 16, 4)
NONE = torch.tensor(0.0)


def made(context: int = 2, window: int = 6, quantiser: Any = VECTOR, **sizes: Any) -> TokenVideo:
    """A model that draws tokens of all kinds: its output layers are not near zero."""
    torch.manual_seed(0)
    tokenizer = partial(ImageTokenizer, quantiser=quantiser, patch=(5, 3), channels=8, layers=0, levels=2)
    transformer = partial(CausalTransformer, width=16, layers=2, heads=2)
    model = TokenVideo(SPACE, 3, context, tokenizer, transformer, window, **sizes)
    with torch.no_grad():
        model.next_token.weight.mul_(5.0)
        model.outcome.weight.mul_(5.0)
        model.unknown.normal_()
    return model


def clip(steps: int = 7, rows: int = 6, seed: int = 1) -> Clip:
    return windows(random_play(200, 0), steps, rows, torch.Generator().manual_seed(seed))


def plain_losses(model: TokenVideo, clip: Clip) -> dict[str, float]:
    """Frame by frame, each from a sequence of its own that begins where its episode or the window does."""
    sums, number = dict.fromkeys(("token", "reward", "end"), 0.0), 0
    for b in range(clip.frame.shape[1]):
        start, begun = 0, False
        for t in range(len(clip.frame)):
            if clip.is_first[t, b]:
                start, begun = t, True
            if clip.is_first[t, b] or (t < model.context and not begun):
                continue
            x, tokens = [], model.tokenizer.tokens(clip.frame[start : t + 1, b])
            for s in range(start, t + 1):
                is_known = not clip.is_first[s, b] and (s >= model.context or begun)
                x.append(model.action(clip.action[s, b]) if is_known else model.unknown)
                x += list(model.token(tokens[s - start]))
            positions = torch.stack(x) + model.place.weight.repeat(t + 1 - start, 1)
            output = model.transformer(positions.unsqueeze(0))[0, -model.patches - 1 :]
            told = model.outcome(output[-1])
            sums["token"] += float(F.cross_entropy(model.next_token(output[:-1]), tokens[-1], reduction="sum"))
            sums["reward"] -= float(told[:3].log_softmax(0)[int(clip.reward[t, b]) + 1])
            sums["end"] += float(F.softplus(-told[3] if clip.terminated[t, b] else told[3]))
            number += 1
    return {name: value / number for name, value in sums.items()}


@torch.no_grad()
@pytest.mark.parametrize(("context", "window"), [(1, 7), (2, 7), (3, 4)])
def test_losses_are_those_of_a_sequence_for_each_frame(context: int, window: int) -> None:
    model, batch = made(context, window), clip()
    assert batch.is_first.any()
    assert not batch.is_first[0].all()
    terms, metrics = model.losses(batch, NONE)
    for name, value in plain_losses(model, batch).items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4), name
    image = batch.frame.flatten(0, 1)
    logits = model.tokenizer.decode(model.tokenizer.quantiser.look_up(model.tokenizer.tokens(image)))
    log_prob = logits.log_softmax(-1).gather(-1, (image > 0).long().unsqueeze(-1))
    assert float(terms["pixel"]) == pytest.approx(float(-log_prob.sum()) / len(image), rel=1e-4)
    right = (logits.argmax(-1) == (image > 0)).float().mean()
    assert float(metrics["pixels_returned"]) == pytest.approx(float(right))


def test_a_floor_leaves_no_gradient_to_pixels_that_are_known_well_enough() -> None:
    model = made(floor=10.0)
    terms, _ = model.losses(clip(), NONE)
    assert float(terms["pixel"].detach()) == pytest.approx(50 * 10.0)
    gradients = torch.autograd.grad(terms["pixel"], list(model.tokenizer.parameters()), allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_tokens_and_pixels_have_gradients_apart() -> None:
    model = made(quantiser=partial(GumbelQuantiser, 16, 4))
    terms, _ = model.losses(clip(), NONE)
    tokenizer = list(model.tokenizer.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("tokenizer.")]
    of_tokens = terms["token"] + terms["reward"] + terms["end"]
    for loss, mine, theirs in (
        (of_tokens, others, tokenizer),
        (terms["pixel"] + terms["quantiser"], tokenizer, others),
    ):
        reached = torch.autograd.grad(loss, [*mine, *theirs], allow_unused=True, retain_graph=True)
        assert all(g is not None and g.any() for g in reached[: len(mine)])
        assert all(g is None for g in reached[len(mine) :])


def test_what_no_gradient_moves_goes_on_with_gradients_alone() -> None:
    model = made(quantiser=partial(GumbelQuantiser, 16, 4, "linear(1, 0.5, 10)"))
    temperatures = []
    for _ in range(3):
        model.losses(clip(), NONE)
        temperatures.append(float(model.tokenizer.quantiser.temperature))
    with torch.no_grad():
        model.losses(clip(), NONE)
    assert temperatures == pytest.approx([1.0, 0.95, 0.9])
    again = made(quantiser=partial(GumbelQuantiser, 16, 4, "linear(1, 0.5, 10)"))
    again.load_state_dict(model.state_dict())
    again.losses(clip(), NONE)
    assert float(again.tokenizer.quantiser.temperature) == pytest.approx(0.85)
    model = made()
    before = model.tokenizer.quantiser.codebook.codes.clone()
    with torch.no_grad():
        model.losses(clip(), NONE)
    assert torch.equal(model.tokenizer.quantiser.codebook.codes, before)
    model.losses(clip(), NONE)
    assert not torch.equal(model.tokenizer.quantiser.codebook.codes, before)


@pytest.mark.parametrize(("context", "window", "temperature"), [(1, 2, 1.0), (2, 3, 0.5), (3, 9, 1.0)])
def test_a_rollout_with_a_cache_equals_one_that_looks_at_everything_anew(
    context: int, window: int, temperature: float
) -> None:
    steps, rows = 5, 3
    model = made(context, window, temperature=temperature)
    record = random_play(60, 3)
    frames = record.frame[torch.tensor([[4, 23, 40]]) + torch.arange(context).unsqueeze(1)]
    generator = torch.Generator().manual_seed(5)
    actions = torch.eye(3)[torch.randint(3, (steps, rows), generator=generator)]
    noise = torch.rand(steps, rows, model.d_noise, generator=generator)
    step = Foreseen(model.begin(frames), *[frames[0]] * 3)
    expected = model.plain_rollout(frames, actions, noise)
    shown = set()
    for action, draws, plain in zip(actions, noise, expected, strict=True):
        step = model.step(step.state, action, draws)
        for mine, theirs, kind in zip(step[1:], plain[1:], (torch.uint8, torch.float32, torch.bool), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.dtype == kind
        shown |= {frame.numpy().tobytes() for frame in step.frame}
    assert len(shown) > rows  # it is no still picture


def test_frames_before_an_episode_are_not_looked_at() -> None:
    model = made(context=3)
    first, second = random_play(20, 3).frame[[0, 3]]
    action, noise = torch.eye(3)[:1], torch.rand(1, model.d_noise, generator=torch.Generator().manual_seed(1))
    padded = model.step(model.begin(torch.stack([first, first, first]).unsqueeze(1)), action, noise)
    model.context = 1
    alone = model.step(model.begin(first.view(1, 1, 10, 5, 1)), action, noise)
    assert torch.equal(padded.frame, alone.frame)
    behind = alone.state.values  # two blocks, the first frame's and the step's
    torch.testing.assert_close(padded.state.values[:, :, :, -behind.shape[3] :], behind, rtol=0.0, atol=1e-6)
    model.context = 3
    moved = model.begin(torch.stack([first, second, second]).unsqueeze(1))  # what stands still later counts
    assert not moved.group.any()


def test_draws_decide_and_equal_draws_give_equal_steps() -> None:
    model = made()
    frames = random_play(20, 3).frame[torch.tensor([[3] * 40, [4] * 40])]
    action = torch.eye(3)[torch.zeros(40, dtype=torch.int64)]
    noise = torch.rand(20, model.d_noise, generator=torch.Generator().manual_seed(1)).repeat(2, 1)
    shown = model.step(model.begin(frames), action, noise).frame
    assert torch.equal(shown[:20], shown[20:])
    assert len(shown.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"context": 0}, "context must be at least 1"),
        ({"context": 4, "window": 4}, r"window must lie in \[5, "),
        ({"floor": -1.0}, "floor must lie in"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokenVideo(SPACE, 3, **arguments)  # type: ignore[arg-type]
