"""Search spaces: what a file may say of a key, what is drawn, and which arguments of `fit` that becomes."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from commands.parsing import config_names, find_config
from commands.resolved_config import resolved_config
from commands.search_space import SearchSpace
from commands.space_check import checked_space, population_argument
from modules.algorithms.a2c import A2C
from modules.algorithms.atac import ATAC
from modules.algorithms.cql import CQL
from modules.algorithms.iql import IQL
from modules.algorithms.ppo import PPO
from modules.algorithms.td3_bc import TD3BC


def space(folder: Path, text: str) -> SearchSpace:
    (folder / "space.yaml").write_text(text)
    return SearchSpace.read(str(folder / "space.yaml"))


WHOLE = """
model.lr: {low: 1e-4, high: 1e-2, log: true}
model:
  init_args:
    units: {low: 16, high: 64, step: 16}
    normalize: {choices: [true, false]}
data.batch_size: {choices: [4, 8]}
trainer.precision: {choices: [32-true, bf16-mixed]}
"""


def test_keys_stand_with_dots_or_within_each_other(tmp_path: Path) -> None:
    read = space(tmp_path, WHOLE)
    assert read.distributions() == {
        "model.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "model.init_args.units": IntDistribution(16, 64, step=16),
        "model.init_args.normalize": CategoricalDistribution(["true", "false"]),
        "data.batch_size": CategoricalDistribution([4, 8]),
        "trainer.precision": CategoricalDistribution(["32-true", "bf16-mixed"]),
    }
    drawn = {"model.lr": 0.003, "model.init_args.normalize": "false", "trainer.precision": "bf16-mixed"}
    assert read.arguments(drawn) == [
        "--model.lr=0.003", "--model.init_args.normalize=false", "--trainer.precision=bf16-mixed",
    ]  # fmt: skip


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    read = space(tmp_path, "model.units: {low: 16, high: 48, step: 16}\nmodel.lr: {low: 0.0, high: 0.5, step: 0.25}\n")
    points = [tuple(point.values()) for point in read.grid()]
    assert points == [(units, lr) for units in (16, 32, 48) for lr in (0.0, 0.25, 0.5)]
    assert all(type(units) is int for units, _ in points)
    with pytest.raises(ValueError, match=r"model.lr has infinitely many values: give it choices or a step for a grid"):
        space(tmp_path, "model.lr: {low: 0.0, high: 0.5}\n").grid()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.lr: {low: 1.0, high: 0.1}", r"model.lr: low must be below high, got 1 and 0.1"),
        ("model.lr: {low: 0, high: 1, log: true}", r"model.lr: low must be above 0 with log, got 0"),
        ("model.lr: {low: 1, high: 2, log: 3}", r"model.lr.log must be true or false, got 3"),
        ("model.lr: {low: 1, high: 2, log: true, step: 1}", "log and step do not go together"),
        ("model.lr: {low: 0, high: 1, step: 0.3}", r"high must be low and whole steps more, got 0, 1 and step 0.3"),
        ("model.lr: {low: 0, high: 1, step: 0}", "high must be low and whole steps more"),
        ("model.lr: {low: small, high: 1}", r"model.lr.low must be a finite number, got small"),
        ("model.lr: {low: .nan, high: 1}", r"model.lr.low must be a finite number, got nan"),
        ("model.lr: {low: 1}", r"model.lr needs high, or choices in the place of both"),
        ("model.lr: {lo: 1, high: 2}", r"model.lr has no 'lo'; did you mean 'low'\?"),
        ("model.lr: {choices: []}", r"model.lr.choices must be a list of 1 to 1000 values"),
        ("model.lr: {choices: [1, 1.0]}", r"model.lr.choices has 1.0 twice"),
        ("model.lr: {choices: ['true', true]}", r"model.lr.choices has true twice"),
        ("model.lr: {choices: [1, .inf]}", r"inf is no finite number"),
        ("model.lr: {choices: [1], low: 2}", "model.lr has choices and low: keep one of them"),
        ("model.lr: 1.0e-3", r"model.lr needs \{low: ..., high: ...\} or \{choices: \[...\]\}, got 0.001"),
        ("model: {lr: {choices: [1]}}\nmodel.init_args.lr: {choices: [1]}", "stands twice, with init_args and without"),
        ("model.seeds: {choices: [1, 2]}", "model.seeds cannot differ between trials: seeds of the sweep are --seeds"),
        ("trainer.logger.init_args.tags: {choices: [1]}", "all trials are logged to one place"),
        ("evaluation.episodes: {choices: [1]}", "what decides must be the same for all"),
        ("run_dir: {choices: [a]}", "it is no setting of a run; keys begin with model, data, trainer, checkpoint"),
        ("'a b': {choices: [1]}", "a b is no key of a config"),
        ("[1, 2]", "holds a list: a config is a mapping"),
        ("model.lr: {low: 1", "at line 2, column 1"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_what_cannot_be_is_told_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        space(tmp_path, text + "\n")
    assert "space.yaml" in str(told.value)


def test_the_argument_of_a_population_is_found() -> None:
    found = {agent: population_argument(agent) for agent in (ATAC, CQL, IQL, TD3BC, PPO, A2C)}
    assert [*found.values()] == ["beta", "conservative_weight", "expectile", "alpha", None, None]


def test_the_parser_of_fit_reads_every_value(tmp_path: Path) -> None:
    """Ends that are written as integers mean all numbers where the argument takes them; a key may be unknown."""
    shared = ["--config", str(find_config("a2c/catch"))]
    read = space(tmp_path, "model.entropy: {low: 0, high: 1}\nmodel.units: {low: 16, high: 64}\n")
    found = checked_space(read, shared, A2C)
    assert found.distributions() == {"model.entropy": FloatDistribution(0, 1), "model.units": IntDistribution(16, 64)}
    for text, message in (
        (
            "model.entropi: {low: 0, high: 1}",
            r"'entropi' is not accepted by A2C; did you mean 'entropy'\?",
        ),
        ("model.units: {choices: [16, wide]}", r"space.yaml: .*units"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_space(space(tmp_path, text + "\n"), shared, A2C)


def test_choices_of_a_population_are_members_of_one_process(tmp_path: Path) -> None:
    shared = ["--config", str(find_config("atac/pendulum"))]
    text = "model.beta: {choices: [1, 4.0]}\nmodel.actor_lr: {low: 1e-5, high: 1e-3, log: true}\n"
    found = checked_space(space(tmp_path, text), shared, ATAC)
    assert found.axis == "model.beta"
    assert [*found.distributions()] == ["model.actor_lr"]
    assert found.arguments({"model.actor_lr": 1e-4}) == ["--model.actor_lr=0.0001", "--model.beta=[1, 4.0]"]
    assert found.axis_labels == [1, 4.0]
    drawn = checked_space(space(tmp_path, "model.beta: {low: 1.0, high: 16.0}\n"), shared, ATAC)
    assert (drawn.axis, drawn.distributions()) == (None, {"model.beta": FloatDistribution(1.0, 16.0)})


@pytest.mark.parametrize("name", [name for name in config_names() if name.startswith("spaces/")])
def test_a_packaged_space_is_one_of_the_config_that_it_names(name: str) -> None:
    """The parser reads all of its values, and choices of a population are members of one process."""
    (command,) = re.findall(rf"#   (reverie sweep --config \S+ --space {name} .*)", find_config(name).read_text())
    shared = ["--config", command.split()[3]]
    if "mujoco" in command:
        shared += ["--data.source", "x"]
    agent = pkgutil.resolve_name(resolved_config(shared)["model"]["class_path"])
    found = checked_space(SearchSpace.read(name), shared, agent)
    known = population_argument(agent)
    assert found.axis == (None if known is None else f"model.{known}")
    assert 1 < len(found.drawn) < 7
