"""The recurrent state-space model of Dreamer: a deterministic recurrent state and a stochastic latent.

Sources: Hafner et al. 2019, "Learning Latent Dynamics for Planning from Pixels" (https://arxiv.org/abs/1811.04551);
Hafner et al. 2021, "Mastering Atari with Discrete World Models" (https://arxiv.org/abs/2010.02193). Layer order,
normalisation and constants are those of the authors' second code.

Whatever does not depend on the previous step is computed before or behind the loop over time, for all steps at once:
the parts of both input layers that see actions and embeddings, and the prior, which sees the recurrent state alone.
`RecurrentModel.plain_observe` is the same loop as it is defined.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.functional.weight_gradients import defer_weight_gradient
from modules.networks.blocks import Norm, Pointwise, glorot_uniform, make_norm, pointwise
from modules.world_model.latents import Latent


class State(NamedTuple):
    """The state of the model.

    Attributes:
        h: `[..., deter]` deterministic recurrent state.
        z: `[..., S]` sampled latent.
    """

    h: Tensor
    z: Tensor

    @property
    def features(self) -> Tensor:
        """`[..., S + deter]` features, the input of every head."""
        return torch.cat([self.z, self.h], -1)


class Observed(NamedTuple):
    """States that were inferred from observations, `[T, B, ...]`.

    Attributes:
        state: recurrent states and posterior samples.
        posterior: `[T, B, posterior_width]` raw posterior of the latent.
        prior: `[T, B, prior_width]` raw prior.
    """

    state: State
    posterior: Tensor
    prior: Tensor


class RecurrentModel(nn.Module, ABC):
    """A recurrent state-space model of any layers.

    Attributes:
        latent: the stochastic part.
        deter: width of the deterministic state.
    """

    def __init__(self, latent: Latent, deter: int) -> None:
        super().__init__()
        self.latent = latent
        self.deter = deter
        # Replaced by compiled twins where only these are compiled; not part of any checkpoint.
        self._observe_step: Callable[..., tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]] = self.observe_step
        self._imagine_step: Callable[..., tuple[Tensor, Tensor]] = self.imagine_step

    @abstractmethod
    def advance(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        """The deterministic state `[B, deter]` after an action `[B, A]` in a state."""

    @abstractmethod
    def prior(self, h: Tensor) -> Tensor:
        """`[..., deter]` states to the raw prior `[..., prior_width]` of the latent."""

    @abstractmethod
    def posterior(self, h: Tensor, embed: Tensor) -> Tensor:
        """`[B, deter]` states and `[B, d_embed]` embedded observations to the raw posterior `[B, posterior_width]`."""

    @abstractmethod
    def layers(self, embed: Tensor, action: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """The layers of a step of `observe`: what of each sum is known for all steps beforehand, and the weight.

        Args:
            embed: `[T, B, d_embed]` embedded observations.
            action: `[T, B, A]` actions that led to them, zeros where an episode starts.
        """

    @abstractmethod
    def observe_step(
        self,
        h: Tensor,
        z: Tensor,
        keep: Tensor,
        noise: Tensor,
        added: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """One step of `observe`.

        Args:
            h: `[B, deter]` recurrent state before it.
            z: `[B, S]` latent before it.
            keep: `[B, 1]`, 0 where an episode starts.
            noise: `[B, ...]` draws of the latent.
            added: `[B, ...]` summand of each of `layers`, which its product is added to.
            weights: weights of `layers`.

        Returns:
            State, latent, posterior, and the detached inputs of the layers.
        """

    @property
    def width(self) -> int:
        """Width of the features, `S + deter`."""
        return self.latent.width + self.deter

    def compile_steps(self) -> None:
        """Compile one step of `observe` and of `imagine`: seconds, where the whole unrolled loop takes minutes."""
        self._observe_step = torch.compile(self.observe_step, fullgraph=True, dynamic=False)
        self._imagine_step = torch.compile(self.imagine_step, fullgraph=True, dynamic=False)

    def initial(self, batch: int) -> State:
        """`[batch, ...]` zeros: the state before the first observation of an episode."""
        zeros = next(self.parameters()).new_zeros
        return State(zeros(batch, self.deter), zeros(batch, self.latent.width))

    def observe(
        self, embed: Tensor, previous_action: Tensor, is_first: Tensor, noise: Tensor, state: State | None = None
    ) -> Observed:
        """Filter a window: the state at every step given all observations up to it.

        Args:
            embed: `[T, B, d_embed]` embedded observations.
            previous_action: `[T, B, A]` actions that led to them.
            is_first: `[T, B]` bool; state and action before such a step count as zeros.
            noise: `[T, B, ...]` draws of `latent.noise(T, B)`.
            state: `[B, ...]` state before the window; zeros if not given.
        """
        h, z = state if state is not None else self.initial(embed.shape[1])
        keep = (~is_first).to(embed.dtype).unsqueeze(-1)
        layers = self.layers(embed, previous_action * keep)
        added, weights, inputs = zip(*(defer_weight_gradient(*layer) for layer in layers), strict=True)
        # The loop over time holds only what depends on the step before.
        steps = []
        for kept, drawn, *parts in zip(keep.unbind(), noise.unbind(), *(x.unbind() for x in added), strict=True):
            *step, seen = self._observe_step(h, z, kept, drawn, parts, weights)
            h, z, _ = step
            steps.append(step)
            for found, x in zip(inputs, seen, strict=True):
                found.append(x)
        hs, zs, posteriors = (torch.stack(parts) for parts in zip(*steps, strict=True))
        return Observed(State(hs, zs), posteriors, self.prior(hs))

    def plain_observe(
        self, embed: Tensor, previous_action: Tensor, is_first: Tensor, noise: Tensor, state: State | None = None
    ) -> Observed:
        """The definition of `observe`: every layer as the paper has it, one step at a time, nothing hoisted."""
        h, z = state if state is not None else self.initial(embed.shape[1])
        steps = []
        for t in range(len(embed)):
            keep = (~is_first[t]).to(embed.dtype).unsqueeze(1)
            h, z, action = h * keep, z * keep, previous_action[t] * keep
            h = self.advance(h, z, action)
            posterior = self.posterior(h, embed[t])
            z = self.latent.sample(posterior, noise[t])
            steps.append((h, z, posterior, self.prior(h)))
        hs, zs, posteriors, priors = (torch.stack(parts) for parts in zip(*steps, strict=True))
        return Observed(State(hs, zs), posteriors, priors)

    def imagine(self, state: State, act: Callable[[State, int], Tensor], noise: Tensor) -> tuple[State, Tensor]:
        """Roll the model forward without observations.

        Args:
            state: `[B, ...]` state to start from.
            act: called with a state and its time from 0; gives the action `[B, A]` that is taken there.
            noise: `[H, B, ...]` draws of `latent.noise(H, B)`.

        Returns:
            `[H + 1, B, ...]` states, the given one first, and the `[H, B, A]` actions between them.
        """
        states, actions = [state], []
        for t, drawn in enumerate(noise.unbind()):
            actions.append(act(state, t))
            state = State(*self._imagine_step(*state, actions[-1], drawn))
            states.append(state)
        return State(*(torch.stack(parts) for parts in zip(*states, strict=True))), torch.stack(actions)

    def imagine_step(self, h: Tensor, z: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The state after an action `[B, A]`, its latent drawn from the prior."""
        h = self.advance(h, z, action)
        return h, self.latent.imagine(self.prior(h), noise)


class LayerNormGRU(nn.Module):
    """GRU whose three gates share one layer norm, whose reset acts on the projected candidate, and that starts slow.

    `r, c, u = split(LayerNorm(W [x, h] + b))`, `h' = h + sigmoid(u - 1) * (tanh(sigmoid(r) * c) - h)`: the -1 makes a
    fresh cell keep most of its state. Hafner et al. 2021, from the authors' code; neither `torch.nn.GRUCell` nor cuDNN
    computes this.

    Args:
        d_in: width of the input.
        deter: width of the state.
    """

    def __init__(self, d_in: int, deter: int) -> None:
        super().__init__()
        self.linear = glorot_uniform(nn.Linear(d_in + deter, 3 * deter))
        self.norm = make_norm("layer", 3 * deter)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """`[B, d_in]` and `[B, deter]` to the next state `[B, deter]`."""
        return self.step(self.linear(torch.cat([x, h], -1)), h)

    def step(self, gates: Tensor, h: Tensor) -> Tensor:
        """The next state `[B, deter]` from what the linear layer gives, `[B, 3 * deter]`, and the state.

        The state keeps its type, float32, whatever the autocast.
        """
        reset, candidate, update = self.norm(gates).to(h.dtype).chunk(3, -1)
        return torch.lerp(h, torch.tanh(torch.sigmoid(reset) * candidate), torch.sigmoid(update - 1.0))


class RSSM(RecurrentModel):
    """Recurrent state-space model of DreamerV2: one layer before a GRU with layer norm, one before each distribution.

    Args:
        d_embed: width of an embedded observation.
        d_action: width `A` of an action as the model sees it.
        latent: the stochastic part.
        deter: width of the deterministic state.
        hidden: width of the layers around the cell.
        activation: activation of those layers.
        norm: normalisation of those layers; the cell always has its own.
    """

    def __init__(
        self,
        d_embed: int,
        d_action: int,
        latent: Latent,
        deter: int = 200,
        hidden: int = 200,
        activation: Pointwise = "elu",
        norm: Norm = "none",
    ) -> None:
        super().__init__(latent, deter)
        self.activate = pointwise(activation)
        self.input = glorot_uniform(nn.Linear(latent.width + d_action, hidden))
        self.input_norm = make_norm(norm, hidden)
        self.cell = LayerNormGRU(hidden, deter)
        self.prior_hidden = glorot_uniform(nn.Linear(deter, hidden))
        self.prior_norm = make_norm(norm, hidden)
        self.prior_output = glorot_uniform(nn.Linear(hidden, latent.prior_width))
        self.posterior_hidden = glorot_uniform(nn.Linear(deter + d_embed, hidden))
        self.posterior_norm = make_norm(norm, hidden)
        self.posterior_output = glorot_uniform(nn.Linear(hidden, latent.posterior_width))

    def advance(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        """The deterministic state `[B, deter]` after an action `[B, A]` in a state."""
        return self.cell(self.activate(self.input_norm(self.input(torch.cat([z, action], -1)))), h)

    def prior(self, h: Tensor) -> Tensor:
        """`[..., deter]` states to the raw prior `[..., prior_width]`."""
        return self.prior_output(self.activate(self.prior_norm(self.prior_hidden(h))))

    def posterior(self, h: Tensor, embed: Tensor) -> Tensor:
        """`[B, deter]` states and `[B, d_embed]` embedded observations to the raw posterior `[B, posterior_width]`."""
        seen = self.posterior_hidden(torch.cat([h, embed], -1))
        return self.posterior_output(self.activate(self.posterior_norm(seen)))

    def layers(self, embed: Tensor, action: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Those of the latent, of the cell, of the state, and of the posterior."""
        from_z, from_action = self.input.weight.split([self.latent.width, action.shape[-1]], 1)
        from_h, from_embed = self.posterior_hidden.weight.split([self.deter, embed.shape[-1]], 1)
        return (
            (F.linear(action, from_action, self.input.bias), from_z),
            (self._bias(self.cell.linear, embed), self.cell.linear.weight),
            (F.linear(embed, from_embed, self.posterior_hidden.bias), from_h),
            (self._bias(self.posterior_output, embed), self.posterior_output.weight),
        )

    @staticmethod
    def _bias(layer: nn.Linear, like: Tensor) -> Tensor:
        """The bias for every row of `[T, B, ...]`."""
        return layer.bias.expand(*like.shape[:2], -1)

    def observe_step(
        self,
        h: Tensor,
        z: Tensor,
        keep: Tensor,
        noise: Tensor,
        added: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """One step of `observe`, see `RecurrentModel.observe_step`."""
        kept, old = z * keep, h * keep
        x = self.activate(self.input_norm(torch.addmm(added[0], kept, weights[0].T)))
        both = torch.cat([x, old], -1)
        h = self.cell.step(torch.addmm(added[1], both, weights[1].T), old)
        x = self.activate(self.posterior_norm(torch.addmm(added[2], h, weights[2].T)))
        posterior = torch.addmm(added[3], x, weights[3].T)
        inputs = kept.detach(), both.detach(), h.detach(), x.detach()
        return h, self.latent.sample(posterior, noise), posterior, inputs
