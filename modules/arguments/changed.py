"""Arguments of a run that is continued: those that its state holds cannot change.

Most arguments are read at every update, and a continued run follows the new ones. Some have done their work when the
state was made, such as a seed or the size of a file: a new value would stand in the config and change nothing. A class
names these in `fixed_on_resume`, with the reason, and a resume with another value is refused.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from modules.trust.class_path import describe
from modules.trust.hints import dataclass_of, hints_of
from modules.trust.names import cut

STARTED = "it only says how the weights started"
RUNNING = "the random numbers go on from the checkpoint; on the command line it is --seed_everything"
NORMALIZED = "the agent normalises as its checkpoint says"


def refuse_changed_run(checkpoint: Mapping[str, Any], agent: Any, data: Any) -> None:
    """Compare what a checkpoint says of agent and data with what they were made with now; see `refuse_changes`.

    Args:
        checkpoint: its content.
        agent: LightningModule with `hparams`.
        data: LightningDataModule with `hparams`, or another source of data, of which nothing is known.

    Raises:
        ValueError: an argument that is fixed by the state has changed.
    """
    for group, part, key in (("model", agent, "hyper_parameters"), ("data", data, "datamodule_hyper_parameters")):
        if key in checkpoint and getattr(part, "hparams", None):
            refuse_changes(type(part), checkpoint[key], part.hparams, group)


def refuse_changes(cls: type, saved: Mapping[str, Any], configured: Mapping[str, Any], group: str) -> None:
    """Compare the arguments in a checkpoint with the configured ones, and those of classes and groups in them, however
    deep.

    Args:
        cls: class of the arguments.
        saved: plain values, classes by class path, as `modules.trust.class_path.describe` writes them.
        configured: plain values too.
        group: name of the arguments as a whole, such as `model`.

    Raises:
        ValueError: one that is fixed by the state has changed.
    """
    for name, old, new, why in _changes(cls, saved, configured, group):
        raise ValueError(no_effect(name, old, new, why))


def no_effect(name: str, old: Any, new: Any, why: str) -> str:
    """The message that an argument has changed in vain."""
    return (
        f"{name} was {_as_yaml(old)} in the checkpoint and is {_as_yaml(new)} now, which would have no effect: {why}. "
        f"Go on with {_as_yaml(old)}, or start a new run without --ckpt_path"
    )


def check_reward_units(checkpoint: Mapping[str, Any], data: object) -> None:
    """Refuse weights that know rewards in other units than the data of a run that takes them over.

    Args:
        checkpoint: its content.
        data: LightningDataModule with `hparams`, or another source of data, of which nothing is known.

    Raises:
        ValueError: scale or shift of the rewards differ.
    """
    saved, configured = checkpoint.get("datamodule_hyper_parameters"), getattr(data, "hparams", None)
    if saved is None or configured is None:
        return
    for name, unchanged in (("reward_scale", 1.0), ("reward_shift", 0.0)):
        theirs, mine = saved.get(name, unchanged), configured.get(name, unchanged)
        if theirs != mine:
            how = f"set data.{name} to {theirs:g}" if name in configured else f"train with data.{name} {mine:g} before"
            raise ValueError(f"its weights know rewards with {name} {theirs:g}, and this run has {mine:g}: {how}")


def _changes(
    cls: type, saved: Mapping[str, Any], configured: Mapping[str, Any], where: str
) -> Iterator[tuple[str, Any, Any, str]]:
    old, new = ({**_defaults(cls), **arguments} for arguments in (saved, configured))
    fixed: Mapping[str, str] = getattr(cls, "fixed_on_resume", {})
    hints = hints_of(cls)
    for name in new:
        path = f"{where}.{name}"
        if name in fixed and name in old and _listed(old[name]) != _listed(new[name]):
            yield path, old[name], new[name], fixed[name]
        elif name in old:
            names = new[name] if isinstance(new[name], Mapping) else ()
            yield from _nested(old[name], new[name], path, dataclass_of(hints.get(name), names))


def _nested(old: Any, new: Any, where: str, group: type | None) -> Iterator[tuple[str, Any, Any, str]]:
    """Changes within a value that is a list, names a class, or holds the fields of a dataclass, the `group`."""
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for index, pair in enumerate(zip(old, new, strict=False)):
            yield from _nested(*pair, f"{where}.{index}", None)
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return
    if group is not None:
        yield from _changes(group, old, new, where)
        return
    module, _, name = str(new.get("class_path", "")).rpartition(".")
    # Only what the configuration itself names, and what is made of it has imported.
    cls = getattr(sys.modules.get(module), name, None)
    if isinstance(cls, type) and old.get("class_path") == new["class_path"]:
        yield from _changes(cls, old.get("init_args") or {}, new.get("init_args") or {}, where)


def _defaults(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: describe(x, name) if dataclasses.is_dataclass(x) else x for name, x in defaults.items()}


def _listed(value: Any) -> Any:
    """The same with lists for tuples."""
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _as_yaml(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return cut(text, 60)
