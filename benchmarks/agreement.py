"""No speed is told of versions whose first updates, from the same weights, batch and draws, say different things."""

from __future__ import annotations

import sys

TOLERANCES = {"": 1e-3, "tf32": 2e-2, "bf16": 5e-2}
"""Share by which what two versions say may differ, by the precision of products."""

SMALL = 1e-2
"""Smaller numbers are compared as if they were as large: differences of larger ones round as those do."""


def check_agreement(told: dict[str, dict[str, float]], base: str, precisions: dict[str, str]) -> None:
    """Refuse to time versions whose first update is another one; say how near the others are.

    Args:
        told: what each version says of its first update, by name.
        base: version that the others are compared with.
        precisions: key of `TOLERANCES` by version; float32 where it has none.

    Raises:
        SystemExit: it names the versions, and what differs.
    """
    for version, mine in told.items():
        limit, most = TOLERANCES[precisions.get(version, "")], 0.0
        for name, expected in told[base].items():
            difference = abs(mine[name] - expected) / max(abs(expected), SMALL)
            most = max(most, difference)
            if not difference <= limit:
                raise SystemExit(
                    f"nothing is timed: {name} of a first update, from the same weights, batch and draws, is "
                    f"{mine[name]:.6g} by {version}, and {expected:.6g} by {base}"
                )
        print(f"the first update of {version} is that of {base} within {most:.1e}", file=sys.stderr)
