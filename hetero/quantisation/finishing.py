"""From a float student to one finished for int8, in the same space and architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from hetero.models.deploy import Deploy
from hetero.models.store import Model
from hetero.objectives.terms import Objective
from hetero.quantisation.config import QuantisedConfig
from hetero.quantisation.corrections import correct_biases, round_adaptively
from hetero.quantisation.equalisation import equalise
from hetero.quantisation.folding import fold
from hetero.quantisation.scheme import SCHEMES
from hetero.quantisation.simulation import Images, QuantisedDeploy
from hetero.training.batches import Batch
from hetero.training.loop import CHECKPOINT, Fit
from hetero_devices.runtimes import Format


def prepared(
    model: Model, format: Format, config: QuantisedConfig, calibration: Images, seed: int = 0
) -> QuantisedDeploy:
    """The simulation of the student's int8 artefact, corrected as `config` says, before any training.

    calibration: uint8 [K, S, S, 3], the images the exporter will calibrate on. Raises ModelError for a
    network with an operator that is not simulated, DataError for unusable images.
    """
    deploy = _simulated(model, format, config, calibration, equalised="equalise" in config.corrections)
    if "adaround" in config.corrections:
        round_adaptively(deploy, seed=seed)
    if "bias" in config.corrections:
        correct_biases(deploy)
    return deploy


def finish(
    model: Model,
    format: Format,
    config: QuantisedConfig,
    calibration: Images,
    *,
    objective: Objective | None,
    batches: Callable[[int], Batch] | None,
    folder: Path,
    seed: int = 0,
) -> Model:
    """Finish `model` for the int8 artefact of `format`: corrections, then training if `config.fit` says so.

    objective, batches: as for the student's own training (None without `config.fit`); targets are embeddings
    of the anchor, or of the float student where labels and anchor are missing. folder: keeps the training's
    state; called again after a kill it continues, with the same result. Returns a model of the same
    architecture and space, whose weights lie on the grid the quantiser will find: exporting it to int8 on
    the same calibration images gives an artefact that computes what was trained. Raises as `prepared`.
    """
    if config.fit is None:
        return _with_network(model, prepared(model, format, config, calibration, seed))
    assert objective is not None
    assert batches is not None
    torch.manual_seed(seed)
    resumed = (folder / CHECKPOINT).exists()  # it holds the corrected weights
    deploy = (
        _simulated(model, format, config, calibration, equalised=False)
        if resumed
        else prepared(model, format, config, calibration, seed)
    )
    trained = Fit(deploy, objective, config.fit, folder, seed).run(batches).to("cpu")
    assert isinstance(trained, QuantisedDeploy)
    return _with_network(model, trained)


def _simulated(
    model: Model, format: Format, config: QuantisedConfig, calibration: Images, equalised: bool
) -> QuantisedDeploy:
    folded = fold(model.deploy.network)
    folded = equalise(folded) if equalised else folded
    preprocessing = model.deploy.preprocessing
    return QuantisedDeploy(folded, preprocessing, SCHEMES[format], calibration, config.refresh).eval()


def _with_network(model: Model, finished: QuantisedDeploy) -> Model:
    network = finished.into(model.deploy.network)
    return replace(model, deploy=Deploy(network, model.deploy.preprocessing).eval())
