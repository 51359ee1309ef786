"""Models that were taken away: they act as the checkpoint does, and nothing that a stranger writes into one is run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoint_files import write_checkpoint
from published_runs import finish, recurrent, score, seen

import reverie
from callbacks.evaluation.rollout import evaluate_policy
from commands.checkpoints import load_agent
from commands.publish import publish
from commands.published_policy import PublishedPolicy


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two runs in one store: ATAC on Pendulum, and R2D2 with a memory on images and numbers."""
    root = tmp_path_factory.mktemp("experiment")
    write_checkpoint(root / "plain/checkpoints/best.ckpt")
    agent = recurrent(root / "memory/checkpoints/last.ckpt")
    uri = finish(root / "plain", [score("best", -300.0)])
    finish(root / "memory", [])
    publish(str(root / "plain"), register="plain")
    publish(str(root / "memory"), register="memory")
    return SimpleNamespace(root=root, uri=uri, recurrent=agent)


@pytest.mark.long
def test_a_registered_model_earns_what_the_evaluation_of_its_checkpoint_does(published: SimpleNamespace) -> None:
    policy = reverie.load("models:/plain@best", tracking_uri=published.uri)
    assert isinstance(policy, PublishedPolicy)
    assert policy.environment is not None
    agent, _ = load_agent(published.root / "plain/checkpoints/best.ckpt")
    expected = evaluate_policy(agent, policy.environment, 1, 3).returns[0, 0]
    env = policy.environment.make()
    observation, _ = env.reset(seed=3)
    total, over = 0.0, False
    while not over:
        action, _ = policy.act(observation)
        with torch.no_grad():
            greedy = agent.act(torch.from_numpy(observation[None]), explore=False)[0][0].numpy()
        assert np.abs(action - greedy).max() < 1e-5
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    assert total == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
def test_state_goes_in_and_out_as_that_of_the_checkpoint(published: SimpleNamespace) -> None:
    model = reverie.load("models:/memory/1", tracking_uri=published.uri)
    checkpoint = reverie.load(published.root / "memory")  # the run's folder
    assert isinstance(model, PublishedPolicy)
    assert checkpoint.path.endswith("last.ckpt")
    rng, states = np.random.default_rng(0), {model: None, checkpoint: None}
    for t in range(6):
        batch, reward = seen(4, t), rng.normal(size=4).astype(np.float32) if t else None
        (action, states[model]), (other, states[checkpoint]) = (p.act(batch, s, reward) for p, s in states.items())
        assert (action == other).all()
        assert states[model].keys() == states[checkpoint].keys() != set()
        for name, x in states[model].items():
            assert np.allclose(x, states[checkpoint][name], rtol=0.0, atol=1e-5)
        # The one that remembers, with episodes that begin in between.
        first = np.array([t == 0, t in (0, 3), t == 0, t in (0, 5)])
        assert (model.predict(batch, reward, first) == checkpoint.predict(batch, reward, first)).all()
    one, state = model.act({key: x[0] for key, x in seen(1, 9).items()})
    assert one.shape == ()
    assert all(len(x) == 1 for x in state.values())
    fresh = model.act(seen(1, 9))[0]
    assert one == fresh[0]
    model.reset()
    assert model.predict(seen(1, 9)) == fresh


def test_the_example_of_the_page_plays_an_episode(published: SimpleNamespace, monkeypatch, capsys) -> None:
    page = (Path(reverie.__file__).parent / "docs/models.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", published.uri)
    exec(code.replace("cartpole", "plain"), {})
    assert -2000 < float(capsys.readouterr().out) < 0


def test_what_is_no_model_is_named(published: SimpleNamespace, tmp_path: Path) -> None:
    for uri, said in (
        ("models:/plain@none", "has no model models:/plain@none"),
        ("models:/nobody/3", "has no model models:/nobody/3"),
        ("models:/m-" + "0" * 32, "has no model models:/m-0"),
        ("models:/plain", "is no address of a model: models:/NAME@ALIAS"),
        ("models:/plain@best/../x", "is no address of a model"),
    ):
        with pytest.raises(ValueError, match=said):
            reverie.load(uri, tracking_uri=published.uri)
    with pytest.raises(ValueError, match="holds no run with checkpoints and no published model"):
        reverie.load(tmp_path)
    with pytest.raises(ValueError, match="is none: leave it out"):
        reverie.load(published.root / "plain", tracking_uri=published.uri)
    with pytest.raises(ValueError, match="leave them out"):
        reverie.load(published.root / "plain", config="atac/pendulum")
    with pytest.raises(ValueError, match=r"holds the policy of member .* alone"):
        reverie.load(published.root / "plain/models/best", "beta=4")


def outside(model: onnx.ModelProto) -> None:
    """Let the first tensor's numbers be those of another file."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def deep_outside(model: onnx.ModelProto) -> None:
    """The same of a tensor in an attribute of a node in a graph in an attribute."""
    inner = onnx.helper.make_graph([], "inner", [], [])
    constant = inner.node.add(op_type="Constant", output=["x"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    constant.attribute[0].t.data_location = onnx.TensorProto.EXTERNAL
    model.graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH, g=inner)


@pytest.mark.parametrize("change", [outside, deep_outside])
def test_numbers_in_other_files_are_not_read(change: Callable, published: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(published.root / "plain/models/best", folder)
    model = onnx.load(str(folder / "model.onnx"))
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="has numbers in another file, which is not opened"):
        reverie.load(folder)


def told(**changed: Any) -> dict[str, Any]:
    return {"observation": {"shape": [3], "dtype": "float32", **changed}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"policy": "../../etc/passwd"}, "names the policy's file '?../../etc/passwd"),
        ({"policy": "act.py"}, "known are model.onnx and policy.ckpt"),
        ({"inputs": told(shape=[4])}, "says that the policy takes"),
        ({"inputs": told(dtype="object")}, "does not say what the policy takes"),
        ({"inputs": told(shape=[-1])}, "does not say what the policy takes"),
        ({"inputs": []}, "does not say what the policy takes"),
        ({"inputs": told(initial="x")}, "does not say what the policy takes"),
        ({"member": 3}, "does not say what the policy takes"),
    ],
)
def test_a_description_of_a_stranger_is_checked(changed, said, published: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(published.root / "plain/models/best", folder)
    about = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**about, **changed}))
    with pytest.raises(ValueError, match=said):
        reverie.load(folder)


def test_the_environment_that_a_description_names_is_not_trusted(published: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(published.root / "plain/models/best", folder)
    about = json.loads((folder / "policy.json").read_text())
    about["environment"]["id"] = "antigravity:Env-v0"
    (folder / "policy.json").write_text(json.dumps(about))
    policy = reverie.load(folder)
    with pytest.raises(ValueError, match="antigravity"):
        _ = policy.environment


def test_a_loader_that_the_mlmodel_names_is_never_asked(published: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(published.root / "plain/models/best", folder)
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace("loader_module: mlflow.onnx", "loader_module: antigravity"))
    assert reverie.load(folder).act(np.zeros(3))[0].shape == (1,)
