"""Episode ends that no flag marks, found where a step's next observation is not the observation of the next row.

Without a cut there, two episodes would be glued together: their returns, the number of episodes and the held-out split
would be of something that was never played. The steps themselves are right, so such an end is read as a time-out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datamodules.recorded.description import Chunk

# A mismatch is an end, and no rounding, if some feature jumps by more than these parts of its mean step and its size.
STEP_PART, SIZE_PART = 1e-2, 1e-5


def cut_unmarked_ends(chunks: Iterator[Chunk], notes: list[str]) -> Iterator[Chunk]:
    """The same chunks with `truncated` set at ends that no flag marks.

    Args:
        chunks: steps whose next observations the source holds in a field of their own.
        notes: list that gets a sentence about the ends that were found, after the last chunk.
    """
    counts = _Counts()
    held: Chunk | None = None
    for chunk in chunks:
        if held is not None:
            yield counts.mark(held, chunk.observation[:1])
        held = chunk
    if held is not None:
        yield counts.mark(held, held.observation[:0])
    notes.extend(note for note in counts.notes() if note not in notes)  # a source may be read more than once


class _Counts:
    """The ends that were found so far, by row of the source."""

    def __init__(self) -> None:
        self.rows = 0
        self.cuts = 0
        self.open = 0
        self.continued = 0
        self.first_cut = self.first_continued = -1

    def mark(self, chunk: Chunk, successor: np.ndarray) -> Chunk:
        """Find the ends in a chunk, which `successor` `[1, ...]` or `[0, ...]` follows."""
        following = np.concatenate([chunk.observation[1:], successor])
        known = len(following)
        jumps = np.zeros(len(chunk.reward), dtype=bool)
        jumps[:known] = _jumps(chunk.observation[:known], chunk.next_observation[:known], following)
        ends = chunk.terminated | chunk.truncated
        cuts = np.flatnonzero(jumps & ~ends)
        continued = np.flatnonzero(chunk.terminated[:known] & ~jumps[:known])
        if len(cuts) and not self.cuts:
            self.first_cut = self.rows + int(cuts[0])
        if len(continued) and not self.continued:
            self.first_continued = self.rows + int(continued[0])
        self.cuts += len(cuts)
        self.continued += len(continued)
        self.open += int((~ends[:known]).sum())
        self.rows += len(ends)
        return chunk._replace(truncated=chunk.truncated | (jumps & ~ends)) if len(cuts) else chunk

    def notes(self) -> list[str]:
        """Sentences for the card."""
        notes = []
        if self.cuts:
            notes.append(
                f"no flag is set at row {self.first_cut}, but its next observation is not the observation of row "
                f"{self.first_cut + 1}: {self.cuts:,} such ends are read as time-outs"
            )
        if self.cuts > self.open // 2:
            notes.append(
                f"{self.cuts:,} of {self.open:,} steps are not followed by their own next observation: the rows are in "
                "no order, and what is said about episodes and returns is of pieces"
            )
        if self.continued:
            notes.append(
                f"terminals is set at row {self.first_continued}, but the next row goes on from there "
                f"({self.continued:,} such rows): nothing is bootstrapped at them; are the flags at the right rows?"
            )
        return notes


def _jumps(observation: np.ndarray, following: np.ndarray, successor: np.ndarray) -> np.ndarray:
    """`[n]` bool: the observation after the step, `following`, is another one than the next row's, `successor`."""
    if following.dtype != successor.dtype:
        following, successor = following.astype(np.float32), successor.astype(np.float32)
    unequal = (following != successor).reshape(len(following), -1).any(1)
    rows = np.flatnonzero(unequal)
    if len(rows) and np.issubdtype(following.dtype, np.floating):
        with np.errstate(all="ignore"):  # values that are no numbers are refused by the checks that follow
            step = np.abs(following - observation).mean(0, dtype=np.float64)
            tolerance = STEP_PART * step + SIZE_PART * np.abs(observation).max(0)
            gap = np.abs(following[rows].astype(np.float64) - successor[rows])
        unequal[rows] = (gap > tolerance).reshape(len(rows), -1).any(1)
    return unequal
