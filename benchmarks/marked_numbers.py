"""Numbers in documents that name the results file they come from, and are checked and written by it.

A number stands between two comments, of which the first names file, key and format:

    <!-- n r2d2-tmaze-10.json runs[].rows[kind=last].mean .4g -->1, 1, 1<!-- /n -->

A key goes down a file: `name` into an object, `[]` to every entry of a list, `[0]` to one, `[name=value]` to those that
have this value, with `*` and `?` for any text and letter, since a key has no spaces. A file of JSON lines is a list.
Around a key may stand `iqm(...)`, `low(...)` and `high(...)` of its numbers and their 95% interval, `mean(...)`,
`min(...)`, `max(...)`, `less(KEY,KEY)` for differences pair by pair, `over(NUMBER,KEY)` for a quotient, and
`reached(GOAL,KEY)` for the steps at which each run of a key's runs first reaches a goal. The format is one of Python's.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from learning_tables import first_above
from measured_by import ROOT
from offline_results import iqm

MARK = re.compile(r"<!-- n (\S+) (\S+) (\S+) -->(.*?)<!-- /n -->", re.DOTALL)
STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")
Values = list[Any]

REDUCE: dict[str, Callable[[Values], Values]] = {
    "mean": lambda values: [float(np.mean(values))],
    "min": lambda values: [min(values)],
    "max": lambda values: [max(values)],
    "iqm": lambda values: [iqm([values])[0]],
    "low": lambda values: [iqm([values])[1]],
    "high": lambda values: [iqm([values])[2]],
}


def documents() -> list[Path]:
    """The documents whose numbers are checked."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def renewed(text: str, results: Path, name: str) -> str:
    """The text of a document with every marked number as its file has it.

    Raises:
        ValueError: a mark names no file, or no number in it, or is not closed.
    """
    if text.count("<!-- n ") != len(MARK.findall(text)) or text.count("<!-- /n -->") != len(MARK.findall(text)):
        raise ValueError(f"{name}: a marked number is <!-- n FILE KEY FORMAT -->...<!-- /n -->, and one is not")

    def write(found: re.Match[str]) -> str:
        file, key, form, _ = found.groups()
        try:
            shown = ", ".join(written(value, form) for value in evaluate(key, read(results / file)))
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{name}: {file} {key} {form}: {error}") from error
        return f"<!-- n {file} {key} {form} -->{shown}<!-- /n -->"

    return MARK.sub(write, text)


def written(value: Any, form: str) -> str:
    """A number by a format of Python's; `never` for none."""
    return "never" if value is None else format(value, form)


def read(path: Path) -> Any:
    """Content of a file of JSON, or the list of the lines of one of JSON lines."""
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return json.loads(text)


def evaluate(key: str, content: Any) -> Values:
    """The numbers that a key means, at least one.

    Raises:
        ValueError: it leads to nothing.
    """
    call = re.fullmatch(r"(\w+)\((.*)\)", key)
    if call is None:
        return follow(key, content)
    name, inner = call.groups()
    if name in REDUCE:
        return REDUCE[name](evaluate(inner, content))
    first, comma, second = split(inner)
    if not comma or name not in ("less", "over", "reached"):
        raise ValueError(f"there is no {name}(...) of {inner}; there are {', '.join([*REDUCE, 'less'])}, over, reached")
    if name == "over":
        return [value / float(first) if value is not None else None for value in evaluate(second, content)]
    if name == "reached":
        return [first_above(run, float(first)) for run in evaluate(second, content)]
    return [a - b for a, b in zip(evaluate(first, content), evaluate(second, content), strict=True)]


def split(inner: str) -> tuple[str, str, str]:
    """Both arguments of a call around the comma that stands in no brackets, as `partition` gives them."""
    depth = 0
    for place, letter in enumerate(inner):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            return inner[:place], ",", inner[place + 1 :]
    return inner, "", ""


def follow(key: str, content: Any) -> Values:
    """The values at the end of a key.

    Raises:
        ValueError: there is none.
    """
    values = [content]
    for name, inside in STEP.findall(key):
        if name:
            values = [found for value in values if (found := child(value, name)) is not None]
        elif "=" in inside:
            field, _, wanted = inside.partition("=")
            values = [entry for entry in opened(values) if fnmatch.fnmatch(str(entry.get(field, "")), wanted)]
        elif inside:
            values = [entries[int(inside)] for entries in values]
        else:
            values = opened(values)
        if not values:
            raise ValueError(f"nothing is at {name or f'[{inside}]'}")
    return opened(values)


def opened(values: Values) -> Values:
    """The entries of the lists among these values, and the others as they are."""
    return [entry for value in values for entry in (value if isinstance(value, list) else [value])]


def child(value: Any, name: str) -> Any:
    """The value of a name in an object, of which `*` and `?` may stand for letters."""
    return next((found for key, found in value.items() if fnmatch.fnmatch(key, name)), None)
