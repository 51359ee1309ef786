"""The U-net as a video model: losses row by row, own predictions, draws, errors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from modules.networks.video_model import Clip
from modules.networks.video_unet import VideoUNet

SMALL: dict[str, Any] = {"hidden": 4, "downs": 2, "doublings": 1, "levels": 3, "dropout": 0.0, "prior_units": 6}


def make(context: int = 1, bits: int = 0, shape: tuple[int, int, int] = (6, 5, 1), **settings: Any) -> VideoUNet:
    torch.manual_seed(1)
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    return VideoUNet(space, 3, **{**SMALL, "context": context, "bits": bits, "group": 2, **settings})


def make_clip(model: VideoUNet, steps: int = 7, rows: int = 4, seed: int = 0) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(model.levels, (steps, rows, *model.shape), generator=generator)
    frame = (level * 255.0 / (model.levels - 1)).round().to(torch.uint8)
    action = torch.nn.functional.one_hot(torch.randint(3, (steps, rows), generator=generator), 3).float()
    reward = torch.randint(-1, 2, (steps, rows), generator=generator).float()
    is_first = torch.rand(steps, rows, generator=generator) < 0.25
    return Clip(frame, action, reward, torch.rand(steps, rows, generator=generator) < 0.3, is_first)


def cut(clip: Clip, start: int, stop: int, row: int) -> Clip:
    return Clip(*(x[start:stop, row : row + 1] for x in clip))


def told(model: VideoUNet, clip: Clip, own: float) -> dict[str, float]:
    torch.manual_seed(5)
    terms, metrics = model.losses(clip, torch.tensor(own))
    return {name: value.item() for name, value in (terms | metrics).items()}


@pytest.mark.parametrize("context", [1, 3])
def test_losses_of_windows_are_means_of_those_of_their_rows_but_first_ones(context: int) -> None:
    model = make(context)
    clip = make_clip(model)
    rows = [(t, b) for t in range(context, 7) for b in range(4) if not clip.is_first[t, b]]
    assert 5 < len(rows) < (7 - context) * 4
    single = [told(model, cut(clip, t - context, t + 1, b), 0.0) for t, b in rows]
    for name, value in told(model, clip, 0.0).items():
        assert value == pytest.approx(np.mean([each[name] for each in single]), rel=1e-4), name


def test_frames_that_are_looked_back_at_are_own_predictions_of_one_step() -> None:
    model = make()
    clip = make_clip(model)
    found = []
    for t in range(1, 7):
        for b in range(4):
            if clip.is_first[t, b]:
                continue
            pair = cut(clip, t - 1, t + 1, b)
            if t > 1 and not clip.is_first[t - 1, b]:
                before = clip.frame[t - 2, b].unsqueeze(0)
                own = model.step(model.begin(before.unsqueeze(0)), clip.action[t - 1, b].unsqueeze(0), torch.rand(1, 0))
                pair = pair._replace(frame=torch.stack([own.frame, pair.frame[1]]))
            found.append(told(model, pair, 0.0))
    expected = told(model, clip, 1.0)
    assert expected != told(model, clip, 0.0)
    for name, value in expected.items():
        assert value == pytest.approx(np.mean([each[name] for each in found]), rel=1e-4), name


def test_what_led_to_a_first_row_does_not_matter() -> None:
    model = make(context=2, bits=4)
    clip = make_clip(model)
    first = clip.is_first
    other = clip._replace(
        action=torch.where(first.unsqueeze(-1), 0.0, clip.action),
        reward=torch.where(first, 1.0, clip.reward),
        terminated=clip.terminated | first,
    )
    assert told(model, clip, 0.5) == told(model, other, 0.5)


@pytest.mark.parametrize("bits", [2, 4])  # one group, and two
def test_every_weight_learns(bits: int) -> None:
    model = make(context=2, bits=bits)
    terms, metrics = model.losses(make_clip(model), torch.tensor(0.5))
    assert set(terms) == {"frame", "reward", "end", "latent"}
    assert not any(value.requires_grad for value in metrics.values())
    sum(terms.values(), torch.zeros(())).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0 or (bits == 2 and name.endswith("weight_hh")), name  # nothing came before


@pytest.mark.parametrize(("context", "bits", "channels"), [(1, 0, 1), (3, 4, 3)])
def test_steps_are_frames_rewards_and_ends_that_the_draws_alone_decide(context: int, bits: int, channels: int) -> None:
    model = make(context, bits, (7, 6, channels))
    assert model.d_noise == bits // 2
    frames = torch.randint(256, (context, 5, 7, 6, channels), dtype=torch.uint8)
    state, action = model.begin(frames), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    noise = torch.rand(5, model.d_noise)
    found = model.step(state, action, noise)
    assert found.frame.shape == (5, 7, 6, channels)
    assert set(found.frame.unique().tolist()) <= {0, 128, 255}
    assert set(found.reward.tolist()) <= {-1.0, 0.0, 1.0}
    assert found.terminated.dtype == torch.bool
    assert torch.equal(found.state[-1], found.frame)
    assert torch.equal(found.state[:-1], frames[1:])
    for x, y in zip(found, model.step(state, action, noise), strict=True):
        assert torch.equal(x, y)


def boards(ball: Tensor, rows: int = 4, columns: int = 3) -> Tensor:
    """`[n]` places to `[n, rows, columns, 1]` boards with a bright pixel there."""
    board = torch.zeros(len(ball), rows * columns, dtype=torch.uint8)
    board[torch.arange(len(ball)), ball] = 255
    return board.view(-1, rows, columns, 1)


@pytest.mark.timeout(300)
def test_it_learns_how_a_ball_falls_and_when_that_ends() -> None:
    """It falls a row, and the action moves it aside; at the bottom there is a reward by the column, and an end."""
    torch.manual_seed(0)
    space = gym.spaces.Box(0, 255, (4, 3, 1), np.uint8)
    model = VideoUNet(space, 3, context=1, levels=2, hidden=16, downs=1, doublings=1, dropout=0.0, bits=0)
    row, column, action = (
        x.flatten() for x in torch.meshgrid(torch.arange(3), torch.arange(3), torch.arange(3), indexing="ij")
    )
    moved = (column + action - 1).clamp(0, 2)
    frame = torch.stack([boards(3 * row + column), boards(3 * (row + 1) + moved)])
    end = row == 2
    reward = torch.where(end, moved - 1, 0).float()
    nothing = torch.zeros(27, dtype=torch.bool)
    taken = torch.nn.functional.one_hot(action, 3).float()
    clip = Clip(
        frame,
        torch.stack([taken, taken]),
        torch.stack([reward] * 2),
        torch.stack([end] * 2),
        torch.stack([nothing] * 2),
    )
    optimizer = torch.optim.Adam(model.parameters(), 8e-3)
    for _ in range(120):
        terms, _ = model.losses(clip, torch.zeros(()))
        optimizer.zero_grad()
        sum(terms.values(), torch.zeros(())).backward()
        optimizer.step()
    found = model.step(model.begin(frame[:1]), taken, torch.rand(27, 0))
    assert torch.equal(found.frame, frame[1])
    assert torch.equal(found.reward, reward)
    assert torch.equal(found.terminated, end)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"downs": 4}, "downs: 4 halve an image of 6 x 5 more often than it can be"),
        ({"bits": 6, "group": 4}, "6 bits are no whole number of groups of 4"),
        ({"levels": 1}, "levels must lie in"),
        ({"floor": -0.1}, "floor must lie in"),
        ({"flips": 0.6}, "flips must lie in"),
        ({"mixed": 1.1}, "mixed must lie in"),
        ({"skipped": -0.1}, "skipped must lie in"),
        ({"noise": -0.1}, "noise must lie in"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"context": 0}, "context must be at least 1"),
        ({"hidden": 0}, "hidden must lie in"),
    ],
)
def test_sizes_and_shares_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
