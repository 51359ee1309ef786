"""One simulation in all trees at once: down to a leaf, one step of the model, and its return back up the path.

`simulate` has static shapes when it is compiled: all rows walk as many levels as a path may have, and one that has
arrived stays where it is. Otherwise the walk ends with the deepest row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.search.interface import Recurrent, Step
from modules.search.nodes import Tree, are_numbers, log_prior_of, look
from modules.search.rules import Plan
from modules.search.settings import SearchSettings
from modules.torch_private import map_nested, same_structure


def simulate(
    tree: Tree,
    plan: Plan,
    number: Tensor,
    ties: Tensor | None,
    noise: object,
    recurrent: Recurrent,
    settings: SearchSettings,
) -> None:
    """Add one node to each tree.

    Args:
        tree: changed in place.
        plan: of the settings' rule for this search.
        number: int64 scalar, the number of the new node.
        ties: `[B, K]` added to scores, or None.
        noise: handed to the model.
        recurrent: the model.
        settings: of the search.
    """
    path = walk_down(tree, settings.levels)
    entered = expand(tree, path[:, -1:], number, noise, recurrent)
    back_up(tree, path, settings.rule.tree_wide)
    choose(tree, torch.cat([path, entered], 1), plan, ties, settings)


def walk_down(tree: Tree, levels: int) -> Tensor:
    """Int64 `[B, L]` nodes from the root down to the one that is left by an untried slot, which is then repeated."""
    node = torch.zeros_like(tree.rows)
    path = [node]
    for _ in range(levels - 1):
        below = tree.jump.gather(1, node)
        if not torch.compiler.is_compiling() and torch.equal(below, node):
            break
        path.append(below)
        node = below
    return torch.cat(path, 1)


def expand(tree: Tree, leaf: Tensor, number: Tensor, noise: object, recurrent: Recurrent) -> Tensor:
    """Follow the best slot of leaves `[B, 1]` in the model, and write down where it leads.

    Returns:
        int64 `[B, 1]` the node: a new one, or at the greatest depth perhaps one that is evaluated again.
    """
    # What the model is asked, and where its answer goes.
    slots = tree.log_prior.shape[-1]
    slot = tree.best.gather(1, leaf)
    edge = leaf * slots + slot
    known = tree.child.gather(1, edge)
    node = torch.where(known < 0, number, known)
    row, place = tree.rows.squeeze(1), node.squeeze(1)
    at = leaf.squeeze(1)
    action = slot.squeeze(1) if tree.actions is None else tree.actions[row, at, slot.squeeze(1)]
    step = recurrent(map_nested(lambda x: x[row, at], tree.embedding), action, noise)
    check_step(step, tree)

    # A row in which the model fails is frozen with what it knows.
    finite = are_numbers(step.reward, step.discount, step.value, step.logits)
    if step.reward_variance is not None and step.value_variance is not None:
        finite = finite & are_numbers(step.reward_variance, step.value_variance)
    tree.alive.logical_and_(finite)
    tree.child.scatter_(1, edge, torch.where(tree.alive.unsqueeze(1), node, known))

    def write(records: Tensor | None, x: Tensor | None) -> None:
        if records is not None and x is not None:
            records[row, place] = x.to(records.dtype)

    write(tree.log_prior, log_prior_of(step.logits.to(tree.log_prior.dtype), step.valid, finite))
    write(tree.value, torch.where(finite, step.value, 0.0))
    write(tree.reward, step.reward)
    write(tree.discount, step.discount)
    write(tree.actions, step.actions)
    write(tree.value_variance, step.value_variance)
    write(tree.reward_variance, step.reward_variance)
    map_nested(write, tree.embedding, step.embedding)
    return node


def back_up(tree: Tree, path: Tensor, ranged: bool) -> None:
    """Add the leaf's value, and the rewards on the way to it, to the sums of all edges of paths `[B, L]`.

    Args:
        tree: changed in place.
        path: int64 `[B, L]` nodes from the root to the leaf.
        ranged: whether the range of mean returns is needed.
    """
    slots = tree.log_prior.shape[-1]
    first = torch.ones_like(path[:, :1], dtype=torch.bool)
    counts = torch.cat([first, path[:, 1:] != path[:, :-1]], 1) & tree.alive.unsqueeze(1)  # no repeated leaf
    edges = path * slots + tree.best.gather(1, path)
    entered = tree.child.gather(1, edges).clamp(min=0)
    leaf = entered[:, -1:]
    discount = torch.where(counts, tree.discount.gather(1, entered), 1.0)
    reward = torch.where(counts, tree.reward.gather(1, entered), 0.0)
    added = [counts.to(reward.dtype), returns(reward, discount, tree.value.gather(1, leaf)) * counts]
    if tree.value_variance is not None and tree.reward_variance is not None:
        variance = torch.where(counts, tree.reward_variance.gather(1, entered), 0.0)
        added.append(returns(variance, discount.square(), tree.value_variance.gather(1, leaf)) * counts)
    tree.sums.scatter_add_(2, edges.expand(len(added), *edges.shape), torch.stack(added))
    tree.depth.copy_(torch.maximum(tree.depth, counts.sum(1)))

    if not ranged:
        return
    # The range of mean returns in the whole tree only grows.
    q = tree.sums[1].gather(1, edges) / tree.sums[0].gather(1, edges)
    tree.low.copy_(torch.minimum(tree.low, torch.where(counts, q, torch.inf).amin(1)))
    tree.high.copy_(torch.maximum(tree.high, torch.where(counts, q, -torch.inf).amax(1)))


def returns(reward: Tensor, discount: Tensor, last: Tensor) -> Tensor:
    """`G[:, l] = reward[:, l] + discount[:, l] * G[:, l + 1]` of `[B, L]`, with `last` `[B, 1]` behind the end."""
    found = []
    following = last.squeeze(1)
    for r, g in zip(reversed(reward.unbind(1)), reversed(discount.unbind(1)), strict=True):
        following = r + g * following
        found.append(following)
    return torch.stack(found[::-1], 1)


def choose(tree: Tree, nodes: Tensor, plan: Plan, ties: Tensor | None, settings: SearchSettings) -> None:
    """Choose anew which slot nodes `[B, R]` follow next; the first of them is the root."""
    rule = settings.rule
    if rule.tree_wide:  # what is normalised by the whole tree changes in the whole tree
        nodes = torch.arange(tree.value.shape[1], device=nodes.device).expand(len(tree.alive), -1)
    seen = look(tree, nodes, settings.optimism)
    scores = rule.scores(seen, plan)
    if ties is not None:
        scores = scores + ties.unsqueeze(1)
    best = scores.masked_fill(~seen.valid, -torch.inf).argmax(-1)  # the first slot, if none is valid
    best = torch.where(nodes == 0, best[:, :1], best)  # a path that ends at the root repeats it
    child = tree.child.gather(1, nodes * scores.shape[-1] + best)
    tree.best.scatter_(1, nodes, best)
    tree.jump.scatter_(1, nodes, torch.where(child < 0, nodes, child))


def check_step(step: Step, tree: Tree) -> None:
    """Refuse a step of other shapes than the root's.

    Raises:
        ValueError: it names the part, its shape and the right one.
    """
    rows, slots = len(tree.alive), tree.log_prior.shape[-1]
    for name, x in step._asdict().items():
        if name == "embedding" or x is None:
            continue
        if name == "actions":
            shape = None if tree.actions is None else (rows, *tree.actions.shape[2:])
        else:
            shape = (rows, slots) if name in ("logits", "valid") else (rows,)
        if shape is None or tuple(x.shape) != shape:
            wanted = "which the root has not" if shape is None else f"where the root's make it {list(shape)}"
            raise ValueError(f"the model's step has {name} of shape {list(x.shape)}, {wanted}")
    if (step.actions is None) != (tree.actions is None):
        raise ValueError("the root has actions of its slots, and the model's step has none; draw them for each node")
    if {step.value_variance is None, step.reward_variance is None} != {tree.value_variance is None}:
        raise ValueError("value_variance and reward_variance are given by root and steps together, or by none")
    if not same_structure(step.embedding, tree.embedding):
        raise ValueError("the model's step has an embedding of another structure than the root's")
