"""What the codec is told of each symbol's SINR, against an independent recomputation from precoder and CSI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from semlink.links import Link
from semlink.semantics import message as message_codec
from transmitter.framing import Message, frame

K = 64


class Told:
    """Stands for the codec: writes down what it is told."""

    def __init__(self) -> None:
        self.snr_db = torch.empty(0)

    def encode(self, feature: torch.Tensor, snr_db: torch.Tensor, k: int) -> torch.Tensor:
        self.snr_db = snr_db
        # symbol j is recognisable
        phase = torch.arange(k).expand(len(feature), k) / k
        return torch.polar(torch.ones(len(feature), k), phase)


@pytest.mark.parametrize("allocation", ["equal", "water-filling"])
@pytest.mark.parametrize(
    ("users", "num_layers", "rx", "tx"),
    [(1, 1, 2, 16), (1, 4, 4, 32), (2, 3, 4, 8), (4, 2, 2, 16), (8, 1, 1, 8)],
)
def test_every_symbol_is_told_the_sinr_of_its_layer_and_subband(
    monkeypatch: pytest.MonkeyPatch, users: int, num_layers: int, rx: int, tx: int, allocation: str
) -> None:
    told = Told()

    def load(task: str, device: Any) -> Told:
        return told

    monkeypatch.setattr(message_codec, "load_codec", load)
    config = Link(
        num_users=users,
        num_layers=num_layers,
        num_rx_ant=rx,
        num_tx_ant=tx,
        power_allocation=allocation,
        snr_db=7.0,
    )
    rng = np.random.default_rng(users)
    csi = rng.normal(size=(2, users, 8, rx, tx)) + 1j * rng.normal(size=(2, users, 8, rx, tx))
    csi *= np.linspace(0.2, 1.5, 8)[:, None, None]
    messages = [
        Message(
            space="person",
            components=np.zeros((1, 256), np.float32),
            num_symbols=K,
            config=config,
            csi=one.astype(np.complex64),
            slot=200,
            user=user,
        )
        for one, user in zip(csi, (0, users - 1), strict=True)
    ]
    framed = frame(messages, torch.device("cpu"))
    n0 = users * num_layers / 10**0.7
    for row, (message, sent) in enumerate(zip(messages, framed, strict=True)):
        assert message.csi is not None
        for j in range(K):
            element, layer = divmod(j, num_layers)
            subband = element % 8
            assert np.angle(sent.symbols[layer, element]) == pytest.approx(j / K, abs=1e-5)
            # LMMSE from its definition: signal over everything else at the combiner's output
            g = message.csi[message.user, subband].astype(complex) @ sent.precoder[subband]
            stream = message.user * num_layers + layer
            rest = np.delete(g, stream, axis=1)
            covariance = rest @ rest.conj().T + n0 * np.eye(rx)
            own = g[:, stream]
            sinr = np.real(own.conj() @ np.linalg.solve(covariance, own))
            assert float(told.snr_db[row, j]) == pytest.approx(10 * np.log10(sinr), abs=1e-2)
