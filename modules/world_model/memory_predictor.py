"""The two recurrent halves of MERLIN around one external memory: a predictor of observations, and a policy.

Source: Wayne et al. 2018, "Unsupervised Predictive Memory in a Goal-Directed Agent" (https://arxiv.org/abs/1803.10760),
figure 1 and methods. Deviations: deviations of the latent are `2 sigmoid(s / 2) + 0.1` instead of `exp(s)`, as of
`modules.world_model.latents.GaussianLatent`; and the policy's recurrent layer sees what it read one step before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_sizes, check_widths
from modules.batch import SequenceBatch, Spaces
from modules.networks.actor_base import Actor
from modules.networks.blocks import DenseStack, OutputLinear
from modules.networks.decoders import Decoder
from modules.networks.encoders import Encoder, ImageNetwork
from modules.networks.make_actor import make_actor
from modules.networks.memory import ExternalMemory, MemoryState, ReadHeads
from modules.networks.perception import MakeEncoder, Perception
from modules.networks.recurrent import LSTM
from modules.networks.trunks import Trunk
from modules.networks.value_heads import Head
from modules.world_model.latents import GaussianLatent

MakeMemory = Callable[[int], ExternalMemory]
"""`ExternalMemory`, or a partial of it, called with the width of a moment."""


class Recalled(NamedTuple):
    """State behind a row: what the next one begins with.

    Attributes:
        z: `[B, S]` latent of the row, which is not yet in the memory.
        core: `[B, L, 2 W]` states of the predictor's recurrent layers.
        reads: `[B, K D]` what the predictor read.
        policy: `[B, 2 P]` state of the policy's recurrent layer.
        looks: `[B, Q D]` what the policy read.
        memory: the external memory; None without one.
    """

    z: Tensor
    core: Tensor
    reads: Tensor
    policy: Tensor
    looks: Tensor
    memory: MemoryState | None


class Filtered(NamedTuple):
    """A window seen row by row.

    Attributes:
        prior: `[T, B, 2 S]` raw prior of the latent.
        posterior: `[T, B, 2 S]` raw posterior.
        z: `[T, B, S]` sampled latents.
        features: `[T, B, F]` input of the policy.
        weights: `[T, B, K + Q, R]` weights with which the predictor's heads and the policy's read the rows of the
            memory, without gradient; None without a memory.
        state: state behind the last row.
    """

    prior: Tensor
    posterior: Tensor
    z: Tensor
    features: Tensor
    weights: Tensor | None
    state: Recalled


class MemoryPolicy(nn.Module):
    """The policy's own recurrent layer and heads on the memory that the predictor writes.

    Args:
        latents: width `S` of the latent.
        memory: the memory that it reads; None for none.
        width: width `P` of the recurrent layer.
        heads: number of heads `Q`.
    """

    def __init__(self, latents: int, memory: ExternalMemory | None, width: int, heads: int) -> None:
        super().__init__()
        check_widths(policy_width=width)
        check_sizes(policy_heads=heads)
        self.looks = 0 if memory is None else heads * memory.width
        self.lstm = LSTM(latents + self.looks, width)
        self.heads = None if memory is None else ReadHeads(width, heads, memory)
        self.width = latents + width + self.looks


class MemoryPredictor(nn.Module):
    """The memory-based predictor: it infers a latent from each observation, remembers it, and predicts the next.

    Args:
        spaces: announced by the datamodule.
        latents: width `S` of the latent, which is what a row of the memory holds of a moment.
        memory: makes the external memory, called with `S`; None for none.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes dense networks from their widths of input and output.
        units: width that each trunk gives.
        width: width `W` of each recurrent layer.
        layers: number of recurrent layers `L`.
        heads: number of heads `K` that read the memory.
        policy_width: width of the policy's recurrent layer.
        policy_heads: number of heads of the policy.

    Attributes:
        policy: the policy's half, which is no part of what the predictor learns.
        latent: the latent.

    Raises:
        ValueError: no observation is of a kind that the networks take, or a number is out of range.
    """

    def __init__(
        self,
        spaces: Spaces,
        latents: int = 16,
        memory: MakeMemory | None = ExternalMemory,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk = DenseStack,
        units: int = 64,
        width: int = 64,
        layers: int = 1,
        heads: int = 3,
        policy_width: int = 64,
        policy_heads: int = 1,
    ) -> None:
        super().__init__()
        check_widths(latents=latents, units=units, width=width)
        check_sizes(layers=layers, heads=heads)
        parts = spaces.observations_by_key()
        self.width = width
        self.latent = GaussianLatent(latents)
        self.external = None if memory is None else memory(latents)
        self.reads = 0 if self.external is None else heads * self.external.width
        self.policy = MemoryPolicy(latents, self.external, policy_width, policy_heads)
        self.perception = Perception(spaces, encoder, trunk, units)
        # It says what actions are to networks, and predicts the previous one.
        self.action: Actor = make_actor(spaces.action, latents, trunk, units)
        behind = width + self.reads
        entering = [latents + self.action.width + self.reads, *[width] * (layers - 1)]
        self.core = nn.ModuleList(LSTM(d_in, width) for d_in in entering)
        self.heads = None if self.external is None else ReadHeads(width, heads, self.external)
        # The prior sees the past alone; the posterior says how far the observation moves it.
        statistics = self.latent.prior_width
        self.prior = nn.Sequential(trunk(behind, units), OutputLinear(units, statistics))
        seen = self.perception.width + self.action.width + 1
        self.posterior = nn.Sequential(trunk(seen + behind + statistics, units), OutputLinear(units, statistics))
        keys = self.perception.encoder.keys
        network: ImageNetwork = "conv" if keys.convolve else "mlp"
        kept = {key: space for key, space in parts.items() if key in keys.vectors or key in keys.images}
        self.decoder = Decoder(kept, latents, trunk, units, image_network=network)
        self.reward = Head(latents, units, trunk)

    @property
    def read_shape(self) -> tuple[int, int]:
        """Number of all heads, the policy's included, and of the rows that they read; zeros without a memory."""
        if self.external is None:
            return 0, 0
        return (self.reads + self.policy.looks) // self.external.width, self.external.rows

    def initial(self, batch: int) -> Recalled:
        """The state before the first row of an episode."""
        like = next(self.reward.parameters())
        zeros = like.new_zeros
        core = zeros(batch, len(self.core), 2 * self.width)
        looks, policy = zeros(batch, self.policy.looks), zeros(batch, self.policy.lstm.state_width)
        held = None if self.external is None else self.external.initial(batch, like)
        return Recalled(zeros(batch, self.latent.width), core, zeros(batch, self.reads), policy, looks, held)

    def unroll(self, rows: SequenceBatch, noise: Tensor, state: Recalled, apart: bool = True) -> Filtered:
        """See a window, row by row.

        Args:
            rows: `[T, B]` rows; nothing of them is read that only shows later.
            noise: `[T, B, S]` of the latents.
            state: state before the first row.
            apart: no gradient of the policy's features reaches the predictor, nor what it wrote.
        """
        there = (~rows.is_first).to(noise.dtype).unsqueeze(-1)
        action = self.action.encode(rows.previous_action) * there
        embed = torch.cat([self.perception(rows.observation), action, rows.reward.unsqueeze(-1) * there], -1)
        memory = None if self.external is None or state.memory is None else self.external.open(state.memory)
        z, core, reads, policy, looks, _ = state
        found: list[tuple[Tensor, ...]] = []
        weights: list[Tensor] = []
        for t, keep in enumerate(there):
            # The step before is closed: its state, what it reads, and then its latent goes into the memory.
            core = self._advance(torch.cat([z, action[t], reads], -1), core) * keep.unsqueeze(-1)
            policy, looks = policy * keep, looks * keep
            h = core[:, -1].chunk(2, -1)[0]
            if memory is not None and self.heads is not None:
                reads, seen = memory.read(*self.heads(h))
                memory.write(z)
                memory.reset(rows.is_first[t])
                reads = reads.flatten(1) * keep
                weights.append(seen)
            # The latent, of the past and then of the observation.
            prior = self.prior(torch.cat([h, reads], -1))
            posterior = prior + self.posterior(torch.cat([embed[t], h, reads, prior], -1))
            z = self.latent.sample(posterior, noise[t])
            # The policy's features.
            shown = z.detach() if apart else z
            output, policy = self._follow(torch.cat([shown, looks], -1), policy)
            if memory is not None and self.policy.heads is not None:
                looking = memory.look if apart else memory.read
                looks, seen = looking(*self.policy.heads(output))
                looks = looks.flatten(1)
                weights[-1] = torch.cat([weights[-1], seen], 1)
            found.append((prior, posterior, z, torch.cat([shown, output, looks], -1)))
        priors, posteriors, latents, features = (torch.stack(parts) for parts in zip(*found, strict=True))
        held = None if memory is None else memory.close()
        read = torch.stack(weights) if weights else None
        return Filtered(priors, posteriors, latents, features, read, Recalled(z, core, reads, policy, looks, held))

    def _advance(self, x: Tensor, core: Tensor) -> Tensor:
        states = []
        for lstm, state in zip(self.core, core.unbind(1), strict=True):
            x, state = one_step(lstm, x, state)
            states.append(state)
        return torch.stack(states, 1)

    def _follow(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return one_step(self.policy.lstm, x, state)


def one_step(lstm: nn.Module, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Output `[B, W]` and state of one row `[B, d_in]` that begins no episode."""
    output, state = lstm(x.unsqueeze(0), torch.zeros(1, x.shape[0], dtype=torch.bool, device=x.device), state)
    return output[0], state
