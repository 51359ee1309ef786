"""A video model that says the next frame token by token: a tokenizer of images, and a causal transformer over tokens.

Sources: Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis" (https://arxiv.org/abs/2012.09841),
and Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation" (https://arxiv.org/abs/2102.12092), as a model of a game
after Micheli et al. 2023, "Transformers are Sample-Efficient World Models" (https://arxiv.org/abs/2209.00588).
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.arguments.checks import check_positive, check_ranges, check_sizes
from modules.functional.elementwise import softmax
from modules.functional.frame_classes import floored_cross_entropy, to_levels
from modules.functional.gradient_estimators import drawn_class
from modules.networks.blocks import OutputLinear
from modules.networks.causal_transformer import Cache, CausalTransformer
from modules.networks.quantisers import perplexity
from modules.networks.tokens import ImageTokenizer, Tokenised
from modules.networks.video_model import Clip, Foreseen, VideoModel

REWARDS = 3
"""Classes of a reward: -1, 0 and 1."""

MakeTokenizer = Callable[[tuple[int, ...]], ImageTokenizer]
"""An `ImageTokenizer`, or a partial of one, called with the shape of a frame."""
MakeTransformer = Callable[[int], CausalTransformer]
"""A `CausalTransformer`, or a partial of one, called with its window."""


class TokenVideo(VideoModel):
    """Frames as blocks of positions, an action and the `P` tokens of the frame that it led to, one behind the other.

    The output at a position foretells the next token of its block; that at the last token, which has seen the whole
    frame, reward and end. Tokens are drawn one by one, each by its own draw, so that what is by chance agrees with
    itself all over a frame. Tokenizer and transformer learn at the same time, and no gradient of the transformer
    reaches the tokenizer. Since all tokens of a window are foretold at once, from the recorded ones before them,
    scheduled sampling is left out: `own` changes nothing.

    Blocks whose action is not known, as those that a rollout begins with, have a learned vector in its place. A frame
    at the beginning of a rollout that is the same as its follower stands in for an episode that has no earlier ones,
    and is not looked at. Where a window is full, the oldest block leaves it for every new one; see `CausalTransformer`.

    A codebook moves, and temperatures go on, with each call of `losses` for which gradients are asked.

    Args:
        frame: space of a frame, uint8 `[H, W, C]`.
        d_action: width of an action.
        context: number of last frames that a rollout begins with.
        tokenizer: makes the tokenizer.
        transformer: makes the transformer.
        window: number of frames, with their actions, that a position looks back over, its own included; at least
            `context` + 1.
        floor: loss of a pixel of the tokenizer below which it is good enough, in nats; see `floored_cross_entropy`.
        temperature: temperature of the tokens that are drawn; below 1 likely ones become likelier.

    Raises:
        ValueError: observations are no images, or a number is out of range.
    """

    def __init__(
        self,
        frame: gym.Space,
        d_action: int,
        context: int = 4,
        tokenizer: MakeTokenizer = ImageTokenizer,
        transformer: MakeTransformer = CausalTransformer,
        window: int = 8,
        floor: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(frame, d_action, context)
        check_sizes(context=context)
        check_positive(temperature=temperature)
        check_ranges(("window", window, context + 1, 1e6), ("floor", floor, 0.0, 1e3))
        self.floor = floor
        self.temperature = temperature
        self.tokenizer = tokenizer(self.shape)
        self.patches = self.d_noise = self.tokenizer.patches
        self.transformer = transformer(window * (self.patches + 1))
        width = self.transformer.width
        self.action = nn.Linear(d_action, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.token = nn.Embedding(self.tokenizer.quantiser.size, width)
        self.place = nn.Embedding(self.patches + 1, width)
        self.next_token = OutputLinear(width, self.tokenizer.quantiser.size)
        self.outcome = OutputLinear(width, REWARDS + 1)
        self.updates = 0

    # -------------------------------------------------------------------------------------------------------- learning
    def losses(self, clip: Clip, own: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the pixels, of the quantiser, of tokens, rewards and ends, and how well tokens do."""
        learning = torch.is_grad_enabled()
        if learning:
            self.tokenizer.quantiser.advance(self.updates)
        steps, rows = clip.frame.shape[:2]
        image = clip.frame.flatten(0, 1)
        seen = self.tokenizer(image, self.tokenizer.noise(len(image), device=image.device))
        tokens = seen.tokens.unflatten(0, (steps, rows)).transpose(0, 1)  # [B, T, P]
        # Actions are known behind the frames that a rollout would begin with, and behind the first of an episode.
        time = torch.arange(steps, device=image.device).unsqueeze(1)
        known = (~clip.is_first & ((time >= self.context) | (clip.is_first.cumsum(0) > 0))).transpose(0, 1)  # [B, T]
        action = torch.where(known.unsqueeze(-1), self.action(clip.action.transpose(0, 1)), self.unknown)
        # Blocks of all frames, each episode of its own.
        x = self._blocks(action, tokens)
        episode = clip.is_first.cumsum(0).transpose(0, 1).repeat_interleave(self.patches + 1, 1)
        output = self.transformer(x.flatten(1, 2), episode).view_as(x)
        guess, told = self.next_token(output[:, :, :-1]), self.outcome(output[:, :, -1])
        # Means over the frames that an action led to.
        number = known.sum().clamp_min(1)
        reward, end = clip.reward.transpose(0, 1).long() + 1, clip.terminated.transpose(0, 1).float()
        errors = {
            "token": F.cross_entropy(guess.flatten(0, 2), tokens.flatten(), reduction="none").view_as(tokens).sum(-1),
            "reward": F.cross_entropy(told[..., :REWARDS].transpose(1, 2), reward, reduction="none"),
            "end": F.binary_cross_entropy_with_logits(told[..., REWARDS], end, reduction="none"),
        }
        terms = {name: (error * known).sum() / number for name, error in errors.items()}
        likeliest = ((guess.argmax(-1) == tokens).all(-1) & known).sum() / number
        pixels, metrics = self._pixel_loss(seen, image)
        if learning:
            self.tokenizer.quantiser.adapt(seen.raw)
            self.updates += 1
        return terms | {"pixel": pixels, "quantiser": seen.penalty.mean()}, metrics | {"whole_frames": likeliest}

    def _pixel_loss(self, seen: Tokenised, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the pixels summed over an image, and how well the tokenizer does."""
        level = to_levels(image, self.tokenizer.levels)
        loss = floored_cross_entropy(seen.logits, level, self.floor).flatten(1).sum(1).mean()
        returned = (seen.logits.argmax(-1) == level).float().mean()
        return loss, {
            "pixels_returned": returned,
            "perplexity": perplexity(seen.tokens, self.tokenizer.quantiser.size),
        }

    def _blocks(self, action: Tensor, tokens: Tensor) -> Tensor:
        """Embedded actions `[B, T, D]` and tokens `[B, T, P]` to positions `[B, T, P + 1, D]`."""
        return torch.cat([action.unsqueeze(2), self.token(tokens)], 2) + self.place.weight

    def get_extra_state(self) -> Tensor:
        """Number of updates, for checkpoints."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from that number."""
        self.updates = int(state)

    # -------------------------------------------------------------------------------------------------------- foresight
    @torch.no_grad()
    def begin(self, frames: Tensor) -> Cache:
        """Keys and values of the frames, whose actions are not known."""
        x, group = self._begun(frames)
        return self.transformer.extend(x, self.transformer.empty(x), group)[1]

    @torch.no_grad()
    def step(self, state: Cache, action: Tensor, noise: Tensor) -> Foreseen:
        """The tokens of the next frame one by one, then reward and end, the likeliest ones."""
        group = None if state.group is None else state.group[:, -1:]
        output, state = self.transformer.extend(self._acted(action), state, group)
        tokens: list[Tensor] = []
        for draws in noise.unbind(1):
            tokens.append(self._drawn(output[:, 0], draws))
            output, state = self.transformer.extend(self._said(tokens), state, group)
        return Foreseen(state, *self._shown(tokens, output[:, 0]))

    @torch.no_grad()
    def plain_rollout(self, frames: Tensor, action: Tensor, noise: Tensor) -> list[Foreseen]:
        """The definition of `begin` and `step`: without a cache, all positions anew for each token.

        Args:
            frames: `[context, B, H, W, C]` as of `begin`.
            action: `[T, B, A]`.
            noise: `[T, B, P]`.

        Returns:
            The `T` steps, without states.
        """
        x, group = self._begun(frames)
        found = []
        for acted, draws in zip(action, noise, strict=True):
            x = torch.cat([x, self._acted(acted)], 1)
            tokens: list[Tensor] = []
            for each in draws.unbind(1):
                tokens.append(self._drawn(self._last(x, group), each))
                x = torch.cat([x, self._said(tokens)], 1)
            found.append(Foreseen(None, *self._shown(tokens, self._last(x, group))))
        return found

    def _last(self, x: Tensor, group: Tensor | None) -> Tensor:
        """Output `[B, D]` at the last of all positions, which are of the last group that is given."""
        if group is not None:
            group = torch.cat([group, group[:, -1:].expand(-1, x.shape[1] - group.shape[1])], 1)
        return self.transformer(x, group)[:, -1]

    def _begun(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Positions `[B, context (P + 1), D]` of the frames, and their groups: -1 for what is not looked at."""
        tokens = self.tokenizer.tokens(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(0, 1)
        x = self._blocks(self.unknown.expand(*tokens.shape[:2], -1), tokens).flatten(1, 2)
        if len(frames) == 1:
            return x, None
        same = (frames[1:] == frames[:-1]).flatten(2).all(-1).long().cumprod(0).transpose(0, 1)  # [B, context - 1]
        return x, -F.pad(same, (0, 1)).repeat_interleave(self.patches + 1, 1)

    def _acted(self, action: Tensor) -> Tensor:
        """`[B, A]` to the position `[B, 1, D]` of an action."""
        return (self.action(action) + self.place.weight[0]).unsqueeze(1)

    def _said(self, tokens: list[Tensor]) -> Tensor:
        """The position `[B, 1, D]` of the last of a frame's tokens."""
        return (self.token(tokens[-1]) + self.place.weight[len(tokens)]).unsqueeze(1)

    def _drawn(self, output: Tensor, noise: Tensor) -> Tensor:
        """Output `[B, D]` and draws `[B]` to tokens `[B]`."""
        return drawn_class(softmax(self.next_token(output) / self.temperature), noise)

    def _shown(self, tokens: list[Tensor], output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frame, reward and end of a frame's tokens, `[B]` each, and the output at the last of them."""
        told = self.outcome(output)
        reward, end = (told[:, :REWARDS].argmax(-1) - 1).float(), told[:, REWARDS] > 0.0
        return self.tokenizer.images(torch.stack(tokens, 1)), reward, end
