"""Ensembles of heads that predict one number: several learned networks, each beside a fixed random one of its own.

Letters: `M` members, `K` outputs of a member's codec, `J` atoms of a member's distribution.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from modules.arguments.checks import check_counts, check_ranges
from modules.functional.atoms import moments
from modules.functional.member_spread import Spread, bootstrap_mask, spread_of
from modules.networks.blocks import OutputLinear
from modules.networks.replicas import own_rank
from modules.networks.trunks import Trunk
from modules.networks.value_codecs import TwoHot, ValueCodec
from modules.networks.value_heads import MakeCodec, ValueHead

unbiased_two_hot: MakeCodec = partial(TwoHot, bins=41, low=-20.0, high=20.0, spacing="signed_hyperbolic", unbiased=True)
"""Classes from -20 to 20 under MuZero's transform `h`, whose means are taken of `h^-1` of them: see `TwoHot`."""


class Members(ValueCodec):
    """Predictions of `M` members side by side, `[..., M K]`, each with the meaning of one codec.

    Args:
        codec: meaning of a member's prediction.
        members: `M`, at least 2.

    Raises:
        ValueError: fewer than two members.
    """

    def __init__(self, codec: ValueCodec, members: int) -> None:
        check_counts(2, members=members)
        super().__init__()
        self.codec = codec
        self.members = members
        self.width = members * codec.width
        self.starts_at_zero = codec.starts_at_zero
        self.squared = codec.squared

    def by_member(self, prediction: Tensor) -> Tensor:
        """`[..., M K]` to `[..., M, K]`, or to `[..., M]` where `K` is 1."""
        split = prediction.unflatten(-1, (self.members, self.codec.width))
        return split.squeeze(-1) if self.codec.width == 1 else split

    def means(self, prediction: Tensor) -> Tensor:
        """The members' means, `[..., M]`."""
        return self.codec.mean(self.by_member(prediction))

    def spread(self, prediction: Tensor) -> Spread:
        """Mean, and both parts of the variance, `[...]` each."""
        _, variance = moments(*self.codec.atoms(self.by_member(prediction)))
        return spread_of(self.means(prediction), variance)

    def mean(self, prediction: Tensor) -> Tensor:
        """Mean of the members' means, `[...]`."""
        return self.means(prediction).mean(-1)

    def atoms(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture of all members: their atoms, and their probabilities divided by `M`, `[..., M J]`."""
        number, probability = self.codec.atoms(self.by_member(prediction))
        return number.flatten(-2), probability.flatten(-2) / self.members

    def reach(self, target: Tensor) -> Tensor:
        """That of a member."""
        return self.codec.reach(target)

    def losses(self, prediction: Tensor, target: Tensor, probability: Tensor | None = None) -> Tensor:
        """The members' losses, `[..., M]`; arguments as those of `loss`."""
        split = self.by_member(prediction)
        if probability is None:
            return self.codec.loss(split, target.unsqueeze(-1).expand(*target.shape, self.members))
        atoms, shares = (
            x.unsqueeze(-2).expand(*x.shape[:-1], self.members, x.shape[-1]) for x in (target, probability)
        )
        return self.codec.loss(split, atoms, shares)

    def loss(self, prediction: Tensor, target: Tensor, probability: Tensor | None = None) -> Tensor:
        """Mean of the members' losses, `[...]`."""
        return self.losses(prediction, target, probability).mean(-1)


class RandomPriors(nn.Module):
    """One fixed random network per member, with a hidden layer: buffers, which no optimiser sees and a checkpoint has.

    Args:
        members: `M`.
        d_in: width of the input.
        units: width of the hidden layer.
        d_out: width of each member's output.
    """

    hidden: Tensor
    output: Tensor

    def __init__(self, members: int, d_in: int, units: int, d_out: int) -> None:
        super().__init__()
        for name, (rows, columns) in {"hidden": (d_in + 1, units), "output": (units, d_out)}.items():
            self.register_buffer(name, torch.randn(members, rows, columns) / math.sqrt(rows))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in]` to `[..., M, d_out]`."""
        with_one = torch.cat([x, torch.ones_like(x[..., :1])], -1).flatten(0, -2)
        found = torch.relu(with_one @ self.hidden) @ self.output  # [M, N, d_out]
        return found.transpose(0, 1).unflatten(0, x.shape[:-1])


class EnsembleHead(ValueHead):
    """Several heads on the same features, which agree where there were data and nowhere else.

    Every member has layers of its own, learns of other episodes (`bootstrap_mask`), and has a random network of its own
    added to its predictions, which nothing trains: where there were no data, members keep disagreeing by it
    (Osband et al. 2018, "Randomized Prior Functions for Deep Reinforcement Learning",
    https://arxiv.org/abs/1806.03335).

    Attributes:
        codec: its `spread` says how uncertain a prediction is, and of which kind.

    Args:
        d_in: width of the features.
        units: width that each trunk gives.
        trunk: makes a dense network from its widths of input and output.
        codec: makes the meaning of a member's prediction; a distribution, or nothing is known of chance. None for
            `unbiased_two_hot`.
        members: `M`, at least 2.
        prior_scale: factor of the random networks; 0 for none.
        bootstrap: share of the episodes that a member learns of. Means of halves vary as much as the mean of all
            does about the truth, so that 0.5 makes the epistemic variance one of that size.

    Raises:
        ValueError: fewer than two members, or a number is out of range.
    """

    codec: Members

    def __init__(
        self,
        d_in: int,
        units: int,
        trunk: Trunk,
        codec: MakeCodec | None = None,
        members: int = 5,
        prior_scale: float = 1.0,
        bootstrap: float = 0.5,
    ) -> None:
        check_ranges(("prior_scale", prior_scale, 0.0, 1e6), ("bootstrap", bootstrap, 1e-3, 1.0))
        super().__init__(Members((codec or unbiased_two_hot)(), members))
        width = self.codec.codec.width
        self.trunks = nn.ModuleList(trunk(d_in, units) for _ in range(members))
        self.outputs = nn.ModuleList(OutputLinear(units, width) for _ in range(members))
        for layer in self.outputs:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        self.priors = RandomPriors(members, d_in, units, width)
        self.prior_scale = prior_scale
        self.bootstrap = bootstrap

    @property
    def output_layers(self) -> list[tuple[OutputLinear, bool]]:
        """None: a prediction is more than a sum of layers, and cannot be rescaled by them."""
        return []

    def forward(self, features: Tensor) -> Tensor:
        """`[..., d_in]` to the members' predictions side by side, `[..., M K]`."""
        learned = [output(trunk(features)) for trunk, output in zip(self.trunks, self.outputs, strict=True)]
        with torch.autocast(features.device.type, enabled=False):
            priors = self.priors(features.detach().float())
        return torch.cat(learned, -1) + self.prior_scale * priors.flatten(-2)

    def bootstrapped_loss(self, prediction: Tensor, target: Tensor, episode: Tensor) -> Tensor:
        """Loss of the members that learn of each sequence, `[U, B]`, of the size of the mean over all.

        Args:
            prediction: `[U, B, M K]`.
            target: `[U, B]` numbers in the units of the reward.
            episode: int64 `[B]` names of the episodes that the sequences are of, among those of this process.
        """
        mask = bootstrap_mask(episode, self.codec.members, self.bootstrap, own_rank())
        return (self.codec.losses(prediction, target) * mask).mean(-1) / self.bootstrap


def means_of(head: ValueHead, prediction: Tensor) -> Tensor:
    """Expected numbers `[...]` of predictions; of an ensemble by member, `[..., M]`."""
    return head.codec.means(prediction) if isinstance(head, EnsembleHead) else head.mean(prediction)


def losses_of(head: ValueHead, prediction: Tensor, target: Tensor, episode: Tensor) -> Tensor:
    """Losses `[U, B]` of predictions `[U, B, ...]`; of an ensemble, of the members that learn of each episode.

    Args:
        head: the head.
        prediction: its predictions.
        target: `[U, B]` numbers in the units of the reward.
        episode: int64 `[B]` names of the episodes that the sequences are of.
    """
    if isinstance(head, EnsembleHead):
        return head.bootstrapped_loss(prediction, target, episode)
    return head.loss(prediction, target)


def variances_of(name: str, head: ValueHead, prediction: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Means of both parts of an ensemble's variance, as metrics: `reward_epistemic` and `reward_aleatoric`; else none.

    Args:
        name: of what is predicted, such as `reward`.
        head: the head.
        prediction: `[..., K]` its predictions.
        counted: bool `[...]`, rows that count.
    """
    if not isinstance(head, EnsembleHead):
        return {}
    spread, count = head.codec.spread(prediction.detach()), counted.sum().clamp_min(1)
    parts = {"epistemic": spread.epistemic, "aleatoric": spread.aleatoric}
    return {f"{name}_{kind}": (part * counted).sum() / count for kind, part in parts.items()}
