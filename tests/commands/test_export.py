"""`export`: the folder acts like the checkpoint, in a process that has neither torch nor reverie."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoint_files import write_checkpoint

import commands.export
from commands.export import export, main
from commands.exported_act import Policy
from commands.policy_step import PolicyStep
from modules.experts.layer import SparseMoE, sparse_layers
from modules.experts.residual_stack import ResidualStack
from modules.networks.blocks import MLP

NAMES = ["beta=1/seed=0", "beta=1/seed=1", "beta=4/seed=0", "beta=4/seed=1"]

OUTSIDE = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from act import Policy
policy, rows = Policy(), np.load(sys.argv[2])
np.save(sys.argv[3], policy(rows))
assert policy(rows[0]).shape == (1,)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "reverie", "modules", "commands", "gymnasium"}, loaded
"""

pytestmark = pytest.mark.usefixtures("operators")


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """A checkpoint of four members, the agent in it, and the export of its last member."""
    folder = tmp_path_factory.mktemp("population")
    agent = write_checkpoint(folder / "many.ckpt", beta=[1.0, 4.0], seeds=2)
    export(str(folder / "many.ckpt"), str(folder / "policy"), member="beta=4/seed=1")
    return folder, agent


def act_outside(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Actions of the exported folder from a process that runs in an empty place, without our packages."""
    np.save(folder / "rows.npy", rows)
    place = folder / "empty"
    place.mkdir(exist_ok=True)
    arguments = [str(folder / name) for name in ("policy", "rows.npy", "out.npy")]
    subprocess.run([sys.executable, "-I", "-c", OUTSIDE, *arguments], cwd=place, check=True, timeout=250)
    return np.load(folder / "out.npy")


def test_exported_member_acts_like_the_checkpoint_in_another_process(population) -> None:
    folder, agent = population
    rows = np.random.default_rng(0).uniform([-1, -1, -8], [1, 1, 8], size=(64, 3))  # float64, as some environments give
    with torch.no_grad():
        everyone, _ = agent.act(torch.from_numpy(rows).float().repeat(4, 1), explore=False)
    expected = everyone.view(4, 64, 1)[3].numpy()
    found = act_outside(folder, rows)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - everyone.view(4, 64, 1)[2].numpy()).max() > 1e-2  # the neighbour would not pass


def test_folder_is_self_contained_and_described(population) -> None:
    folder, _ = population
    files = {p.name for p in (folder / "policy").iterdir()}
    assert files - {"__pycache__"} == {"README.md", "act.py", "policy.json", "policy.onnx"}
    graph = onnx.load(str(folder / "policy" / "policy.onnx")).graph
    assert not graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")  # any batch
    description = json.loads((folder / "policy" / "policy.json").read_text())
    assert description["member"] == "beta=4/seed=1"
    assert description["action"] == {"shape": [1], "low": [-2.0], "high": [2.0]}
    assert description["dataset"]["environment"] == "Pendulum-v1"
    assert len(description["checkpoint_sha256"]) == 64
    assert description["max_difference"] <= 1e-5
    printed = subprocess.run(
        [sys.executable, str(folder / "policy" / "act.py"), "0.1 0.2 0.3"], capture_output=True, text=True, check=True
    )
    assert -2.0 <= float(printed.stdout) <= 2.0


def test_mistakes_at_act_are_one_line(population) -> None:
    folder, _ = population
    for given, said in (([], "no observation"), (["0.1 0.2"], "shape [2], the policy takes [3]"), (["a"], "convert")):
        done = subprocess.run(
            [sys.executable, str(folder / "policy" / "act.py"), *given], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.startswith("act.py: error: ")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((2, 4)), "observation has the shape [2, 4], the policy takes [2, 3]"),
        (0.5, "observation has the shape [], the policy takes [1, 3]"),
        ({"speed": np.zeros(3)}, "the observation is ['speed'], the policy takes one array"),
        (["a", "b", "c"], "observation holds <U1, the policy takes float32"),
        ([[1.0], [1.0, 2.0]], "observation is no array: "),
    ],
)
def test_an_exported_policy_names_what_it_was_given_and_takes(given, said, population) -> None:
    policy = Policy(population[0] / "policy")
    for act in (policy, lambda seen: policy.step(seen, {})):
        with pytest.raises(ValueError) as told:  # noqa: PT011
            act(given)
        assert str(told.value).startswith(said)
    with pytest.raises(ValueError, match=r"observation has the shape \[1, 4\], the policy takes \[1, 3\]"):
        policy(np.zeros(4))
    with pytest.raises(ValueError, match=r"the state has the parts \['state/9'\], the policy takes \[\]"):
        policy.step(np.zeros((2, 3)), {"state/9": np.zeros(2)})


def test_member_must_be_named_where_there_are_several(population, tmp_path) -> None:
    folder, _ = population
    for wrong in ([], ["--member", "beta=2/seed=0"]):
        with pytest.raises(ValueError, match=", ".join(NAMES)):
            main(["--ckpt_path", str(folder / "many.ckpt"), "--output", str(tmp_path / "x"), *wrong])
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="no checkpoint file"):
        main(["--ckpt_path", str(folder / "none.ckpt"), "--output", str(tmp_path / "x")])


def test_a_wrong_graph_is_noticed(population, tmp_path, monkeypatch) -> None:
    folder, agent = population

    def another_member(step, inputs, file):
        return original(PolicyStep(agent, 0), inputs, file)

    original = commands.export.write_onnx
    monkeypatch.setattr(commands.export, "write_onnx", another_member)
    with pytest.raises(ValueError, match="differs from the checkpoint"):
        export(str(folder / "many.ckpt"), str(tmp_path / "x"), member="beta=4/seed=1")
    assert not list((tmp_path / "x").iterdir())  # nothing is left that somebody could use


@pytest.mark.long
def test_mixtures_of_experts_are_exported(tmp_path) -> None:
    layer = functools.partial(SparseMoE, num_experts=4, hidden=8, num_shared_experts=1)
    agent = write_checkpoint(tmp_path / "a.ckpt", trunk=functools.partial(ResidualStack, depth=2, experts=layer))
    agent.eval()
    export(str(tmp_path / "a.ckpt"), str(tmp_path / "policy"))
    rows = np.random.default_rng(0).uniform([-1, -1, -8], [1, 1, 8], size=(64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = agent.act(torch.from_numpy(rows), explore=False)[0].numpy()
    used = [layer.expert_counts for layer in sparse_layers(agent.actor).values()]
    assert len(used) == 2
    assert all((counts > 0).sum() > 1 for counts in used)  # more than one expert speaks
    assert np.abs(act_outside(tmp_path, rows) - expected).max() < 1e-5


@pytest.mark.parametrize("arguments", [{"expert": MLP}, {"capacity_factor": 1.0}])
def test_mixtures_without_a_dense_form_are_refused_in_one_line(arguments: dict, tmp_path) -> None:
    write_checkpoint(tmp_path / "a.ckpt", trunk=functools.partial(SparseMoE, num_experts=4, **arguments))
    with pytest.raises(ValueError, match=r"^network\.0 cannot be exported: [^\n]*$"):
        export(str(tmp_path / "a.ckpt"), str(tmp_path / "policy"))


def test_diverged_member_is_refused(tmp_path) -> None:
    agent = write_checkpoint(tmp_path / "a.ckpt", beta=[1.0, 4.0])
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint["agent"]["alive"] = [False, True]
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="diverged"):
        export(str(tmp_path / "a.ckpt"), str(tmp_path / "x"), member=agent.member_names[0])


def test_export_prints_one_line(tmp_path, capfd) -> None:
    write_checkpoint(tmp_path / "one.ckpt")
    capfd.readouterr()
    export(str(tmp_path / "one.ckpt"), str(tmp_path / "policy"))
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert "largest difference" in out
