"""Checks of the arguments of a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from modules.arguments.checks import WIDEST, check_choice, check_ranges
from modules.experts.products import BACKENDS
from modules.experts.routers import ROUTERS
from modules.functional.elementwise import Activation


def check_choices(routing: str, activation: str, backend: str, groups: int | None) -> None:
    """Refuse names that are none, and groups of a routing that has none.

    Raises:
        ValueError: it names the first one.
    """
    for name, value, choices in (
        ("routing", routing, tuple(ROUTERS)),
        ("activation", activation, get_args(Activation)),
        ("backend", backend, ("auto", *BACKENDS)),
    ):
        check_choice(name, value, choices)
    if (groups is None) != (routing != "hierarchical"):
        raise ValueError(f"groups belongs to routing: hierarchical, which needs it; got groups={groups} with {routing}")


def check_numbers(
    k: int, num_experts: int, num_shared_experts: int, capacity_factor: float | None, loss_weights: Mapping[str, float]
) -> None:
    """Refuse numbers out of range, and more experts per token than there are.

    Raises:
        ValueError: it names the first one.
    """
    if k > num_experts:
        raise ValueError(f"k={k} experts per token are more than the num_experts={num_experts} that there are")
    check_ranges(
        ("num_shared_experts", num_shared_experts, 0, WIDEST),
        ("capacity_factor", 1.0 if capacity_factor is None else capacity_factor, 1e-12, 1e12),
        *((f"loss_weights.{name}", weight, 0.0, 1e12) for name, weight in loss_weights.items()),
    )


def merged_weights(usual: Mapping[str, float], given: Mapping[str, float], routing: str) -> dict[str, float]:
    """Weights of a routing's losses: the given ones over the usual ones.

    Raises:
        ValueError: one of a loss that the routing does not have.
    """
    unknown = ", ".join(sorted(set(given) - set(usual)))
    if unknown:
        raise ValueError(f"routing {routing} has no loss {unknown}; its losses: {', '.join(usual) or 'none'}")
    return {**usual, **given}
