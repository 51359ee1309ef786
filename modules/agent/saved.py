"""The content of a checkpoint that belongs to an agent, and an agent made of it again.

A checkpoint is plain values and tensors. It names classes: that of the agent, and those of its parts. What a file says
is looked at before anything is imported or called, see `modules.trust.names`; what this process says itself is not.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Self

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.compiled import CompileMode
from modules.agent.descent import optimizers_of
from modules.arguments.changed import check_reward_units
from modules.batch import Spaces
from modules.networks.resizing import shrink_layers
from modules.run import announced_dataset, announced_environment
from modules.same_spaces import check_same_spaces
from modules.trust.class_path import check_known, describe, resolve
from modules.trust.names import class_from_file, short, trusting
from modules.trust.options import called_from_python

SAVED_ONCE = ("beta", "temperature")
"""Buffers that earlier versions saved: they follow the arguments, so that a changed one takes effect on resume."""


class Saved(LightningModule):
    """The part of an agent that writes itself into checkpoints and is made of them."""

    spaces: Spaces
    updates: int
    alive: list[bool]
    compile_mode: CompileMode

    @property
    def member_names(self) -> tuple[str, ...]:
        """One name per member, such as `beta=4/seed=0`; `("",)` for a population of one."""
        return ("",)

    @property
    def own_trainer(self) -> Trainer | None:
        """The trainer that the agent is attached to; None of an agent that is used alone."""
        try:
            return self.trainer
        except RuntimeError:  # how Lightning says that there is none
            return None

    def save_hyperparameters(self, *args: Any, frame: FrameType | None = None, **options: Any) -> None:
        """Keep the constructor's arguments as plain values, so that a file can be read without running any code."""
        here = inspect.currentframe()
        super().save_hyperparameters(*args, frame=frame or (here and here.f_back), **options)
        plain = describe(dict(self.hparams), type(self).__name__)
        self.hparams.clear()
        super().save_hyperparameters(plain, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["agent"] = {
            "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
            "spaces": self.spaces.to_json(),
            "updates": self.updates,
            "alive": list(self.alive),
            "member_names": list(self.member_names),
            "compile_mode": self.compile_mode,
        }
        trainer = self.own_trainer
        if trainer is None:
            return
        if (spec := announced_environment(trainer)) is not None:
            checkpoint["environment"] = spec.to_plain()
        if (info := announced_dataset(trainer)) is not None:
            checkpoint["dataset"] = info.to_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over counters, and what `compile: auto` came to, which a longer run keeps.

        A checkpoint of another model is refused by name before any weight is copied.

        Layers that were pruned in the checkpoint become as small here, and the checkpoint loses what is not read
        any more, see `SAVED_ONCE`.

        Raises:
            ValueError: the checkpoint is of another version or class, or of other spaces, members or network sizes.
        """
        self._refuse_other_agent(checkpoint)
        self.refuse_arguments(checkpoint.get("hyper_parameters", {}))
        self._take_over(checkpoint)
        decided = checkpoint["agent"].get("compile_mode")
        if self.compile_mode == "auto" and decided in ("off", "tried"):
            self.compile_mode = decided

    def refuse_arguments(self, saved: Mapping[str, Any]) -> None:
        """Refuse to go on from a checkpoint of this class that was made with other arguments, given as plain values.

        Raises:
            ValueError: it says which one, and why.
        """

    def _take_over(self, checkpoint: dict[str, Any]) -> None:
        try:
            shrink_layers(self, checkpoint["state_dict"], optimizers_of(self))
        except ValueError as error:
            raise ValueError(f"this checkpoint does not fit the configured model: {error}") from error
        self._fit_weights(checkpoint["state_dict"])
        self.updates = checkpoint["agent"]["updates"]
        self.alive = list(checkpoint["agent"]["alive"])

    def _refuse_other_agent(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of no agent, of another class, or of other members."""
        saved = checkpoint.get("agent")
        if saved is None:
            raise ValueError("this checkpoint was not written by reverie: it has no 'agent' entry")
        mine = f"{type(self).__module__}.{type(self).__qualname__}"
        if saved["class_path"] != mine:
            raise ValueError(
                f"this checkpoint holds a {short(saved['class_path'])}, but the configured model is a {mine}"
            )
        check_known(type(self), [*_arguments_among(checkpoint.get("hyper_parameters", {}))], "this checkpoint")
        if tuple(saved["member_names"]) != self.member_names:
            raise ValueError(
                f"this checkpoint holds the members {short(saved['member_names'])}, the configured model "
                f"{short(list(self.member_names))}; use the run's own config.yaml"
            )

    left_behind: ClassVar[tuple[str, ...]] = ()
    """Parts of an agent that serve a rule of its run, and are not taken over by a run of its own."""

    def take_weights(self, path: str | Path, data: object = None) -> None:
        """Start with the weights of another run: networks, targets, temperatures and the normaliser of observations.

        Everything else begins anew: the counter of updates, schedules and phases, the optimisers' moments.

        Args:
            path: checkpoint of an agent of this class and these sizes.
            data: datamodule of this run, whose rewards must be in the units that the weights know.

        Raises:
            ValueError: the file is missing, damaged, of another agent or of other spaces, or of rewards in other units.
        """
        checkpoint = read_checkpoint(path, "cpu")
        try:
            if "agent" in checkpoint:
                saved = Spaces.from_json(checkpoint["agent"]["spaces"])
                check_same_spaces(f"its {type(self).__name__}", saved, "the data of this run", self.spaces)
            weights = checkpoint["state_dict"]
            for name in [name for name in weights if name.partition(".")[0] in self.left_behind]:
                del weights[name]
            self._refuse_other_agent(checkpoint)
            self._take_over(checkpoint)
            check_reward_units(checkpoint, data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.load_state_dict(weights)
        self.updates = 0

    def _fit_weights(self, weights: dict[str, Any]) -> None:
        """Refuse weights of other names or shapes; those of `SAVED_ONCE` are taken out."""
        own = self.state_dict()
        for key in {name for name, _ in self.named_buffers()} - own.keys():
            if key.rpartition(".")[2] in SAVED_ONCE:
                weights.pop(key, None)
        for key, value in weights.items():
            if key not in own or own[key].shape != value.shape:
                shape = list(own[key].shape) if key in own else "nothing of that name"
                raise ValueError(
                    f"this checkpoint does not fit the configured model: {short(key)} is {short(list(value.shape))} in "
                    f"the file, {shape} in the model; use the run's own config.yaml"
                )
        lost = [key for key in own if key not in weights]
        if lost:
            raise ValueError(
                f"this checkpoint has lost {len(lost)} of the model's tensors, such as {lost[0]}, or is of another "
                "model; use the run's own config.yaml, or another checkpoint"
            )

    def copy_for_acting(self, weights: Mapping[str, Tensor]) -> Callable[[], Self]:
        """A call that can be pickled and makes this agent again, on the CPU and in evaluation mode.

        Args:
            weights: the `state_dict` that it starts with.
        """
        checkpoint: dict[str, Any] = {"hyper_parameters": dict(self.hparams), "state_dict": dict(weights)}
        self.on_save_checkpoint(checkpoint)
        return functools.partial(self.rebuilt, self._own_arguments(), checkpoint)

    def with_weights_of(self, path: str | Path) -> Self:
        """Another agent of this class and with these arguments, as `from_checkpoint` returns it, from a file.

        Unlike there, the class and the arguments are this agent's own, whatever the file names.

        Raises:
            ValueError: the file is missing, damaged, or of another agent.
        """
        return self.rebuilt(self._own_arguments(), read_checkpoint(path, "cpu"))

    def untrained(self) -> Self:
        """Another agent of this class, with these arguments and spaces, whose weights are drawn anew."""
        return type(self)(**self._own_arguments(), spaces=self.spaces).eval()

    def _own_arguments(self) -> dict[str, Any]:
        return resolve(type(self), _arguments_among(self.hparams), "this process", own=True)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, trust: Sequence[str] = ()) -> Self:
        """The agent that a checkpoint holds, rebuilt from the file alone, on the CPU and in evaluation mode.

        The file names classes. Those of others than reverie are taken where they are trusted, but for the class that
        this is called on.

        Args:
            path: path of the checkpoint.
            trust: modules or classes of others that the file may name; its own code may run then.

        Raises:
            ValueError: the file is missing, damaged, was not written by reverie, or names what is not trusted.
        """
        with trusting(trust), called_from_python():
            return cls.restored(read_checkpoint(path, "cpu"), path)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's other arguments have nothing to say here
        cls, checkpoint_path: str | Path, map_location: Any = None, *, trust: Sequence[str] = (), **others: Any
    ) -> Self:
        """Lightning's name of `from_checkpoint`; a checkpoint holds all of an agent's arguments.

        Raises:
            ValueError: as there, or other arguments are given.
        """
        if others:
            raise ValueError(f"{', '.join(others)} cannot be given: the checkpoint says what the agent is made of")
        agent = cls.from_checkpoint(checkpoint_path, trust=trust)
        return agent if map_location is None else agent.to(map_location)

    @classmethod
    def restored(cls, checkpoint: dict[str, Any], path: str | Path) -> Self:
        """The agent of `from_checkpoint`, from content that was read already; the path is for the error."""
        if "agent" not in checkpoint:
            raise ValueError(f"{path} was not written by reverie: it has no 'agent' entry")
        named, asked = checkpoint["agent"]["class_path"], f"{cls.__module__}.{cls.__qualname__}"
        kind: type[Self] = cls if named == asked else class_from_file(named, cls, f"{path}: the agent")
        arguments = resolve(kind, _arguments_among(checkpoint["hyper_parameters"]), str(path))
        try:
            return kind.rebuilt(arguments, checkpoint)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except (TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
            reason = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            raise ValueError(f"{path}: no {kind.__name__} can be made of it ({short(reason, 200)})") from error

    @classmethod
    def rebuilt(cls, arguments: Mapping[str, Any], checkpoint: dict[str, Any]) -> Self:
        """An agent of this class with what a checkpoint holds; the arguments are its hyper-parameters, made callable.

        Raises:
            ValueError: they do not fit each other.
        """
        agent = cls(**arguments, spaces=Spaces.from_json(checkpoint["agent"]["spaces"]))
        agent.hparams.clear()
        agent.save_hyperparameters(_arguments_among(checkpoint["hyper_parameters"]))
        agent.on_load_checkpoint(checkpoint)
        agent.load_state_dict(checkpoint["state_dict"])
        return agent.eval()


def _arguments_among(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """An agent's own arguments: Lightning keeps entries of its own beside them, which begin with an underscore."""
    return {name: value for name, value in hyper_parameters.items() if not name.startswith("_")}
