"""Weight interpolation between an old model and its fine-tuned successor: fewer flips, nothing to train.

Backward compatible weight interpolation (BCWI: Schumann et al., arXiv 2301.10546): plain, with the old
model's Fisher information, or from a soup of several new models. The new model must have been
fine-tuned from the old one (`student.start=OLD/network.safetensors`): weights of independent trainings do not
lie in one basin, and interpolate to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero.data.imageset import ImageSet
from hetero.models.store import Model, define_space
from hetero_devices.errors import ModelError

Tensors = Mapping[str, Tensor]


def between(old: Tensor, new: Tensor, share: float, fisher: Tensor | None = None) -> Tensor:
    """a old + (1 - a) new, a = share; with Fisher information F, (a F old + (1 - a) new) / (a F + 1 - a).

    Of tensors of one shape; where the denominator is zero the old value stays.
    """
    if fisher is None:
        return share * old + (1 - share) * new
    weight = share * fisher + (1 - share)
    mixed = (share * fisher * old + (1 - share) * new) / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    return torch.where(weight > 0, mixed, old)


def soup(states: Sequence[Tensors]) -> dict[str, Tensor]:
    """The mean of state dicts of one architecture; integers, such as batch counters, from the first."""
    first, *_ = states
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def interpolated(old: Model, new: Sequence[Model], share: float, fisher: Tensors | None = None) -> Model:
    """The model at `share` of the old weights, 0..1, from one new model or the soup of several.

    Prototypes of classes only the new model knows are the new model's. It has a space of its own. Statistics
    of batch normalisation are interpolated too, and then fit neither end: see `recalibrated`.
    fisher: of `fisher_diagonal`, of the old model. Raises ModelError for other networks or classes.
    """
    if not 0 <= share <= 1 or not new:
        raise ModelError(f"a share of {share} of {len(new)} new models: expected 0..1 and at least one")
    for model in new:
        _refuse_others(old, model, new[0])
    weights, before = soup([m.deploy.network.state_dict() for m in new]), old.deploy.network.state_dict()
    mixed = {
        name: between(before[name], tensor, share, (fisher or {}).get(name))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }
    deploy = deepcopy(new[0].deploy)
    deploy.network.load_state_dict(mixed)
    space = define_space(deploy.network, deploy.preprocessing, new[0].space.dim)
    return replace(new[0], deploy=deploy.eval(), space=space, head=_head(old, new, share))


def _refuse_others(old: Model, model: Model, first: Model) -> None:
    if model.config != old.config:
        raise ModelError("weights interpolate inside one architecture: the old and new networks differ")
    if model.classes != first.classes:
        raise ModelError("the new models name other classes: train them on one data set")


def _head(old: Model, new: Sequence[Model], share: float) -> Tensor | None:
    heads = [model.head for model in new if model.head is not None]
    if not heads:
        return None
    mixed = torch.stack(heads).mean(0)
    if old.head is not None:
        place = {name: row for row, name in enumerate(old.classes)}
        for row, name in enumerate(new[0].classes):
            if name in place:
                mixed[row] = between(old.head[place[name]], mixed[row], share)
    return mixed


@torch.no_grad()
def recalibrated(model: Model, images: ImageSet, batch: int = 256) -> Model:
    """The model with its batch normalisation measured anew on `images`: training ones, some thousands.

    Interpolated statistics belong to no network (Jordan et al., REPAIR, ICLR 2023). A model without batch
    normalisation is returned as it is.
    """
    deploy = deepcopy(model.deploy)
    norms = [m for m in deploy.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return model
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    deploy.train()
    for start in range(0, len(images) - 1, batch):
        block = torch.from_numpy(images.images[start : start + batch].copy())
        if len(block) > 1:
            deploy(block)
    space = define_space(deploy.network, deploy.preprocessing, model.space.dim)
    return replace(model, deploy=deploy.eval(), space=space)


def fisher_diagonal(model: Model, images: ImageSet, scale: float = 24.0) -> dict[str, Tensor]:
    """The empirical Fisher information of each weight, by name, with mean 1 over all weights.

    F_w = mean over images of (d log p(y | x) / d w)^2, p the softmax of scale * cosines. The mean is set to 1
    so that a share means the same as without it. images: of the model's classes, by name; a few hundred do.
    ModelError for a model without a named head, or images of another class.
    """
    if model.head is None or not model.classes:
        raise ModelError("Fisher information needs a classifier: the model has no head with names")
    network, place = model.deploy.network, {name: row for row, name in enumerate(model.classes)}
    prototypes = F.normalize(model.head, dim=1)
    total = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for row in range(len(images)):
        network.zero_grad(set_to_none=True)
        logits = scale * model.deploy(torch.from_numpy(images.images[row : row + 1].copy())) @ prototypes.T
        label = place.get(images.class_names[images.labels[row]])
        if label is None:
            raise ModelError(f"the model does not know the class {images.class_names[images.labels[row]]!r}")
        F.cross_entropy(logits, torch.tensor([label])).backward()  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.pow(2)
    network.zero_grad(set_to_none=True)
    mean = torch.cat([t.flatten() for t in total.values()]).mean()
    return {name: t / mean for name, t in total.items()}
