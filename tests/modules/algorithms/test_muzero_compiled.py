"""MuZero with compiled searches acts, learns and goes on as it does without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from muzero_agents import KINDS, make_agent, make_batch
from resumed_agents import equal, go_on, resume, saved

from modules.algorithms.muzero import MuZero
from modules.search.rules import PUCT, Gumbel
from modules.search.settings import SearchSettings

pytestmark = pytest.mark.compile


@pytest.mark.long
def test_compiled_searches_decide_as_plain_ones(backend: str) -> None:
    arguments = KINDS["drawn"] | KINDS["EfficientZero"] | {"search": SearchSettings(2)}
    decides_alike(*(make_agent(**arguments, compile=form) for form in ("off", "search")), explore=True)


def decides_alike(plain: MuZero, compiled: MuZero, *, explore: bool) -> None:
    observation = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    acted = []
    for agent in (plain, compiled):
        torch.manual_seed(0)
        acted.append(agent.act(observation, explore=explore))
    torch.testing.assert_close(acted[1], acted[0])


@pytest.mark.slow
@pytest.mark.parametrize("rule", [PUCT(), Gumbel()], ids=["puct", "gumbel"])
def test_compiled_searches_made_anew_find_what_plain_ones_do(rule: PUCT | Gumbel, backend: str) -> None:
    arguments: dict[str, Any] = {"search": SearchSettings(3, rule=rule), "reanalyse": 0.5}
    plain, compiled = (make_agent(**arguments, compile=form) for form in ("off", "search"))
    for explore in (True, False):
        decides_alike(plain, compiled, explore=explore)
    again = []
    for agent in (plain, compiled):
        torch.manual_seed(2)
        again.append(agent.noise_for(make_batch(plain)).again)
    assert again[0] is not None
    torch.testing.assert_close(again[1], again[0])


@pytest.mark.slow
def test_a_run_with_compiled_searches_goes_on_exactly(backend: str) -> None:
    arguments: dict[str, Any] = {"reanalyse": 1.0, "search": SearchSettings(2), "compile": "search"}
    agent, batch = make_agent(**arguments), make_batch(make_agent())
    go_on(agent, batch, 2)
    checkpoint = saved(agent)
    whole = go_on(agent, batch, 2)
    assert equal(go_on(resume(make_agent(**arguments), checkpoint), batch, 2), whole)


def test_each_choice_compiles_what_it_names() -> None:
    made = {name: make_agent(compile=name) for name in ("off", "update", "search", "both")}
    assert [agent.compile_mode for agent in made.values()] == ["off", "update", "off", "update"]
    for planner in ("planner", "target_planner"):
        kinds = {name: type(getattr(agent, planner).simulate).__name__ for name, agent in made.items()}
        assert kinds == {
            "off": "function", "update": "function", "search": "CompiledSimulation", "both": "CompiledSimulation",
        }  # fmt: skip
