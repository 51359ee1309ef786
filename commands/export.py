"""`reverie export`: a checkpoint's policy as a folder that acts with numpy and onnxruntime alone."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from callbacks.files.written_aside import written_aside
from commands.checkpoints import Origin, file_hash, load_agent, member_index
from commands.function_command import run_function
from commands.outputs import check_folder
from commands.own_observations import Own, number_ranges, own_observations
from commands.policy_step import PolicyStep, random_observations
from commands.run_directory import checkpoint_of_run
from datamodules.envs.make import EnvironmentSpec
from modules.agent.agent import Agent
from modules.batch import PLAIN
from modules.experts.banks import ExpertMLP
from modules.experts.layer import sparse_layers

TOLERANCE = 1e-5
"""Largest accepted difference between the exported policy and the checkpoint's, in action half-widths (at least 1)."""

ROWS, STEPS = 256, 3
"""Size of the comparison with the checkpoint's policy."""

ACT = Path(__file__).with_name("exported_act.py")
"""The program that is copied into the folder as act.py."""

PACKAGES = ("reverie", "torch", "onnx", "onnxruntime")

README = """\
# An exported policy

`policy.onnx` maps raw observations to actions in the environment's units; the observation normaliser is inside.
`policy.json` describes its inputs and outputs and tells where it comes from.

    pip install numpy onnxruntime
    python act.py {example}

or in Python, with this folder on the path:

    from act import Policy
    policy = Policy()                 # reads the files beside act.py
    policy.reset()                    # at the start of each episode
    action = policy(observation{reward})      # one observation, or a batch of them

`action, state = policy.step(observation, state{reward})` is the same for a batch, with the memory in your hands; it
begins with `policy.initial_state(rows)`.
"""


def export(
    ckpt_path: str, output: str, member: str | None = None, config: str | None = None, run_dir: str | None = None
) -> None:
    """Write a checkpoint's deterministic policy into a folder that acts with numpy and onnxruntime alone.

    Args:
        ckpt_path: checkpoint file; or last, best, trusted or cloned, of the newest run of that config or folder.
        output: folder that receives policy.onnx, policy.json, act.py and README.md.
        member: name of the member, where the checkpoint holds several, for example beta=4/seed=0.
        config: name or file of the config that `fit` was given, for these names.
        run_dir: folder of the experiment that `fit` was given, for these names.
    """
    folder = Path(output)
    check_folder("--output", folder)
    ckpt_path = str(checkpoint_of_run(ckpt_path, config, run_dir))
    agent, trained_on = load_agent(ckpt_path)
    index = member_index(agent.member_names, member)
    planned = plan(agent, trained_on, index, ckpt_path)
    folder.mkdir(parents=True, exist_ok=True)
    difference = write_checked(planned, folder / "policy.onnx")
    # A description for programs, a player without torch, and a page for people.
    description = {**planned.description, "max_difference": difference}
    space = planned.step.space
    few = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] <= 20
    file = "observation.npz" if planned.step.keys else "observation.npy"
    example = f'"{" ".join(["0.0"] * space.shape[0])}"' if few else file  # type: ignore[index]
    reward = ", reward" if planned.step.rewarded else ""
    texts = {
        "policy.json": json.dumps(description, indent=2) + "\n",
        "act.py": ACT.read_text(),
        "README.md": README.format(example=example, reward=reward),
    }
    for name, text in texts.items():
        with written_aside(folder / name) as aside:
            aside.write_text(text)
    print(f"exported to {folder}; largest difference to the checkpoint's policy {difference:.1e}{planned.unknown}")


class Planned(NamedTuple):
    """A policy that can be written as an ONNX file.

    Attributes:
        step: the policy.
        action: space of its actions.
        inputs: an example of every input, `[ROWS, ...]` each.
        description: what it takes and gives and where it comes from, as plain values.
        unknown: why the environment's own observations are not known; empty where they are, or where there is none.
    """

    step: PolicyStep
    action: gym.Space
    inputs: dict[str, Tensor]
    description: dict[str, Any]
    unknown: str


def plan(agent: Agent, trained_on: Origin, index: int, ckpt_path: str) -> Planned:
    """The deterministic policy of a member, with the environment's own observations as inputs where these are known.

    Args:
        agent: agent of the checkpoint.
        trained_on: what it was trained on.
        index: index of the member.
        ckpt_path: path of the checkpoint.

    Raises:
        ValueError: the member diverged.
    """
    if agent.alive and not agent.alive[index]:
        raise ValueError(f"member {agent.member_names[index] or 0} of {ckpt_path} diverged; it has no policy")
    taken = trained_on.parts or agent.spaces.observations_by_key()
    own, unknown = own_or_why(trained_on.environment, taken)
    step = PolicyStep(agent, index, trained_on.parts, None if own is None else own.parts)
    inputs = example_inputs(step, ROWS)
    description = {
        "algorithm": type(agent).__name__,
        "member": agent.member_names[index],
        "updates": agent.updates,
        "checkpoint_sha256": file_hash(ckpt_path),
        "dataset": trained_on.dataset or None,
        "environment": None if trained_on.environment is None else trained_on.environment.to_plain(),
        "observation": describe(step.space),
        "action": describe(agent.spaces.action),
        "inputs": describe_inputs(step, inputs),
        "outputs": step.outputs,
        "versions": {d.name: d.version for d in distributions() if d.name in PACKAGES},
    }
    return Planned(step, agent.spaces.action, inputs, description, unknown)


def write_checked(planned: Planned, file: Path) -> float:
    """Write the policy, and keep the file only if it acts as the checkpoint does; returns the largest difference.

    Raises:
        ValueError: the policy cannot be exported.
    """
    with written_aside(file) as aside:
        write_onnx(planned.step, planned.inputs, aside)
        return check(planned.step, planned.action, aside)


def main(argv: list[str]) -> None:
    """`reverie export ...`."""
    run_function(export, argv)


def own_or_why(environment: EnvironmentSpec | None, taken: Mapping[str, gym.Space]) -> tuple[Own | None, str]:
    """The environment's own observations, see `own_observations`; or None, and why where it could not be asked."""
    try:
        return own_observations(environment, taken), ""
    except ValueError as error:
        return None, f"; it takes observations as the agent does, since the environment cannot be asked: {error}"


def example_inputs(step: PolicyStep, rows: int) -> dict[str, Tensor]:
    """Every input of the step: random observations, episodes that begin, noise."""
    seen = step.observed(random_observations(step.space, rows, np.random.default_rng(0)))
    given = seen | step.started(rows) | step.drawn(rows)
    return {name: given[name] for name in step.names}


def write_onnx(step: PolicyStep, inputs: dict[str, Tensor], file: Path) -> None:
    """One self-contained file with the step's inputs and outputs by name, `[batch, ...]` each.

    Mixtures of experts are written in their dense form: every expert computes every row, as a file cannot choose.

    Raises:
        ValueError: a mixture whose experts, or whose capacity, have no dense form; or an operation that ONNX lacks.
    """
    # Of a copy, for its mixtures change their form: the caller compares the file with the step as it was.
    step = copy.deepcopy(step)
    for path, layer in sparse_layers(step.plays).items():
        if not isinstance(layer.experts, ExpertMLP) or layer.capacity_factor is not None:
            raise ValueError(f"{path} cannot be exported: an own `expert` or a `capacity_factor` has no dense form")
        layer.experts.backend = "dense"
    for noisy in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(noisy).setLevel(
            logging.ERROR
        )  # operators of other packages, reductions that it writes itself
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        try:
            torch.onnx.export(
                step,
                tuple(inputs.values()),
                str(file),
                input_names=list(inputs),
                output_names=step.outputs,
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
            raise ValueError(f"{type(step.plays).__name__} cannot be exported: {reason}") from error


def check(step: PolicyStep, action: gym.Space, file: Path) -> float:
    """Largest absolute difference between the file's outputs and the step's, over a few steps of random observations.

    Every step starts from the checkpoint's own state, so that nothing adds up. An argmax or a sample may fall to the
    other side where two numbers are equal but for rounding: where the policy takes such decisions, one row in a hundred
    may differ, and does not count.

    Raises:
        ValueError: the file acts differently, or takes one number of rows alone.
    """
    import onnxruntime

    # Not the seed of the example inputs: constants that the exporter took from them would go unseen.
    rng = np.random.default_rng(1)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    check_rows({x.name: x.shape[0] for x in session.get_inputs()}, type(step.plays).__name__)
    carried, worst, rows, strays = step.started(ROWS), 0.0, 0, 0
    scale = max(1.0, float(np.max(action.high - action.low)) / 2) if isinstance(action, gym.spaces.Box) else 1.0
    decides = step.noisy or not isinstance(action, gym.spaces.Box)
    for _ in range(STEPS):
        seen = step.observed(random_observations(step.space, ROWS, rng))
        given = seen | carried | step.drawn(ROWS)
        expected = step.step(given)
        for some in (slice(None), slice(1)):  # many rows at once, and one
            feed = {name: given[name][some].numpy() for name in step.names}
            found = session.run(step.outputs, feed)
            apart = [
                np.abs(x.astype(np.float64) - y[some].numpy()).reshape(len(x), -1).max(1, initial=0.0)
                for x, y in zip(found, expected.values(), strict=True)
            ]
            # A stray row fell to the other side of a decision; it says nothing about the size of the others' error.
            difference = np.stack(apart).max(0)  # [rows]
            stray = ~(difference <= TOLERANCE * scale)
            rows, strays = rows + len(difference), strays + int(stray.sum())
            worst = max(worst, float(difference[~stray].max(initial=0.0)))
            if strays > (rows // 100 if decides else 0):
                raise ValueError(
                    f"the exported policy differs from the checkpoint's by {difference.max():.1e}; it is not usable"
                )
        carried = {name: expected[f"next_{name}"] for name in step.states}
        if step.rewarded:
            carried["reward"] = torch.from_numpy(rng.normal(size=ROWS).astype(np.float32))
    return worst


def check_rows(lengths: Mapping[str, int | str], name: str) -> None:
    """Refuse a file that takes one number of rows alone.

    Args:
        lengths: length of each input's first axis by its name; a text where it may be any.
        name: whose file it is, for the error.

    Raises:
        ValueError: an input has a number of rows.
    """
    fixed = [key for key, length in lengths.items() if isinstance(length, int)]
    if fixed:
        raise ValueError(
            f"{name} cannot be exported: {fixed[0]} would always have {lengths[fixed[0]]} rows, since a network makes "
            "a number of the length of a batch, as len(x) does; write x.shape[0] there"
        )


def describe_inputs(step: PolicyStep, inputs: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Shape of a row and dtype of every input; least and greatest number; a state at first; how noise is drawn."""
    about: dict[str, dict[str, Any]] = {
        name: {"shape": list(x.shape[1:]), "dtype": str(x.numpy().dtype)} for name, x in inputs.items()
    }
    # Numbers of classes are looked up, so that others than these mean nothing.
    for key, space in (step.own or {}).items():
        if (ends := number_ranges(space)) is not None:
            about[f"{PLAIN}/{key}" if step.keys else PLAIN] |= {"low": ends[0], "high": ends[1]}
    for name, x in step.started(1).items():
        if name in step.states:
            about[name]["initial"] = x[0].tolist()
    if step.noisy:
        drawn = step.drawn(1000)["noise"]
        about["noise"]["distribution"] = "uniform" if bool(((drawn >= 0) & (drawn < 1)).all()) else "normal"
    return about


def describe(space: gym.Space) -> dict[str, Any]:
    """Kind, shape and bounds; an infinite bound is null, since JSON has no infinity."""
    if isinstance(space, gym.spaces.Dict):
        return {key: describe(part) for key, part in space.items()}
    if isinstance(space, gym.spaces.Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    if not isinstance(space, gym.spaces.Box):
        return {"space": str(space)}

    def bounds(values: np.ndarray) -> list[float | None] | float | None:
        flat = [float(v) if np.isfinite(v) else None for v in values.reshape(-1)]
        return flat[0] if len(flat) > 1000 and len(set(flat)) == 1 else flat

    return {"shape": list(space.shape), "low": bounds(space.low), "high": bounds(space.high)}
