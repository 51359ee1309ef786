"""Arguments of a config that take classes: each is a class of the kind that its hint asks for, and no function."""

from __future__ import annotations

import inspect
import pkgutil
from typing import Any

from jsonargparse import Namespace

from modules.hints import hints_of, made_by, part_of
from modules.trust import short


def check_kinds(value: Any, hint: Any = Any, where: str = "") -> None:
    """Refuse functions where classes are asked for, before anything that a config names is called.

    A config names classes as it likes; jsonargparse takes functions for them too, such as `os.system`, and calls them.

    Args:
        value: what was parsed: anything, with a namespace for each class, however deep.
        hint: of the argument.
        where: name of the argument, for errors.

    Raises:
        ValueError: a function, or a class that is not of the kind that the hint asks for.
    """
    kind = made_by(hint)
    named = value["class_path"] if isinstance(value, Namespace | dict) and "class_path" in value else None
    if isinstance(value, list | tuple):
        for n, item in enumerate(value):
            check_kinds(item, part_of(hint, n), f"{where}[{n}]")
    elif named is not None or (kind is not None and callable(value)):
        try:
            found = value if named is None else pkgutil.resolve_name(named)
        except (ImportError, AttributeError, ValueError):
            return  # below a key that the parser does not know: it has not looked for the class, and refuses the key
        if kind is not None and not (inspect.isclass(found) and issubclass(found, kind)):
            raise ValueError(f"{where}: {short(named or value)} is no class of the kind {kind.__name__}")
        hints = hints_of(found) if inspect.isclass(found) else {}
        for name, item in vars(value.get("init_args") or Namespace()).items() if named else ():
            check_kinds(item, hints.get(name, Any), f"{where}.{name}")
    elif isinstance(value, Namespace):
        for name, item in vars(value).items():
            check_kinds(item, Any, f"{where}.{name}".lstrip("."))
