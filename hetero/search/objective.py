"""The objective of a supernet: the student's for every candidate of a step, with the largest as teacher."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hetero.objectives.terms import Objective, Supervision


class SharedObjective(Objective):
    """An objective over the embeddings of several candidates on one batch.

    The mean over candidates of every term; with `distil` the candidates after the first, the largest, are
    also drawn towards its embeddings ("in-place distillation", Yu & Huang, ICCV 2019).
    """

    distil: bool = True

    def forward(self, embeddings: Tensor, supervision: Supervision) -> dict[str, Tensor]:
        """unit float32 [K * N, D], the batch by candidate after candidate -> name -> scalar loss."""
        count = len(embeddings) // len(supervision.labels)
        parts = embeddings.chunk(count)
        raw = supervision.raw.chunk(count) if supervision.raw is not None else (None,) * count
        losses = [
            super(SharedObjective, self).forward(part, replace(supervision, raw=own))
            for part, own in zip(parts, raw, strict=True)
        ]
        found = {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}
        if self.distil and count > 1:
            found["in-place"] = 1 - (torch.stack(parts[1:]) * parts[0].detach()).sum(-1).mean()
        return found
