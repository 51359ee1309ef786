"""Windows of real games, seen by one of the symmetries of their boards: as if they had been played so."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from muzero_agents import make_agent
from torch import Tensor

from datamodules.envs.boards import BoardGame, ConnectFour, TicTacToe
from modules.agent.action_masks import ActionMask
from modules.agent.board_symmetries import BoardSymmetries
from modules.agent.planning import Record, rows_of, unpack
from modules.batch import ACTION_MASK, PrioritizedSequences, SequenceBatch, Spaces
from modules.contracts import ReplayOffer
from modules.networks.action_slots import DistinctSlots

GAMES = pytest.mark.parametrize(
    ("game", "board", "kind"),
    [(TicTacToe, [3, 3, 2], "square"), (TicTacToe, [3, 3, 2], "mirror"), (ConnectFour, [6, 7, 2], "mirror")],
)
L, U = 8, 4


def spaces_of(game: type[BoardGame]) -> Spaces:
    env = game()
    return Spaces(env.observation_space, env.action_space)


def make(game: type[BoardGame], board: list[int], kind: Any) -> BoardSymmetries:
    return BoardSymmetries(ActionMask(spaces_of(game), ACTION_MASK), board, kind)


def play(game: type[BoardGame], actions: list[int]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """`[L, ...]` observations, rewards and ends of a game by given actions; zeros behind its end."""
    env = game()
    rows, rewards, ends = [env.reset(seed=0)[0]], [0.0], [False]
    for action in actions:
        seen, reward, terminated, _, info = env.step(action)
        assert not info.get("illegal_move")
        rows.append(seen)
        rewards.append(reward)
        ends.append(terminated)
    for _ in range(L - len(rows)):
        rows.append({key: np.zeros_like(x) for key, x in rows[0].items()})
        rewards.append(0.0)
        ends.append(False)
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}, np.array(rewards, np.float32), np.array(ends)


def random_game(game: type[BoardGame], rng: np.random.Generator) -> list[int]:
    env, actions, over = game(), [], False
    seen = env.reset(seed=0)[0]
    while not over and len(actions) < L - 1:
        actions.append(int(rng.choice(np.flatnonzero(seen[ACTION_MASK]))))
        seen, _, over, _, _ = env.step(actions[-1])
    return actions


def window(game: type[BoardGame], games: list[list[int]]) -> tuple[SequenceBatch, Tensor]:
    """`[L, B]` rows of games, and which are padding."""
    played = [play(game, actions) for actions in games]
    observation = {
        key: torch.from_numpy(np.stack([rows[key] for rows, _, _ in played], 1)) for key in (ACTION_MASK, "board")
    }
    done = torch.zeros(L, len(games), dtype=torch.int64)
    for b, actions in enumerate(games):
        done[1 : len(actions) + 1, b] = torch.tensor(actions)
    reward = torch.from_numpy(np.stack([x for _, x, _ in played], 1))
    ends = torch.from_numpy(np.stack([x for _, _, x in played], 1))
    none = torch.zeros_like(ends)
    padding = torch.arange(L).unsqueeze(1) > torch.tensor([len(actions) for actions in games])
    return SequenceBatch(observation, done, reward, none, ends, none), padding


def flattened(rows: SequenceBatch) -> SequenceBatch:
    """The same with flat boards, as a replay hands them out."""
    return rows._replace(observation=rows.observation | {"board": rows.observation["board"].flatten(2)})


@GAMES
@pytest.mark.parametrize("flat", [False, True])
def test_a_game_that_is_shown_turned_is_that_which_turned_actions_play(
    game: type[BoardGame], board: list[int], kind: str, flat: bool
) -> None:
    rng, symmetries = np.random.default_rng(0), make(game, board, kind)
    games = [random_game(game, rng) for _ in range(5 * len(symmetries.cells))]
    rows, padding = window(game, games)
    if flat:
        rows = flattened(rows)
    number = torch.arange(len(games)) % len(symmetries.cells)
    record = Record(torch.rand(U + 1, len(games), game.rules.actions), torch.zeros(0), torch.zeros(0))
    shown, policies = symmetries.changed(rows, record, (number,), U)
    turned = [shown.previous_action[1 : len(actions) + 1, b].tolist() for b, actions in enumerate(games)]
    assert turned != games
    expected, _ = window(game, turned)  # no move is illegal
    for key, x in expected.observation.items():
        assert torch.equal(shown.observation[key], x[: U + 1].reshape(shown.observation[key].shape))
    assert torch.equal(rows.reward, expected.reward)
    assert torch.equal(rows.terminated, expected.terminated)
    assert all(x is y for x, y in zip(shown[2:], rows[2:], strict=True))
    # Each action has the probability that it had where it was.
    for t in range(U):
        for b in torch.nonzero(~padding[t + 1]).flatten().tolist():
            before, after = rows.previous_action[t + 1, b], shown.previous_action[t + 1, b]
            assert policies.policy[t, b, after] == record.policy[t, b, before]
    assert torch.equal(policies.policy.sort(-1).values, record.policy.sort(-1).values)


@GAMES
def test_each_symmetry_is_drawn_as_often_and_comes_from_the_seed(
    game: type[BoardGame], board: list[int], kind: str
) -> None:
    symmetries = make(game, board, kind)
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(symmetries.draw(4000, torch.device("cpu"))[0])
    assert torch.equal(*drawn)
    share = drawn[0].bincount() / 4000
    assert share.shape == (len(symmetries.cells),)
    torch.testing.assert_close(share, torch.full_like(share, 1 / len(share)), rtol=0, atol=0.03)
    assert not symmetries.state_dict()  # a checkpoint is the same with and without


def test_actions_of_slots_change_and_slots_stay_in_place() -> None:
    symmetries = make(ConnectFour, [6, 7, 2], "mirror")
    rows, _ = window(ConnectFour, [[3], [3]])
    policy, actions = torch.rand(U + 1, 2, 3), torch.tensor([0.0, 2.0, 6.0]).expand(U + 1, 2, 3)
    record = Record(policy, torch.zeros(0), torch.zeros(0), actions)
    _, shown = symmetries.changed(rows, record, (torch.tensor([0, 1]),), U)
    assert shown.policy is policy
    assert shown.actions is not None
    assert shown.actions.dtype == torch.float32
    assert shown.actions[0].tolist() == [[0.0, 2.0, 6.0], [6.0, 4.0, 0.0]]


# ---------------------------------------------------------------------------------------------------------- in an agent
def make_pair(**arguments: Any) -> tuple[Any, Any]:
    """Two agents of tic-tac-toe, of which the second learns from boards as they are."""
    parts = {"board": gym.spaces.Box(0, 1, (18,), np.int8), ACTION_MASK: gym.spaces.Box(0, 1, (9,), np.int8)}
    kind = {"observation": gym.spaces.Dict(parts), "action": gym.spaces.Discrete(9), "two_player": True}
    turning = partial(BoardSymmetries, board=[3, 3, 2], symmetries="square")
    return make_agent(**kind, **arguments, augmentation=turning), make_agent(**kind, **arguments)


def batch_of(rows: SequenceBatch, padding: Tensor, agent: Any) -> PrioritizedSequences:
    """Sequences with records of searches that were sure of legal moves only."""
    valid = rows.observation[ACTION_MASK].roll(1, 0) != 0  # found in a row is what the next one stores
    g = torch.Generator().manual_seed(0)
    policy = torch.rand(valid.shape, generator=g).masked_fill(~valid | padding.unsqueeze(-1), 0.0)
    policy = policy / policy.sum(-1, keepdim=True).clamp_min(1e-9)
    stored = torch.cat([policy, torch.zeros(*padding.shape, 2)], -1)
    number = torch.arange(padding.shape[1])
    return PrioritizedSequences(rows, padding, stored[0], torch.ones(len(number)), number, number, stored, number)


def test_an_agent_learns_from_turned_games_what_it_would_have_from_such_games() -> None:
    """Values, too: they are of the board as it was played, and none of what goes back to the replay is turned."""
    turning, plain = make_pair(unroll=U, reanalyse=0.5, lr=0.0)
    for agent in (turning, plain):
        agent.meet(ReplayOffer(L, prioritized=True, refreshed=True, stored=True))
    rng = np.random.default_rng(1)
    rows, padding = window(TicTacToe, [random_game(TicTacToe, rng) for _ in range(16)])
    batch = batch_of(flattened(rows), padding, turning)
    torch.manual_seed(0)
    prepared = turning.noise_for(batch)
    assert prepared.draws is not None
    found = turning.update(batch, prepared)
    as_played = plain.update(batch, prepared._replace(draws=None))
    assert torch.equal(found.metrics["target"], as_played.metrics["target"])
    assert not torch.equal(found.metrics["policy_loss"], as_played.metrics["policy_loss"])
    assert torch.equal(found.feedback.stored, as_played.feedback.stored)

    # The same games as they are shown, with policies that were found there, and values that are left alone.
    rows, record = batch.sequence, rows_of(unpack(batch.stored, plain.slots))
    again = prepared.again
    shown, policies = turning.augmentation.changed(rows, record, prepared.draws, L - 1)
    _, searched = turning.augmentation.changed(
        rows, again._replace(policy=torch.cat([again.policy, again.policy], 1)), prepared.draws, U
    )
    stored = torch.cat([torch.zeros(1, 16, 11), policies._replace(value=record.value).pack()[:-1]])
    of_shown = batch._replace(sequence=shown, stored=stored)
    there = again._replace(policy=searched.policy[:, : again.policy.shape[1]])
    for name in ("reward_loss", "policy_loss"):
        one = plain.update(of_shown, prepared._replace(draws=None, again=there)).metrics[name]
        torch.testing.assert_close(found.metrics[name], one)


def test_drawn_slots_learn_from_turned_games() -> None:
    turning, _ = make_pair(unroll=U, slots=partial(DistinctSlots, count=4))
    rng = np.random.default_rng(2)
    rows, padding = window(TicTacToe, [random_game(TicTacToe, rng) for _ in range(16)])
    actions = torch.stack([torch.randperm(9)[:4] for _ in range(L * 16)]).view(L, 16, 4).float()
    stored = Record(torch.full((L, 16, 4), 0.25), torch.zeros(L, 16), torch.zeros(L, 16), actions).pack()
    batch = batch_of(flattened(rows), padding, turning)._replace(stored=stored * ~padding.unsqueeze(-1))
    losses = [float(turning.update(batch).metrics["reward_loss"]) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


IMAGE = gym.spaces.Box(0, 255, (3, 3, 2), np.uint8)


@pytest.mark.parametrize(
    ("parts", "action", "arguments", "message"),
    [
        ({}, 9, ([3, 3, 2], "round"), "augmentation.symmetries must be one of square, mirror, got 'round'"),
        ({}, 9, ([3, 3], "square"), r"augmentation.board must be rows, columns and channels, got \[3, 3\]"),
        ({}, 9, ([3, 0, 2], "square"), "augmentation.board must be at least 1, got 0"),
        ({}, 9, ([3, 4, 2], "square"), r"which is not so for 'board', Box.*: set model.augmentation to null"),
        ({"clock": IMAGE, "more": gym.spaces.Discrete(2)}, 9, ([3, 3, 2], "square"), "not so for 'more', Discrete"),
        ({}, 9, ([2, 9, 1], "square"), "a board of 2 rows and 9 columns is no square: set .* to mirror"),
        ({}, 3, ([3, 3, 2], "square"), r"Discrete actions that are cells, 9 of them, got Discrete\(3\)"),
        ({}, 2, ([3, 3, 2], "mirror"), r"actions that are cells or columns, 9 or 3 of them, got Discrete\(2\)"),
    ],
)
def test_what_has_no_such_symmetries_is_refused(
    parts: dict[str, gym.Space], action: int, arguments: tuple[Any, Any], message: str
) -> None:
    board = gym.spaces.Box(0, 1, (18,), np.int8)
    spaces = Spaces(gym.spaces.Dict({"board": board, **parts}), gym.spaces.Discrete(action))
    with pytest.raises(ValueError, match=message):
        BoardSymmetries(ActionMask(spaces, ACTION_MASK), *arguments)
