"""Events inside an update, at which a callback may take part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pytorch_lightning import LightningModule
from torch import Tensor

from modules.contracts import AnswersKL, AnswersTargets, ChangedByUpdates, PerformsUpdates, Update


class Event(NamedTuple):
    """A point inside an update.

    Attributes:
        contract: contract of the callbacks that take part.
        about: description for messages.
    """

    contract: type
    about: str


EVENTS = {
    "on_kl": Event(AnswersKL, "a divergence between posterior and prior"),
    "on_targets": Event(AnswersTargets, "targets of values"),
}
"""By the name of the method that a callback takes part with; `modules.contracts` has the signatures.

A compiled update traces the callback's method too: tensors in, tensors out, no branch on their values.
"""


class Announcing(LightningModule):
    """The part of an agent that lets callbacks take part in its updates."""

    events: frozenset[str] = frozenset()
    """Which of `EVENTS` the algorithm announces."""

    def __init__(self) -> None:
        super().__init__()
        self._participants: dict[str, Any] = {}
        self._performers: list[PerformsUpdates] = []

    def attach(self, *callbacks: object) -> None:
        """Let these callbacks take part in updates, in the place of those attached before; none takes all of them away.

        A trainer's do so from `setup` on, in the place of those attached by hand. Lightning callbacks that answer no
        event are passed over. Where one is refused, those attached before stay.

        Raises:
            ValueError: what is given is no callback, or a callback takes part at an event that this algorithm never
                announces, or two do at one.
        """
        for callback in callbacks:
            _check_callback(callback)
        participants = {}
        for name, event in EVENTS.items():
            found = [callback for callback in callbacks if isinstance(callback, event.contract)]
            if found and name not in self.events:
                names = type(found[0]).__name__, type(self).__name__
                raise ValueError(f"{names[0]} would be ignored: {names[1]} never announces {name}, {event.about}")
            if len(found) > 1:
                raise ValueError(f"{' and '.join(type(c).__name__ for c in found)} both answer {name}; keep one")
            if found:
                participants[name] = found[0]
        self._participants = participants
        self._performers = [callback for callback in callbacks if isinstance(callback, PerformsUpdates)]

    def perform(self, update: Callable[[], Update]) -> Update:
        """Outcome of an update through the callbacks that perform it, see `PerformsUpdates`, the first outermost."""
        for performer in reversed(self._performers):
            update = functools.partial(performer.perform_update, self, update)
        return update()

    def announce(self, event: str, *tensors: Any) -> Any:
        """Ask the callback that takes part at this event, see `EVENTS`; None where there is none."""
        if event not in self._participants:
            return None
        return getattr(self._participants[event], event)(self, *tensors)

    def tensors_of_participants(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors that updates change in the callbacks that take part in them, see `ChangedByUpdates`."""
        for event, callback in self._participants.items():
            if isinstance(callback, ChangedByUpdates):
                for name, tensor in callback.changed_tensors().items():
                    yield f"{type(callback).__name__} {event} {name}", tensor


def _check_callback(callback: object) -> None:
    """Refuse what would take part at no event without a word.

    Raises:
        ValueError: a class, an event's name that is no method, or no callback at all.
    """
    if isinstance(callback, type):
        raise ValueError(f"attach takes callbacks, got the class {callback.__name__}: make an instance of it")
    kind = type(callback).__name__
    for name in EVENTS:
        if not callable(getattr(callback, name, callable)):
            raise ValueError(f"{kind}.{name} must be a method, got {type(getattr(callback, name)).__name__}")
    answers = any(isinstance(callback, event.contract) for event in EVENTS.values())
    if not answers and not hasattr(callback, "state_key"):  # which Lightning asks of every callback
        raise ValueError(f"attach takes callbacks, one by one, got {kind}, which has no method {' or '.join(EVENTS)}")
