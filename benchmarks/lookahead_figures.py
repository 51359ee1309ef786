"""Figures of lookahead: the Newton step in a system that is known, and gains measured by `bench_lookahead.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
OPTIMUM = (1.0 + 5.0**0.5) / 2.0


def iterated(k: np.ndarray | float) -> Any:
    """One value iteration of the cost `k x^2` of `x' = x + u` at the cost `x^2 + u^2`."""
    return 1.0 + k / (1.0 + k)


def policy_cost(k: np.ndarray | float) -> Any:
    """`K` of the policy that looks one step ahead with the cost `k x^2` behind it."""
    gain = k / (1.0 + k)
    return (1.0 + gain**2) / (1.0 - (1.0 - gain) ** 2)


def newton(path: Path = FIGURES / "lookahead_newton.png") -> None:
    """Left: the lookahead policy is where the tangent of Bellman's operator at the value meets the diagonal; right:
    error of the policy against error of the value, for one to three steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    k = np.linspace(0.05, 5.0, 200)
    left.plot(k, iterated(k), label="Bellman's operator $F(K)$")
    left.plot(k, k, color="gray", lw=1, label="$K = F(K)$ on this line")
    start = 0.6
    slope, meets = 1.0 / (1.0 + start) ** 2, policy_cost(start)
    line = np.array([start, meets])
    left.plot(
        line,
        iterated(start) + slope * (line - start),
        "--",
        color="tab:red",
        label="tangent: the policy's own operator",
    )
    left.plot([start], [iterated(start)], "o", color="tab:red")
    left.plot([meets], [meets], "s", color="tab:red")
    left.plot([OPTIMUM], [OPTIMUM], "*", color="black", ms=12)
    left.annotate("value $\\tilde K$", (start, iterated(start)), (0.15, 2.2), arrowprops={"arrowstyle": "-"})
    left.annotate("cost of the policy that looks ahead", (meets, meets), (2.4, 1.1), arrowprops={"arrowstyle": "-"})
    left.annotate("optimum", (OPTIMUM, OPTIMUM), (0.9, 2.9), arrowprops={"arrowstyle": "-"})
    left.set(xlabel="$K$", ylabel="$F(K)$", xlim=(0, 5), ylim=(0.5, 4), title="one step ahead is one Newton step")
    left.legend(loc="upper left", fontsize=8, frameon=False)
    # Right: every further step is a value iteration before the Newton step.
    distance = np.geomspace(1e-2, 100.0, 100)
    for depth in (1, 2, 3):
        value = OPTIMUM + distance
        for _ in range(depth - 1):
            value = iterated(value)
        right.loglog(distance, policy_cost(value) - OPTIMUM, label=f"depth {depth}")
    right.loglog(distance, distance, ":", color="gray", label="error as large as the value's")
    right.set(
        xlabel="error of the value, $\\tilde K - K^*$", ylabel="error of the policy", title="its error is quadratic"
    )
    right.set_ylim(1e-12, 100)
    right.legend(fontsize=8, frameon=False)
    _save(figure, path)


def gains(content: dict[str, Any], folder: Path = FIGURES) -> None:
    """Gain against depth, the held-out error of the model, and the return of the base policy, with 95% intervals."""
    for name, points, axis in (
        ("depth", content["depth"], "depth of the lookahead, steps"),
        ("error", content["error"], "held-out squared error of the model"),
        ("base", content["bases"], "return of the base policy"),
    ):
        figure, axes = plt.subplots(figsize=(6, 4))
        x = [point[name] for point in points]
        middle = np.array([point["gain"] for point in points])
        ends = np.abs(np.array([point["interval"] for point in points]).T - middle)
        axes.errorbar(x, middle, ends, fmt="o-", capsize=3)
        axes.axhline(0.0, color="gray", lw=1)
        if name == "error":
            axes.set_xscale("log")
        axes.set(xlabel=axis, ylabel="gain in return over the base policy", title=content["title"])
        _save(figure, folder / f"lookahead_{name}.png")


def _save(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    newton()
