"""The config that `reverie fit` makes of arguments, without a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import yaml


def resolved_config(arguments: Sequence[str]) -> Mapping[str, Any]:
    """All settings of a run with these arguments of `reverie fit`, as plain values.

    Raises:
        SystemExit: the parser of `fit` refuses them, and has said so.
    """
    from commands.lightning import run

    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run("fit", [*arguments, "--print_config"])
    except SystemExit as leaving:
        if leaving.code:
            raise
    config: Mapping[str, Any] = yaml.safe_load(printed.getvalue())
    return config
