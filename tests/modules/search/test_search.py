"""A search as its caller sees it: counts, masks, rows that end or fail, draws, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from search_models import Game, random_game
from tensordict import TensorDict
from torch import Tensor

from modules.search.interface import Noise, Root, Step
from modules.search.rules import PUCT, Gumbel
from modules.search.search import draw_noise, search
from modules.search.settings import SearchSettings

RULES = {"gumbel": Gumbel(considered=4), "puct": PUCT(), "puct, whole tree": PUCT(normalisation="tree")}
STATES = torch.arange(12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_simulation_visits_one_slot_of_the_root(rule: Gumbel | PUCT) -> None:
    game = random_game(0)
    for simulations in (1, 2, 15):
        result = search(game.root(STATES), game.step, SearchSettings(simulations, rule=rule), generator())
        assert result.visits.sum(1).tolist() == [simulations] * len(STATES)
        torch.testing.assert_close(result.policy_target.sum(1), torch.ones(len(STATES)))
        assert (result.depth >= 1).all()
        assert (result.depth <= simulations).all()
        mean = (game.value[STATES] + (result.visits * result.q).sum(1)) / (1 + simulations)
        torch.testing.assert_close(result.value, mean)
        assert not result.failed.any()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_slots_that_are_not_valid_are_neither_visited_nor_taken(rule: Gumbel | PUCT) -> None:
    game = random_game(1, actions=6)
    valid = torch.rand(len(STATES), 6, generator=generator(3)) < 0.4
    valid[:, 5] |= ~valid.any(1)
    valid[0] = False
    valid[0, 3] = True
    masked = (torch.rand(40, 6, generator=generator(4)) < 0.5).index_fill(1, torch.tensor([1]), True)

    def step(embedding: Tensor, action: Tensor, noise: Any) -> Step:
        after = game.step(embedding, action, noise)
        seen.append((embedding, action))
        return after._replace(valid=masked[after.embedding])

    for seed in range(3):
        seen: list[tuple[Tensor, Tensor]] = []
        result = search(game.root(STATES, valid), step, SearchSettings(12, rule=rule), generator(seed))
        assert (result.visits[~valid] == 0).all()
        assert (result.policy_target[~valid] == 0).all()
        assert valid.gather(1, result.action.unsqueeze(1)).all()
        assert result.visits.sum(1).tolist() == [12] * len(STATES)
        assert int(result.action[0]) == 3
        for embedding, action in seen[1:]:  # deeper nodes have masks of their own
            below = embedding >= len(STATES)
            assert masked[embedding, action][below].all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_finished_rows_are_not_searched_and_give_no_nan(rule: Gumbel | PUCT) -> None:
    game = random_game(2)
    valid = torch.ones(len(STATES), 4, dtype=torch.bool)
    valid[5] = False
    finished = torch.zeros(len(STATES), dtype=torch.bool)
    finished[[5, 6]] = True
    root = game.root(STATES, valid)._replace(finished=finished)
    for explore in (True, False):
        result = search(root, game.step, SearchSettings(6, rule=rule), generator(), explore=explore)
        assert result.visits.sum(1).tolist() == [0 if done else 6 for done in finished.tolist()]
        assert int(result.action[5]) == 0
        assert result.policy_target[5].tolist() == [0.0] * 4
        assert all(x.isfinite().all() for x in (result.policy_target, result.value, result.q, result.log_prob))
        assert not result.failed.any()
    with pytest.raises(ValueError, match="row 5 of the root has no valid slot; mark it in `finished`"):
        search(root._replace(finished=None), game.step, SearchSettings(6, rule=rule))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_row_in_which_the_model_fails_is_masked_and_told_and_changes_no_other(rule: Gumbel | PUCT) -> None:
    game, settings = random_game(3), SearchSettings(8, rule=rule)
    noise = draw_noise(game.root(STATES), settings, generator())
    whole = search(game.root(STATES), game.step, settings, noise=noise)
    parts: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("reward", lambda x: x * math.nan), ("discount", lambda x: x + math.inf), ("value", lambda x: x * math.nan),
        ("logits", lambda x: x * math.nan),
    ]  # fmt: skip
    for name, spoil in parts:
        calls = 0

        def step(embedding: Tensor, action: Tensor, noise: Any, name: str = name, spoil: Any = spoil) -> Step:
            nonlocal calls
            calls += 1
            found = game.step(embedding, action, noise)
            if calls < 4:
                return found
            x = getattr(found, name).clone()
            x[2] = spoil(x[2])
            return found._replace(**{name: x})

        result = search(game.root(STATES), step, settings, noise=noise)
        assert result.failed.nonzero().tolist() == [[2]]
        assert float(result.visits[2].sum()) == 3
        rest = STATES != 2
        for x, y in zip(result, whole, strict=True):
            if x is not None:
                assert x.isfinite().all()
                torch.testing.assert_close(x[rest], y[rest])


def test_a_root_that_fails_is_told_and_not_searched() -> None:
    game = random_game(3)
    for field in ("logits", "value"):
        root = game.root(STATES)
        spoilt = getattr(root, field).clone()
        spoilt[4] = math.nan
        for rule in RULES.values():
            result = search(root._replace(**{field: spoilt}), game.step, SearchSettings(4, rule=rule), generator())
            assert result.failed.nonzero().tolist() == [[4]]
            assert all(x.isfinite().all() for x in result if x is not None)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_batch_equals_searches_of_its_rows(rule: Gumbel | PUCT) -> None:
    game, settings = random_game(4), SearchSettings(14, rule=rule)
    root = game.root(STATES)
    noise = draw_noise(root, settings, generator())
    whole = search(root, game.step, settings, noise=noise)
    for row in range(len(STATES)):
        one = slice(row, row + 1)
        own = Noise(*(None if x is None else x[..., one, :] for x in noise))
        result = search(game.root(STATES[one]), game.step, settings, noise=own)
        for x, y in zip(result, whole, strict=True):
            assert x is y is None or torch.equal(x, y[one])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_draws_are_those_of_the_generator_and_there_are_none_without_exploration(rule: Gumbel | PUCT) -> None:
    game, settings = random_game(5), SearchSettings(10, rule=rule)

    def visits(seed: int, explore: bool) -> Tensor:
        result = search(game.root(STATES), game.step, settings, generator(seed), explore=explore)
        return torch.cat([result.visits, result.action.unsqueeze(1)], 1)

    assert torch.equal(visits(0, True), visits(0, True))
    assert not torch.equal(visits(0, True), visits(1, True))
    assert torch.equal(visits(0, False), visits(1, False))


class Pair(NamedTuple):
    state: Tensor
    more: dict[str, Tensor]


def test_an_embedding_is_any_nested_structure() -> None:
    game, settings = random_game(6), SearchSettings(9)
    plain = search(game.root(STATES), game.step, settings, generator())
    beside = torch.randn(len(STATES), 2, 3)

    def in_pair(embedding: Pair, action: Tensor, noise: Any) -> Step:
        assert embedding.more["beside"].shape == beside.shape
        step = game.step(embedding.state, action, noise)
        return step._replace(embedding=Pair(step.embedding, {"beside": embedding.more["beside"] + 1}))

    def in_dict(embedding: TensorDict, action: Tensor, noise: Any) -> Step:
        step = game.step(embedding["state"], action, noise)
        return step._replace(embedding=TensorDict(state=step.embedding, batch_size=len(STATES)))

    root = game.root(STATES)
    pair = search(root._replace(embedding=Pair(STATES, {"beside": beside})), in_pair, settings, generator())
    tensordict = TensorDict(state=STATES, batch_size=len(STATES))
    dictionary = search(root._replace(embedding=tensordict), in_dict, settings, generator())
    assert torch.equal(pair.visits, plain.visits)
    assert torch.equal(dictionary.visits, plain.visits)
    with pytest.raises(ValueError, match="embedding of another structure"):
        search(root._replace(embedding=tensordict), in_pair_of_nothing, settings)


def in_pair_of_nothing(embedding: Any, action: Tensor, noise: Any) -> Step:
    rows = torch.zeros(len(STATES))
    return Step(rows, rows, torch.zeros(len(STATES), 4), rows, (rows, rows))


def test_what_does_not_fit_together_is_refused() -> None:
    game, settings = random_game(7), SearchSettings(3)
    root = game.root(STATES)

    def refused(words: str, root: Root = root, settings: SearchSettings = settings, **changed: Tensor) -> None:
        def step(embedding: Tensor, action: Tensor, noise: Any) -> Step:
            return game.step(embedding, action, noise)._replace(**changed)

        with pytest.raises(ValueError, match=words):
            search(root, step, settings)

    actions = torch.zeros(12, 4, 2)
    refused(r"logits are \[12, 4\], and its value is \[3\]", root=root._replace(value=torch.zeros(3)))
    refused(r"neither of them 0, got \[12\]", root=root._replace(logits=torch.zeros(12)))
    refused("valid must be of bools", root=root._replace(valid=torch.ones(12, 4)))
    refused(r"its actions \[12, 3, 2\]", root=root._replace(actions=torch.zeros(12, 3, 2)))
    refused("optimism needs a model that tells value_variance", settings=SearchSettings(3, optimism=1.0))
    refused("pessimism needs a model that tells value_variance", settings=SearchSettings(3, pessimism=1.0))
    refused(r"step has logits of shape \[12, 5\], where the root's make it \[12, 4\]", logits=torch.zeros(12, 5))
    refused(r"step has reward of shape \[12, 1\]", reward=torch.zeros(12, 1))
    refused("step has actions of shape .*, which the root has not", actions=actions)
    drawn = root._replace(actions=torch.zeros(12, 4, dtype=torch.int64))
    refused("the model's step has none; draw them for each node", root=drawn)
    refused("value_variance and reward_variance", value_variance=torch.zeros(12))


def test_variances_are_carried_up_the_path_and_draw_or_repel_the_search() -> None:
    """Two slots of equal returns, one of them uncertain: it gains the visits, or loses them."""
    reward_variance, value_variance, gamma = torch.tensor([[0.0, 4.0]]), 1.0, 0.5

    def step(embedding: Tensor, action: Tensor, noise: Any) -> Step:
        ones = torch.ones(len(action))
        first = embedding == 0
        return Step(
            0.0 * ones, gamma * ones, torch.zeros(len(action), 2), 0.0 * ones, embedding + 1,
            reward_variance=torch.where(first, reward_variance[0, action], 0.0), value_variance=value_variance * ones,
        )  # fmt: skip

    root = Root(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, dtype=torch.int64), value_variance=torch.ones(1))
    visits = {}
    for optimism in (-1.0, 0.0, 1.0):  # while exploring, and the same by pessimism while not; the other has no say
        settings = SearchSettings(40, optimism=optimism, pessimism=7.0, rule=PUCT())
        result = search(root, step, settings, noise=Noise())
        visits[optimism] = float(result.visits[0, 1])
        settings = SearchSettings(40, optimism=7.0, pessimism=-optimism, rule=PUCT())
        assert torch.equal(search(root, step, settings, explore=False).visits, result.visits)
        assert float(result.value[0]) == 0.0  # what is learned of values has no optimism
    assert visits[-1.0] < visits[0.0] == 20 < visits[1.0]
    one = search(root, step, SearchSettings(1, rule=PUCT()), explore=False)
    taken = float(reward_variance[0, int(one.action[0])])
    assert float(one.variance[0]) == pytest.approx((1.0 + taken + gamma**2 * value_variance) / 2)


def test_slots_of_a_node_are_its_own_actions() -> None:
    """Actions that say which node drew them reach the model from that node alone."""
    rows, slots = 3, 4
    own = torch.arange(slots, dtype=torch.float32).repeat(rows, 1)

    def step(embedding: Tensor, action: Tensor, noise: Tensor) -> Step:
        assert torch.equal(action[:, 0], embedding)
        assert (action[:, 1] >= 0).all()
        assert (action[:, 1] < slots).all()
        state = embedding + noise
        zeros = torch.zeros(rows)
        return Step(zeros, zeros + 0.9, torch.zeros(rows, slots), action[:, 1], state, actions=actions(state))

    def actions(state: Tensor) -> Tensor:
        return torch.stack([state.unsqueeze(1).expand(rows, slots), own], -1)

    start = torch.arange(rows, dtype=torch.float32)
    root = Root(torch.zeros(rows, slots), torch.zeros(rows), start, actions=actions(start))
    draw = lambda g: torch.rand(rows, generator=g)  # noqa: E731
    result = search(root, step, SearchSettings(30), generator(), draw=draw)
    assert result.action.shape == (rows, 2)
    assert torch.equal(result.action, actions(start)[torch.arange(rows), result.slot])
    again = search(root, step, SearchSettings(30), generator(), draw=draw)
    assert torch.equal(result.visits, again.visits)


def test_the_probability_of_a_choice_is_told() -> None:
    game: Game = random_game(8)
    cold = search(game.root(STATES), game.step, SearchSettings(20, rule=PUCT(temperature=0.0)), generator())
    assert torch.equal(cold.action, cold.visits.argmax(1))
    assert cold.log_prob.tolist() == [0.0] * len(STATES)
    for temperature in (0.5, 1.0):
        settings = SearchSettings(20, rule=PUCT(temperature=temperature))
        result = search(game.root(STATES), game.step, settings, generator())
        weight = result.visits ** (1 / temperature)
        expected = (weight / weight.sum(1, keepdim=True)).gather(1, result.slot.unsqueeze(1))[:, 0].log()
        torch.testing.assert_close(result.log_prob, expected)
    gumbel = search(game.root(STATES), game.step, SearchSettings(20), generator())
    torch.testing.assert_close(
        gumbel.log_prob, gumbel.policy_target.gather(1, gumbel.slot.unsqueeze(1))[:, 0].log(), rtol=1e-4, atol=1e-5
    )
