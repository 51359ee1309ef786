"""An ensemble that predicts the next latent, whose members differ where a world model has seen little."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.agent.descent import descend_clipped, make_adam
from modules.arguments.checks import check_counts, check_ranges, check_widths
from modules.networks.ensemble import EnsembleMLP, xavier_normal
from modules.world_model.actor_critic import ADAM_EPS, CLIP_NORM, DECAY
from modules.world_model.imagined import by_step
from modules.world_model.rssm import Observed, RecurrentModel


class LatentEnsemble(nn.Module):
    """Networks that predict the next latent from the same data and other initial weights.

    Source: Sekar et al. 2020, "Planning to Explore via Self-Supervised World Models" (https://arxiv.org/abs/2005.05960).

    Args:
        rssm: the model whose latents they predict.
        d_action: width of an action as the model sees it.
        members: number of members `M` of the ensemble.
        hidden: widths of each member's hidden layers.
        lr: Adam learning rate of the ensemble.

    Raises:
        ValueError: fewer than two members, or a negative number.
    """

    def __init__(self, rssm: RecurrentModel, d_action: int, members: int, hidden: list[int], lr: float) -> None:
        super().__init__()
        check_counts(2, members=members)  # one alone has nobody to disagree with
        check_widths(members=members, hidden=hidden)
        check_ranges(("lr", lr, 0.0, 1e3))
        self.ensemble = EnsembleMLP(members, rssm.width + d_action, hidden, rssm.latent.width, xavier_normal)
        self.members = members
        self.optimizer = make_adam(self.ensemble.parameters(), lr, ADAM_EPS)

    def predict(self, features: Tensor, action: Tensor) -> Tensor:
        """Every member's next latent, `[M, N, S]`, from features `[N, D]` and the action `[N, A]` taken there."""
        return self.ensemble(torch.cat([features, action], -1).expand(self.members, -1, -1))

    def disagreement(self, features: Tensor, action: Tensor) -> Tensor:
        """Standard deviation over members, mean over the latent: `[..., D]` and `[..., A]` to `[...]`."""
        predicted = self.predict(features.flatten(0, -2), action.flatten(0, -2))
        return predicted.std(0, correction=0).mean(-1).unflatten(0, features.shape[:-1])

    def arrival(self, features: Tensor, actions: Tensor) -> Tensor:
        """Disagreement about each imagined state before it was reached, `[H, N]`; 0 of the first one.

        Args:
            features: `[H, N, D]`.
            actions: `[H, N, A]` taken there.
        """
        found = by_step(self.disagreement, features[:-1], actions[:-1])
        return torch.cat([torch.zeros_like(found[:1]), found])

    def fit(self, observed: Observed, previous_action: Tensor, is_first: Tensor) -> dict[str, Tensor]:
        """One step of the ensemble on a window `[T, B, ...]` of the replay, without gradients; its metrics."""
        state = observed.state
        inputs = state.features[:-1].flatten(0, 1), previous_action[1:].flatten(0, 1)
        predicted = self.predict(*inputs)
        error = 0.5 * (predicted - state.z[1:].flatten(0, 1)).square().sum(-1)
        within = (~is_first[1:]).flatten().float()  # no model can know the start of the next episode
        loss = (error * within).mean()
        descend_clipped(self.optimizer, loss, CLIP_NORM, DECAY)
        return {"ensemble_loss": loss.detach(), "disagreement": predicted.detach().std(0, correction=0).mean()}
