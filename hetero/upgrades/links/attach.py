"""A link that goes along with a model: its layers stand behind the network, in the same graph."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from hetero.models.deploy import Deploy
from hetero.models.layers import UnitNorm
from hetero.models.store import Model
from hetero.upgrades.links.link import Link
from hetero_devices.errors import SpaceMismatch


class Linked(nn.Module):
    """float32 [N, Ds], the network's output -> float32 [N, Dt], unit norm.

    A link was fitted on unit vectors, so there is a unit norm before it as well as after. It stands where the
    unit norm does (`Deploy.unit_norm`), which quantisers leave in float.
    """

    def __init__(self, link: nn.Module) -> None:
        super().__init__()
        self.before = UnitNorm()
        self.link = link
        self.after = UnitNorm()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.link(self.before(x)))
        return y


def attached(model: Model, link: Link) -> Model:
    """The model with the link behind it: it embeds into the link's target space, and exports like any other.

    Raises SpaceMismatch unless the link is of the query side, starts in the model's space, and is a plain
    network of the query alone.
    """
    if link.side != "query":
        raise SpaceMismatch(f"{link} converts the gallery side: it cannot go along with a query model")
    if not link.method.exports:
        raise SpaceMismatch(f"{link} needs {link.method.companion} of every query: it cannot be exported")
    if model.space != link.source:
        raise SpaceMismatch(f"the model embeds into space {model.space}, but {link} starts elsewhere")
    deploy = Deploy(model.deploy.network, model.deploy.preprocessing, Linked(link.network))
    return replace(model, deploy=deploy.eval(), space=link.target, head=None)
