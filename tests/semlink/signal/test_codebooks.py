"""The codebooks of TS 38.214: bits and codewords recomputed from the tables, what must not matter, bad reports."""

from __future__ import annotations

import cmath
import itertools
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from decoded import decoded_alike

from lab.training.channel_dataset import drop
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.signal.csi import CsiQuantizer, quantizer_for
from semlink.signal.csi.beams import (
    Panel,
    combinations_by_index,
    directions,
    index_of_combination,
    steering,
)
from semlink.signal.csi.cqi import decode_cqi, encode_cqi
from semlink.signal.csi.etype2 import formats as etype2_formats
from semlink.signal.csi.type1 import formats as type1_formats
from semlink.signal.metrics import sgcs

PORTS = {2: (1, 1), 4: (2, 1), 8: (2, 2), 16: (4, 2), 32: (4, 4)}
CASES = [
    (8, 2, 1),
    (8, 2, 2),
    (16, 2, 1),
    (16, 2, 2),
    (32, 2, 1),
    (32, 2, 2),
    (16, 4, 3),
    (8, 4, 4),
]
"""(ports, receive antennas, layers)."""


def quantizer(
    name: str, bits: int, num_tx_ant: int = 16, num_rx_ant: int = 2, num_layers: int = 1
) -> CsiQuantizer:
    config = Link().replace(
        num_tx_ant=num_tx_ant,
        num_rx_ant=num_rx_ant,
        num_layers=num_layers,
        quantizer=name,
        bits=bits,
    )
    return quantizer_for(config)


def sizes(name: str, num_tx_ant: int, num_layers: int) -> list[int]:
    formats = type1_formats if name == "type1" else etype2_formats
    return sorted(formats(Panel.from_num_ports(num_tx_ant), num_layers))


def gaussian(batch: int, num_tx_ant: int = 16, num_rx_ant: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        (batch, 8, num_rx_ant, num_tx_ant), dtype=torch.complex64, generator=generator
    )


def round_trip(q: CsiQuantizer, h: torch.Tensor) -> torch.Tensor:
    index = torch.arange(len(h))
    return q.decode(q.encode(h, index), index)


def columns_of(decoded: torch.Tensor, num_layers: int) -> torch.Tensor:
    """Unit precoding vectors as columns ``[batch, 8, tx, layers]``."""
    w = decoded[:, :, :num_layers].mH
    return w / w.abs().square().sum(2, keepdim=True).sqrt()


@pytest.fixture(scope="module")
def channels() -> dict[str, torch.Tensor]:
    """Validation drops: 96 users of each scenario."""
    return {
        scenario: torch.cat([drop(scenario, 5_000_000 + i, 16, 2, moments=1) for i in range(3)])
        for scenario in ("umi-los", "uma-nlos")
    }


# --- sizes --------------------------------------------------------------------------------------------------------


def test_type1_sizes_of_16_ports_are_those_of_the_tables() -> None:
    """TS 38.212 Table 6.3.1.1.2-1 with N1 = 4, N2 = 2, O = 4, in numbers, and 4 bits of CQI, 16 more by subband."""
    # i1,1 + i1,2 + i1,3 and i2: rank 1 modes 1, 2; rank 2 modes 1, 2; ranks 3 and 4.
    tables = {
        1: [(4 + 3, 2), (3 + 2, 4)],
        2: [(4 + 3 + 2, 1), (3 + 2 + 2, 3)],
        3: [(3 + 3 + 2, 1)],
        4: [(3 + 3 + 2, 1)],
    }
    for rank, modes in tables.items():
        expected = {
            4 + 16 * cqi + i1 + i2 * (8 if pmi else 1)
            for i1, i2 in modes
            for cqi in (0, 1)
            for pmi in (0, 1)
        }
        assert sizes("type1", 16, rank) == sorted(expected)
    assert sizes("type1", 16, 1) == [13, 27, 29, 41, 43, 57]
    assert sizes("type1", 2, 1) == [4 + 2, 4 + 16, 20 + 2, 20 + 16]
    assert sizes("type1", 2, 2) == [4 + 1, 4 + 8, 20 + 1, 20 + 8]
    # 4 ports, rank 2: i1,3 has one bit; ranks 3 and 4: none. 8 ports, ranks 3 and 4: three values in two bits.
    assert 4 + 3 + 1 + 8 in sizes("type1", 4, 2)
    assert sizes("type1", 4, 4) == [8, 15, 24, 31]
    assert sizes("type1", 8, 3) == [4 + 8 + 1, 4 + 8 + 8, 20 + 8 + 1, 20 + 8 + 8]


def test_etype2_sizes_are_those_of_the_tables() -> None:
    """TS 38.212 Tables 6.3.2.1.2-1A and -3, N3 = 8, at the largest K_NZ; in numbers for 16 ports at rank 1."""
    # CQI, K_NZ, i1,1, i1,2, i1,6, i1,7, i1,8, i2,3 and 7 bits for each coefficient but the strongest.
    by_hand = {
        1: 4 + 1 + 4 + 5 + 3 + 8 + 1 + 4 + 7 * 1,
        2: 4 + 2 + 4 + 5 + 3 + 8 + 2 + 4 + 7 * 3,
        3: 4 + 2 + 4 + 7 + 3 + 16 + 2 + 4 + 7 * 3,
        4: 4 + 3 + 4 + 7 + 3 + 16 + 3 + 4 + 7 * 7,
        5: 4 + 4 + 4 + 7 + 3 + 16 + 4 + 4 + 7 * 11,
        6: 4 + 4 + 4 + 7 + 6 + 32 + 4 + 4 + 7 * 15,
    }
    assert list(by_hand.values()) == [37, 53, 63, 93, 123, 170]
    assert sizes("etype2", 16, 1) == sorted(
        {*by_hand.values(), *(16 + x for x in by_hand.values())}
    )
    table = {  # L, p_v at ranks 1 and 2, at ranks 3 and 4, β
        1: (2, 1 / 4, 1 / 8, 1 / 4),
        2: (2, 1 / 4, 1 / 8, 1 / 2),
        3: (4, 1 / 4, 1 / 8, 1 / 4),
        4: (4, 1 / 4, 1 / 8, 1 / 2),
        5: (4, 1 / 4, 1 / 4, 3 / 4),
        6: (4, 1 / 2, 1 / 4, 1 / 2),
        7: (6, 1 / 4, None, 1 / 2),
        8: (6, 1 / 4, None, 3 / 4),
    }

    def log2(x: int) -> int:
        return math.ceil(math.log2(x))

    for ports, rank in itertools.product((4, 8, 16, 32), (1, 2, 3, 4)):
        n1, n2 = PORTS[ports]
        expected = set()
        for combination, (beams, low, high, beta) in table.items():
            share = low if rank <= 2 else high
            if (
                share is None
                or (ports == 4 and combination > 2)
                or (ports < 32 and combination > 6)
            ):
                continue
            taps = math.ceil(share * 8)
            k0 = math.ceil(beta * 2 * beams * math.ceil(low * 8))
            k_nz = k0 if rank == 1 else 2 * k0
            bits = log2(4 if n1 > 1 else 1) + log2(4 if n2 > 1 else 1)
            bits += log2(math.comb(n1 * n2, beams)) + log2(k_nz)
            bits += rank * (log2(math.comb(7, taps - 1)) + 2 * beams * taps + 4)
            bits += rank * log2(k0 if rank == 1 else 2 * beams) + 7 * (k_nz - rank)
            expected |= {bits + 4, bits + 20}
        assert sizes("etype2", ports, rank) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "bits", "nearest"),
    [
        ("type1", 64, 57),
        ("type1", 1, 13),
        ("type1", 28, 27),
        ("etype2", 64, 63),
        ("etype2", 1024, 186),
    ],
)
def test_a_size_that_is_not_offered_names_the_nearest(name: str, bits: int, nearest: int) -> None:
    with pytest.raises(InvalidField, match=f"nearest allowed: {nearest}$") as error:
        quantizer(name, bits)
    assert error.value.field == "link.feedback.bits"
    assert quantizer(name, nearest).bits == nearest


def test_antennas_and_layers_without_a_codebook_are_refused() -> None:
    for name, ports in (("type1", 1), ("etype2", 1), ("etype2", 2)):
        with pytest.raises(InvalidField) as error:
            quantizer(name, 20, ports)
        assert error.value.field == "link.num_tx_ant"
    for name, layers in itertools.product(("type1", "etype2"), (0, 3)):
        with pytest.raises(InvalidField) as error:
            quantizer(name, 20, 16, 2, layers)
        assert error.value.field == "link.num_layers"


# --- indices and beams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k"), [(2, 2), (4, 2), (8, 4), (16, 2), (16, 4), (7, 1), (7, 3), (7, 0)]
)
def test_combinatorial_index_follows_the_standards_algorithm(n: int, k: int) -> None:
    """Clause 5.2.2.2.3: n^(i) from i1,2 by the largest x* with C(x*, L − i) ≤ what is left."""
    table = combinations_by_index(n, k)
    assert len(table) == math.comb(n, k)
    assert torch.equal(index_of_combination(table, n), torch.arange(len(table)))
    for index in random.Random(1).sample(range(len(table)), min(40, len(table))):
        left, found = index, []
        for i in range(k):
            x = max(x for x in range(k - 1 - i, n - i) if math.comb(x, k - i) <= left)
            left -= math.comb(x, k - i)
            found.append(n - 1 - x)
        assert table[index].tolist() == found


def naive_beam(n1: int, n2: int, o1: int, o2: int, l: int, m: int) -> np.ndarray:  # noqa: E741
    """``v_{l,m}`` of clause 5.2.2.2.1, not normalised."""
    u = [cmath.exp(2j * math.pi * m * k / (o2 * n2)) for k in range(n2)]
    return np.array([cmath.exp(2j * math.pi * l * j / (o1 * n1)) * x for j in range(n1) for x in u])


def test_beams_are_those_of_the_standard_in_our_port_order() -> None:
    """The row runs fastest, and a plane wave over the columns alone is v with m = 0."""
    panel = Panel.from_num_ports(16)
    assert (panel.n1, panel.n2, panel.o1, panel.o2) == (4, 2, 4, 4)
    for l, m in ((0, 0), (5, 3), (15, 7)):  # noqa: E741
        ours = steering(panel, torch.tensor(l), torch.tensor(m), 4).numpy() * math.sqrt(8)
        assert np.allclose(ours, naive_beam(4, 2, 4, 4, l, m), atol=1e-5)
    wave = steering(panel, torch.tensor(3), torch.tensor(0), 4).view(4, 2)
    assert torch.allclose(wave[:, 0], wave[:, 1])


# --- codewords ----------------------------------------------------------------------------------------------------


class Bits:
    """Builds a payload field by field."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, width: int) -> None:
        assert 0 <= value < 2**width or (width == 0 and value == 0)
        self.text += f"{value:0{width}b}" if width else ""

    def payload(self) -> torch.Tensor:
        padded = self.text.ljust(-(-len(self.text) // 8) * 8, "0")
        octets = [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]
        return torch.tensor([octets], dtype=torch.uint8)


def type1_offsets(ports: int, rank: int) -> list[tuple[int, int]]:
    """(k1, k2) of Tables 5.2.2.2.1-3 and -4 with O1 = O2 = 4, for our panels."""
    return {
        (2, 2): [(0, 0)],
        (4, 2): [(0, 0), (4, 0)],
        (8, 2): [(0, 0), (4, 0), (0, 4), (4, 4)],
        (16, 2): [(0, 0), (4, 0), (0, 4), (8, 0)],
        (32, 2): [(0, 0), (4, 0), (0, 4), (4, 4)],
        (4, 3): [(4, 0)],
        (8, 3): [(4, 0), (0, 4), (4, 4)],
    }[ports, min(rank, 3)]


def type1_word(
    ports: int, rank: int, mode: int, i11: int, i12: int, i13: int, i2: int
) -> np.ndarray:
    """W of Tables 5.2.2.2.1-1 and -5 … -8, written out."""
    n1, n2 = PORTS[ports]
    o1, o2 = (4 if n1 > 1 else 1), (4 if n2 > 1 else 1)
    phases = 4 if rank == 1 else 2
    l, m, n = i11, i12, i2  # noqa: E741
    if mode == 2:
        step = i2 // phases
        n = i2 % phases
        if n2 > 1:
            l, m = 2 * i11 + (0, 1, 0, 1)[step], 2 * i12 + (0, 0, 1, 1)[step]  # noqa: E741
        else:
            l, m = 2 * i11 + step, 0  # noqa: E741
    phi = 1j**n
    if rank >= 3 and ports >= 16:
        theta = cmath.exp(1j * math.pi * i13 / 4)
        # ṽ: half the columns, e^{j4πl/(O1·N1)} from one to the next.
        v = naive_beam(n1 // 2, n2, o1, o2, l, m)
        rows = [
            [v, v, v, v],
            [theta * v, -theta * v, theta * v, -theta * v],
            [phi * v, phi * v, -phi * v, -phi * v],
            [phi * theta * v, -phi * theta * v, -phi * theta * v, phi * theta * v],
        ]
        w = np.concatenate([np.stack(row, axis=1) for row in rows])[:, :rank]
        return np.asarray(w / math.sqrt(rank * ports))
    v = naive_beam(n1, n2, o1, o2, l, m)
    if rank == 1:
        return np.concatenate([v, phi * v])[:, None] / math.sqrt(ports)
    k1, k2 = type1_offsets(ports, rank)[i13]
    other = naive_beam(n1, n2, o1, o2, l + k1, m + k2)
    if rank == 2:
        upper, lower = [v, other], [phi * v, -phi * other]
    else:
        upper = [v, other, v, other][:rank]
        lower = [phi * v, phi * other, -phi * v, -phi * other][:rank]
    w = np.concatenate([np.stack(upper, axis=1), np.stack(lower, axis=1)])
    return np.asarray(w / math.sqrt(rank * ports))


@pytest.mark.parametrize("ports", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_type1_decodes_to_the_standards_codewords(ports: int, rank: int) -> None:
    if rank > ports:
        return
    rng = random.Random(ports * 10 + rank)
    n1, n2 = PORTS[ports]
    beams1, beams2 = (4 * n1 if n1 > 1 else 1), (4 * n2 if n2 > 1 else 1)
    for mode in (1, 2) if rank <= 2 and ports > 2 else (1,):
        num_i11 = beams1 // 2 if mode == 2 or (rank >= 3 and ports >= 16) else beams1
        num_i12 = beams2 // 2 if mode == 2 and n2 > 1 else beams2
        num_i13 = (
            1 if rank == 1 else 4 if rank >= 3 and ports >= 16 else len(type1_offsets(ports, rank))
        )
        num_i2 = (4 if rank == 1 else 2) * (4 if mode == 2 else 1)
        widths = [math.ceil(math.log2(x)) for x in (num_i11, num_i12, num_i13, num_i2)]
        bits = 20 + sum(widths[:3]) + 8 * widths[3]
        q = quantizer("type1", bits, ports, 4, rank)
        for _ in range(10):
            i11, i12, i13 = (rng.randrange(x) for x in (num_i11, num_i12, num_i13))
            i2 = [rng.randrange(num_i2) for _ in range(8)]
            report = Bits()
            report.put(rng.randrange(16), 4)
            for _ in range(8):
                report.put(rng.randrange(4), 2)
            for value, width in zip((i11, i12, i13), widths, strict=False):
                report.put(value, width)
            for value in i2:
                report.put(value, widths[3])
            decoded = q.decode(report.payload(), torch.zeros(1, dtype=torch.int64))
            found = columns_of(decoded, rank)[0].numpy() / math.sqrt(rank)
            for subband in range(8):
                word = type1_word(ports, rank, mode, i11, i12, i13, i2[subband])
                assert np.allclose(found[subband], word, atol=1e-5)
                assert np.allclose(word.conj().T @ word, np.eye(rank) / rank, atol=1e-9)
            assert not decoded[:, :, rank:].any()
            directions_found = torch.linalg.svd(decoded[0]).Vh[:, :rank]
            match = directions_found.conj() @ torch.from_numpy(found).to(torch.complex64).conj()
            expected = torch.eye(rank).expand(8, -1, -1) / math.sqrt(rank)
            assert torch.allclose(match.abs(), expected, atol=2e-3)


def etype2_report(
    rng: random.Random, ports: int, rank: int, combination: int
) -> tuple[torch.Tensor, np.ndarray, int]:
    """A random report and its precoder ``[8, ports, rank]`` by loops over Table 5.2.2.2.5-5; and its bits."""
    n1, n2 = PORTS[ports]
    o1, o2 = 4, (4 if n2 > 1 else 1)
    beams = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4, 6: 4, 7: 6, 8: 6}[combination]
    taps = {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 4, 7: 2, 8: 2}[combination]
    k0 = {1: 2, 2: 4, 3: 4, 4: 8, 5: 12, 6: 16, 7: 12, 8: 18}[combination]
    if rank > 2:
        taps = {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2}[combination]
    most = k0 if rank == 1 else 2 * k0
    report = Bits()
    report.put(rng.randrange(16), 4)
    while True:
        counts = [rng.randint(1, min(k0, 2 * beams * taps)) for _ in range(rank)]
        if sum(counts) <= most:
            break
    report.put(sum(counts) - 1, math.ceil(math.log2(most)))
    q1, q2 = rng.randrange(o1), rng.randrange(o2)
    report.put(q1, int(math.log2(o1)))
    report.put(q2, int(math.log2(o2)))
    chosen = sorted(rng.sample(range(n1 * n2), beams))
    i12 = sum(math.comb(n1 * n2 - 1 - n, beams - i) for i, n in enumerate(chosen))
    report.put(i12, math.ceil(math.log2(math.comb(n1 * n2, beams))))
    delays = [[0, *sorted(rng.sample(range(1, 8), taps - 1))] for _ in range(rank)]
    for row in delays:
        i16 = sum(math.comb(7 - row[f], taps - f) for f in range(1, taps))
        report.put(i16, math.ceil(math.log2(math.comb(7, taps - 1))))
    strongest, maps = [], []
    for count in counts:
        star = rng.randrange(2 * beams)
        rest = [(f, i) for f in range(taps) for i in range(2 * beams) if (f, i) != (0, star)]
        strongest.append(star)
        maps.append({(0, star), *rng.sample(rest, count - 1)})
    for kept in maps:
        for f, i in itertools.product(range(taps), range(2 * beams)):
            report.put(int((f, i) in kept), 1)
    for star, kept in zip(strongest, maps, strict=True):
        if rank == 1:
            report.put(sum((0, i) in kept for i in range(star)), math.ceil(math.log2(k0)))
        else:
            report.put(star, math.ceil(math.log2(2 * beams)))
    weaker = [rng.randint(1, 15) for _ in range(rank)]
    for value in weaker:
        report.put(value, 4)
    sent = [
        (layer, f, i)
        for layer in range(rank)
        for f, i in sorted(maps[layer])
        if (f, i) != (0, strongest[layer])
    ]
    k2 = {key: rng.randrange(8) for key in sent}
    phases = {key: rng.randrange(16) for key in sent}
    padding = most - rank - len(sent)
    for values, width in ((k2, 3), (phases, 4)):
        for key in sent:
            report.put(values[key], width)
        report.put(0, padding * width)
    w = np.zeros((8, ports, rank), dtype=complex)
    for t, layer in itertools.product(range(8), range(rank)):
        for f, i in maps[layer]:
            star = strongest[layer]
            p1 = 1.0
            if i // beams != star // beams:
                p1 = 2 ** (-(15 - weaker[layer]) / 4)
            p2, c = 1.0, 0
            if (f, i) != (0, star):
                p2, c = 2 ** (-(7 - k2[layer, f, i]) / 2), phases[layer, f, i]
            y = cmath.exp(2j * math.pi * t * delays[layer][f] / 8)
            n = chosen[i % beams]
            v = naive_beam(n1, n2, o1, o2, o1 * (n % n1) + q1, o2 * (n // n1) + q2)
            half = slice(0, ports // 2) if i < beams else slice(ports // 2, ports)
            w[t, half, layer] += p1 * p2 * y * cmath.exp(2j * math.pi * c / 16) * v
        norm = np.linalg.norm(w[t, :, layer])
        w[t, :, layer] /= norm if norm > 1e-9 else 1.0
    return report.payload(), w, len(report.text)


@pytest.mark.parametrize(
    ("ports", "rank", "combination"),
    [
        (4, 1, 2),
        (4, 4, 2),
        (8, 1, 5),
        (8, 2, 3),
        (16, 1, 1),
        (16, 1, 3),
        (16, 1, 6),
        (16, 2, 4),
        (16, 3, 5),
        (16, 4, 6),
        (32, 1, 8),
        (32, 2, 7),
    ],
)
def test_etype2_decodes_to_the_standards_codewords(ports: int, rank: int, combination: int) -> None:
    rng = random.Random(ports + 100 * rank + combination)
    for _ in range(10):
        payload, w, bits = etype2_report(rng, ports, rank, combination)
        q = quantizer("etype2", bits, ports, 4, rank)
        decoded = q.decode(payload, torch.zeros(1, dtype=torch.int64))
        assert not decoded[:, :, rank:].any()
        found = columns_of(decoded, rank)[0].numpy().astype(complex)
        for t in range(8):
            if min(np.linalg.norm(w[t], axis=0)) < 0.5:
                continue  # delays that cancel: the standard's γ is zero there
            # Gram–Schmidt of the standard's columns, as far as they are apart.
            basis, triangle = np.linalg.qr(w[t])
            if min(abs(np.diag(triangle))) < 0.05:
                continue
            assert np.allclose(abs(basis.conj().T @ found[t]), np.eye(rank), atol=5e-3)


def test_delays_that_cancel_still_give_a_precoder() -> None:
    """16 ports, combination 1: one beam with two opposite delays is zero in a subband, where γ is zero."""
    report = Bits()
    for value, width in ((7, 4), (1, 1), (0, 2), (0, 2), (0, 5), (6, 3)):
        report.put(value, width)
    for bit in (1, 0, 0, 0, 1, 0, 0, 0):
        report.put(bit, 1)
    for value, width in ((0, 1), (15, 4), (7, 3), (8, 4)):
        report.put(value, width)
    assert len(report.text) == 37
    decoded = quantizer("etype2", 37).decode(report.payload(), torch.zeros(1, dtype=torch.int64))
    power = decoded.abs().square().sum((-1, -2))
    assert torch.allclose(power, power[:, :1].expand_as(power), rtol=1e-4)


# --- reports ------------------------------------------------------------------------------------------------------


def every_size(ports: int, rank: int) -> Iterator[tuple[str, int]]:
    for name in ("type1", "etype2"):
        for bits in sizes(name, ports, rank):
            yield name, bits


@pytest.mark.parametrize(("ports", "receive", "rank"), CASES)
def test_reports_have_their_bits_and_decode_to_ordered_orthogonal_layers(
    ports: int, receive: int, rank: int
) -> None:
    h = gaussian(6, ports, receive)
    h[1] = 0
    h[2] = h[2, :, :1]  # rank 1
    index = torch.arange(6)
    for name, bits in every_size(ports, rank):
        q = quantizer(name, bits, ports, receive, rank)
        payload = q.encode(h, index)
        assert payload.shape == (6, -(-bits // 8))
        assert payload.dtype == torch.uint8
        spare = 8 * payload.shape[1] - bits
        assert not (payload[:, -1] & (2**spare - 1)).any()
        decoded = q.decode(payload, index)
        assert decoded.dtype == torch.complex64
        assert decoded.shape == h.shape
        assert torch.isfinite(torch.view_as_real(decoded)).all()
        gram = decoded[:, :, :rank] @ decoded[:, :, :rank].mH
        power = gram.diagonal(dim1=-2, dim2=-1).real
        # etype2 may quantise two layers to the same vector: the second then has no row of its own.
        falling = power[..., 1:] < power[..., :1]
        assert falling.all()
        if name == "type1":
            assert (power.diff(dim=-1) < 0).all()
        assert (gram - torch.diag_embed(power)).abs().max() < 1e-3 * power.max()
        for part in (slice(0, 1), slice(3, 6)):
            alone = q.encode(h[part], index[part])
            assert torch.equal(alone, payload[part])
            assert decoded_alike(q.decode(alone, index[part]), decoded[part])


@pytest.mark.parametrize(("ports", "receive", "rank"), CASES)
def test_type1_requantised_is_the_same_precoder(ports: int, receive: int, rank: int) -> None:
    h = gaussian(32, ports, receive)
    for bits in sizes("type1", ports, rank):
        q = quantizer("type1", bits, ports, receive, rank)
        once = round_trip(q, h)
        again = round_trip(q, once)
        assert torch.allclose(columns_of(once, rank), columns_of(again, rank), atol=1e-4)


@pytest.mark.parametrize("bits", [37, 63, 123, 170])
def test_etype2_requantised_is_nearly_the_same_precoder(
    bits: int, channels: dict[str, torch.Tensor]
) -> None:
    """The phase of each subband is lost on the way and the search for it is not exhaustive: most reports come back as
    they were, the others almost."""
    q = quantizer("etype2", bits)
    for h in channels.values():
        once = round_trip(q, h)
        again = round_trip(q, once)
        same = sgcs(once, again)
        assert same.mean() > 0.985
        assert (same > 0.9999).float().mean() > (0.85 if bits < 100 else 0.4)
        assert sgcs(h, again).mean() > sgcs(h, once).mean() - 0.01


@pytest.mark.parametrize(
    ("name", "bits"), [("type1", 27), ("type1", 57), ("etype2", 63), ("etype2", 170)]
)
def test_a_common_phase_does_not_reach_the_payload(
    name: str, bits: int, channels: dict[str, torch.Tensor]
) -> None:
    h, q = channels["uma-nlos"], quantizer(name, bits)
    index = torch.arange(len(h))
    turned = h * torch.polar(torch.tensor(1.0), torch.tensor(2.345))
    # Rounding may tip a value that lies on the edge of a cell.
    assert (q.encode(h, index) == q.encode(turned, index)).all(1).float().mean() > 0.95


@pytest.mark.parametrize(
    ("name", "ladder"), [("type1", [13, 27, 41]), ("etype2", [37, 53, 63, 93, 123, 170])]
)
def test_more_bits_say_more(
    name: str, ladder: list[int], channels: dict[str, torch.Tensor]
) -> None:
    for h in channels.values():
        similarity = [
            float(sgcs(h, round_trip(quantizer(name, bits), h)).mean()) for bits in ladder
        ]
        assert similarity == sorted(similarity)
        # A random direction of 16 has 1/16.
        assert similarity[0] > 0.45
        assert similarity[-1] > similarity[0] + 0.02


def test_subband_cqi_spends_its_bits_on_the_gain_alone(channels: dict[str, torch.Tensor]) -> None:
    for name, short in (("type1", 27), ("etype2", 63)):
        h = channels["uma-nlos"]
        plain, fine = (round_trip(quantizer(name, bits), h) for bits in (short, short + 16))
        assert torch.allclose(columns_of(plain, 1), columns_of(fine, 1), atol=1e-5)
        true = (h @ columns_of(plain, 1)).abs().square().sum((-1, -2)).log10() * 10
        errors = [(d.abs().square().sum((-1, -2)).log10() * 10 - true).abs() for d in (plain, fine)]
        assert errors[1].mean() < 0.7 * errors[0].mean()


def test_gain_is_kept_within_half_a_step() -> None:
    """1.5 dB steps from −21 dB below all antennas in phase; the layers share it, each 0.25 dB below the one before."""
    gain_db = torch.linspace(-20.9, 2.9, 200)
    gain = (32 * 10 ** (gain_db / 10))[:, None].expand(-1, 8)
    for layers in (1, 3):
        amplitude = decode_cqi(encode_cqi(gain, 32.0, False), 32.0, layers)
        mean_db = 10 * torch.log10(amplitude.square().mean(-1) / 32)
        assert (mean_db - gain_db[:, None]).abs().max() < 0.751
        steps = 20 * torch.log10(amplitude[..., 1:] / amplitude[..., :-1])
        assert torch.allclose(steps, torch.tensor(-0.25), atol=1e-4)
    # Table 5.2.2.1-1: the differential value reaches from one below to two above.
    uneven = gain[100:101] * 10 ** (torch.tensor([0, 1.5, 3, 9, -1.5, -9, 0, 0]) / 10)
    fields = encode_cqi(uneven, 32.0, True)
    offsets = [(0, 1, 2, -1)[x] for x in fields[0, 1:].tolist()]
    raised = offsets[0]
    assert offsets[:6] == [min(max(raised + x, -1), 2) for x in (0, 1, 2, 6, -1, -6)]


@pytest.mark.parametrize(
    ("ports", "rank", "bits"), [(8, 1, 26), (8, 2, 20), (16, 1, 27), (16, 1, 41)]
)
def test_type1_search_finds_what_an_exhaustive_one_finds(ports: int, rank: int, bits: int) -> None:
    """Sum rate behind an LMMSE receiver at 10 dB over all codewords; at rank 2 the shortlist may miss a little."""
    h = drop("uma-nlos", 5_000_000, ports, 2, moments=1)[:8]
    mode = 2 if bits == 41 else 1
    n1, n2 = PORTS[ports]
    shape = (
        4 * n1 // mode,
        4 * n2 // mode,
        1 if rank == 1 else 4,
        (4 if rank == 1 else 2) * mode**2,
    )

    def rates(w: torch.Tensor) -> torch.Tensor:
        seen = h @ w * math.sqrt(rank)
        a = torch.eye(rank) + 10 / rank * seen.mH @ seen
        diagonal: torch.Tensor = torch.linalg.inv(a).diagonal(dim1=-2, dim2=-1).real
        return -diagonal.log2().sum(-1)

    best = torch.zeros(len(h))
    for i11, i12 in itertools.product(range(shape[0]), range(shape[1])):
        words = [
            [type1_word(ports, rank, mode, i11, i12, i13, i2) for i2 in range(shape[3])]
            for i13 in range(shape[2])
        ]
        w = torch.from_numpy(np.array(words)).to(torch.complex64)
        # [i1,3, i2, user, subband]: one i1,3 for all, an i2 for each subband.
        each = rates(w[:, :, None, None])
        best = torch.maximum(best, each.amax(1).sum(-1).amax(0))
    q = quantizer("type1", bits, ports, 2, rank)
    found = rates(columns_of(round_trip(q, h), rank) / math.sqrt(rank)).sum(1)
    assert (found <= best * 1.0001).all()
    assert (found > best * (0.9999 if rank == 1 else 0.9)).all()
    assert (found / best).mean() > 0.98


def test_directions_are_the_dominant_right_singular_vectors() -> None:
    h = gaussian(5, 16, 4)
    vh = torch.linalg.svd(h, full_matrices=False).Vh[:, :, :3]
    match = (directions(h, 3) @ vh.mT).abs()
    assert torch.allclose(match, torch.eye(3).expand_as(match), atol=1e-3)


# --- bad reports --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), [("type1", 27), ("etype2", 63)])
def test_another_length_and_spare_bits_are_refused(name: str, bits: int) -> None:
    q = quantizer(name, bits)
    index = torch.arange(2)
    payload = q.encode(gaussian(2), index)
    for length in (0, q.payload_bytes - 1, q.payload_bytes + 1):
        with pytest.raises(InvalidField) as error:
            q.decode(torch.zeros(2, length, dtype=torch.uint8), index)
        assert error.value.field == "payload"
    payload[1, -1] |= 1
    with pytest.raises(InvalidField, match="spare bits") as error:
        q.decode(payload, index)
    assert error.value.field == "payload"


def test_a_reserved_i13_is_refused() -> None:
    """8 ports, rank 3: i1,3 has three values in two bits (Table 5.2.2.2.1-4)."""
    report = Bits()
    for value, width in ((3, 4), (0, 3), (0, 3), (0, 3), (3, 2), (0, 1)):
        report.put(value, width)
    report.text = report.text[:10] + "11" + "0"
    with pytest.raises(InvalidField, match="i1,3") as error:
        quantizer("type1", 13, 8, 4, 3).decode(report.payload(), torch.arange(1))
    assert error.value.field == "payload"


def test_etype2_refuses_what_no_csi_gives() -> None:
    """16 ports, rank 1, combination 3: fields at fixed places of the 63 bits."""
    q, index = quantizer("etype2", 63), torch.arange(1)
    word = list(Bits().text)
    # CQI 4, K_NZ 2, i1,1 4, i1,2 7, i1,6 3, i1,7 16, i1,8 2, i2,3 4, i2,4 9, i2,5 12.
    places = {
        "k_nz": 4,
        "i12": 10,
        "i16": 17,
        "i17": 20,
        "i18": 36,
        "i23": 38,
        "i24": 42,
        "i25": 51,
    }
    word = ["0"] * 63
    word[places["k_nz"] : places["k_nz"] + 2] = "01"
    word[places["i17"]] = word[places["i17"] + 1] = "1"
    word[places["i23"]] = "1"

    def decode(changes: dict[int, str]) -> torch.Tensor:
        report = Bits()
        report.text = "".join(changes.get(i, bit) for i, bit in enumerate(word))
        return q.decode(report.payload(), index)

    assert torch.isfinite(torch.view_as_real(decode({}))).all()
    bad = {
        "number of coefficients": {places["k_nz"]: "1"},
        "i1,2": dict.fromkeys(range(10, 17), "1"),
        "i1,6": dict.fromkeys(range(17, 20), "1"),
        "i1,8": {places["i18"]: "1"},
        "i2,3": {places["i23"]: "0"},
        "padding": {places["i24"] + 8: "1"},
        "more than 4": {places["i17"] + i: "1" for i in range(5)} | {4: "1", 5: "1"},
    }
    for match, changes in bad.items():
        with pytest.raises(InvalidField, match=match) as error:
            decode(changes)
        assert error.value.field == "payload"
