"""Titles that tell one measurement from another of its kind, in its headline and in the names of its files."""

from __future__ import annotations

import argparse
import re


def words(text: str) -> str:
    """A title, as a type of `argparse`.

    Raises:
        argparse.ArgumentTypeError: it holds what names of files should not.
    """
    if re.search(r"[^\w -]", text):
        raise argparse.ArgumentTypeError("it names files: letters, digits, spaces, _ and - are all it may hold")
    return text


def titled(name: str, title: str) -> str:
    """How the names of the files of a measurement begin; an empty title adds nothing."""
    return "-".join([name, *title.lower().split()])
