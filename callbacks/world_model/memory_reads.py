"""MemoryReads: a picture of which moments of an episode are read from an external memory, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer

from callbacks.files.pictures import save_picture
from callbacks.world_model.figures import DOTS_PER_INCH, new_figure
from callbacks.world_model.looks import RegularLook, named
from datamodules.envs.make import EnvironmentSpec
from modules.agent.agent import Agent
from modules.arguments.checks import check_sizes
from modules.contracts import HasEnvironment
from modules.model_contracts import ReadsMemory
from modules.run import run_of


class MemoryReads(RegularLook):
    """Plays one episode with the most likely actions and draws the weights of every head over the rows of the memory.

    Rows are filled in the order of the steps, so that row `i` is the moment `i` as long as an episode has no more steps
    than the memory has rows. Writes `memory_reads_<updates>.png` into `<run directory>/world_model/` and sends it to
    MLflow. The environment is its own, and the randomness too: training goes on as without it. The first process plays.

    The agent has `read_weights`, see `modules.model_contracts.ReadsMemory`; MERLIN does.

    Args:
        every_n_epochs: epochs between pictures; there is one more when training ends.
        steps: most steps of the episode that are drawn.
        seed: seed of the episode.
    """

    def __init__(self, every_n_epochs: int = 10, steps: int = 200, seed: int = 0) -> None:
        super().__init__(every_n_epochs, seed)
        check_sizes(steps=steps)
        self.steps = steps

    def check_run(self, trainer: Trainer, agent: LightningModule, data: object) -> None:
        """Refuse agents and data that cannot take part.

        Raises:
            ValueError: the agent has no external memory, or the data no environment.
        """
        if not isinstance(agent, ReadsMemory) or not agent.has_memory:
            raise ValueError(f"MemoryReads would be ignored: {type(agent).__name__} reads no external memory here")
        if not isinstance(data, HasEnvironment) or data.environment_spec is None:
            raise ValueError(f"MemoryReads plays an episode: {type(data).__name__} has no environment")

    def look(self, trainer: Trainer, agent: Agent) -> np.ndarray:
        """Weights of one episode, `[T, H, R]`."""
        data = run_of(trainer).datamodule
        assert isinstance(data, HasEnvironment)
        assert isinstance(data.environment_spec, EnvironmentSpec)
        assert isinstance(agent, ReadsMemory)
        env, weights, state = data.environment_spec.make(), [], agent.initial_state(1)
        observation, _ = env.reset(seed=self.seed)
        for _ in range(self.steps):
            action, state = agent.act(_batch_of_one(observation, agent.device), state, explore=False)
            weights.append(agent.read_weights(state)[0].cpu().numpy())
            observation, reward, terminated, truncated, _ = env.step(action[0].cpu().numpy())
            state = agent.rewarded(state, torch.tensor([float(reward)], device=agent.device))
            if terminated or truncated:
                break
        env.close()
        return np.stack(weights)

    def write(self, found: np.ndarray, agent: Agent, folder: Path) -> tuple[list[Path], dict[str, float]]:
        """Draw one picture for each head, side by side; no metrics."""
        path = named(folder, "memory_reads", agent, "png")
        heads = found.shape[1]
        figure = new_figure(1.0 + 2.4 * heads, 3.2)
        grid = figure.subplots(1, heads, sharey=True, squeeze=False)[0]
        for head, axes in enumerate(grid):
            axes.imshow(found[:, head].T, origin="lower", aspect="auto", vmin=0.0, vmax=1.0, cmap="Greys")
            axes.set_title("policy" if head == heads - 1 else f"predictor, head {head + 1}", fontsize=9)
        grid[0].set_ylabel("row of the memory, one for each moment", fontsize=8)
        figure.supxlabel("step of the episode", fontsize=9)
        figure.suptitle(f"where the memory is read, after {agent.updates:,} updates", fontsize=10)
        save_picture(figure, path, DOTS_PER_INCH)
        return [path], {}


def _batch_of_one(observation: object, device: torch.device) -> Any:
    """An environment's observation as the agent takes it, `[1, ...]`."""
    if isinstance(observation, dict):
        return {key: torch.as_tensor(np.asarray(value), device=device)[None] for key, value in observation.items()}
    return torch.as_tensor(np.asarray(observation), device=device)[None]
