"""What every family of networks has in common."""

from __future__ import annotations

from pydantic import Field

from hetero.config import Config


class FamilyConfig(Config):
    """The embedding's dimension, and whether a linear layer leads from it into a space of another one."""

    dim: int = Field(default=128, gt=0)
    project: int | None = Field(
        default=None, gt=0, description="dimension of the space, when it is not the network's own"
    )

    @property
    def output_dim(self) -> int:
        """The dimension of what the network returns."""
        return self.project or self.dim
