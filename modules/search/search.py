"""A batched tree search, whose model is a callable (Schrittwieser et al. 2020; Danihelka et al. 2022).

All trees of a batch take their simulations in step: each walks down to an untried slot, asks the model once with all
rows, and adds the return to the edges of its path. There are no networks here, and no games: a state is whatever nested
tensors the model calls its embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from modules.search.compiled_parts import CompiledSimulation, compiled_parts
from modules.search.interface import Draw, Noise, Recurrent, Root, SearchResult
from modules.search.nodes import Tree, look, plant, room, searchable
from modules.search.rules import PUCT, Conclusion, Gumbel, Plan, by_row, gumbel_noise
from modules.search.settings import SearchSettings
from modules.search.simulation import choose, simulate
from modules.torch_private import dirichlet, map_nested

TIE = 1e-7
"""Greatest number that a tie is broken by."""


@torch.no_grad()
def search(
    root: Root,
    recurrent: Recurrent,
    settings: SearchSettings,
    generator: torch.Generator | None = None,
    *,
    explore: bool = True,
    noise: Noise | None = None,
    draw: Draw | None = None,
    simulate: Callable[..., None] = simulate,
) -> SearchResult:
    """Search from all states of a batch.

    Args:
        root: the states.
        recurrent: the model of one step.
        settings: how much is searched, and by which rule.
        generator: everything is drawn by it; None for torch's own. It may be of another device than the root.
        explore: whether there is noise at the root and in the action, and the settings' optimism counts; without, their
            pessimism does, and a search of a model that draws nothing is deterministic.
        noise: given draws, in the place of those that `draw_noise` would make.
        draw: draws for the model, once per simulation.
        simulate: `compile_simulation()`, made once and kept, for compiled simulations.

    Returns:
        What was found, on the root's device.

    Raises:
        ValueError: the root's shapes do not fit together, a row has no valid slot and is not finished, or the model's
            steps have other shapes than the root.
    """
    check_root(root, settings)
    if not explore and settings.optimism != -settings.pessimism:
        settings = replace(settings, optimism=-settings.pessimism)
    if noise is None:
        noise = draw_noise(root, settings, generator) if explore else Noise()
    ties = [None] * settings.simulations if noise.ties is None else [*noise.ties]

    # The root's own choice comes before the first simulation, the others' with what each adds.
    compiled = simulate if isinstance(simulate, CompiledSimulation) else None
    bare = root._replace(embedding=None)
    dtype = torch.promote_types(root.value.dtype, torch.float32)
    timetable = settings.rule.timetable(root.logits.shape[1], settings.simulations, dtype, root.value.device)
    tree, plan = (compiled.begin if compiled else begin)(bare, settings, timetable, noise.root, ties[0])
    tree = tree._replace(embedding=map_nested(lambda x: room(x, settings.simulations + 1), root.embedding))
    numbers = torch.arange(1, settings.simulations + 1, device=root.value.device).unbind()
    for number, tie in zip(numbers, ties, strict=True):
        simulate(tree, plan, number, tie, None if draw is None else draw(generator), recurrent, settings)
    return (compiled.finish if compiled else finish)(bare, settings, tree, plan, noise.action)


def begin(
    root: Root, settings: SearchSettings, timetable: Tensor | None, noise: Tensor | None, ties: Tensor | None
) -> tuple[Tree, Plan]:
    """Trees of a root each, which knows what to follow first; there are no embeddings yet."""
    tree = plant(root, settings.simulations)
    top = torch.zeros_like(tree.rows).unsqueeze(0)
    valid = by_row(look(tree, top, 0.0).valid)
    plan = settings.rule.prepare(tree.log_prior[:, 0], valid, noise, timetable)
    tree.log_prior[:, 0] = plan.log_prior
    choose(tree, top, plan, ties, settings)
    return tree, plan


def finish(root: Root, settings: SearchSettings, tree: Tree, plan: Plan, noise: Tensor | None) -> SearchResult:
    """Conclude from full trees; selection may be optimistic, and what is learned of values is not."""
    top = torch.zeros_like(tree.rows).unsqueeze(0)
    concluded = settings.rule.conclude(look(tree, top, settings.optimism), plan, noise)
    return _result(root, tree, concluded, searchable(root) & ~tree.alive)


def compile_simulation() -> CompiledSimulation:
    """Compiled parts of a search, for the argument `simulate` of `search`.

    The first searches with it compile for a minute or so, once more where a tree is deeper than any before; searches of
    the same shapes, settings and model reuse that.
    """
    return compiled_parts(begin, finish)


def draw_noise(root: Root, settings: SearchSettings, generator: torch.Generator | None = None) -> Noise:
    """Everything that an exploring search draws by itself."""
    prior = root.logits.to(torch.promote_types(root.value.dtype, torch.float32))
    if isinstance(settings.rule, Gumbel):
        noise = gumbel_noise(prior, generator)
        return Noise(root=noise, action=noise)
    device = prior.device if generator is None else generator.device
    shape = settings.simulations, *prior.shape
    ties = TIE * torch.rand(shape, dtype=prior.dtype, device=device, generator=generator)
    return Noise(
        root=_dirichlet_noise(root, prior, settings.rule, generator),
        action=gumbel_noise(prior, generator),
        ties=ties.to(prior.device),
    )


def _dirichlet_noise(root: Root, prior: Tensor, rule: PUCT, generator: torch.Generator | None) -> Tensor:
    """`[B, K]` of a Dirichlet distribution over the valid slots: the part of one over all slots, made to sum to 1."""
    device = prior.device if generator is None else generator.device
    drawn = dirichlet(torch.full(prior.shape, rule.dirichlet_alpha, dtype=prior.dtype, device=device), generator)
    drawn = drawn.to(prior.device)
    if root.valid is None:
        return drawn
    masked = drawn.clamp(min=torch.finfo(drawn.dtype).tiny) * root.valid
    return masked / masked.sum(-1, keepdim=True).clamp(min=torch.finfo(drawn.dtype).tiny)


def _result(root: Root, tree: Tree, concluded: Conclusion, failed: Tensor) -> SearchResult:
    """Everything in the terms of the caller."""
    seen = look(tree, torch.zeros_like(tree.rows).unsqueeze(0), 0.0)
    slot = concluded.slot
    variance = None
    if tree.value_variance is not None:
        slots = tree.log_prior.shape[-1]
        variance = (tree.value_variance[0] + tree.sums[2, :, :slots].sum(-1)) / (1.0 + seen.total[0])
    return SearchResult(
        action=slot if root.actions is None else root.actions[tree.rows, slot],
        slot=slot,
        policy_target=concluded.target,
        log_prob=concluded.log_prob,
        value=seen.mean[0],
        visits=by_row(seen.visits),
        q=by_row(seen.q),
        depth=tree.depth,
        failed=failed,
        actions=root.actions,
        variance=variance,
    )


def check_root(root: Root, settings: SearchSettings) -> None:
    """Refuse a root whose parts do not fit together.

    Raises:
        ValueError: it names the part and its shape, or the first row without a valid slot.
    """
    if root.logits.dim() != 2 or 0 in root.logits.shape:
        raise ValueError(f"the root's logits must be [rows, slots], neither of them 0, got {list(root.logits.shape)}")
    rows, slots = root.logits.shape
    shapes = {"value": (rows,), "valid": (rows, slots), "value_variance": (rows,), "finished": (rows,)}
    for name, shape in shapes.items():
        x = getattr(root, name)
        if x is not None and tuple(x.shape) != shape:
            raise ValueError(f"the root's logits are [{rows}, {slots}], and its {name} is {list(x.shape)}")
    for name in ("valid", "finished"):
        x = getattr(root, name)
        if x is not None and x.dtype != torch.bool:
            raise ValueError(f"the root's {name} must be of bools, got {x.dtype}")
    if root.actions is not None and tuple(root.actions.shape[:2]) != (rows, slots):
        raise ValueError(f"the root's logits are [{rows}, {slots}], and its actions {list(root.actions.shape)}")
    if (settings.optimism or settings.pessimism) and root.value_variance is None:
        name = "optimism" if settings.optimism else "pessimism"
        raise ValueError(f"search.{name} needs a model that tells value_variance; set it to 0")
    if root.valid is not None:
        stuck = ~root.valid.any(-1) if root.finished is None else ~root.valid.any(-1) & ~root.finished
        if bool(stuck.any()):
            row = int(stuck.nonzero()[0, 0])
            raise ValueError(f"row {row} of the root has no valid slot; mark it in `finished`, if its episode is over")
