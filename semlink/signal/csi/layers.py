r"""A report of what a precoder can use: the strongest rows of the channel, easy to code. Our definition.

No precoder can use how the receiver's antennas share what arrives: with unitary :math:`Q_s`, :math:`H_s` and
:math:`Q_s H_s` have the same :math:`H_s^H H_s`, singular values and right singular vectors. A receiver therefore turns
its channel, subband by subband, to :math:`U_s^H H_s = \Sigma_s V_s^H`, keeps the ``num_layers`` strongest rows, and
turns each row's free phase to agree with the subband before, so that the rows vary as slowly over the subbands as they
can. The 3GPP codebooks do the same (TS 38.214 clause 5.2.2.2: a PMI is a set of directions with free phases); any
scheme gains from it.

Examples
--------
>>> h = torch.randn(3, 8, 4, 16, dtype=torch.complex64)
>>> content = LayerRows(num_layers=2, num_rx_ant=4)
>>> rows = content.rows(h)
>>> rows.shape, content.csi(rows).shape
(torch.Size([3, 8, 2, 16]), torch.Size([3, 8, 4, 16]))
>>> turned = rows * torch.polar(torch.ones(3, 8, 2, 1), torch.rand(3, 8, 2, 1))
>>> bool(torch.allclose(content.phase_aligned(turned, rows), rows, atol=1e-5))
True
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from semlink.decibels import lin_to_db
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.link import LinkLike


def rows_of_layers(h: torch.Tensor, num_layers: int) -> torch.Tensor:
    """The strongest rows of each subband, phases continued from subband to subband.

    :param h: complex64 ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :returns: complex64 ``[..., num_subbands, num_layers, num_tx_ant]``, ``num_layers ≤ num_rx_ant``: rows
        ``σ_l v_lᴴ`` up to a phase each, strongest first.
    """
    if h.shape[-2] > 1:
        _, u = torch.linalg.eigh(h @ h.mH)
        rows = u.flip(-1)[..., :num_layers].mH @ h
    else:
        rows = h
    step = (rows[..., :-1, :, :] * rows[..., 1:, :, :].conj()).sum(-1)
    first = torch.ones_like(rows[..., :1, :, 0])
    phases = torch.cat([first, phase_factor(step)], dim=-2).cumprod(-2)
    smooth: torch.Tensor = rows * phases[..., None]
    return smooth


def phase_factor(z: torch.Tensor) -> torch.Tensor:
    """``z / |z|``, 1 where ``z`` is 0: complex64 of any shape.

    Every operation rounds correctly, unlike ``angle`` and ``polar``, which differ between a vectorised loop and its odd
    rest: where an item stands in a batch does not change its result.
    """
    largest = torch.maximum(z.real.abs(), z.imag.abs())
    there = largest > 0
    divisor = torch.where(there, largest, 1.0)
    real, imaginary = torch.where(there, z.real, 1.0) / divisor, z.imag / divisor
    modulus = (real.square() + imaginary.square()).sqrt()
    return torch.complex(real / modulus, imaginary / modulus)


class Content(ABC):
    """What a link's reports describe: how it comes from the channel, and what about it is arbitrary in each report."""

    name: ClassVar[str]
    """As links name it."""
    weights: ClassVar[str]
    """What codebooks for it are called."""
    rows_field: ClassVar[str]
    """The link's field that says how many rows there are."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows that schemes code."""

    @abstractmethod
    def quantizer(self, inner: CsiQuantizer) -> CsiQuantizer:
        """``inner``, a scheme for ``num_rows`` receive antennas, as a quantiser of channels."""

    @abstractmethod
    def rows(self, h: torch.Tensor) -> torch.Tensor:
        """What schemes code: complex64 ``[..., num_subbands, num_rows, num_tx_ant]``.

        :param h: complex64 ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
        """

    @abstractmethod
    def csi(self, rows: torch.Tensor) -> torch.Tensor:
        """CSI in the channel's shape from decoded rows."""

    @abstractmethod
    def inner(self, rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Inner products over what shares one free phase, of a shape that spreads over ``rows``."""

    def phase_aligned(self, rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """``rows`` with its free phases turned to agree with ``reference``, of the same shape."""
        return rows * phase_factor(self.inner(rows, reference))

    def similarity(self, rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Real part of the inner product once the phases agree: float ``[...]``."""
        return self.inner(rows, reference).abs().sum((-3, -2, -1))

    def nmse_db(self, h: torch.Tensor, csi: torch.Tensor) -> torch.Tensor:
        """NMSE of each sample over what is described, its free phases turned away.

        :param h: complex64 ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
        :param csi: complex64 ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
        :returns: float64 ``[...]`` in dB.
        """
        described = self.rows(h)
        error = described - self.phase_aligned(self.rows(csi), described)
        axes = (-3, -2, -1)
        power = described.abs().double().square().sum(axes)
        ratio = error.abs().double().square().sum(axes) / power
        return lin_to_db(ratio.clamp_min(1e-30))


@dataclass(frozen=True, slots=True)
class WholeChannel(Content):
    """The channel matrix; one phase is free in each report."""

    name: ClassVar[str] = "channel"
    weights: ClassVar[str] = "rvq"
    rows_field: ClassVar[str] = "num_rx_ant"
    num_rx_ant: int

    @property
    def num_rows(self) -> int:
        """The receive antennas."""
        return self.num_rx_ant

    def quantizer(self, inner: CsiQuantizer) -> CsiQuantizer:
        """``inner`` as it is."""
        return inner

    def rows(self, h: torch.Tensor) -> torch.Tensor:
        """The channel as it is."""
        return h

    def csi(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows as they are."""
        return rows

    def inner(self, rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """One for each report: ``[..., 1, 1, 1]``."""
        inner: torch.Tensor = (rows.conj() * reference).sum((-3, -2, -1), keepdim=True)
        return inner


@dataclass(frozen=True, slots=True)
class LayerRows(Content):
    """The ``num_layers`` strongest rows; every row of every subband has a free phase.

    CSI holds the rows where the first receive antennas would be, zeros behind: the precoder's directions and gains.
    """

    name: ClassVar[str] = "layers"
    weights: ClassVar[str] = "rvq-rows"
    rows_field: ClassVar[str] = "num_layers"
    num_layers: int
    num_rx_ant: int

    @property
    def num_rows(self) -> int:
        """The layers."""
        return self.num_layers

    @property
    def _scale(self) -> float:
        # Rows hold what all antennas receive: brought to a power of about 1, for which schemes are made.
        return math.sqrt(self.num_rx_ant / self.num_layers)

    def quantizer(self, inner: CsiQuantizer) -> CsiQuantizer:
        """``inner`` over the rows of the layers."""
        return LayerQuantizer(inner, self.num_rx_ant)

    def rows(self, h: torch.Tensor) -> torch.Tensor:
        """See :func:`rows_of_layers`, scaled."""
        return rows_of_layers(h, self.num_rows) / self._scale

    def csi(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows first, zeros behind."""
        return torch.nn.functional.pad(
            rows * self._scale, (0, 0, 0, self.num_rx_ant - self.num_layers)
        )

    def inner(self, rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """One for each row of each subband: ``[..., num_subbands, num_rows, 1]``."""
        inner: torch.Tensor = (rows.conj() * reference).sum(-1, keepdim=True)
        return inner


def content_of(config: LinkLike) -> WholeChannel | LayerRows:
    """What the reports of a (validated) link describe."""
    if config.feedback.content == "channel":
        return WholeChannel(config.num_rx_ant)
    return LayerRows(config.num_layers, config.num_rx_ant)


class LayerQuantizer(CsiQuantizer):
    """``inner``, a scheme for ``num_layers`` receive antennas, over the rows of the layers."""

    def __init__(self, inner: CsiQuantizer, num_rx_ant: int) -> None:
        super().__init__(num_rx_ant, inner.num_tx_ant)
        self.name = inner.name
        self.bits = inner.bits
        self._inner = inner
        self._content = LayerRows(inner.num_rx_ant, num_rx_ant)

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return self._inner.encode(self._content.rows(h), report_index)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return self._content.csi(self._inner.decode(payload, report_index))
