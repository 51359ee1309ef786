"""`reverie export`: a checkpoint's policy as a folder that acts with numpy and onnxruntime alone."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from importlib.metadata import distributions
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from commands.checkpoints import file_hash, load_agent, member_index
from commands.function_command import run_function
from commands.run_directory import checkpoint_of_run
from modules.networks.expert_banks import ExpertMLP
from modules.networks.experts import sparse_layers

TOLERANCE = 1e-5
"""Largest accepted difference between the exported policy and the checkpoint's, in action half-widths (at least 1)."""

ACT = Path(__file__).with_name("exported_act.py")
"""The program that is copied into the folder as act.py."""

PACKAGES = ("reverie", "torch", "onnx", "onnxruntime")

README = """\
# An exported policy

`policy.onnx` maps raw observations `[B, {features}]` to actions `[B, {actions}]` in the environment's units; the
observation normaliser is inside. `policy.json` tells where it comes from.

    pip install numpy onnxruntime
    python act.py "{example}"

or in Python, with this folder on the path:

    from act import Policy
    policy = Policy()                 # reads policy.onnx beside act.py
    action = policy(observation)      # [D] -> [A], or [B, D] -> [B, A]
"""


def export(
    ckpt_path: str, output: str, member: str | None = None, config: str | None = None, run_dir: str | None = None
) -> None:
    """Write a checkpoint's deterministic policy into a folder that acts with numpy and onnxruntime alone.

    Args:
        ckpt_path: checkpoint file of a run; or last or best, of the newest run of that config or folder, or of all.
        output: folder that receives policy.onnx, policy.json, act.py and README.md.
        member: which member, where the checkpoint holds several, for example beta=4/seed=0.
        config: name or file of the config that `fit` was given, for last and best.
        run_dir: folder of the experiment that `fit` was given, for last and best.
    """
    ckpt_path = str(checkpoint_of_run(ckpt_path, config, run_dir))
    agent, trained_on = load_agent(ckpt_path)
    index = member_index(agent.member_names, member)
    if agent.alive and not agent.alive[index]:
        raise ValueError(f"member {agent.member_names[index] or 0} of {ckpt_path} diverged; it has no policy")
    observation, action = agent.spaces.observation, agent.spaces.action
    if not isinstance(observation, gym.spaces.Box) or not isinstance(action, gym.spaces.Box):
        raise ValueError(f"only Box spaces can be exported, got {observation} and {action}")
    if agent.initial_state(1) is not None:
        raise ValueError(f"{ckpt_path} cannot be exported: its {type(agent).__name__} acts with a memory")
    policy = agent.policy(index).eval()
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(policy, observation, folder / "policy.onnx")
    difference = compare(policy, observation, folder / "policy.onnx")
    scale = max(1.0, float(np.max(action.high - action.low)) / 2)
    if not difference <= TOLERANCE * scale:
        (folder / "policy.onnx").unlink()
        raise ValueError(f"the exported policy differs from the checkpoint's by {difference:.1e}; it is not usable")
    description = {
        "algorithm": type(agent).__name__,
        "member": agent.member_names[index],
        "updates": agent.updates,
        "checkpoint_sha256": file_hash(ckpt_path),
        "dataset": trained_on.dataset or None,
        "environment": None if trained_on.environment is None else trained_on.environment.to_plain(),
        "observation": _describe(observation),
        "action": _describe(action),
        "max_difference": difference,
        "versions": {d.name: d.version for d in distributions() if d.name in PACKAGES},
    }
    (folder / "policy.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / "act.py").write_text(ACT.read_text())
    features, actions = observation.shape[0], action.shape[0]
    example = " ".join(["0.0"] * features)
    (folder / "README.md").write_text(README.format(features=features, actions=actions, example=example))
    print(f"exported to {folder}; largest difference to the checkpoint's policy {difference:.1e}")


def main(argv: list[str]) -> None:
    """`reverie export ...`."""
    run_function(export, argv)


def write_onnx(policy: nn.Module, observation: gym.spaces.Box, file: Path) -> None:
    """One self-contained file with input `observation` `[batch, D]` and output `action` `[batch, A]`, float32.

    Mixtures of experts are written in their dense form: every expert computes every row, as a file cannot choose.

    Raises:
        ValueError: a mixture whose experts, or whose capacity, have no dense form.
    """
    policy = copy.deepcopy(policy)
    for path, layer in sparse_layers(policy).items():
        if not isinstance(layer.experts, ExpertMLP) or layer.capacity_factor is not None:
            raise ValueError(f"{path} cannot be exported: an own `expert` or a `capacity_factor` has no dense form")
        layer.experts.backend = "dense"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists operators of packages that are not installed
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # reductions over no axes, which it writes itself
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            policy,
            (torch.zeros(2, *observation.shape),),
            str(file),
            input_names=["observation"],
            output_names=["action"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def compare(policy: nn.Module, space: gym.spaces.Box, file: Path, rows: int = 256) -> float:
    """Largest absolute difference between the file's actions and the policy's, on random observations of the space."""
    import onnxruntime

    rng = np.random.default_rng(0)
    low, high = np.maximum(space.low, -10.0), np.minimum(space.high, 10.0)
    sample = rng.uniform(low, high, size=(rows, *space.shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = policy(torch.from_numpy(sample)).numpy()
    found = session.run(None, {"observation": sample})[0]
    single = session.run(None, {"observation": sample[:1]})[0]
    return float(max(np.abs(found - expected).max(), np.abs(single - expected[:1]).max()))


def _describe(space: gym.spaces.Box) -> dict[str, object]:
    """Shape and bounds; an infinite bound is null, since JSON has no infinity."""

    def bounds(values: np.ndarray) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in values.reshape(-1)]

    return {"shape": list(space.shape), "low": bounds(space.low), "high": bounds(space.high)}
