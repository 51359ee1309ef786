"""A subcommand made of one documented function: its arguments are the flags, its docstring is the help."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence

from commands.jsonargparse_private import main_words
from commands.parsing import ReadableParser, own_words
from modules.trust.names import short

OF_FITS = ("model", "data", "trainer", "evaluation", "checkpoint", "mlflow")
"""Groups of arguments that `reverie fit` has, and none of the commands around it."""


def run_function(function: Callable[..., None], argv: list[str]) -> None:
    """Parse `argv` by the function's signature and call it.

    `--config` takes files and packaged names with values of the arguments, unless the function has a `config` itself.
    """
    summary = (function.__doc__ or "").partition("\n\n")[0]
    parser = ReadableParser(prog=f"reverie {function.__name__}", description=summary)
    named = inspect.signature(function).parameters
    if "config" not in named:
        parser.add_config_argument()
    parser.add_function_arguments(function, as_group=False)
    arguments = parser.parse_args(argv)
    try:
        arguments = parser.instantiate_classes(arguments)
    except ValueError as error:
        raise ValueError(own_words(error) or main_words(str(error))) from error
    function(**{name: value for name, value in vars(arguments).items() if name in named})


def run_with_fits(function: Callable[..., None], argv: list[str]) -> None:
    """`run_function` of a command that trains: behind `--` stand arguments of `reverie fit`, its own `arguments`.

    Raises:
        ValueError: one of them stands before the `--`.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    own, rest = argv[:end], argv[end + 1 :]
    for word in own:
        if word.startswith("--") and word.removeprefix("--").partition(".")[0] in OF_FITS:
            raise ValueError(
                f"{short(word)} is an argument of `reverie fit`: those stand behind --, as in "
                f"`reverie {function.__name__} ... -- {short(word)} ...`"
            )
    run_function(function, [*own, f"--arguments+={json.dumps(rest)}"] if rest else own)


def numbers_as_list(argv: Sequence[str], flag: str) -> list[str]:
    """The arguments with the numbers behind a flag as one list, such as `--simulations=[0,4,16]`."""
    words: list[str] = []
    left = list(argv)
    while left:
        word = left.pop(0)
        if word == flag:
            count = next((i for i, x in enumerate(left) if not re.fullmatch(r"-?\d+", x)), len(left))
            if count:
                word, left = f"{flag}=[{','.join(left[:count])}]", left[count:]
        words.append(word)
    return words
