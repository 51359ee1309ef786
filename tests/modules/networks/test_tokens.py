"""Tokenizers: patches in their order, filled-up sides, levels of pixels, and images that come back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from modules.functional.frame_classes import to_levels
from modules.networks.quantisers import GumbelQuantiser, Quantiser, VectorQuantiser, perplexity
from modules.networks.tokens import ImageTokenizer

QUANTISERS: dict[str, Callable[[], Quantiser]] = {
    "vector": partial(VectorQuantiser, 32, 8),
    "gumbel": partial(GumbelQuantiser, 32, 8, "cosine(1, 0.0625, 300)"),
}


def board(fields: list[tuple[int, int]], rows: int = 5, columns: int = 3) -> torch.Tensor:
    """`[1, rows, columns, 1]` with bright fields."""
    image = torch.zeros(1, rows, columns, 1, dtype=torch.uint8)
    for row, column in fields:
        image[0, row, column] = 255
    return image


def test_patches_are_tokens_of_their_own_row_by_row() -> None:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer((5, 3, 1), partial(VectorQuantiser, 64, 8), (2, 2), 16, layers=0, image_middle=0.0)
    assert tokenizer.grid == (3, 2)
    dark = tokenizer.encode(board([]))[0]
    assert dark.shape == (6, 8)
    for field, patch in {(0, 0): 0, (1, 1): 0, (0, 2): 1, (3, 1): 2, (2, 2): 3, (4, 0): 4, (4, 2): 5}.items():
        changed = (tokenizer.encode(board([field]))[0] - dark).abs().amax(-1) > 1e-6
        assert changed.tolist() == [n == patch for n in range(6)], field
    with_blocks = ImageTokenizer((5, 3, 1), partial(VectorQuantiser, 64, 8), (2, 2), 16, layers=1, image_middle=0.0)
    changed = with_blocks.encode(board([(0, 0)]))[0] - with_blocks.encode(board([]))[0]
    assert bool((changed.abs().amax(-1) > 1e-6)[:4].all())  # neighbours see it


def test_a_patch_is_decoded_where_it_was_cut() -> None:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer((5, 3, 1), partial(VectorQuantiser, 64, 8), (2, 2), 16, layers=0, levels=4)
    vectors = torch.randn(1, 6, 8)
    logits = tokenizer.decode(vectors)
    assert logits.shape == (1, 5, 3, 1, 4)
    for patch in range(6):
        other = vectors.clone()
        other[0, patch] += 1.0
        changed = (tokenizer.decode(other) - logits).abs().amax((0, 3, 4)) > 1e-6
        row, column = 2 * (patch // 2), 2 * (patch % 2)
        expected = torch.zeros(5, 3, dtype=torch.bool)
        expected[row : row + 2, column : column + 2] = True
        assert torch.equal(changed, expected)


@pytest.mark.parametrize("kind", list(QUANTISERS))
def test_boards_come_back_from_their_tokens(kind: str) -> None:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer((4, 4, 1), QUANTISERS[kind], (2, 2), 32, layers=0, levels=2, image_middle=0.0)
    optimiser = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    place = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    boards = torch.zeros(16, 4, 4, 1, dtype=torch.uint8)
    boards[torch.arange(16), place[:, 0], place[:, 1]] = 255
    for update in range(400):
        out = tokenizer(boards, tokenizer.noise(16))
        target = to_levels(boards, 2).flatten()
        reconstruction = F.cross_entropy(out.logits.flatten(0, 3), target, reduction="sum") / 16
        optimiser.zero_grad()
        (reconstruction + out.penalty.mean()).backward()
        optimiser.step()
        tokenizer.quantiser.adapt(out.raw)
        tokenizer.quantiser.advance(update + 1)
    index = tokenizer.tokens(boards)
    assert torch.equal(tokenizer.images(index), boards)
    # Three of four patches are dark, the others are of four kinds.
    assert float(perplexity(index, 32)) == pytest.approx((4 / 3) ** 0.75 * 16**0.25)


def test_the_same_noise_gives_the_same_and_other_noise_another() -> None:
    torch.manual_seed(0)
    tokenizer = ImageTokenizer((4, 4, 1), partial(GumbelQuantiser, 16, 8), (2, 2), 16)
    images = torch.randint(256, (3, 4, 4, 1), dtype=torch.uint8)
    noise = tokenizer.noise(3, generator=torch.Generator().manual_seed(1))
    first, again, other = (tokenizer(images, u) for u in (noise, noise, noise.flip(0)))
    assert torch.equal(first.logits, again.logits)
    assert not torch.equal(first.logits, other.logits)
    assert first.tokens.shape == (3, 4)
    assert first.penalty.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"patch": (5, 2)}, "patches of 5x2 are larger than the image, 4x4: set patch"),
        ({"patch": (0, 2)}, "patch_height must be at least 1"),
        ({"channels": 0}, "channels must lie in"),
        ({"layers": -1}, "layers must lie in"),
        ({"levels": 257}, r"levels must lie in \[2, 256\], got 257"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImageTokenizer((4, 4, 1), partial(VectorQuantiser, 4, 2), **{"patch": (2, 2), **arguments})  # type: ignore[arg-type]
