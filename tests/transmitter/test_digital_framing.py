"""Digital framing: the MCS follows what the reports promise and nothing else; symbols are its constellation's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semlink.links import Link
from semlink.semantics.digital import DIGITAL_CODINGS, DigitalCoding
from semlink.signal.coding import constellation, scheme_of, usable_mcs
from transmitter.framing import Framed, Message, frame

CPU = torch.device("cpu")


def message(  # type: ignore[no-untyped-def]
    coding: DigitalCoding,
    seed: int = 0,
    *,
    snr_db: float = 10.0,
    k: int = 64,
    layers: int = 1,
    **values,
) -> Message:
    rng = np.random.default_rng(seed)
    feature = rng.normal(size=256).astype(np.float32)
    config = Link().replace(snr_db=snr_db, num_users=1, num_rx_ant=4, num_layers=layers)
    csi = rng.normal(size=(2, 1, 8, 4, 16)) / 2**0.5
    fields = {
        "space": "person",
        "components": feature[None] / np.linalg.norm(feature),
        "num_symbols": k,
        "config": config,
        "csi": (csi[0] + 1j * csi[1]).astype(np.complex64),
        "slot": 200,
        "coding": coding,
    }
    return Message(**(fields | values))


def same(one: Framed, other: Framed) -> bool:
    return one.mcs == other.mcs and bool(np.array_equal(one.symbols, other.symbols))


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_symbols_are_points_of_the_mcs_that_is_named(coding: DigitalCoding, layers: int) -> None:
    for k in (8, 16, 32, 64, 128):
        (framed,) = frame([message(coding, k=k, layers=layers)], CPU)
        assert framed.symbols.shape == (layers, -(-k // layers))
        assert framed.mcs in usable_mcs(k)
        points = constellation(scheme_of(framed.mcs, k).bits_per_symbol).numpy()
        in_order = framed.symbols.T.reshape(-1)
        assert np.abs(in_order[:k, None] - points).min(1).max() < 1e-5
        assert np.allclose(in_order[k:], 1.0)


def test_a_better_promise_never_lowers_the_mcs() -> None:
    chosen = [
        frame([message("separation", snr_db=s)], CPU)[0].mcs for s in (-25, -15, -5, 5, 15, 25)
    ]
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] > 10


def test_the_mcs_depends_on_reports_not_on_the_message() -> None:
    first, other = message("separation", 1), message("separation", 2)
    swapped = message("separation", 1, components=other.components)
    assert frame([first], CPU)[0].mcs == frame([swapped], CPU)[0].mcs
    # nothing known: the same link must be taken for a worse one
    unknown = message("separation", 1, csi=None)
    assert frame([unknown], CPU)[0].mcs < frame([first], CPU)[0].mcs


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
def test_batch_mates_of_every_kind_change_nothing(coding: DigitalCoding) -> None:
    mates = [message(coding, i, snr_db=3.0 * i - 15) for i in range(8)]
    mates += [
        message("separation", 20),
        message("vq-digital", 21, k=16),
        message(coding, 22, csi=None),
    ]
    together = frame(mates, CPU)
    assert len({f.mcs for f in together}) > 4
    for mate, framed in zip(mates, together, strict=True):
        assert same(frame([mate], CPU)[0], framed)
