"""LaProp with adaptive gradient clipping, for all tensors of an agent at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from modules.agent.kept_arguments import keep_arguments
from modules.arguments.checks import check_positive, check_ranges, check_shares
from modules.torch_private import clipped_to_weights, laprop_


class LaProp(torch.optim.Optimizer):
    """Divides gradients by their root mean square, then averages them; each is clipped by the size of its own weight.

    `modules.functional.laprop_steps` is the definition. The clip knows no gradient but the tensor's own, so that it is
    the same whether networks share an optimiser. The learning rate rises along a line from 0, at the first update.

    Source: github.com/danijar/dreamerv3, embodied/jax/opt.py, whose defaults these are.

    Args:
        parameters: what it trains.
        lr: learning rate after the warm-up.
        clip: largest ratio of a gradient's norm to its weight's.
        least_norm: a weight's norm counts as at least this much, so that zeros can learn.
        beta1: decay of the mean of normalised gradients.
        beta2: decay of the mean of their squares.
        eps: added to the root mean square.
        warmup: number of updates until the learning rate is reached; 0 for none.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 4e-5,
        clip: float = 0.3,
        least_norm: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-20,
        warmup: int = 1000,
    ) -> None:
        check_positive(clip=clip, least_norm=least_norm, eps=eps)
        check_ranges(("lr", lr, 0.0, 1e3), ("warmup", warmup, 0, 1 << 40))
        check_shares(beta1=beta1, beta2=beta2)
        options: dict[str, Any] = {"lr": lr, "clip": clip, "least_norm": least_norm, "betas": (beta1, beta2)}
        super().__init__(list(parameters), {**options, "eps": eps, "warmup": warmup})
        self.register_load_state_dict_pre_hook(keep_arguments)
        # The state exists from the start: a compiled update finds it, and a checkpoint fits it.
        for p in self.param_groups[0]["params"]:
            self.state[p] = {
                "square": torch.zeros_like(p, memory_format=torch.preserve_format),
                "mean": torch.zeros_like(p, memory_format=torch.preserve_format),
                "count": torch.zeros((), device=p.device),  # a tensor, which a CUDA graph goes on counting
            }

    @torch.no_grad()
    def move(self, gradients: list[Tensor]) -> None:
        """One step, by gradients in the order of the parameters."""
        (group,) = self.param_groups
        parameters = group["params"]
        states = [self.state[p] for p in parameters]
        for state in states:
            state["count"] += 1.0
        # Of float64, as one minus a power near one loses most of its digits in float32.
        count = states[0]["count"].double()
        corrections = [-torch.expm1(count * math.log(beta)).float() for beta in group["betas"]]
        share = ((count - 1.0) / group["warmup"]).clamp_max(1.0).float() if group["warmup"] else 1.0
        laprop_(
            parameters,
            clipped_to_weights(gradients, parameters, group["clip"], group["least_norm"]),
            [state["square"] for state in states],
            [state["mean"] for state in states],
            group["betas"],
            group["eps"],
            corrections[1].sqrt(),
            group["lr"] * share / corrections[0],
        )
