"""Returns of trajectories, time-major, and backups of transformed values.

Recurrences that are written for speed have their definition, summed term by term, beside them: `plain_lambda_returns`,
`plain_n_step_returns`, `plain_vtrace`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discount_unless_terminal(discount: float, terminated: Tensor) -> Tensor:
    """`[...]` discount of what follows each step: 0 after a terminal state, never at a time-out.

    Args:
        discount: factor per step.
        terminated: `[...]` booleans, true where the step led into a terminal state.
    """
    return discount * (~terminated).float()


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float | Tensor) -> Tensor:
    """Exponentially weighted mean of all n-step returns, from the last step back.

    `G_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda G_{t+1})` with `G_T = v_T`.

    Source: Sutton & Barto 2018, section 12.1; Hafner et al. 2021, "Mastering Atari with Discrete World Models"
    (https://arxiv.org/abs/2010.02193), equation 4. Gradients flow into all arguments.

    Args:
        reward: `[T, ...]` reward of step `t`.
        discount: `[T, ...]` factor on what follows step `t`; 0 where nothing does.
        value: `[T + 1, ...]` values; row `t + 1` is of what follows step `t`, and the last row is the bootstrap.
        lambda_: 0 for one-step returns, 1 for the sum of all rewards and the bootstrap.

    Returns:
        `[T, ...]`.
    """
    first = torch.addcmul(reward, discount, (1.0 - lambda_) * value[1:])
    carry = lambda_ * discount
    following, returns = value[-1], []
    for one, share in zip(reversed(first.unbind()), reversed(carry.unbind()), strict=True):
        following = torch.addcmul(one, share, following)
        returns.append(following)
    return torch.stack(returns[::-1])


def plain_lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float) -> Tensor:
    """The definition of `lambda_returns`: `(1 - lambda) sum_n lambda^(n-1) G_t^n`, all the rest of the weight on the
    longest of the n-step returns `G_t^n`.
    """
    returns, length = [], len(reward)
    by_steps = [plain_n_step_returns(reward, discount, value, n) for n in range(1, length + 1)]
    for t in range(length):
        longest = length - t
        mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * by_steps[n - 1][t] for n in range(1, longest))
        returns.append(mixed + lambda_ ** (longest - 1) * by_steps[longest - 1][t])
    return torch.stack(returns)


def replay_returns(
    reward: Tensor, terminated: Tensor, last: Tensor, bootstrap: Tensor, discount: float, lambda_: float
) -> Tensor:
    """Lambda returns of recorded states from the rewards behind them, ending in values that are given.

    `G_t = r_{t+1} + d_{t+1} ((1 - l_{t+1}) b_{t+1} + l_{t+1} G_{t+1})` with `G_{T-1} = b_{T-1}`: the discount `d` is 0
    in terminal rows, and the share `l` 0 in rows that end an episode in any way.

    Source: github.com/danijar/dreamerv3, dreamerv3/agent.py, `repl_loss`.

    Args:
        reward: `[T, ...]` of arriving in each row.
        terminated: `[T, ...]` bool, whether the row is terminal.
        last: `[T, ...]` bool, whether the row ends an episode.
        bootstrap: `[T, ...]` values of what comes after each row, such as first returns of imagination.
        discount: factor per step.
        lambda_: share of the later returns.

    Returns:
        `[T - 1, ...]`; those of rows that end an episode mix two episodes.
    """
    ahead = discount_unless_terminal(discount, terminated)
    return lambda_returns(reward[1:], ahead[1:], bootstrap, lambda_ * (~last[1:]).float())


def n_step_returns(reward: Tensor, discount: Tensor, value: Tensor, n: int) -> Tensor:
    """Rewards of `n` steps and the discounted value of where they lead.

    `G_t = r_t + d_t (r_{t+1} + d_{t+1} (... + d_{t+n-1} v_{t+n}))`. Within `n` steps of the end, the return is that of
    the steps that are left and the last value.

    Source: Sutton & Barto 2018, section 7.1.

    Args:
        reward: `[T, ...]` reward of step `t`.
        discount: `[T, ...]` factor on what follows step `t`; 0 where nothing does.
        value: `[T + 1, ...]` values; row `t + 1` is of what follows step `t`.
        n: number of steps, at least 1.

    Returns:
        `[T, ...]`.
    """
    returns = value
    for _ in range(min(n, len(reward))):  # each round looks one step further, everywhere at once
        returns = torch.cat([torch.addcmul(reward, discount, returns[1:]), value[-1:]])
    return returns[:-1]


def plain_n_step_returns(reward: Tensor, discount: Tensor, value: Tensor, n: int) -> Tensor:
    """The definition of `n_step_returns`: `sum_k (d_t ... d_{t+k-1}) r_{t+k} + (d_t ... d_{t+n-1}) v_{t+n}`."""
    returns = []
    for t in range(len(reward)):
        total, weight = torch.zeros_like(value[0]), torch.ones_like(value[0])
        last = min(t + n, len(reward))
        for k in range(t, last):
            total, weight = total + weight * reward[k], weight * discount[k]
        returns.append(total + weight * value[last])
    return torch.stack(returns)


def vtrace(reward: Tensor, discount: Tensor, value: Tensor, rho: Tensor, lambda_: float) -> Tensor:
    """Values of a policy from what another one did, the V-trace targets.

    `vs_t = v_t + min(1, rho_t) (r_t + d_t v_{t+1} - v_t) + d_t c_t (vs_{t+1} - v_{t+1})` with
    `c_t = lambda min(1, rho_t)` and `vs_T = v_T`. Where both policies agree and `lambda` is 1, it is the sum of all
    rewards and the bootstrap.

    Source: Espeholt et al. 2018, "IMPALA" (https://arxiv.org/abs/1802.01561), equation 1 and remark 1, with both
    truncation levels 1.

    Args:
        reward: `[T, ...]` reward of step `t`.
        discount: `[T, ...]` factor on what follows step `t`; 0 where nothing does.
        value: `[T + 1, ...]` values; row `t + 1` is of what follows step `t`, and the last row is the bootstrap.
        rho: `[T, ...]` probability of the action under the policy, divided by that under the one that took it.
        lambda_: share in [0, 1] of the later corrections that counts.

    Returns:
        `[T, ...]`. Gradients flow into all tensors: give detached ones where the result is a target.
    """
    clipped = rho.clamp_max(1.0)
    change = clipped * (torch.addcmul(reward, discount, value[1:]) - value[:-1])
    carry = lambda_ * discount * clipped
    following, changes = torch.zeros_like(value[-1]), []
    for one, share in zip(reversed(change.unbind()), reversed(carry.unbind()), strict=True):
        following = torch.addcmul(one, share, following)
        changes.append(following)
    return value[:-1] + torch.stack(changes[::-1])


def plain_vtrace(reward: Tensor, discount: Tensor, value: Tensor, rho: Tensor, lambda_: float) -> Tensor:
    """The definition of `vtrace` (Espeholt et al. 2018, equation 1): the value, and all later errors `min(1, rho_k)
    (r_k + d_k v_{k+1} - v_k)`, each times the product of `d_i c_i` up to it.
    """
    targets, clipped = [], rho.clamp_max(1.0)
    for t in range(len(reward)):
        total, weight = value[t], torch.ones_like(value[0])
        for k in range(t, len(reward)):
            total = total + weight * clipped[k] * (reward[k] + discount[k] * value[k + 1] - value[k])
            weight = weight * discount[k] * lambda_ * clipped[k]
        targets.append(total)
    return torch.stack(targets)


def vtrace_advantages(reward: Tensor, discount: Tensor, value: Tensor, targets: Tensor, rho: Tensor) -> Tensor:
    """Weights of the policy's gradient in IMPALA: `min(1, rho_t) (r_t + d_t vs_{t+1} - v_t)`, `vs_T = v_T`.

    For `lambda` below 1 it is not the generalised advantage, see `generalised_advantages`: the first step counts whole,
    and only what follows is cut. With `lambda` 1 both are the same.

    Source: Espeholt et al. 2018 (https://arxiv.org/abs/1802.01561), section 4.2.

    Args:
        reward: `[T, ...]`, as all others as for `vtrace`.
        discount: `[T, ...]`.
        value: `[T + 1, ...]`.
        targets: `[T, ...]`, the result of `vtrace`.
        rho: `[T, ...]`.

    Returns:
        `[T, ...]`.
    """
    following = torch.cat([targets[1:], value[-1:]])
    return rho.clamp_max(1.0) * (torch.addcmul(reward, discount, following) - value[:-1])


def generalised_advantages(value: Tensor, targets: Tensor) -> Tensor:
    """`vs_t - v_t`: where both policies agree, `sum_k (lambda d)^k (r_{t+k} + d v_{t+k+1} - v_{t+k})`.

    Elsewhere V-trace's weights `min(1, rho)` are in each of the terms.

    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
    (https://arxiv.org/abs/1506.02438), equation 16.

    Args:
        value: `[T + 1, ...]`.
        targets: `[T, ...]`, the result of `vtrace`.

    Returns:
        `[T, ...]`.
    """
    return targets - value[:-1]
