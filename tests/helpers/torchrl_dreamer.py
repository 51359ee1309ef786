"""TorchRL's networks and losses of DreamerV3 with the weights of ours."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.modules import DreamerV3MLP, OneHotCategorical
from torchrl.modules.models.model_based import RSSMPosteriorV3, RSSMPriorV3, RSSMRolloutV3, two_hot_decode
from torchrl.objectives import DreamerV3ModelLoss

from modules.algorithms.dreamer import DreamerV2
from modules.batch import SequenceBatch
from modules.functional.transforms import symlog
from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.value_heads import Head
from modules.world_model.block_rssm import BlockRSSM
from modules.world_model.latents import CategoricalLatent

FEATURES = ["state", "belief"]
HORIZON = 333.0


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


class Decoded(nn.Module):
    """Logits, and the number that they stand for."""

    def __init__(self, network: nn.Module, bins: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("bins", bins)

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(*features)
        return logits, two_hot_decode(logits, self.bins).unsqueeze(-1)


class Mixed(nn.Module):
    """Logits of a policy that is mixed with the uniform one."""

    def __init__(self, network: nn.Module, share: float) -> None:
        super().__init__()
        self.network = network
        self.share = share

    def forward(self, *features: Tensor) -> Tensor:
        chances = self.network(*features).softmax(-1)
        return torch.log((1.0 - self.share) * chances + self.share / chances.shape[-1])


class Chance(nn.Module):
    """Probability by its log-odds."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *features: Tensor) -> Tensor:
        return self.network(*features).sigmoid()


def value_of(head: Head) -> TensorDictModule:
    """A critic: logits and values of states."""
    network = Decoded(of_head(head), head.codec.bins)
    return TensorDictModule(network, in_keys=FEATURES, out_keys=["state_value_logits", "state_value"])


def policy_of(actor: DiscreteActor) -> ProbabilisticTensorDictSequential:
    """A policy of one-hot actions."""
    assert isinstance(actor.trunk, DenseStack)
    network = Mixed(dense(actor.trunk, actor.output), actor.unimix)
    return ProbabilisticTensorDictSequential(
        TensorDictModule(network, in_keys=FEATURES, out_keys=["logits"]),
        ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=OneHotCategorical),
    )


def model_loss(agent: DreamerV2, d_action: int) -> DreamerV3ModelLoss:
    """The losses of the world model; its networks are encoder, rollout, decoder, reward and chance of going on."""
    model = agent.world_model
    assert isinstance(model.rssm, BlockRSSM)
    prior, posterior = make_rssm(model.rssm, model.encoder.width, d_action)
    copy_rssm(model.rssm, prior, posterior)
    ahead = [("next", key) for key in FEATURES]
    rollout = RSSMRolloutV3(
        TensorDictModule(prior, in_keys=[*FEATURES, "action"], out_keys=[("next", "prior_logits"), *ahead]),
        TensorDictModule(
            posterior,
            in_keys=[("next", "belief"), ("next", "encoded_latents")],
            out_keys=[("next", "posterior_logits"), ("next", "state")],
        ),
    )
    decoder = model.decoder.parts[0]
    heads = (
        (dense(decoder.trunk, decoder.outputs[0]), ["reco_pixels"]),
        (Decoded(of_head(model.reward), model.reward.codec.bins), ["reward_logits", "reward"]),
        (of_head(model.discount), ["continue_pred"]),
    )
    encoder = dense(model.encoder.vector_network, None)
    world = TensorDictSequential(
        TensorDictModule(encoder, in_keys=[("next", "pixels")], out_keys=[("next", "encoded_latents")]),
        rollout,
        *(TensorDictModule(net, in_keys=ahead, out_keys=[("next", name) for name in names]) for net, names in heads),
    )
    # TorchRL squashes its decoder's predictions as well, ours and the authors' the target alone: see `windows`.
    return DreamerV3ModelLoss(
        world, kl_mode="separate", lambda_dynamic=1.0, lambda_representation=0.1, unimix=0.01, free_bits=1.0,
        lambda_continue=1.0, continue_target_scale=1.0 - 1.0 / HORIZON, reco_symlog=False, detach_output=False,
    )  # fmt: skip


def windows(agent: DreamerV2, batch: SequenceBatch) -> TensorDict:
    """Windows `[T, B]` in TorchRL's layout, `[B, T]`, with observations squashed already."""
    rssm, (steps, rows) = agent.world_model.rssm, batch.reward.shape
    ends = {"reward": batch.reward, "terminated": batch.terminated, "done": batch.terminated | batch.truncated}
    after = {name: x.T.unsqueeze(-1) for name, x in ends.items()}
    zeros = batch.reward.new_zeros
    content = {
        "state": zeros(rows, steps, rssm.latent.width),
        "belief": zeros(rows, steps, rssm.deter),
        "action": agent.behaviour.actor.encode(batch.previous_action).transpose(0, 1),
        "is_init": batch.is_first.T.unsqueeze(-1),
        "next": {"pixels": symlog(batch.observation["observation"]).transpose(0, 1), **after},
    }
    return TensorDict(content, [rows, steps])
