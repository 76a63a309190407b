"""The one training loop. It knows no method by name: what is learnt is the objective's business."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hetero.models.deploy import Deploy
from hetero.objectives.terms import Objective
from hetero.progress import track
from hetero.training.batches import Batch
from hetero.training.checkpoint import load_checkpoint, save_checkpoint
from hetero.training.optimizer import FitConfig, averaged, optimizer_of, rate_at
from hetero_devices.errors import ModelError

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


class Fit:
    """A training in progress: modules, optimiser, and the folder its state is kept in."""

    def __init__(
        self, deploy: Deploy, objective: Objective, config: FitConfig, folder: Path, seed: int
    ) -> None:
        self.deploy = deploy.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(config.device)
        self.config, self.folder, self.seed = config, folder, seed
        self.average = averaged(self.deploy, config.ema)
        self.optimizer = optimizer_of([self.deploy, self.objective], config)
        self.metrics = Metrics(folder / METRICS)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"deploy": self.deploy, "objective": self.objective, "average": self.average}

    def run(self, batches: Callable[[int], Batch]) -> Deploy:
        """Train from the last checkpoint, if any, to the end; returns the averaged network in eval mode."""
        start = self._resume()
        self.metrics.begin(start)
        for step in track(range(start, self.config.steps), f"train {self.folder.name}"):
            self._step(step, batches(step))
            if (step + 1) % self.config.checkpoint_every == 0:
                save_checkpoint(self.folder / CHECKPOINT, step + 1, self._modules, self.optimizer)
        averaged_deploy = self.average.module
        assert isinstance(averaged_deploy, Deploy)
        return averaged_deploy.eval()

    def _resume(self) -> int:
        path = self.folder / CHECKPOINT
        return load_checkpoint(path, self._modules, self.optimizer) if path.exists() else 0

    def _step(self, step: int, batch: Batch) -> None:
        torch.manual_seed(self.seed * 1_000_003 + step)  # dropout and the like, if a network has any
        self.deploy.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(step, self.config)
        losses = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            [*self.deploy.parameters(), *self.objective.parameters()], self.config.clip
        )
        self.optimizer.step()
        self.average.update_parameters(self.deploy)
        if step % self.config.log_every == 0 or step + 1 == self.config.steps:
            self._log(step, losses, norm)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self.config.device
        pixels = batch.pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
        supervision = batch.supervision.to(device)
        with torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            raw = self.deploy.raw(pixels)
            embeddings = self.deploy.unit_norm(raw)
        losses: dict[str, Tensor] = self.objective(
            embeddings.float(), replace(supervision, raw=raw, pixels=pixels)
        )
        return losses

    def _log(self, step: int, losses: dict[str, Tensor], norm: Tensor) -> None:
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise ModelError(f"the loss is not finite at step {step} ({values}): lower the learning rate")
        self.metrics.write(step, {**values, "gradient_norm": float(norm), "rate": rate_at(step, self.config)})


class Metrics:
    """JSON lines, one a logged step; resuming drops the lines of steps that will be done again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        self.path.write_text("".join(line for line in whole if json.loads(line)["step"] < step))

    def write(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values, "time": round(time.time(), 3)}) + "\n")
