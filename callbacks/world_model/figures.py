"""Pictures of what a world model predicts beside what was recorded: images as film and as strip, vectors as lines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.files.pictures import save_picture

SMALLEST = 64  # pixels of a film's pictures, at least
STRIP_COLUMNS = 12  # moments of one strip, at most
STRIP_SIZE = (9.0, 13.0)  # inches, at most
LINES = 8  # numbers of a vector that are drawn, at most
BLANK = 128  # grey of what nothing was predicted for
SEEN, IMAGINED = (46, 139, 87), (178, 34, 34)  # frames of a film: green while the model sees, red when it imagines
DOTS_PER_INCH = 110


def panels(truth: np.ndarray, model: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Recorded images, the model's and their difference, stacked downwards.

    Args:
        truth: `[T, B, H, W, C]` bytes.
        model: `[T, B, H, W, C]` floats in [0, 255].
        known: `[T, B]` whether the model's image means anything.

    Returns:
        `[T, B, 3 H, W, 3]` bytes: colours where there are three channels, otherwise the last channel in grey. In the
        difference grey is none, lighter is too bright.
    """
    truth, model = (_colours(np.clip(x, 0.0, 255.0).astype(np.float32)) for x in (truth, model))
    error = (model - truth + 255.0) / 2.0
    blank = ~known[:, :, None, None, None]
    stacked = np.concatenate([truth, np.where(blank, BLANK, model), np.where(blank, BLANK, error)], axis=2)
    return stacked.round().astype(np.uint8)


def _colours(images: np.ndarray) -> np.ndarray:
    return images if images.shape[-1] == 3 else np.repeat(images[..., -1:], 3, axis=-1)


def film(panels: np.ndarray, context: int) -> np.ndarray:
    """`[T, B, H, W, 3]` panels side by side, enlarged, in a frame that tells seen from imagined: `[T, H', W', 3]`."""
    times = math.ceil(SMALLEST / min(panels.shape[2] // 3, panels.shape[3]))
    large = panels.repeat(times, axis=2).repeat(times, axis=3)
    border = np.zeros_like(large[:, :, :, :2])
    joined = np.concatenate([part for b in range(large.shape[1]) for part in (border[:, b], large[:, b])], axis=2)
    framed = np.pad(joined, ((0, 0), (4, 4), (2, 4), (0, 0)))
    edge = np.ones(framed.shape[1:3], dtype=bool)
    edge[4:-4, 4:-4] = False
    framed[:context, edge], framed[context:, edge] = SEEN, IMAGINED
    return framed


def write_film(frames: np.ndarray, path: Path, per_second: float = 10.0) -> None:
    """An endless GIF of frames `[T, H, W, 3]`."""
    from PIL import Image

    first, *rest = [Image.fromarray(frame) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / per_second), loop=0)


def draw_strips(panels: np.ndarray, context: int, title: str, path: Path) -> None:
    """PNG of panels `[T, B, 3 H, W, 3]`, one row per sequence, at up to `STRIP_COLUMNS` moments."""
    steps, rows, height, width, _ = panels.shape
    moments = np.unique(np.linspace(0, steps - 1, min(steps, STRIP_COLUMNS)).round().astype(int))
    mosaic = panels[moments].transpose(1, 2, 0, 3, 4).reshape(rows * height, len(moments) * width, 3)
    inch = max(mosaic.shape[1] / STRIP_SIZE[0], mosaic.shape[0] / STRIP_SIZE[1])  # in pixels of the mosaic
    figure = new_figure(mosaic.shape[1] / inch + 0.8, mosaic.shape[0] / inch + 0.8)
    axes = figure.add_subplot()
    axes.imshow(mosaic, interpolation="nearest")
    axes.set_xticks((np.arange(len(moments)) + 0.5) * width - 0.5, moments)
    axes.set_yticks((np.arange(3 * rows) + 0.5) * (height // 3) - 0.5, ["truth", "model", "error"] * rows, fontsize=7)
    axes.hlines(np.arange(1, rows) * height - 0.5, -0.5, mosaic.shape[1] - 0.5, color="white", linewidth=2.0)
    for edge in np.arange(1, len(moments)) * width - 0.5:
        axes.axvline(edge, color="white", linewidth=0.5)
    axes.axvline(int((moments < context).sum()) * width - 0.5, color="red", linewidth=1.5)
    axes.set_xlabel("time step; the model sees what is left of the red line", fontsize=8)
    axes.set_title(title, fontsize=10)
    save_picture(figure, path, DOTS_PER_INCH)


def draw_vectors(truth: np.ndarray, model: np.ndarray, known: np.ndarray, context: int, title: str, path: Path) -> None:
    """PNG of vectors `[T, B, D]` over time: truth and model, one column per sequence, the context shaded.

    Args:
        truth: recorded values.
        model: predicted values, drawn where `known` `[T, B]`.
        known: whether the prediction means anything.
        context: steps that the model saw.
        title: title above the axes.
        path: path of the PNG file.
    """
    steps, columns, size = truth.shape
    drawn = min(size, LINES)
    figure = new_figure(1.5 + 2.0 * columns, 1.0 + 1.1 * drawn)
    shown = np.where(known[:, :, None], model, np.nan)
    for row, line in enumerate(figure.subplots(drawn, columns, sharex=True, sharey="row", squeeze=False)):
        line[0].set_ylabel(str(row))
        for column, axes in enumerate(line):
            axes.axvspan(-0.5, context - 0.5, color="0.9", linewidth=0)
            axes.plot(truth[:, column, row], color="0.2", linewidth=1.2, label="truth")
            axes.plot(shown[:, column, row], color="C1", linewidth=1.2, label="model")
            axes.set_xlim(-0.5, steps - 0.5)
    figure.axes[0].legend(frameon=False, fontsize=7)
    figure.supxlabel("time step; the model sees the shaded ones", fontsize=9)
    figure.suptitle(title if drawn == size else f"{title}, the first {drawn} of {size}", fontsize=10)
    save_picture(figure, path, DOTS_PER_INCH)


def draw_shares(shares: dict[str, Any], title: str, path: Path) -> None:
    """PNG of shares of imagined frames `[N]` by name, over the imagined steps, which count from 1."""
    figure = new_figure(4.6, 3.2)
    axes = figure.add_subplot()
    for name, line in shares.items():
        axes.plot(np.arange(1, len(line) + 1), line, marker=".", label=name)
    axes.set(xlabel="imagined step", ylabel="share of frames", ylim=(-0.02, 1.02), title=title)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
    save_picture(figure, path, DOTS_PER_INCH)


def draw_returns(real: np.ndarray, imagined: np.ndarray, title: str, path: Path) -> None:
    """PNG of imagined against real returns `[N]`; on the diagonal the model is right."""
    figure = new_figure(4.6, 4.6)
    axes = figure.add_subplot()
    ends = [float(f(x)) for f, x in ((np.min, [real, imagined]), (np.max, [real, imagined]))]
    axes.plot(ends, ends, color="0.7", linewidth=1.0, zorder=0)
    axes.scatter(real, imagined, s=16, alpha=0.7)
    axes.set(xlabel="real discounted return of the window", ylabel="imagined", title=title)
    axes.grid(alpha=0.2)
    save_picture(figure, path, DOTS_PER_INCH)


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second of imports that only reports need
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
