"""Encoded bytes -> uint8 pixels. The reference resizing named by `Preprocessing.resize`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from hetero.data.imageset import Images
from hetero.data.source import one_line
from hetero_devices.errors import DataError, require

if TYPE_CHECKING:
    from PIL import Image

DECODER_VERSION = 1  # raise when the pixels of `decode` change: caches are keyed by it


def decode(content: bytes, size: int) -> Images:
    """Decode an image file to RGB uint8 [size, size, 3]: centre square, Pillow's antialiased bilinear.

    Greyscale, 1-bit, palette and 16-bit images become RGB, transparency is laid over white, and EXIF
    rotation is applied.
    Raises DataError when the bytes are no image, truncated, or claim an absurd number of pixels.
    """
    require("PIL", "train")
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_pixels(image)
            return _square(_rgb(ImageOps.exif_transpose(image)), size)
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise DataError("not an image file that Pillow can read") from None
    except Exception as error:  # a parser of foreign bytes raises whatever it stumbles over
        raise DataError(f"damaged image: {one_line(error)}") from None


def resize(image: Images, size: int) -> Images:
    """Resize one uint8 [H, W, 3] image to [size, size, 3], exactly as `decode` does after decoding."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"image is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]")
    require("PIL", "train")
    from PIL import Image

    return _square(Image.fromarray(image), size)


def _check_pixels(image: Image.Image) -> None:
    """Pillow only warns of up to twice its limit; warnings cannot be caught from a thread."""
    from PIL import Image as pillow

    if pillow.MAX_IMAGE_PIXELS and image.width * image.height > pillow.MAX_IMAGE_PIXELS:
        raise DataError(f"more than {pillow.MAX_IMAGE_PIXELS} pixels")


def _square(image: Image.Image, size: int) -> Images:
    """The centre square, cut out first: Pillow's `box` would let pixels beside it bleed in."""
    from PIL import Image as pillow

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), pillow.Resampling.BILINEAR))


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image as pillow

    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips 16 bits at 255
        levels = np.asarray(image, dtype=np.float32)
        high = 65535.0 if levels.max(initial=0) > 255 else 255.0
        return pillow.fromarray((levels.clip(0, high) * (255 / high)).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
