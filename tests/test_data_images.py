"""Decoding and resizing: the reference that a device's preprocessing is compared with."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hetero.data.images import decode, resize
from hetero_devices.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_image(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (33, 20), (20, 47), (7, 5), (1, 1)])
def test_decode_is_resize_after_decoding(height: int, width: int) -> None:
    pixels = random_image(height, width)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 16), resize(pixels, 16))


def test_resize_is_pillows_filter_on_the_centre_square() -> None:
    pixels = random_image(40, 60)
    crop = Image.fromarray(pixels[:, 10:50]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(pixels, 16), np.asarray(crop))


def test_resize_to_the_same_size_changes_nothing() -> None:
    pixels = random_image(16, 16)
    np.testing.assert_array_equal(resize(pixels, 16), pixels)


def test_jpeg_is_decoded_in_full_before_resizing() -> None:
    content = encoded(Image.fromarray(random_image(256, 256)), "JPEG", quality=95)
    np.testing.assert_array_equal(
        decode(content, 16), resize(np.asarray(Image.open(io.BytesIO(content))), 16)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    ramp = np.tile(np.array([0, 0, 255, 255], np.uint8), (4, 1))
    image = Image.fromarray(ramp)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(ramp.astype(np.int32) * 257)
    elif mode == "LA":
        image = Image.merge("LA", (image, Image.new("L", image.size, 255)))
    else:
        image = image.convert(mode)
    assert image.mode == mode
    pixels = decode(encoded(image, "TIFF" if mode == "I" else "PNG"), 4)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.repeat(ramp[..., None], 3, axis=-1))


def test_transparency_lies_over_white() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    assert (decode(encoded(Image.fromarray(clear)), 4) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert (decode(encoded(palette, transparency=0), 4) == 255).all()


def test_exif_rotation_is_applied() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # the top half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to display
    upright = decode(encoded(Image.fromarray(pixels), exif=exif), 8)
    assert (upright[:, 4:] == 255).all()
    assert (upright[:, :4] == 0).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6])
def test_truncated_files_are_refused_in_one_line(kind: str, keep: float) -> None:
    content = encoded(Image.fromarray(random_image(64, 64)), kind)
    with pytest.raises(DataError) as caught:
        decode(content[: int(len(content) * keep)], 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_an_absurd_number_of_pixels_is_refused(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("RGB", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(10_000 / factor))
    with pytest.raises(DataError, match=r"more than [0-9]+ pixels"):
        decode(content, 16)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_resize_refuses_what_is_no_image(image: Any) -> None:
    with pytest.raises(DataError, match=r"expected uint8 \[H, W, 3\]"):
        resize(image, 4)
