"""What a network costs, independent of any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulate operations of one image's forward pass, and learnt parameters."""

    macs: int
    parameters: int


def cost(network: nn.Module, size: int) -> Cost:
    """Count on one float32 [1, 3, size, size] input; the network's mode and buffers are left as they were."""
    training = network.training
    device = next(network.parameters()).device
    try:
        network.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, size, size, device=device))
    finally:
        network.train(training)
    return Cost(counter.get_total_flops() // 2, sum(p.numel() for p in network.parameters()))
