"""What two decodings of one payload may differ by."""

from __future__ import annotations

import torch

from semlink.signal.csi.interface import DECODED_TOLERANCE


def decoded_alike(csi: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether CSI ``[batch, …]`` of equal payloads is equal up to rounding."""
    rms = other.abs().square().flatten(1).mean(1).sqrt()
    difference = (csi - other).abs().flatten(1).amax(1)
    return bool((difference <= DECODED_TOLERANCE * rms).all())
