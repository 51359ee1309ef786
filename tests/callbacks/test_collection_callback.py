from __future__ import annotations

import pytest
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.collection import Collection


class Collected(ToyData):
    def __init__(self):
        super().__init__()
        self.asked = 0

    def collection_metrics(self):
        self.asked += 1
        return {"collection/return": 10.0 * self.asked, "collection/episodes": 3.0}


def fit(folder, data, monkeypatch):
    """The logged values by update, only those of collection."""
    agent, logged = Toy(SPACES), []
    log = agent.log_metrics
    monkeypatch.setattr(
        agent, "log_metrics", lambda values: (logged.append((agent.updates, dict(values))), log(values))
    )
    make_trainer(folder, 2, [Collection()]).fit(agent, datamodule=data)
    return agent, [(at, values) for at, values in logged if any("collection" in name for name in values)]


def test_metrics_are_logged_in_step_with_the_agents_own(tmp_path, monkeypatch):
    agent, logged = fit(tmp_path, Collected(), monkeypatch)
    assert logged == [
        (at, {"collection/return": 10.0 * (i + 1), "collection/episodes": 3.0}) for i, at in enumerate((5, 10, 15, 20))
    ]
    assert agent.latest_metrics["collection/return"] == pytest.approx(40.0)


def test_data_that_are_not_collected_log_nothing(tmp_path, monkeypatch):
    _, logged = fit(tmp_path, ToyData(), monkeypatch)
    assert logged == []
