"""How to get a model from elsewhere, as data: what the command line says and the bundle records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hetero.config import Config

Channels = tuple[float, float, float]


class ForeignConfig(Config):
    """Where a model comes from, and how its output becomes one vector an image.

    source: `timm:NAME`, `hf:NAME_OR_FOLDER` (Hugging Face), or `package.module:function` returning a module.
    """

    kind: Literal["foreign"] = "foreign"
    source: str
    weights: str = Field(
        default="pretrained",
        description="pretrained (timm and Hugging Face: downloaded once), random, or a .safetensors file",
    )
    size: int | None = Field(
        default=None, ge=8, le=1024, description="side of the images; default: the model's own"
    )
    embedding: str | int | None = Field(
        default=None, description="which output is the embedding, by name or position; default: the usual one"
    )
    pool: Literal["mean", "first"] = Field(
        default="mean", description="how tokens [N, T, D] become [N, D]; `first` is the class token"
    )
    mean: Channels | None = Field(default=None, description="of RGB in 0..1; default: the model's own")
    std: Channels | None = Field(default=None, description="of RGB in 0..1; default: the model's own")
