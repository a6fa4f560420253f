"""Powers and amplitudes in decibels and back: numbers, NumPy arrays and tensors alike, each in its own precision.

:func:`sionna.phy.utils.db_to_lin` and :func:`~sionna.phy.utils.lin_to_db` do the same for tensors of one precision.

Examples
--------
>>> db_to_lin(20.0), lin_to_db(100.0), db_to_amplitude(20.0), amplitude_to_db(100.0)
(100.0, 20.0, 10.0, 40.0)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    X = TypeVar("X", float, NDArray[np.float64], NDArray[np.float32], torch.Tensor)


def db_to_lin(x: X) -> X:
    """``10^(x / 10)``: dB to a ratio of powers."""
    power: X = 10.0 ** (x / 10.0)
    return power


def lin_to_db(x: X) -> X:
    """``10 log10(x)``: a ratio of powers to dB."""
    level: X = 10.0 * _log10(x)
    return level


def db_to_amplitude(x: X) -> X:
    """``10^(x / 20)``: dB to a ratio of amplitudes."""
    amplitude: X = 10.0 ** (x / 20.0)
    return amplitude


def amplitude_to_db(x: X) -> X:
    """``20 log10(x)``: a ratio of amplitudes to dB."""
    level: X = 20.0 * _log10(x)
    return level


def _log10(x: Any) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return np.log10(x)
    return math.log10(x) if isinstance(x, int | float) else x.log10()
