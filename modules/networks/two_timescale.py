"""A recurrent core of two units, of which one ticks at every row and the other every few rows.

Source: Jaderberg et al. 2019, "Human-level performance in 3D multiplayer games with population-based reinforcement
learning" (https://arxiv.org/abs/1807.01281), the agent For The Win. Deviation: without the memory that both units share
there; `modules.networks.memory.MemoryLSTM` has one.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.changed import STARTED
from modules.arguments.checks import check_ranges, check_sizes, check_widths
from modules.functional.divergences import gaussian_kl
from modules.functional.elementwise import lstm_step, scale_gradient
from modules.functional.weight_gradients import defer_weight_gradient
from modules.networks.auxiliary_losses import hand_in
from modules.networks.blocks import OutputLinear, glorot_uniform
from modules.networks.recurrent import Memory, start_gates

DEVIATION = 0.1
"""Standard deviation that the slow unit's distribution is drawn to, and that both units start with."""

LEAST = 1e-3
"""Standard deviation that no distribution falls below, so that divergences stay finite."""


class TwoTimescale(Memory):
    """A slow recurrent unit that foretells a latent, and a fast one that infers it: stands wherever an `LSTM` does.

    Both units are long short-term memories with a normal distribution over latents as their output. The slow one ticks
    at the first row of an episode and every `tau` rows from there on; it sees the fast one's state of the row before,
    and its own state and distribution, the prior, are held until it ticks again. The fast one ticks at every row; it
    sees the row, the slow one's state, the prior and the last latent, and gives the posterior. The output is the latent
    `mean + deviation * noise`; without noise, the mean.

    A gradient comes from a row to one `n` rows later by `n / tau` steps of the slow unit, instead of `n`.

    Two losses of its own are handed in, see `modules.networks.auxiliary_losses`: `kl`, the divergence of posterior and
    prior at every row, and `slow_kl`, that of the prior and a normal of mean 0 and deviation 0.1 where the slow unit
    ticks; both are means over all rows.

    The state is `[h, c]` of the fast unit, `[h, c]` of the slow one, the latent, and the number of rows since the slow
    one ticked. So windows that begin anywhere in an episode tick where acting did.

    Args:
        d_in: width of its input.
        width: width `W` of each unit.
        latents: width `Z` of the latent, which is its output.
        tau: number of rows from one tick of the slow unit to the next.
        slow_gradient: factor on the gradient that comes from the fast unit's input to the slow unit.
        kl_scale: weight of the loss `kl`.
        slow_kl_scale: weight of the loss `slow_kl`.
        span: number of its own ticks that each unit should remember over, see `modules.networks.recurrent.start_gates`;
            with None all forget half in two.

    Raises:
        ValueError: tau is below 1, a span below 3, or another number is out of range.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"span": STARTED}

    def __init__(
        self,
        d_in: int,
        width: int = 256,
        latents: int = 256,
        tau: int = 10,
        slow_gradient: float = 1.0,
        kl_scale: float = 1e-3,
        slow_kl_scale: float = 1e-4,
        span: int | None = None,
    ) -> None:
        check_widths(width=width, latents=latents)
        check_sizes(tau=tau)
        check_ranges(
            ("slow_gradient", slow_gradient, 0.0, 1.0),
            ("kl_scale", kl_scale, 0.0, 1e12),
            ("slow_kl_scale", slow_kl_scale, 0.0, 1e12),
        )
        super().__init__(d_in, latents)
        self.tau = tau
        self.slow_gradient = slow_gradient
        self.scales = {"kl": kl_scale, "slow_kl": slow_kl_scale}
        self.noise_width = latents
        self._sizes = [*[width] * 4, latents, 1]
        self.state_width = sum(self._sizes)
        self.input = glorot_uniform(nn.Linear(d_in, 4 * width))
        self.fast = glorot_uniform(nn.Linear(2 * width + 3 * latents, 4 * width, bias=False))
        self.slow = glorot_uniform(nn.Linear(2 * width, 4 * width))
        for layer in (self.input, self.slow):
            start_gates(layer.bias, span)
        self.posterior = OutputLinear(width, 2 * latents)
        self.prior = OutputLinear(width, 2 * latents)
        for head in (self.posterior, self.prior):
            head.bias.detach()[latents:] = math.log(math.expm1(DEVIATION - LEAST))

    def forward(self, x: Tensor, is_first: Tensor, state: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`[T, B, d_in]` to latents `[T, B, Z]`, and the state after the last row.

        Args:
            x: `[T, B, d_in]` inputs.
            is_first: `[T, B]` bool, whether a row begins an episode.
            state: `[B, S]` before the first row.
            noise: `[T, B, Z]` standard normal draws; None for the means.
        """
        fast, cell, slow, slow_cell, z, since = state.split(self._sizes, -1)
        ticks, since = self._clock(is_first, since)
        keep = (~is_first).to(x.dtype).unsqueeze(-1)
        # A row in which no episode begins, or in which nothing ticks, does without what would change nothing.
        begins, due = _anywhere(is_first), _anywhere(ticks.squeeze(-1))
        added, from_inner, inputs = defer_weight_gradient(self.input(x), self.fast.weight)
        prior = self._moments(self.prior, slow)
        held = torch.cat([slow, *prior], -1)
        found: list[tuple[Tensor, ...]] = []
        for t, seen in enumerate(added.unbind()):
            if begins[t]:
                fast, cell, slow, slow_cell, z = (part * keep[t] for part in (fast, cell, slow, slow_cell, z))
            if due[t]:
                ticked = lstm_step(self.slow(torch.cat([fast, slow], -1)), slow_cell)
                slow, slow_cell = (torch.where(ticks[t], *pair) for pair in zip(ticked, (slow, slow_cell), strict=True))
                prior = self._moments(self.prior, slow)
                held = torch.cat([slow, *prior], -1)
            inner = torch.cat([scale_gradient(held, self.slow_gradient), z, fast], -1)
            inputs.append(inner.detach())
            fast, cell = lstm_step(torch.addmm(seen, inner, from_inner.t()), cell)
            mean, deviation = self._moments(self.posterior, fast)
            z = mean if noise is None else mean + deviation * noise[t]
            found.append((z, mean, deviation, *prior))
        latents, *moments = (torch.stack(parts) for parts in zip(*found, strict=True))
        if torch.is_grad_enabled():
            self._hand_in(moments, ticks)
        return latents, torch.cat([fast, cell, slow, slow_cell, z, since], -1)

    def plain(
        self, x: Tensor, is_first: Tensor, state: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The definition of `forward`: row by row, all of it in every row, gradients by automatic differentiation.

        Returns:
            Latents `[T, B, Z]`, the state after the last row, and both losses, unreduced: `[T, B]` each.
        """
        latents, losses = [], []
        for t, row in enumerate(x):
            fast, cell, slow, slow_cell, z, since = (state * ~is_first[t].unsqueeze(-1)).split(self._sizes, -1)
            tick = (since == 0) | (since >= self.tau)
            new_slow, new_cell = lstm_step(self.slow(torch.cat([fast, slow], -1)), slow_cell)
            slow, slow_cell = torch.where(tick, new_slow, slow), torch.where(tick, new_cell, slow_cell)
            prior = self._moments(self.prior, slow)
            told = scale_gradient(torch.cat([slow, *prior], -1), self.slow_gradient)
            fast, cell = lstm_step(self.input(row) + self.fast(torch.cat([told, z, fast], -1)), cell)
            mean, deviation = self._moments(self.posterior, fast)
            z = mean if noise is None else mean + deviation * noise[t]
            latents.append(z)
            losses.append(self._losses((mean, deviation, *prior), tick))
            state = torch.cat([fast, cell, slow, slow_cell, z, torch.where(tick, 1, since + 1)], -1)
        kl, slow_kl = (torch.stack(parts) for parts in zip(*losses, strict=True))
        return torch.stack(latents), state, kl, slow_kl

    def _clock(self, is_first: Tensor, since: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the slow unit ticks `[T, B, 1]`, and rows since then `[B, 1]`, that row included, after the last."""
        ticks = []
        for first in is_first.unsqueeze(-1):
            tick = first | (since == 0) | (since >= self.tau)
            ticks.append(tick)
            since = torch.where(tick, 1, since + 1)
        return torch.stack(ticks), since

    @staticmethod
    def _moments(head: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a unit's distribution, `[B, Z]` each."""
        mean, raw = head(x).chunk(2, -1)
        return mean, F.softplus(raw) + LEAST

    @staticmethod
    def _losses(moments: tuple[Tensor, ...] | list[Tensor], ticks: Tensor) -> tuple[Tensor, Tensor]:
        """Both losses of rows `[...]` from posterior and prior `[..., Z]`, and ticks `[..., 1]`."""
        mean, deviation, slow_mean, slow_deviation = moments
        towards = torch.zeros_like(slow_mean), torch.full_like(slow_deviation, DEVIATION)
        kl = gaussian_kl(mean, deviation, slow_mean, slow_deviation)
        return kl, gaussian_kl(slow_mean, slow_deviation, *towards) * ticks.squeeze(-1)

    def _hand_in(self, moments: list[Tensor], ticks: Tensor) -> None:
        losses = {name: loss.mean() for name, loss in zip(self.scales, self._losses(moments, ticks), strict=True)}
        hand_in(self, losses, self.scales, ticks.numel())


def _anywhere(flags: Tensor) -> list[bool]:
    """Whether any row of the batch has its flag set, for each of `[T, B]`; yes where asking would wait for a device."""
    if torch.compiler.is_compiling() or flags.is_cuda:
        return [True] * len(flags)
    return flags.any(1).tolist()
