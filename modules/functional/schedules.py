"""Numbers that change over a training run: factors of a learning rate, and schedules written as text.

The unit of time is the update. DreamerV2's official code writes schedules in the same forms, but counts steps of its
agent in the environment: multiply them by the updates per step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from modules.arguments.checks import check_ranges


@dataclass(frozen=True)
class Schedule:
    """A number that goes from one value to another over updates, never beyond either.

    Attributes:
        start: value at update 0.
        end: value that it ends at, or approaches.
        done: share of the way from start to end after so many updates, from 0 to 1.
    """

    start: float
    end: float
    done: Callable[[int], float]

    def __call__(self, updates: int) -> float:
        """Value after so many updates."""
        share = self.done(updates)
        return (1.0 - share) * self.start + share * self.end

    @property
    def is_constant(self) -> bool:
        """Whether it never changes."""
        return self.start == self.end


FORMS = (
    "constant(value)",
    "linear(start, end, updates)",
    "cosine(start, end, updates)",
    "warmup(updates, end)",
    "exp(start, end, updates_per_halving)",
)


def parse_schedule(text: float | str) -> Schedule:
    """Read a schedule: a number, or one of these forms.

    `constant(value)`; `linear(start, end, updates)` along a line; `cosine(start, end, updates)` along half a cosine,
    such as the temperature of Ramesh et al. 2021, DALL-E, `cosine(1, 0.0625, 150000)`; `warmup(updates, end)`, a line
    from 0; `exp(start, end, updates_per_halving)`, which halves the distance to the end again and again. The order of
    the arguments is that of DreamerV2's official code, where it has the form; its steps are those of the environment.

    Raises:
        ValueError: the text is none of these.
    """
    name, numbers = _read(text)
    match name, numbers:
        case "constant", [value]:
            return Schedule(value, value, lambda _: 1.0)
        case "linear", [start, end, updates] if updates >= 1:
            return Schedule(start, end, lambda i: min(i / updates, 1.0))
        case "cosine", [start, end, updates] if updates >= 1:
            return Schedule(start, end, lambda i: (1.0 - math.cos(math.pi * min(i / updates, 1.0))) / 2.0)
        case "warmup", [updates, end] if updates >= 1:
            return Schedule(0.0, end, lambda i: min(i / updates, 1.0))
        case "exp", [start, end, halving] if halving >= 1:
            return Schedule(start, end, lambda i: 1.0 - 0.5 ** (i / halving))
    raise ValueError(f"{text!r} is no schedule: give a number, or one of {', '.join(FORMS)}, with updates of 1 or more")


def bounded_schedule(name: str, text: float | str, low: float, high: float) -> Schedule:
    """A schedule that never leaves its range.

    Raises:
        ValueError: it does, or the text is no schedule.
    """
    schedule = parse_schedule(text)
    check_ranges((name, schedule.start, low, high), (name, schedule.end, low, high))
    return schedule


def _read(text: float | str) -> tuple[str, list[float]]:
    """Name and finite arguments; no arguments where the text cannot be read."""
    if isinstance(text, str) and (found := re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)):
        name, values = found[1], found[2].split(",")
    else:
        name, values = "constant", [text]
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return name, []
    return name, numbers if all(map(math.isfinite, numbers)) else []


def one_cycle(progress: float, warm_up: float = 0.3, start: float = 0.04, end: float = 4e-6) -> float:
    """Up along half a cosine, then down along another.

    Source: Smith & Topin 2018, "Super-Convergence" (https://arxiv.org/abs/1708.07120), with cosines for the lines of
    the paper, and `torch.optim.lr_scheduler.OneCycleLR`'s constants.

    Args:
        progress: share of the updates that are done, 0 to 1.
        warm_up: share of the updates until the peak.
        start: factor at the first update.
        end: factor at the end.
    """
    low, part = (start, progress / warm_up) if progress < warm_up else (end, (1 - progress) / (1 - warm_up))
    return low + (1 - low) * (1 - math.cos(math.pi * part)) / 2
