"""Small environments that an agent can only solve by what it remembers, registered as `reverie/...`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from modules.arguments.checks import check_counts, check_sizes


class DelayedCue(gym.Env):
    """One of several cues is shown, then noise for many steps, then a flag asks for the cue.

    The observation is a vector of zeros and ones: the cue as a one-hot vector, which stands in the first observation
    alone, random bits, and the flag. In `delay` further observations there is nothing but the bits; then the flag is 1,
    and the action is the answer: it ends the episode with the reward +1 if it is the cue, and -1 otherwise. All other
    actions do nothing. The best return is 1, in `delay + 2` steps; without a memory it is `2 / cues - 1`, as for random
    actions.

    Args:
        cues: number of cues, and of actions; at least 2.
        delay: number of observations between cue and question.
        bits: number of random bits.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, cues: int = 8, delay: int = 60, bits: int = 4) -> None:
        check_counts(2, cues=cues)
        check_counts(0, delay=delay, bits=bits)
        self.cues = cues
        self.delay = delay
        self.bits = bits
        self.observation_space = gym.spaces.Box(0, 1, (cues + bits + 1,), np.int8)
        self.action_space = gym.spaces.Discrete(cues)
        self.cue = 0
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a cue and show it."""
        super().reset(seed=seed)
        self.cue = int(self.np_random.integers(self.cues))
        self.time = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Wait, or answer."""
        asked = self.time == self.delay + 1
        self.time += 1
        reward = (1.0 if int(action) == self.cue else -1.0) if asked else 0.0
        return self._observation(), reward, asked, False, {"success": reward > 0.0} if asked else {}

    def _observation(self) -> np.ndarray:
        seen = np.zeros(self.cues + self.bits + 1, np.int8)
        if self.time == 0:
            seen[self.cue] = 1
        seen[self.cues : self.cues + self.bits] = self.np_random.integers(2, size=self.bits)
        seen[-1] = self.time == self.delay + 1
        return seen


class Pairs(gym.Env):
    """Cards lie face down, two of each symbol; turn one at a time, and two of a symbol in succession are taken away.

    There are `cards + 1` actions: each of the first turns its card, and the last one that with the lowest number which
    was not turned yet (the last card, if all were). The observation is a vector of zeros and ones: the card that was
    turned and its symbol, one-hot; zeros at the reset. The reward is +2 where a pair is taken and -1 otherwise. A card
    that was taken may be turned, to no use. The episode ends when all cards are gone, and is cut after `2 cards`
    actions, in which a perfect memory always ends it, with a return of 0 or more.

    It is the game of the course Deep Reinforcement Learning at Charles University (github.com/ufal/npfl122,
    `memory_game`).

    Args:
        cards: number of cards, even and at least 2.

    Raises:
        ValueError: it is another number.
    """

    def __init__(self, cards: int = 4) -> None:
        check_sizes(cards=cards)
        if cards % 2:
            raise ValueError(f"cards must be an even number, two of each symbol, got {cards}")
        self.cards = cards
        self.width = cards + cards // 2
        self.observation_space = gym.spaces.Box(0, 1, (self.width,), np.int8)
        self.action_space = gym.spaces.Discrete(cards + 1)
        self.symbols = np.repeat(np.arange(cards // 2), 2)
        self.turned = np.zeros(cards, bool)
        self.taken = np.zeros(cards, bool)
        self.open: int | None = None  # the card that was turned before, if it may still make a pair
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Shuffle, and turn all cards down."""
        super().reset(seed=seed)
        self.symbols = self.np_random.permutation(np.repeat(np.arange(self.cards // 2), 2))
        self.turned[:] = self.taken[:] = False
        self.open = None
        self.time = 0
        return np.zeros(self.width, np.int8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Turn a card."""
        card = int(action)
        if card == self.cards:
            card = int(self.turned.argmin()) if not self.turned.all() else self.cards - 1
        self.turned[card] = True
        self.time += 1
        pair = False
        if self.open is not None and self.open != card and not self.taken[card]:
            pair = bool(self.symbols[self.open] == self.symbols[card])
            self.taken[[self.open, card]] = pair
        self.open = None if pair or self.taken[card] else card
        ended = bool(self.taken.all())
        seen = np.zeros(self.width, np.int8)
        seen[card] = seen[self.cards + self.symbols[card]] = 1
        cut = self.time == 2 * self.cards and not ended
        return seen, 2.0 if pair else -1.0, ended, cut, {"success": ended} if ended or cut else {}
