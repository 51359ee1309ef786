"""A sparse mixture of experts that takes the place of any MLP: one tensor in, one tensor out.

Source: Shazeer et al. 2017, "Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer"
(https://arxiv.org/abs/1701.06538). Routers are in `modules.experts.routers`, the computing forms in
`modules.experts.products`. Letters: `N` tokens, `E` experts, `k` experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.arguments.checks import check_shares, check_sizes, check_widths
from modules.experts.arguments import check_choices, check_numbers, merged_weights
from modules.experts.banks import ExpertMLP, ExpertModules, Sum
from modules.experts.products import Backend
from modules.experts.router_base import Router
from modules.experts.routers import ROUTERS, BiasBalanced, ExpertChoice
from modules.experts.routing import Rows, count_rows, limit_rows
from modules.functional.elementwise import Activation
from modules.networks.auxiliary_losses import hand_in
from modules.networks.blocks import MLP
from modules.networks.passes import may_count, trains
from modules.networks.resizing import Resizable
from modules.networks.updates import Adapting, Noisy
from modules.torch_private import extra_state_key, transforms

RoutingName = Literal["noisy_top_k", "top_k", "bias_balanced", "expert_choice", "hierarchical", "soft"]


class SparseMoE(Noisy, Adapting, Resizable, nn.Module):
    """Each token is computed by `k` of `E` experts, chosen by a learned router: `[..., d_in] -> [..., d_out]`.

    Args:
        d_in: width of a token.
        d_out: width of the output.
        num_experts: `E`.
        k: experts per token, on average with expert choice.
        hidden: hidden width of one expert; twice the wider of `d_in` and `d_out` if not given.
        routing: rule of who chooses whom and of how the load is evened out. `noisy_top_k`: the paper's, with importance
            and load losses. `top_k`: largest logits, Switch and z-loss. `bias_balanced`: a bias instead of losses;
            needs `after_update()` after each optimiser step. `expert_choice`: experts choose tokens of the batch.
            `hierarchical`: noisy top-k over groups, then within them. `soft`: all experts, dense.
        activation: activation of the experts.
        expert: makes one expert, called with `(d_in, d_out)`, instead of the two-layer network; `hidden`,
            `activation` and `backend` are then its own business and must be left alone.
        num_shared_experts: experts of the same kind that compute every token besides, with weight 1.
        capacity_factor: an expert drops what exceeds this multiple of the even load; null drops nothing.
        groups: number of groups of the hierarchical routing.
        k_groups: groups per token there; `k` experts are spread evenly over them.
        noise: draw the router's noise always (true), never (false), or while `training` (null). A policy's must be
            false: its log-probabilities would differ between rollout and update.
        loss_weights: weights of the balancing losses by name, over the routing's usual ones.
        backend: form of the computation; `auto` takes what was measured to be fastest on the device.
        parallel_size: ranks that share one set of experts in distributed training, a divisor of `num_experts` and of
            the number of ranks (`modules.experts.parallel`); no effect elsewhere.

    Attributes:
        noise: the switch, free to be set at any time.
        quiet: draw no noise whatever `noise` says; for counting what is used without it.
        last_logits: `[N, E]` router logits of the last pass, detached; None before.

    Raises:
        ValueError: an argument outside its range, or one that would be ignored.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {
        "num_experts": "a checkpoint's mixtures keep the experts that they have"
    }

    def __init__(
        self,
        d_in: int,
        d_out: int,
        num_experts: int = 8,
        k: int = 2,
        hidden: int | None = None,
        routing: RoutingName = "noisy_top_k",
        activation: Activation = "relu",
        expert: Callable[[int, int], nn.Module] | None = None,
        num_shared_experts: int = 0,
        capacity_factor: float | None = None,
        groups: int | None = None,
        k_groups: int = 2,
        noise: bool | None = None,
        loss_weights: dict[str, float] | None = None,
        backend: Literal["auto"] | Backend = "auto",
        parallel_size: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(d_in=d_in, d_out=d_out, num_experts=num_experts, k=k, parallel_size=parallel_size)
        check_widths(hidden=1 if hidden is None else hidden)
        check_choices(routing, activation, backend, groups)
        check_numbers(k, num_experts, num_shared_experts, capacity_factor, loss_weights or {})
        if expert is not None and (hidden is not None or backend != "auto" or activation != "relu"):
            raise ValueError("hidden, activation and backend would be ignored: set them on the given expert")
        if parallel_size > 1 and (expert is not None or num_experts % parallel_size):
            raise ValueError(
                f"parallel_size={parallel_size} must divide num_experts={num_experts}, and goes without a given expert"
            )
        self.register_load_state_dict_pre_hook(_shrink_first)
        self.d_in = d_in
        self.d_out = d_out
        self.capacity_factor = capacity_factor
        self.parallel_size = parallel_size
        self.noise = noise
        self.quiet = False
        arguments = {} if groups is None else {"groups": groups, "k_groups": k_groups}
        self.router: Router = ROUTERS[routing](d_in, num_experts, k, **arguments)
        width = hidden or 2 * max(d_in, d_out)
        self.experts: ExpertMLP | ExpertModules
        if routing == "soft" and backend == "auto" and expert is None and parallel_size == 1:
            backend = "dense"  # nothing to sort where everything is computed
        if expert is None:
            self.experts = ExpertMLP(num_experts, d_in, width, d_out, activation, backend)
        else:
            self.experts = ExpertModules(nn.ModuleList(expert(d_in, d_out) for _ in range(num_experts)), d_out)
        self.shared: nn.Module | None = None
        if num_shared_experts and expert is None:  # two-layer experts that always run together are one wider network
            self.shared = MLP(d_in, d_out, width * num_shared_experts, activation)
        elif num_shared_experts and expert is not None:
            self.shared = Sum(expert(d_in, d_out) for _ in range(num_shared_experts))
        self.loss_weights = merged_weights(self.router.LOSSES, loss_weights or {}, routing)
        self.last_logits: Tensor | None = None
        # No buffers: plain data parallel training would overwrite every rank's counts with those of the first.
        self._counts = torch.zeros(num_experts + 1, dtype=torch.int64)  # rows per expert, dropped rows
        self._balanced_counts = self._counts.clone()  # those that `after_update` has seen, or need not see

    @property
    def num_experts(self) -> int:
        """`E`, less what was pruned."""
        return self.router.num_experts

    @property
    def k(self) -> int:
        """Experts per token."""
        return self.router.k

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in] -> [..., d_out]`; leading axes are tokens alike, none of them may be needed for another.

        Raises:
            ValueError: another width, or router logits that are not finite (checked on CPUs).
        """
        if x.shape[-1] != self.d_in:
            raise ValueError(f"this mixture takes tokens of width {self.d_in}, got {list(x.shape)}")
        if "Vmap" in transforms():
            raise ValueError(
                "a mixture of experts cannot run under torch.func.vmap, as every token chooses its experts: give it "
                "all tokens [..., d_in] in one call, and call the members of an ensemble one by one"
            )
        tokens = x.reshape(-1, self.d_in)
        noise = not self.quiet and (self.training if self.noise is None else self.noise)
        rows, logits, losses = self.router(tokens, noise)
        if self.capacity_factor is not None:
            rows = limit_rows(rows, self.num_experts, self.capacity_factor)
        hand_in(self, losses, self.loss_weights, tokens.shape[0])
        if may_count():
            self.last_logits = logits.detach()
            self._count(rows)
        y = self.experts(tokens, rows)
        if self.shared is not None:
            y = y + self.shared(tokens)
        return y.view(*x.shape[:-1], self.d_out)

    def _count(self, rows: Rows) -> None:
        counts = count_rows(rows.expert, self.num_experts)
        self._counts += counts
        if not trains():  # what is balanced is the load of training
            self._balanced_counts += counts

    # --------------------------------------------------------------------------------------------------------- balance
    @property
    def expert_counts(self) -> Tensor:
        """`[E]` rows of each expert since the last reset, on this rank; a pass without gradients counts too."""
        return self._counts[:-1]

    @property
    def dropped_rows(self) -> Tensor:
        """Rows beyond an expert's capacity since the last reset, on this rank."""
        return self._counts[-1] if self.capacity_factor is not None else torch.zeros_like(self._counts[-1])

    def reset_counts(self) -> None:
        """Start a new window of `expert_counts`."""
        self._balanced_counts -= self._counts
        self._counts.zero_()

    @torch.no_grad()
    def after_update(self) -> None:
        """Let the router adapt what it learns without gradients; once per optimiser step, on all ranks together.

        The selection bias of `bias_balanced` moves by the load of all ranks since the last call, the thresholds of
        `expert_choice` become the mean over ranks; other routings have nothing of the kind.
        """
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if isinstance(self.router, ExpertChoice) and not alone:
            dist.all_reduce(self.router.thresholds)
            self.router.thresholds /= dist.get_world_size()
        if isinstance(self.router, BiasBalanced):
            counts = (self._counts - self._balanced_counts)[:-1]
            self._balanced_counts.copy_(self._counts)
            if not alone:
                dist.all_reduce(counts)
            self.router.rebalance(counts)

    # --------------------------------------------------------------------------------------------------------- pruning
    def prune(
        self, min_share: float = 0.0, optimizers: Iterable[Optimizer] = (), counts: Tensor | None = None
    ) -> list[int]:
        """Remove the experts that got no more than this share of all rows since the last `reset_counts`.

        Count a window of passes without noise first: with noise, every expert is reachable. For a token that used none
        of the removed experts the output stays the same, but for the rounding of the router's narrower product. Not so
        with `soft`, `expert_choice` and a single choice (`k = 1`, or one expert in each of `k_groups`): weights are
        shares among all experts there, and the rest grows. Under data parallel training every rank must judge by the
        same counts; `callbacks.experts.experts.Experts` sees to it.

        Args:
            min_share: 0 removes experts that were never used; the most used one always stays.
            optimizers: optimisers whose state of the experts' and the router's parameters is cut alike.
            counts: `[E]` rows to judge by, such as those of all ranks; this rank's own if not given.

        Returns:
            Former indices of the experts that are left.

        Raises:
            ValueError: nothing was counted yet, or a share outside [0, 1).
        """
        counts = self.expert_counts if counts is None else counts.to(self._counts.device)
        check_shares(min_share=min_share)
        if not counts.sum():
            raise ValueError("nothing to prune by: no row was counted since the last reset_counts()")
        share = counts / counts.sum()
        kept = ((share > min_share) | (counts == counts.max())).nonzero().squeeze(1)
        if len(kept) < self.num_experts:
            self.keep(kept, optimizers)
        return kept.tolist()

    def keep(self, kept: Tensor, optimizers: Iterable[Optimizer] = ()) -> None:
        """Forget all experts but these `[E']` indices, in parameters, optimiser state, router and counts.

        Raises:
            ValueError: the experts are spread over ranks.
        """
        if isinstance(self.experts, ExpertMLP) and self.experts.place is not None:
            raise ValueError(
                f"experts that are spread over ranks cannot be removed: set parallel_size={self.parallel_size} to 1"
            )
        optimizers = list(optimizers)
        slots = torch.cat([kept, kept.new_tensor([self.num_experts])])
        self._counts = self._counts[slots]
        self._balanced_counts = self._balanced_counts[slots]
        self.experts.keep(kept, optimizers)
        self.router.keep(kept, optimizers)
        self.last_logits = None

    def shrink_to(self, state: Mapping[str, Any], prefix: str = "", optimizers: Iterable[Optimizer] = ()) -> None:
        """Forget as many experts as the layer had lost to pruning whose state this is, so that it can be loaded.

        Args:
            state: state of a network that has that layer under `prefix`.
            prefix: path of the layer in that network, such as `"critic.blocks.0."`.
            optimizers: optimisers, as in `prune`.

        Raises:
            ValueError: that layer has more experts than this one.
        """
        saved = state.get(extra_state_key(prefix))
        number = self.num_experts if saved is None else saved.shape[1] - 1
        if number > self.num_experts:
            raise ValueError(f"the state holds {number} experts, this layer {self.num_experts}: set num_experts")
        if number < self.num_experts:
            self.keep(self.router.room_for(number, state, f"{prefix}router."), optimizers)

    # ----------------------------------------------------------------------------------------------------------- state
    def get_extra_state(self) -> Tensor:
        """Both counts, so that a checkpoint carries them."""
        return torch.stack([self._counts, self._balanced_counts])

    def set_extra_state(self, state: Tensor) -> None:
        """Inverse of `get_extra_state`."""
        # Copied: whoever else loads this state has counts of its own.
        self._counts, self._balanced_counts = state.to(self._counts, copy=True).unbind()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseMoE:
        super()._apply(fn, recurse)
        self._counts = fn(self._counts)
        self._balanced_counts = fn(self._balanced_counts)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave out what belongs to the last pass."""
        return {**self.__dict__, "last_logits": None}


def _shrink_first(layer: SparseMoE, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Take over a pruned layer, before its state is loaded: one with fewer experts makes this one smaller."""
    layer.shrink_to(state, prefix)


# ----------------------------------------------------------------------------------------- mixtures anywhere in a model
def sparse_layers(network: nn.Module) -> dict[str, SparseMoE]:
    """All mixtures within a network, by module path."""
    return {name: module for name, module in network.named_modules() if isinstance(module, SparseMoE)}
