"""What every family of networks has in common."""

from __future__ import annotations

from pydantic import Field

from hetero.config import Config


class FamilyConfig(Config):
    """The embedding's dimension, and whether a linear layer leads from it into a space of another one.

    resolution: the network looks at images of that side, whatever the side of those it is given.
    """

    dim: int = Field(default=128, gt=0)
    project: int | None = Field(
        default=None, gt=0, description="dimension of the space, when it is not the network's own"
    )
    resolution: int | None = Field(
        default=None, ge=8, description="side that images are resized to inside the network; none: as given"
    )

    @property
    def output_dim(self) -> int:
        """The dimension of what the network returns."""
        return self.project or self.dim
