"""A subcommand made of one documented function: its arguments are the flags, its docstring is the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from commands.jsonargparse_private import main_words
from commands.parsing import ReadableParser, own_words


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
