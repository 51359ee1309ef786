"""The experts of a mixture: stacked two-layer networks, or any modules. Letters as in `modules.experts.routing`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.experts.exchange import Place, compute_over_ranks
from modules.experts.products import Backend, check_finite, default_backend, expert_mlp
from modules.experts.routing import Rows, sort_by_expert
from modules.functional.elementwise import Activation, first_width
from modules.networks.ensemble import EnsembleLinear
from modules.networks.replicas import check_replicas
from modules.networks.resizing import keep_entries


class ExpertMLP(nn.Module):
    """Two-layer networks of all experts, stacked: few large parameters, all of them always part of the graph.

    Args:
        num_experts: `E`.
        d_in: width of a token.
        hidden: hidden width of one expert.
        d_out: width of the output.
        activation: activation between the layers.
        backend: form of the computation.

    Attributes:
        place: place of this rank where the experts are spread over several, which hold `E / P` each; else None.
    """

    def __init__(
        self,
        num_experts: int,
        d_in: int,
        hidden: int,
        d_out: int,
        activation: Activation,
        backend: Literal["auto"] | Backend,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.backend = backend
        self.place: Place | None = None
        self.first = EnsembleLinear(num_experts, d_in=d_in, d_out=first_width(hidden, activation))
        self.second = EnsembleLinear(num_experts, d_in=hidden, d_out=d_out)

    def forward(self, tokens: Tensor, rows: Rows) -> Tensor:
        """`[N, d_in] -> [N, d_out]`, in the dtype of autocast where that is on."""
        if self.place is None:
            return self._compute(tokens, rows)
        check_replicas(self.first.weight, self.place.replicas)
        device = tokens.device.type
        if torch.is_autocast_enabled(device):
            # Cast before they travel, which halves what is sent.
            tokens = tokens.to(torch.get_autocast_dtype(device))
        num_experts = len(self.first.weight) * dist.get_world_size(self.place.group)
        return compute_over_ranks(self._compute, tokens, rows, num_experts, self.place.group)

    def _compute(self, tokens: Tensor, rows: Rows) -> Tensor:
        """The experts of this rank."""
        tensors = [tokens, self.first.weight, self.first.bias[:, 0], self.second.weight, self.second.bias[:, 0]]
        device = tokens.device.type
        if torch.is_autocast_enabled(device):
            tensors = [t.to(torch.get_autocast_dtype(device)) for t in tensors]
        x, w1, b1, w2, b2 = tensors
        backend = default_backend(x) if self.backend == "auto" else self.backend
        with torch.autocast(device, enabled=False):
            return expert_mlp(x, rows, w1, b1, w2, b2, self.activation, backend)

    def keep(self, kept: Tensor, optimizers: Iterable[Optimizer]) -> None:
        """Forget all experts but these."""
        for parameter in self.parameters():
            keep_entries(parameter, kept, 0, optimizers)


class ExpertModules(nn.Module):
    """Any modules as experts, called one by one: `[n, d_in] -> [n, d_out]` each.

    Experts without tokens are called on none, so that all parameters are part of the graph of every rank. Compilers
    break the graph here: how many tokens an expert gets is known only when it runs.

    Args:
        modules: `E` experts.
        d_out: width of the output.
    """

    def __init__(self, modules: nn.ModuleList, d_out: int) -> None:
        super().__init__()
        self.modules_by_expert = modules
        self.d_out = d_out

    @torch.compiler.disable
    def forward(self, tokens: Tensor, rows: Rows) -> Tensor:
        """`[N, d_in] -> [N, d_out]`."""
        check_finite(rows.weight, rows.token)
        order, starts = sort_by_expert(rows.expert, len(self.modules_by_expert))
        busy = order[: int(starts[-1])]
        queues = tokens.index_select(0, rows.token[busy]).split(starts.diff().tolist())
        y = torch.cat([expert(queue) for expert, queue in zip(self.modules_by_expert, queues, strict=True)])
        weighted = y * rows.weight[busy].unsqueeze(1).to(y.dtype)
        return y.new_zeros(len(tokens), self.d_out).index_add(0, rows.token[busy], weighted)

    def keep(self, kept: Tensor, optimizers: Iterable[Optimizer]) -> None:
        """Forget all experts but these."""
        chosen = set(kept.tolist())
        for index, expert in enumerate(self.modules_by_expert):
            if index in chosen:
                continue
            removed = {id(p) for p in expert.parameters()}
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["params"] = [p for p in group["params"] if id(p) not in removed]
                for parameter in expert.parameters():
                    optimizer.state.pop(parameter, None)
        self.modules_by_expert = nn.ModuleList(self.modules_by_expert[i] for i in kept.tolist())


class Sum(nn.Module):
    """Sum of the outputs of several modules on the same input."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., d_out]`."""
        return torch.stack([part(x) for part in self.parts]).sum(0)
