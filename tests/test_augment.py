"""Augmentation: the identity, replay, ranges, and what a mirror does."""

from __future__ import annotations

import torch

from hetero.data import augment
from hetero.data.augment import AugmentConfig

NOTHING = AugmentConfig(rotation=0, scale=0, aspect=0, shear=0, shift=0, contrast=0, flip=False)


def pixels(count: int = 4, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).float()


def drawn(count: int = 4, seed: int = 1) -> torch.Tensor:
    return augment.draw(count, torch.Generator().manual_seed(seed))


def test_no_range_is_no_change() -> None:
    torch.testing.assert_close(augment.apply(pixels(), drawn(), NOTHING), pixels(), rtol=0, atol=0)


def test_parameters_of_zero_are_no_change() -> None:
    unchanged = augment.apply(pixels(), torch.zeros(4, 8), AugmentConfig())
    torch.testing.assert_close(unchanged, pixels(), rtol=0, atol=0)


def test_the_same_parameters_replay_the_same_view() -> None:
    first, again = (augment.apply(pixels(), drawn(), AugmentConfig()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment.apply(pixels(), drawn(seed=2), AugmentConfig()))


def test_an_image_is_changed_alike_in_any_batch() -> None:
    whole = augment.apply(pixels(), drawn(), AugmentConfig())
    torch.testing.assert_close(
        augment.apply(pixels()[2:], drawn()[2:], AugmentConfig()), whole[2:], rtol=0, atol=1
    )


def test_results_are_camera_bytes() -> None:
    changed = augment.apply(pixels(), drawn(), AugmentConfig(contrast=0.9))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.equal(changed, changed.round())


def test_a_mirror_is_exact_and_only_for_half_the_draws() -> None:
    parameters = torch.zeros(2, 8)
    parameters[1, 7] = -0.5
    flipped = augment.apply(pixels(2), parameters, NOTHING.model_copy(update={"flip": True}))
    torch.testing.assert_close(flipped[0], pixels(2)[0], rtol=0, atol=0)
    torch.testing.assert_close(flipped[1], pixels(2)[1].flip(2), rtol=0, atol=1)


def test_a_shift_moves_by_the_stated_share() -> None:
    image = torch.zeros(1, 1, 10, 10)
    image[0, 0, 5, 5] = 255
    parameters = torch.zeros(1, 8)
    parameters[0, 4] = -1.0  # sampling further left moves the content right
    moved = augment.apply(image, parameters, NOTHING.model_copy(update={"shift": 0.2}))
    assert moved[0, 0].argmax().item() == 5 * 10 + 7
