"""Values of actions from the whole past of an episode: encoder, memory and head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.arguments.changed import STARTED
from modules.arguments.checks import check_counts, check_sizes, check_widths
from modules.batch import SequenceBatch, Spaces, brief
from modules.functional.elementwise import lstm_step
from modules.functional.transforms import signed_hyperbolic
from modules.functional.weight_gradients import defer_weight_gradient
from modules.networks.blocks import DenseStack, glorot_uniform
from modules.networks.encoders import Encoder
from modules.networks.perception import MakeEncoder, Perception
from modules.networks.trunks import Trunk
from modules.networks.value_codecs import Scalar
from modules.networks.value_heads import ActionHead, MakeCodec


class Memory(nn.Module, ABC):
    """A memory: it carries the past of an episode from row to row.

    Attributes:
        width: width of its output.
        state_width: width `S` of its state; 0 for none.
        longest: rows that it can unroll over at once; None for any number.
        noise_width: width `Z` of the normal noise that it takes for a row; 0 for a memory that draws nothing. Such a
            memory takes `[T, B, Z]` noise as one argument more, and without it does what it does on average.

    Args:
        d_in: width of its input.
        width: width of its output.
    """

    state_width: int
    longest: int | None = None
    noise_width: int = 0

    def __init__(self, d_in: int, width: int) -> None:
        super().__init__()
        check_sizes(d_in=d_in)
        check_widths(width=width)
        self.d_in = d_in
        self.width = width

    @abstractmethod
    def forward(self, x: Tensor, is_first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Unroll over `[T, B, d_in]`.

        Args:
            x: `[T, B, d_in]` inputs.
            is_first: `[T, B]` bool, whether a row begins an episode: the state before it counts as zeros.
            state: `[B, S]` before the first row.

        Returns:
            `[T, B, width]`, and the state `[B, S]` after the last row.
        """


def start_gates(bias: Tensor, span: int | None) -> None:
    """Say how long the units of a long short-term memory remember at first, by its biases `[4 W]` of `i, f, g, o`.

    With None all forget half in two steps, `bias f = 1` (Jozefowicz et al. 2015). With a span their times of forgetting
    are from 2 to `span` steps, `bias f = log(uniform(1, span - 1))` and `bias i = -bias f` (Tallec & Ollivier 2018,
    "Can recurrent neural networks warp time?", https://arxiv.org/abs/1804.11188, eq. 16).

    Raises:
        ValueError: a span below 3.
    """
    check_counts(3, span=span)
    bias_i, bias_f, *_ = bias.detach().chunk(4)
    if span is None:
        bias_f.fill_(1.0)
    else:
        bias_f.uniform_(1.0, span - 1.0).log_()
        bias_i.copy_(-bias_f)


class LSTM(Memory):
    """Long short-term memory; the state is `[h, c]`, so `S = 2 width`.

    `i, f, g, o = split(W x + U h + b)`, `c' = sigmoid(f) c + sigmoid(i) tanh(g)`, `h' = sigmoid(o) tanh(c')`
    (Hochreiter & Schmidhuber 1997; Gers et al. 2000). The bias of `f` starts at 1, so that a fresh memory keeps what it
    has, see `start_gates`. `W x` is computed for all rows at once, see `plain`. Torch's own fused form cannot
    reset between rows, nor be compiled; it is twice as fast for widths of 64 on a CPU, and no faster for 512.

    Args:
        d_in: width of its input.
        width: width of its output.
        span: number of rows that it should remember over, see `start_gates`; with None all units forget half in two.

    Raises:
        ValueError: a span below 3.
    """

    fixed_on_resume: ClassVar[dict[str, str]] = {"span": STARTED}

    def __init__(self, d_in: int, width: int = 512, span: int | None = None) -> None:
        super().__init__(d_in, width)
        self.state_width = 2 * width
        self.input = glorot_uniform(nn.Linear(d_in, 4 * width))
        self.recurrent = glorot_uniform(nn.Linear(width, 4 * width, bias=False))
        start_gates(self.input.bias, span)

    def forward(self, x: Tensor, is_first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, B, d_in]` to `[T, B, width]`, and the state after the last row."""
        h, c = state.chunk(2, -1)
        keep = (~is_first).to(x.dtype).unsqueeze(-1)
        added, from_h, inputs = defer_weight_gradient(self.input(x), self.recurrent.weight)
        outputs = []
        for seen, kept in zip(added.unbind(), keep.unbind(), strict=True):
            old = h * kept
            inputs.append(old.detach())
            h, c = lstm_step(torch.addmm(seen, old, from_h.t()), c * kept)
            outputs.append(h)
        return torch.stack(outputs), torch.cat([h, c], -1)

    def plain(self, x: Tensor, is_first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The definition of `forward`: both products at every row, and gradients by automatic differentiation alone."""
        outputs = []
        for row, first in zip(x, is_first, strict=True):
            h, c = (state * ~first.unsqueeze(-1)).chunk(2, -1)
            i, f, g, o = (self.input(row) + self.recurrent(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            state = torch.cat([h, c], -1)
            outputs.append(h)
        return torch.stack(outputs), state


class Memoryless(Memory):
    """A dense layer in the place of a memory: each row by itself. The baseline of what a memory is worth.

    Args:
        d_in: width of its input.
        width: width of its output.
    """

    state_width = 0

    def __init__(self, d_in: int, width: int = 512) -> None:
        super().__init__(d_in, width)
        self.layer = DenseStack(d_in, width, layers=1)

    def forward(self, x: Tensor, is_first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, B, d_in]` to `[T, B, width]`, and the state, which holds nothing."""
        return self.layer(x), state


def with_past(seen: Tensor, action: Tensor, reward: Tensor, is_first: Tensor) -> Tensor:
    """Rows as a memory sees them: what they show, and what led to them, which is zeros where an episode begins.

    Source: Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning"
    (https://openreview.net/forum?id=r1lyTjAqYX), section 2.3.

    Args:
        seen: `[T, B, F]` what an encoder makes of the observations.
        action: `[T, B, A]` previous actions as networks see them.
        reward: `[T, B]` previous rewards, of which `signed_hyperbolic` is taken.
        is_first: `[T, B]` bool, whether a row begins an episode.

    Returns:
        `[T, B, F + A + 1]`.
    """
    there = (~is_first).to(seen.dtype).unsqueeze(-1)
    return torch.cat([seen, action * there, signed_hyperbolic(reward).unsqueeze(-1) * there], -1)


class ActionValues(nn.Module):
    """Predictions of the value of every action, from observations, previous actions and rewards.

    What the encoder makes of an observation, the previous action as a one-hot vector and `signed_hyperbolic` of the
    previous reward go into the memory together; the last two are zeros in the first row of an episode. The head takes
    what the memory gives. Source: Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement
    Learning" (https://openreview.net/forum?id=r1lyTjAqYX), section 2.3.

    Attributes:
        choices: `[A]` actions of the environment, in the order of their values.
        memory: the memory between encoder and head.
        head: the head on the memory's output.

    Args:
        spaces: announced by the datamodule.
        discounts: number `G` of values of each action, see `ActionHead`.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes dense networks from their widths of input and output: in the encoder, and in the head.
        units: width that each trunk gives.
        memory: makes the memory, called with the width of its input.
        codec: makes the meaning of the predictions; None for the paper's `Scalar(transform="signed_hyperbolic")`.
        duelling: whether the head has a stream for the state's value.

    Raises:
        ValueError: the actions are no Discrete space, no observation is of a kind that the encoder takes, or a number
            is out of range.
    """

    choices: Tensor

    def __init__(
        self,
        spaces: Spaces,
        discounts: int = 1,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk = DenseStack,
        units: int = 512,
        memory: Callable[[int], Memory] = LSTM,
        codec: MakeCodec | None = None,
        duelling: bool = True,
    ) -> None:
        super().__init__()
        check_widths(units=units)
        space = spaces.action
        if not isinstance(space, gym.spaces.Discrete):
            raise ValueError(
                f"values of every action need a Discrete space of actions, got {brief(space)}; DreamerV2 "
                "(--config dreamer/small) and A2C learn to act in other spaces too"
            )
        self.register_buffer("choices", int(space.start) + torch.arange(int(space.n)))
        self.perception = Perception(spaces, encoder, trunk, units)
        self.memory = memory(self.perception.width + len(self.choices) + 1)
        codec = codec or partial(Scalar, transform="signed_hyperbolic")
        self.head = ActionHead(self.memory.width, units, trunk, len(self.choices), codec, duelling, discounts)

    def initial(self, batch: int) -> Tensor:
        """`[batch, S]` zeros: the memory's state before the first row of an episode."""
        return self.head.output.weight.new_zeros(batch, self.memory.state_width)

    def unroll(self, rows: SequenceBatch, state: Tensor) -> tuple[Tensor, Tensor]:
        """The head's input `[T, B, width]` for `[T, B]` rows, and the memory's state `[B, S]` after them.

        Args:
            rows: `[T, B]` rows; nothing of them is read that only shows later.
            state: `[B, S]` before the first row.
        """
        seen = self.perception(rows.observation)
        action = rows.previous_action.unsqueeze(-1) == self.choices
        return self.memory(with_past(seen, action, rows.reward, rows.is_first), rows.is_first, state)
