"""Fitted Q evaluation: d3rlpy's numbers, the exact solution of small processes, paired seeds, and its stopping rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from modules.algorithms.fitted_q import FittedQ, FittedValues, Fitting, fitted_q_values
from modules.batch import Episodes, Transition
from modules.networks.action_units import BoxUnits, DiscreteUnits
from modules.networks.stacked_encoders import FlatImages, ImageFront
from modules.networks.trunks import EncodedEnsemble, Front

FQE = Path(__file__).parents[2] / "data/d3rlpy/fqe.npz"
LINEAR = Fitting(1, updates=1500, batch_size=1000, lr=0.02, target_rate=0.2, look_every=500)


class Table:
    """Policies of numbered states, each a row of actions; the value functions see one-hot states."""

    hidden = ()
    front = None

    def __init__(self, actions: Tensor, n: int) -> None:
        self.table = actions  # [K, states]
        self.units = DiscreteUnits(gym.spaces.Discrete(n))

    def __len__(self) -> int:
        return len(self.table)

    def normalize(self, observation: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(observation.squeeze(-1).long(), self.table.shape[1]).float()

    def likeliest(self, observation: Tensor) -> Tensor:
        return self.table[:, observation.squeeze(-1).long()]


class Lines:
    """Policies of one number, `action = slope * observation`."""

    units = BoxUnits(gym.spaces.Box(-1.0, 1.0, (1,)))
    hidden = (32, 32)
    front: Front | None = None

    def __init__(self, *slopes: float) -> None:
        self.slopes = torch.tensor(slopes)

    def __len__(self) -> int:
        return len(self.slopes)

    def normalize(self, observation: Tensor) -> Tensor:
        return observation

    def likeliest(self, observation: Tensor) -> Tensor:
        return self.slopes[:, None, None] * observation


def episodes_of(rows: dict[str, np.ndarray], length: int) -> Episodes:
    """Rows in pieces of one length; only rows matter where no behaviour is looked at."""
    state, following = (torch.from_numpy(rows[name])[:, None].float() for name in ("state", "next_state"))
    reward, ends = torch.from_numpy(rows["reward"]).float(), torch.from_numpy(rows["terminal"])
    steps = Transition(state, torch.from_numpy(rows["action"]), reward, following, ends, torch.zeros_like(ends))
    return Episodes(steps, torch.full((len(reward) // length,), length))


def first_values(found: FittedValues, policy: int) -> Tensor:
    return found.initial[:, policy].mean(0)


def test_values_are_those_of_d3rlpy_and_of_the_exact_solution() -> None:
    rows = dict(np.load(FQE))
    actions = rows["q"].shape[1]
    episodes = episodes_of(rows, 1)  # every row is a first state, at which the policy's action is valued
    policies = Table(torch.from_numpy(rows["policy"])[None], actions)
    found = fitted_q_values(policies, episodes, episodes, 0.9, LINEAR)
    state = rows["state"]
    for ours, theirs in ((found.value[0, 0], rows["action"]), (first_values(found, 0), rows["policy"][state])):
        np.testing.assert_allclose(ours.numpy(), rows["q"][state, theirs], atol=1e-3)
        np.testing.assert_allclose(ours.numpy(), rows["exact"][state, theirs], atol=1e-3)
    ahead = rows["exact"][rows["next_state"], rows["policy"][rows["next_state"]]]
    np.testing.assert_allclose(found.next_value[0, 0].numpy(), ahead, atol=1e-3)
    error = rows["exact"][state, rows["action"]] - rows["reward"] - 0.9 * ~rows["terminal"] * ahead
    assert float(found.bellman_error[0, 0]) == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-2)
    gap = rows["exact"][state, rows["policy"][state]] - rows["exact"][state, rows["action"]]
    assert float(found.gap[0, 0]) == pytest.approx(gap.mean(), abs=1e-3)


def chain(episodes: int = 60, seed: int = 0) -> Episodes:
    """A chain of five states: action 1 goes right and 0 left; the right end pays 1 and is terminal, others cost 0.1."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in ("state", "action", "reward", "next_state", "terminal")}
    lengths = []
    for _ in range(episodes):
        state, steps, done = int(rng.integers(4)), 0, False
        while not done and steps < 8:
            action = int(rng.random() < 0.6)
            following = max(state - 1, 0) if action == 0 else state + 1
            done = following == 4
            for name, value in zip(columns, (state, action, 1.0 if done else -0.1, following, done), strict=True):
                columns[name].append(value)
            state, steps = following, steps + 1
        lengths.append(steps)
    rows = {name: np.array(values) for name, values in columns.items()}
    return Episodes(episodes_of(rows, 1).steps, torch.tensor(lengths))


def test_several_policies_and_the_data_have_the_exact_values_of_a_small_process() -> None:
    always, never, data = torch.ones(5).long(), torch.zeros(5).long(), chain()
    found = fitted_q_values(Table(torch.stack([always, never]), 2), data, data, 0.9, LINEAR)
    start = data.steps.observation[data.first].squeeze(-1)
    # To the right in 4 - s steps; to the left for ever at a cost.
    steps = 4.0 - start
    right = 0.9 ** (steps - 1) - 0.1 * (1 - 0.9 ** (steps - 1)) / 0.1
    torch.testing.assert_close(first_values(found, 0), right, atol=2e-3, rtol=0)
    torch.testing.assert_close(first_values(found, 1), torch.full_like(right, -1.0), atol=2e-3, rtol=0)
    assert found.gap[0, 2] == 0.0
    # The behaviour's value, by its recorded next actions where there are any: the same equation, solved by hand.
    rows, followed = data.steps, torch.ones(len(data.steps.reward), dtype=torch.bool)
    followed[data.last] = rows.terminated[data.last]
    pair = (rows.observation.squeeze(-1).long() * 2 + rows.action).numpy()
    moves, mean, count = np.zeros((10, 10)), np.zeros(10), np.zeros(10)
    for row in torch.nonzero(followed).squeeze(-1).tolist():
        count[pair[row]] += 1
        mean[pair[row]] += float(rows.reward[row])
        if not rows.terminated[row]:
            moves[pair[row], pair[row + 1]] += 1
    count = np.maximum(count, 1)
    exact = np.linalg.solve(np.eye(10) - 0.9 * moves / count[:, None], mean / count)
    np.testing.assert_allclose(first_values(found, 2).numpy(), exact[pair[data.first.numpy()]], atol=2e-3)


def regulator(episodes: int = 40, length: int = 10) -> Episodes:
    """Noisy episodes of `s' = s / 2 + a / 2`, with reward `-s^2`."""
    g = torch.Generator().manual_seed(0)
    state = 2.0 * torch.rand(episodes, generator=g) - 1.0
    rows = []
    for _ in range(length):
        action = 2.0 * torch.rand(episodes, generator=g) - 1.0
        following = 0.5 * state + 0.5 * action
        rows.append((state, action, -state.square(), following))
        state = following
    s, a, r, f = (torch.stack(x, 1).flatten() for x in zip(*rows, strict=True))
    ends = torch.zeros_like(r, dtype=torch.bool)
    return Episodes(Transition(s[:, None], a[:, None], r, f[:, None], ends, ends), torch.full((episodes,), length))


SMALL = Fitting(2, updates=700, batch_size=64, lr=3e-3, target_rate=0.1, look_every=100)


@pytest.mark.long
def test_continuous_policies_are_ranked_by_their_values_and_seeds_are_paired() -> None:
    data = regulator()
    found = fitted_q_values(Lines(-1.0, 1.0, -1.0), data, data, 0.8, SMALL, seed=3)
    # By hand: slope -1 stops at once, slope 1 stands still for ever.
    start = data.steps.observation[data.first].squeeze(-1)
    torch.testing.assert_close(first_values(found, 0), -start.square(), atol=0.25, rtol=0)
    torch.testing.assert_close(first_values(found, 1), -start.square() / (1 - 0.8), atol=0.8, rtol=0.2)
    assert torch.equal(found.initial[:, 0], found.initial[:, 2])  # the same policy: same start, same rows
    assert not torch.equal(found.initial[0, 0], found.initial[1, 0])
    assert found.initial.shape == (2, 4, 40)
    short = replace(SMALL, updates=300)
    one, again, other = (fitted_q_values(Lines(0.0), data, data, 0.8, short, seed=n).initial for n in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_fit_ends_when_held_out_errors_do_and_keeps_the_best() -> None:
    data, seen = regulator(), []
    fitting = Fitting(1, updates=600, batch_size=64, hidden=(8,), lr=0.3, target_rate=0.5, look_every=20, patience=2)
    found = fitted_q_values(Lines(0.0), data, data, 0.8, fitting, progress=lambda *at: seen.append(at))
    assert seen[0] == (20, 600)
    last, errors = seen[-1][0], dict(found.curve)
    assert last < 600
    assert min(errors) == 60  # 5 / (0.5 * 0.2) = 50 updates are the least
    assert found.updates == min(errors, key=errors.__getitem__)
    assert [*errors].index(last) - [*errors].index(found.updates) == 2


def test_values_never_leave_the_range_of_sums_of_rewards() -> None:
    data = regulator()
    wild = Fitting(1, updates=200, batch_size=64, hidden=(8,), lr=1.0, target_rate=1.0, look_every=50)
    found = fitted_q_values(Lines(1.0), data, data, 0.5, wild)
    assert float(found.initial.min()) > -10.0


def test_without_a_rate_values_of_any_discount_settle_in_half_of_the_updates() -> None:
    assert Fitting().rate(0.99) == Fitting().rate(0.9) == 0.05
    assert Fitting().rate(0.997) == pytest.approx(1 / 6)  # 5 / (rate * 0.003) = 10,000
    assert Fitting(updates=100).rate(0.9) == 1.0
    assert Fitting(target_rate=0.01).rate(0.997) == 0.01


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"updates": 10}, "settle after 251 updates at fqe.target_rate 0.1, got 10; raise one"),
        ({"updates": 10, "target_rate": None}, "at fqe.target_rate 1, got 10; raise it, or lower the discount"),
        ({"seeds": 0}, "fqe.seeds must be at least 1"),
        ({"target_rate": 0.0}, "fqe.target_rate"),
        ({"hidden": (0,)}, "fqe.hidden must lie in"),
        ({"lr": -1.0}, "fqe.lr"),
    ],
)
def test_mistakes_are_named(change: dict, said: str) -> None:
    data = regulator(4)
    with pytest.raises(ValueError, match=said):
        fitted_q_values(Lines(0.0), data, data, 0.8, Fitting(**{"target_rate": 0.1} | change))


def test_no_rows_are_refused() -> None:
    data = regulator(4)
    none = Episodes(Transition(*(x if x is None else x[:0] for x in data.steps)), data.length[:0])
    with pytest.raises(ValueError, match="there are none of one"):
        fitted_q_values(Lines(0.0), data, none, 0.8, SMALL)


IMAGE = gym.spaces.Box(0, 255, (2, 2, 1), np.uint8)


class Pictures(Lines):
    """Policies of images, by their first pixel."""

    front = ImageFront(IMAGE, None)

    def normalize(self, observation: Tensor) -> Tensor:
        return FlatImages(IMAGE.shape)(observation)

    def likeliest(self, observation: Tensor) -> Tensor:
        return super().likeliest(observation[:, 0, 0, :].float() / 255.0)


def test_images_are_seen_through_encoders() -> None:
    """Every function has one of its own, those of one seed start alike, and the value of what is seen is found."""
    shade = torch.tensor([0, 255, 255, 0] * 3, dtype=torch.uint8)  # the second and third picture pay
    pixels = shade[:, None, None, None].expand(12, 2, 2, 1)
    none = torch.zeros(12, dtype=torch.bool)
    steps = Transition(pixels, torch.zeros(12, 1), shade / 255.0, pixels.flip(0), none, none)
    data, policies = Episodes(steps, torch.full((3,), 4)), Pictures(0.1, 0.2)
    settings = replace(LINEAR, seeds=2, updates=300, target_rate=1.0, hidden=(8,), layer_norm=False)
    estimator = FittedQ(policies, data, 0.0, settings, seed=0, device="cpu")
    assert isinstance(estimator.critic, EncodedEnsemble)
    weights = estimator.critic.encoder.weights[0].view(2, 3, 8, 4)
    assert torch.equal(weights[:, 0], weights[:, 2])
    assert not torch.equal(weights[0], weights[1])
    found = fitted_q_values(policies, data, data, 0.0, settings)
    torch.testing.assert_close(found.value, (shade / 255.0).expand(2, 3, 12), atol=0.02, rtol=0.0)
    with pytest.raises(ValueError, match=r"fqe\.hidden is empty, and images are encoded .*: give one at least"):
        fitted_q_values(policies, data, data, 0.0, replace(settings, hidden=()))
