"""Targets of values for planning: known answers by hand, definitions by loops, and how many steps are in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser
from plain_value_targets import last_row, plain_target, random_rows
from torch import Tensor

from modules.functional.planning_targets import (
    DynamicHorizon,
    Mixed,
    NStep,
    SearchValue,
    TDLambda,
    ValueRows,
    ValueTarget,
    VTrace,
)
from modules.functional.returns import n_step_returns
from modules.trust.class_path import describe, resolve

TARGETS: list[ValueTarget] = [
    NStep(1),
    NStep(3),
    NStep(50),
    DynamicHorizon(4, 12),
    DynamicHorizon(1, 5),
    TDLambda(0.0),
    TDLambda(0.7),
    TDLambda(1.0),
    VTrace(1.0),
    VTrace(0.6),
    VTrace(0.0),
    SearchValue(),
    Mixed(30, 0, partial(TDLambda, 0.5)),
    Mixed(30, 10, VTrace),
    Mixed(0, 0),
]
NAMES = [f"{number}-{type(target).__name__}" for number, target in enumerate(TARGETS)]


def known(**changes: object) -> ValueRows:
    """One sequence of five rows, of which three are unrolled: rewards 1, 2, 4, 8 of its steps."""
    rows = {
        "reward": torch.tensor([[100.0], [1.0], [2.0], [4.0], [8.0]]),
        "terminated": torch.zeros(5, 1, dtype=torch.bool),
        "padding": torch.zeros(5, 1, dtype=torch.bool),
        "value": torch.tensor([[10.0], [20.0], [40.0], [80.0], [160.0]]),
        "search_value": torch.tensor([[-1.0], [-2.0], [-3.0], [-4.0], [-5.0]]),
        "searched": torch.tensor([[True], [False], [True], [True], [True]]),
        "log_ratio": torch.zeros(4, 1),
        "discount": 0.5,
        "age": torch.tensor([7]),
        "unroll": 2,
        "updates": torch.tensor(3),
    }
    return ValueRows(**rows | changes)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- known answers
def ends_at(row: int, terminated: bool) -> dict[str, Tensor]:
    time = torch.arange(5).unsqueeze(1)
    return {"terminated": (time == row) & terminated, "padding": time > row}


@pytest.mark.parametrize(
    ("target", "changes", "expected"),
    [
        (NStep(2), {}, [1 + 1 + 10, 2 + 2 + 20, 4 + 4 + 40]),
        (NStep(2), {"discount": -0.5}, [1 - 1 + 10, 2 - 2 + 20, 4 - 4 + 40]),
        (NStep(1), ends_at(1, True), [1, 0, 0]),
        (NStep(3), ends_at(1, False), [1 + 10, 20, 0]),
        (NStep(3), ends_at(2, True), [1 + 1, 2, 0]),
        (DynamicHorizon(3, 4), {}, [1 + 1 + 10, 2 + 2 + 20, 4 + 4 + 40]),  # age 7 takes one step away
        (DynamicHorizon(3, 8), {}, [1 + 1 + 1 + 10, 2 + 2 + 2 + 20, 4 + 4 + 40]),
        (DynamicHorizon(3, 1), {}, [1 + 10, 2 + 20, 4 + 40]),
        (TDLambda(0.0), {}, [11, 22, 44]),
        (TDLambda(0.5), ends_at(2, False), [0.5 * 11 + 0.5 * 12, 22, 40]),
        (VTrace(1.0), {"log_ratio": torch.tensor([[0.5], [-torch.inf], [0.0], [0.0]])}, [1 + 10, 20, 4 + 4 + 40]),
        (VTrace(1.0), {"log_ratio": torch.log(torch.tensor([[0.5]] * 4))}, None),
        (SearchValue(), {}, [-1, 2 + 2 + 20, -3]),
        (SearchValue(), ends_at(2, True), [-1, 2, 0]),
        (SearchValue(), ends_at(2, False), [-1, 22, -3]),
        (Mixed(8, 0, partial(NStep, 1)), {}, [11, 22, 44]),
        (Mixed(7, 0, partial(NStep, 1)), {}, [-1, 2 + 2 + 20, -3]),
        (Mixed(7, 4, partial(NStep, 1)), {}, [11, 22, 44]),
        (Mixed(7, 3, partial(NStep, 1)), {}, [-1, 2 + 2 + 20, -3]),
    ],
)
def test_numbers_that_were_worked_out_by_hand(
    target: ValueTarget, changes: dict[str, object], expected: list[float] | None
) -> None:
    found = target(known(**changes))
    if expected is None:
        # Errors of the four steps are 1, 2, 4 and 8; each weighs a quarter of half of the one before, and a half.
        expected = [10 + 0.5 * (1 + 2 / 4 + 4 / 16 + 8 / 64), 20 + 0.5 * (2 + 4 / 4 + 8 / 16), 40 + 0.5 * (4 + 8 / 4)]
    assert found.dtype == torch.float32
    assert found.squeeze(1).tolist() == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------------- definitions
@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_targets_are_those_of_the_definitions(target: ValueTarget) -> None:
    for seed in range(8):
        rows = random_rows(seed, discount=[0.9, -0.8, 1.0, 0.0][seed % 4])
        torch.testing.assert_close(target(rows), plain_target(target, rows))


def test_on_the_policy_itself_the_trace_is_the_longest_return() -> None:
    for seed in range(4):
        rows = random_rows(seed, discount=-0.9 if seed % 2 else 0.9)
        rows = rows._replace(log_ratio=rows.log_ratio.abs())  # at least as likely as it was
        longest = NStep(len(rows.value))
        torch.testing.assert_close(VTrace()(rows), longest(rows))
        torch.testing.assert_close(VTrace().horizon(rows), longest.horizon(rows))
        torch.testing.assert_close(TDLambda(1.0)(rows), longest(rows))
    # Without padding and ends, the same as of the plain returns.
    rows = known()
    returns = n_step_returns(rows.reward[1:], torch.full((4, 1), 0.5), rows.value, 4)
    assert torch.equal(VTrace()(rows), returns[:3])


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_targets_are_made_where_the_rows_are(target: ValueTarget) -> None:
    rows = ValueRows(*(x.to("meta") if isinstance(x, Tensor) else x for x in random_rows(1, 0.9)))
    for found in (target(rows), target.horizon(rows)):
        assert found.device.type == "meta"
        assert found.shape == (rows.unroll + 1, rows.padding.shape[1])


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_nothing_behind_an_end_and_no_sequence_beside_it_is_seen(target: ValueTarget) -> None:
    rows = random_rows(3, 0.9)
    before = target(rows)
    other = torch.full_like(rows.value, 1e6)
    changed = rows._replace(
        reward=torch.where(rows.padding, other, rows.reward),
        value=torch.where(rows.padding | rows.terminated, other, rows.value),
        search_value=torch.where(rows.padding | rows.terminated, other, rows.search_value),
        log_ratio=torch.where(rows.padding[1:], torch.nan, rows.log_ratio),
    )
    assert torch.equal(target(changed), before)
    assert torch.equal(target.horizon(changed), target.horizon(rows))
    for b in (0, 3):
        alone = ValueRows(*(x[..., b : b + 1] if isinstance(x, Tensor) else x for x in rows))
        torch.testing.assert_close(target(alone), before[:, b : b + 1])


# ------------------------------------------------------------------------------------------------------------- horizons
@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_a_horizon_is_the_weight_of_all_rewards_where_none_is_discounted(target: ValueTarget) -> None:
    for seed in range(3):
        rows = random_rows(seed, 1.0)
        reward = rows.reward.clone().requires_grad_()
        found = target(rows._replace(reward=reward))
        horizon = target.horizon(rows)
        assert horizon.shape == found.shape
        for t, b in torch.cartesian_prod(*(torch.arange(size) for size in found.shape)).tolist():
            weight = torch.autograd.grad(found[t, b], reward, retain_graph=True, allow_unused=True)[0]
            torch.testing.assert_close(
                horizon[t, b], torch.zeros_like(horizon[t, b]) if weight is None else weight.sum()
            )


def test_known_horizons() -> None:
    rows = known(log_ratio=torch.log(torch.tensor([[0.5], [1.0], [0.5], [4.0]])))
    expected: list[tuple[ValueTarget, list[float]]] = [
        (NStep(3), [3, 3, 2]),
        (DynamicHorizon(3, 4), [2, 2, 2]),
        (TDLambda(0.5), [1 + 0.5 + 0.25 + 0.125, 1 + 0.5 + 0.25, 1 + 0.5]),
        (VTrace(), [0.5 + 0.5 + 0.25 + 0.25, 1 + 0.5 + 0.5, 0.5 + 0.5]),
        (SearchValue(), [0, 2, 0]),
        (Mixed(8, 0, partial(NStep, 1)), [1, 1, 1]),
    ]
    for target, horizon in expected:
        assert target.horizon(rows).squeeze(1).tolist() == pytest.approx(horizon), target
    rows = random_rows(5, 0.9)
    for b in range(rows.padding.shape[1]):
        left = [max(0, last_row(rows, b) - t) for t in range(rows.unroll + 1)]
        assert NStep(99).horizon(rows)[:, b].tolist() == left


def test_the_older_and_the_less_likely_the_shorter() -> None:
    """A policy that drifts away from the one that acted: the trace finds the schedule of EfficientZero by itself."""
    rows = known(unroll=1)
    drifted = [
        rows._replace(age=torch.tensor([age]), log_ratio=torch.full((4, 1), -0.01 * age)) for age in range(0, 90, 10)
    ]
    for target in (VTrace(), DynamicHorizon(4, 20)):
        horizons = [float(target.horizon(x)[0, 0]) for x in drifted]
        assert horizons == sorted(horizons, reverse=True)
        assert horizons[0] == 4.0
        assert horizons[-1] < 1.5


# ------------------------------------------------------------------------------------------------------------ arguments
def test_rows_that_are_needed_behind_the_unrolled_ones() -> None:
    targets = NStep(7), DynamicHorizon(3), TDLambda(), VTrace(), SearchValue(), Mixed(young=partial(NStep, 4))
    assert [target.steps for target in targets] == [7, 3, 1, 1, 1, 4]
    assert (Mixed().young_below, Mixed().first_updates) == (20_000, 0)


@pytest.mark.parametrize(
    ("words", "make"),
    [
        (r"value_target.n must be at least 1, got 0", lambda: NStep(0)),
        (r"value_target.n must be at least 1, got -1", lambda: DynamicHorizon(-1)),
        (r"value_target.n must be int", lambda: NStep(2.5)),  # type: ignore[arg-type]
        (r"value_target.n must be int", lambda: DynamicHorizon("five")),  # type: ignore[arg-type]
        (r"value_target.shrink_every must be at least 1, got 0", lambda: DynamicHorizon(5, 0)),
        (r"value_target.lambda_ must lie in \[0, 1\]", lambda: TDLambda(1.5)),
        (r"value_target.lambda_ must lie in \[0, 1\]", lambda: TDLambda(-0.1)),
        (r"value_target.lambda_ must lie in \[0, 1\]", lambda: VTrace(1.5)),
        (r"value_target.lambda_ must lie in \[0, 1\]", lambda: VTrace(-0.1)),
        (r"value_target.lambda_ must be float", lambda: VTrace("all")),  # type: ignore[arg-type]
        (r"value_target.lambda_ must be float", lambda: TDLambda("all")),  # type: ignore[arg-type]
        (r"value_target.young_below must be at least 0, got -1", lambda: Mixed(-1)),
        (r"value_target.first_updates must be at least 0, got -1", lambda: Mixed(0, -1)),
    ],
)
def test_what_is_no_target_is_refused(words: str, make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=words):
        make()


PATH = "modules.functional.planning_targets."


class Agent:
    """Takes a target as agents do."""

    def __init__(self, value_target: Callable[[], ValueTarget] = NStep) -> None:
        self.value_target = value_target()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (None, NStep()),
        (f"{{class_path: {PATH}NStep, init_args: {{n: 3}}}}", NStep(3)),
        (f"{{class_path: {PATH}TDLambda, init_args: {{lambda_: 0.5}}}}", TDLambda(0.5)),
        (f"{{class_path: {PATH}VTrace}}", VTrace()),
        (f"{{class_path: {PATH}DynamicHorizon, init_args: {{n: 4}}}}", DynamicHorizon(4)),
        (f"{PATH}SearchValue", SearchValue()),
        (
            f"{{class_path: {PATH}Mixed, init_args: {{young_below: 9, young: "
            f"{{class_path: {PATH}VTrace, init_args: {{lambda_: 0.9}}}}}}}}",
            Mixed(9, young=partial(VTrace, 0.9)),
        ),
    ],
)
def test_each_kind_can_be_written_in_yaml(text: str | None, target: ValueTarget) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Agent, "agent")
    told = parser.instantiate(parser.parse_args([] if text is None else ["--agent.value_target", text]))
    assert_same(told.agent.value_target, target)


def test_a_checkpoint_names_each_kind() -> None:
    for maker in (VTrace, partial(TDLambda, lambda_=0.3), partial(Mixed, young=partial(VTrace, lambda_=0.3))):
        plain = describe({"value_target": maker}, "Agent")
        assert_same(resolve(Agent, plain, "x.ckpt")["value_target"](), maker())


def assert_same(one: ValueTarget, other: ValueTarget) -> None:
    assert type(one) is type(other)
    for name, value in vars(one).items():
        if name != "old":
            assert getattr(other, name) == value
