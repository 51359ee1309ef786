"""The recurrent state-space model of DreamerV3's current code: a GRU of blocks behind three projections.

Source: github.com/danijar/dreamerv3, dreamerv3/rssm.py; Hafner et al. 2025, "Mastering diverse control tasks through
world models" (https://doi.org/10.1038/s41586-025-08744-2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.block_linear import BlockLinear, cut, joined
from modules.networks.blocks import DenseStack, Norm, Pointwise, make_norm, pointwise, truncated_normal
from modules.world_model.latents import Latent
from modules.world_model.rssm import RecurrentModel

PRIOR_LAYERS = 2


class BlockRSSM(RecurrentModel):
    """Recurrent state-space model whose GRU sees its own state block by block, and all else whole.

    State, latent and action have a layer each, `x = [f(h), f(z), f(a)]`. A layer of blocks takes every block of the
    state together with all of `x`, and another makes gates of what it gives, by which the state moves:
    `h' = h + sigmoid(u - 1) (tanh(sigmoid(r) c) - h)`. All layers before the gates are normalised and activated; the
    prior has two of them, the posterior one.

    With `G` blocks the square weights of the state are a `G`th as large as a dense cell's.

    Args:
        d_embed: width of an embedded observation.
        d_action: width `A` of an action as the model sees it; beyond [-1, 1] its entries count as -1 and 1.
        latent: the stochastic part.
        deter: width of the deterministic state.
        hidden: width of the layers around the cell.
        activation: activation of all layers before the gates.
        norm: normalisation of the same.
        blocks: number of blocks `G`.

    Raises:
        ValueError: the blocks do not divide `deter`.
    """

    def __init__(
        self,
        d_embed: int,
        d_action: int,
        latent: Latent,
        deter: int = 2048,
        hidden: int = 256,
        activation: Pointwise = "silu",
        norm: Norm = "rms",
        blocks: int = 8,
    ) -> None:
        super().__init__(latent, deter)
        if deter % blocks:
            raise ValueError(f"deter must be a multiple of the {blocks} blocks of the recurrent model, got {deter}")
        self.hidden = hidden
        self.blocks = blocks
        self.activate = pointwise(activation)
        self.from_h, self.from_z, self.from_action = (
            truncated_normal(nn.Linear(width, hidden)) for width in (deter, latent.width, d_action)
        )
        self.norms = nn.ModuleList(make_norm(norm, width) for width in (hidden, hidden, hidden, deter, hidden))
        self.mixing = BlockLinear(deter + 3 * hidden * blocks, deter, blocks)
        self.gates = BlockLinear(deter, 3 * deter, blocks)
        stack = partial(DenseStack, activation=activation, norm=norm, start="truncated_normal")
        self.prior_layers = stack(deter, hidden, layers=PRIOR_LAYERS)
        self.prior_output = truncated_normal(nn.Linear(hidden, latent.prior_width))
        self.posterior_hidden = truncated_normal(nn.Linear(deter + d_embed, hidden))
        self.posterior_output = truncated_normal(nn.Linear(hidden, latent.posterior_width))

    def advance(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        """The deterministic state `[B, deter]` after an action, as the source has it."""
        parts = self.from_h(h), self.from_z(z), self.from_action(within(action))
        x = torch.cat([self._behind(n, part) for n, part in enumerate(parts)], -1)
        old = cut(h, self.blocks)
        both = torch.cat([old, x.expand(self.blocks, *x.shape)], -1)
        return joined(self._gated(cut(self.gates(self._behind(3, self.mixing(joined(both)))), self.blocks), old))

    def prior(self, h: Tensor) -> Tensor:
        """`[..., deter]` states to the raw prior `[..., prior_width]`."""
        return self.prior_output(self.prior_layers(h))

    def posterior(self, h: Tensor, embed: Tensor) -> Tensor:
        """`[B, deter]` states and `[B, d_embed]` embedded observations to the raw posterior `[B, posterior_width]`."""
        return self.posterior_output(self._behind(4, self.posterior_hidden(torch.cat([h, embed], -1))))

    def layers(self, embed: Tensor, action: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Those of the state, the latent, both together, each block of the state, the gates, state, and posterior."""
        shape = embed.shape[:2]
        own, shared = self.mixing.weight.split([self.deter // self.blocks, 3 * self.hidden], -1)
        # What all blocks see is one dense layer; the part of it that sees the action is known before the loop.
        from_both, from_action = shared.flatten(0, 1).split([2 * self.hidden, self.hidden], -1)
        acted = self._behind(2, self.from_action(within(action)))
        from_h, from_embed = self.posterior_hidden.weight.split([self.deter, embed.shape[-1]], -1)
        return (
            (_for_all(self.from_h.bias, shape), self.from_h.weight),
            (_for_all(self.from_z.bias, shape), self.from_z.weight),
            (F.linear(acted, from_action, self.mixing.bias), from_both),
            (own.new_zeros(()).expand(shape[0], self.blocks, shape[1], own.shape[1]), own),
            (self._block_bias(self.gates.bias, shape), self.gates.weight),
            (F.linear(embed, from_embed, self.posterior_hidden.bias), from_h),
            (_for_all(self.posterior_output.bias, shape), self.posterior_output.weight),
        )

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
        h, z = h * keep, z * keep
        old = cut(h, self.blocks).contiguous()  # a compiled step must return no view of what it returns, too
        # The layers on state and latent, and that of the blocks.
        seen = (torch.addmm(added[0], h, weights[0].mT), torch.addmm(added[1], z, weights[1].mT))
        both = torch.cat([self._behind(n, part) for n, part in enumerate(seen)], -1)
        shared = torch.addmm(added[2], both, weights[2].mT)
        mixed = joined(torch.baddbmm(added[3], old, weights[3].mT)) + shared
        x = cut(self._behind(3, mixed), self.blocks).contiguous()
        # The next state, and the posterior from it.
        after = joined(self._gated(torch.baddbmm(added[4], x, weights[4].mT), old))
        last = self._behind(4, torch.addmm(added[5], after, weights[5].mT))
        posterior = torch.addmm(added[6], last, weights[6].mT)
        inputs = tuple(part.detach() for part in (h, z, both, old, x, after, last))
        return after, self.latent.sample(posterior, noise), posterior, inputs

    def _behind(self, place: int, x: Tensor) -> Tensor:
        """Norm and activation behind a layer; the type is float32, whatever the autocast."""
        return self.activate(self.norms[place](x))

    @staticmethod
    def _gated(gates: Tensor, h: Tensor) -> Tensor:
        """The next state `[G, B, deter / G]` from `[G, B, 3 deter / G]` and the state."""
        reset, candidate, update = gates.to(h.dtype).chunk(3, -1)
        return torch.lerp(h, torch.tanh(torch.sigmoid(reset) * candidate), torch.sigmoid(update - 1.0))

    def _block_bias(self, bias: Tensor, shape: torch.Size) -> Tensor:
        """The bias for every row of `[T, G, B, ...]`."""
        return bias.view(self.blocks, 1, -1).expand(shape[0], -1, shape[1], -1)


def within(action: Tensor) -> Tensor:
    """`[..., A]` with the entries beyond [-1, 1] as -1 and 1; the factor that does so has no gradient."""
    return action / action.detach().abs().clamp_min(1.0)


def _for_all(bias: Tensor, shape: torch.Size) -> Tensor:
    """The bias for every row of `[T, B, ...]`."""
    return bias.expand(*shape, -1)
