"""TorchRL's networks of DreamerV3 with the weights of ours."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchrl.modules import DreamerV3MLP
from torchrl.modules.models.model_based import RSSMPosteriorV3, RSSMPriorV3

from modules.networks.blocks import DenseStack
from modules.networks.value_heads import Head
from modules.world_model.block_rssm import BlockRSSM
from modules.world_model.latents import CategoricalLatent


@torch.no_grad()
def fill(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Copy parameters in the order of both."""
    for target, source in zip(targets, sources, strict=True):
        assert target.shape == source.shape
        target.copy_(source)


def of_stack(stack: DenseStack) -> list[Tensor]:
    """Weight, bias and scale of each layer, as they stand in a sequence of layer, norm and activation."""
    return [
        p for layer, norm in zip(stack.layers, stack.norms, strict=True) for p in (*layer.parameters(), norm.weight)
    ]


def make_rssm(rssm: BlockRSSM, d_embed: int, d_action: int) -> tuple[RSSMPriorV3, RSSMPosteriorV3]:
    """Networks of the sizes of ours."""
    latent = rssm.latent
    assert isinstance(latent, CategoricalLatent)
    sizes = {
        "hidden_dim": rssm.hidden, "rnn_hidden_dim": rssm.deter, "num_categoricals": latent.groups,
        "num_classes": latent.classes, "unimix": latent.unimix,
    }  # fmt: skip
    prior = RSSMPriorV3(
        action_shape=(d_action,), action_dim=d_action, recurrent_model="block_gru", num_blocks=rssm.blocks, **sizes
    )
    return prior, RSSMPosteriorV3(obs_embed_dim=d_embed, use_rms_norm=True, **sizes)


def copy_rssm(rssm: BlockRSSM, prior: RSSMPriorV3, posterior: RSSMPosteriorV3) -> None:
    """Copy the weights of ours; their layers of blocks have the axes of inputs and outputs the other way round."""
    cell, norms = prior.rnn, rssm.norms
    for place, (mine, theirs) in enumerate(
        (
            (rssm.from_h, cell.belief_projection), (rssm.from_z, cell.state_projection),
            (rssm.from_action, cell.action_projection),
        )
    ):  # fmt: skip
        fill(theirs.parameters(), [*mine.parameters(), norms[place].weight])
    mixing, gates = rssm.mixing, rssm.gates
    fill(cell.hidden_layers.parameters(), [mixing.weight.mT, mixing.bias, norms[3].weight])
    fill(cell.gates.parameters(), [gates.weight.mT, gates.bias])
    head = [*of_stack(rssm.prior_layers), *rssm.prior_output.parameters()]
    fill(prior.rnn_to_prior_projector.parameters(), head)
    tail = [*rssm.posterior_hidden.parameters(), norms[4].weight, *rssm.posterior_output.parameters()]
    fill(posterior.obs_rnn_to_post_projector.parameters(), tail)


def dense(stack: DenseStack, output: nn.Linear | None) -> DreamerV3MLP:
    """A network of TorchRL's with the weights of a stack and of the output layer behind it, where there is one."""
    first = stack.layers[0]
    made = DreamerV3MLP(
        first.in_features, None if output is None else output.out_features, len(stack.layers), first.out_features
    )
    fill(made.parameters(), [*of_stack(stack), *([] if output is None else output.parameters())])
    return made


def of_head(head: Head) -> DreamerV3MLP:
    """A head's."""
    assert isinstance(head.trunk, DenseStack)
    return dense(head.trunk, head.output)
