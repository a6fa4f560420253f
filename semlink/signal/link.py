"""What the physical layer reads of a link: any object with these attributes will do.

:class:`semlink.links.Link` has them.

Examples
--------
>>> from types import SimpleNamespace
>>> round(doppler_hz(SimpleNamespace(speed_mps=3 / 3.6, carrier_frequency_hz=3.5e9)), 2)
9.73
"""

from __future__ import annotations

from typing import Final, Protocol

SPEED_OF_LIGHT: Final = 299_792_458.0


class FeedbackLike(Protocol):
    """How CSI is reported."""

    @property
    def quantizer(self) -> str:
        """A name of :mod:`semlink.quantizers`."""

    @property
    def bits(self) -> int:
        """Bits of one report."""

    @property
    def memory(self) -> str:
        """What a report may rest on: "none", "fused" or "predictive"."""

    @property
    def content(self) -> str:
        """What a report describes: "layers" or "channel"."""

    @property
    def report_period_slots(self) -> int:
        """A report is made in every slot that is a multiple of it."""

    @property
    def delay_slots(self) -> int:
        """How much later a report can be used."""


class LinkLike(Protocol):
    """One cell's downlink."""

    @property
    def snr_db(self) -> float:
        """Transmit power over noise power [dB]."""

    @property
    def speed_mps(self) -> float:
        """Speed of every user [m/s]."""

    @property
    def carrier_frequency_hz(self) -> float:
        """Carrier frequency [Hz]."""

    @property
    def num_tx_ant(self) -> int:
        """Antenna ports of the transmitter."""

    @property
    def num_rx_ant(self) -> int:
        """Antennas of each user."""

    @property
    def num_layers(self) -> int:
        """Layers of each user."""

    @property
    def num_users(self) -> int:
        """Users that share a slot."""

    @property
    def feedback(self) -> FeedbackLike:
        """How CSI is reported."""


def doppler_hz(link: LinkLike) -> float:
    """Largest Doppler shift of a link [Hz], known to both ends from speed and carrier: ``v f / c``."""
    return link.speed_mps * link.carrier_frequency_hz / SPEED_OF_LIGHT
