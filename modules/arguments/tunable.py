"""Arguments of an agent that may change while it trains: each agent declares its own in `tunable`.

They are those that an update reads: a run that is continued with another value follows it, with the same weights and
moments, see `modules.arguments.changed`. Where an update is compiled, its graph is made anew.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Literal

Change = Literal["scale", "horizon", "whole"]
"""How an argument is changed: `scale` multiplies a positive number; `horizon` multiplies the distance of a number from
1, such as that of a discount, whose horizon is one over it; `whole` is an integer, which is drawn anew. In a list each
of the numbers changes by itself."""


def check_tunable(name: str, tunable: Mapping[str, Change], genes: Iterable[str]) -> None:
    """Refuse a gene that an agent does not declare.

    Args:
        name: name of the agent, for the message.
        tunable: what it declares, by argument as it stands behind `--model.` on the command line.
        genes: names of arguments that are to change.

    Raises:
        ValueError: it names the first one, and those that the agent declares.
    """
    for gene in genes:
        if gene not in tunable:
            near = difflib.get_close_matches(gene, tunable, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            known = ", ".join(tunable) if tunable else "none at all"
            raise ValueError(f"{name} cannot change '{gene}' while it trains{hint}; it declares as genes: {known}")
