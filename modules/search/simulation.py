"""One simulation in all trees at once: down to a leaf, one step of the model, and its return back up the path.

All rows walk as far as the deepest of them; one that has arrived stays where it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.search.interface import Recurrent, Step
from modules.search.nodes import Tree, are_numbers, log_prior_of, look
from modules.search.rules import Plan
from modules.search.settings import SearchSettings
from modules.torch_private import map_nested, same_structure


def walk_down(tree: Tree, levels: int) -> Tensor:
    """Int64 `[L, B]` nodes from the root down to the one that is left by an untried slot, which is then repeated."""
    node = torch.zeros_like(tree.rows)
    path = [node]
    for _ in range(levels - 1):
        below = tree.jump[node, tree.rows]
        if torch.equal(below, node):
            break
        path.append(below)
        node = below
    return torch.stack(path)


def add_nodes(
    tree: Tree,
    path: Tensor,
    plan: Plan,
    number: Tensor,
    ties: Tensor | None,
    noise: object,
    recurrent: Recurrent,
    settings: SearchSettings,
) -> None:
    """All of a simulation that follows a walk down paths `[L, B]`; other arguments as those of `simulate`."""
    entered = expand(tree, path[-1], number, noise, recurrent)
    path = torch.cat([path, entered.unsqueeze(0)])
    back_up(tree, path, settings.rule.tree_wide)
    choose(tree, path, plan, ties, settings)


def expand(tree: Tree, leaf: Tensor, number: Tensor, noise: object, recurrent: Recurrent) -> Tensor:
    """Follow the best slot of leaves `[B]` in the model, and write down where it leads.

    Returns:
        int64 `[B]` the node: a new one, or at the greatest depth perhaps one that is evaluated again.
    """
    # What the model is asked, and where its answer goes.
    row, slots = tree.rows, tree.log_prior.shape[-1]
    slot = tree.best[leaf, row]
    edge = leaf * slots + slot
    known = tree.child[row, edge]
    node = torch.where(known < 0, number, known)
    action = slot if tree.actions is None else tree.actions[row, leaf, slot]
    step = recurrent(map_nested(lambda x: x[row, leaf], tree.embedding), action, noise)
    check_step(step, tree)

    # A row in which the model fails is frozen with what it knows.
    finite = are_numbers(step.reward, step.discount, step.value, step.logits)
    if step.reward_variance is not None and step.value_variance is not None:
        finite = finite & are_numbers(step.reward_variance, step.value_variance)
    tree.alive.logical_and_(finite)
    tree.child[row, edge] = torch.where(tree.alive, node, known)

    def write(records: Tensor | None, x: Tensor | None) -> None:
        if records is not None and x is not None:
            records[row, node] = x.to(records.dtype)

    def note(records: Tensor | None, x: Tensor | None) -> None:
        if records is not None and x is not None:
            records[node, row] = x.to(records.dtype)

    write(tree.log_prior, log_prior_of(step.logits.to(tree.log_prior.dtype), step.valid, finite))
    note(tree.value, torch.where(finite, step.value, 0.0))
    note(tree.reward, step.reward)
    note(tree.discount, step.discount)
    write(tree.actions, step.actions)
    note(tree.value_variance, step.value_variance)
    note(tree.reward_variance, step.reward_variance)
    map_nested(write, tree.embedding, step.embedding)
    return node


def back_up(tree: Tree, path: Tensor, ranged: bool) -> None:
    """Add the new node's value, and the rewards on the way to it, to the sums of all edges of paths.

    A path that ends early repeats its leaf, whose edge then gets the same sums several times: they are written, and not
    added, so that it counts once.

    Args:
        tree: changed in place.
        path: int64 `[L + 1, B]` nodes from the root to the leaf, and the one behind it.
        ranged: whether the range of mean returns is needed.
    """
    # What each edge leads to; a repeated leaf's is the last node.
    left, entered, alive = path[:-1], path[-1], tree.alive
    moves = path[1:] != left
    below = torch.where(moves, path[1:], entered)
    counts = moves & alive
    counts[-1] = alive
    discount = torch.where(counts, tree.discount[below, tree.rows], 1.0)
    reward = torch.where(counts, tree.reward[below, tree.rows], 0.0)
    gain = returns(reward, discount, tree.value[entered, tree.rows])
    added = [torch.ones_like(gain), gain]
    if tree.value_variance is not None and tree.reward_variance is not None:
        variance = torch.where(counts, tree.reward_variance[below, tree.rows], 0.0)
        added.append(returns(variance, discount.square(), tree.value_variance[entered, tree.rows]))

    # Rows that are frozen add nothing.
    edges = left * tree.log_prior.shape[-1] + tree.best[left, tree.rows]
    sums = tree.sums[:, tree.rows, edges] + torch.stack(added) * alive
    tree.sums[:, tree.rows, edges] = sums
    tree.depth.copy_(torch.maximum(tree.depth, counts.sum(0)))

    if not ranged:
        return
    # The range of mean returns in the whole tree only grows.
    q = sums[1] / sums[0]
    tree.low.copy_(torch.minimum(tree.low, torch.where(alive, q, torch.inf).amin(0)))
    tree.high.copy_(torch.maximum(tree.high, torch.where(alive, q, -torch.inf).amax(0)))


def returns(reward: Tensor, discount: Tensor, last: Tensor) -> Tensor:
    """`G[l] = reward[l] + discount[l] * G[l + 1]` of `[L, B]`, with `last` `[B]` behind the end."""
    found = []
    following = last
    for r, g in zip(reversed(reward.unbind()), reversed(discount.unbind()), strict=True):
        following = r + g * following
        found.append(following)
    return torch.stack(found[::-1])


def choose(tree: Tree, nodes: Tensor, plan: Plan, ties: Tensor | None, settings: SearchSettings) -> None:
    """Choose anew which slot nodes `[R, B]` follow next; the first of them is the root."""
    rule = settings.rule
    if rule.tree_wide:  # what is normalised by the whole tree changes in the whole tree
        nodes = torch.arange(len(tree.value), device=nodes.device).unsqueeze(1).expand(-1, len(tree.alive))
    seen = look(tree, nodes, settings.optimism)
    scores = rule.scores(seen, plan)
    if ties is not None:
        scores = scores + ties.t().unsqueeze(1)
    best = scores.masked_fill(~seen.valid, -torch.inf).argmax(0)  # the first slot, if none is valid
    child = tree.child[tree.rows, nodes * len(scores) + best]
    tree.best[nodes, tree.rows] = best
    tree.jump[nodes, tree.rows] = torch.where(child < 0, nodes, child)


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
    add_nodes(tree, walk_down(tree, settings.levels), plan, number, ties, noise, recurrent, settings)


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
