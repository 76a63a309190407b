"""The heat map's colours: a perceptually even scale, and ink that can be read on it."""

from __future__ import annotations

import math

# OKLCH: equal steps of lightness look equal, light to dark in one direction, also to the colour-blind.
_LIGHT, _DARK = (0.97, 0.02, 215.0), (0.36, 0.11, 262.0)
_INKS = ("#000000", "#ffffff")


def scale(position: float) -> str:
    """The colour at `position` in [0, 1], as '#rrggbb'; darker is more."""
    at = min(1.0, max(0.0, position))
    lightness, chroma, hue = (a + (b - a) * at for a, b in zip(_LIGHT, _DARK, strict=True))
    return _hex(_from_oklch(lightness, chroma + 0.05 * math.sin(math.pi * at), hue))


def ink(background: str) -> str:
    """Black or white, whichever contrasts more with `background`: always at least 4.5:1."""
    return max(_INKS, key=lambda colour: contrast(colour, background))


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    lighter, darker = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(encoded: float) -> float:
    return encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4


def _encoded(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _from_oklch(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """Linear sRGB. Ottosson, A perceptual color space for image processing (2020)."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _hex(linear: tuple[float, float, float]) -> str:
    channels = (round(255 * _encoded(min(1.0, max(0.0, x)))) for x in linear)
    return "#" + "".join(f"{channel:02x}" for channel in channels)
