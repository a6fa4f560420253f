"""Bits over the channel: 5G NR channel coding and QAM for messages of a few hundred bits, batched.

The chain of 3GPP TS 38.212 and TS 38.211, cut to one code block of one message: payload → CRC → LDPC (base graph 2) →
rate matching → bit interleaver → scrambling → QAM. A modulation and coding scheme (MCS) is a row of TS 38.214 Table
5.1.3.1-2; with the number of symbols it fixes every length, so that a header needs to say no more.

Ours, where the standard's transport blocks are too long for k ≤ 128 symbols: the CRC is that of uplink control
information (TS 38.212 clause 6.3.1.2.1: CRC6 below 20 payload bits, CRC11 from there on, against CRC16 of a transport
block); messages of fewer than 12 bits with their CRC, the least that Sionna's LDPC codes take, use the (32, K) block
code of TS 38.212 clause 5.3.3.3. Blocks of at most 16 bits are decoded by maximum likelihood, which at these lengths
gains 1 to 2 dB over belief propagation; longer ones by Sionna's belief propagation.

Examples
--------
>>> scheme = scheme_of(mcs=5, num_symbols=64)
>>> payload = torch.randint(0, 2, (3, scheme.payload_bits), dtype=torch.uint8)
>>> symbols = modulate(payload, scheme)
>>> noise = 0.03 * torch.randn(3, 64, dtype=torch.complex64)
>>> decoded, passed = demodulate(symbols + noise, torch.full((3, 64), 1e-3), scheme)
>>> bool(passed.all()), bool((decoded == payload).all())
(True, True)
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from sionna.phy.fec.crc import CRCEncoder
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
from sionna.phy.mapping import Constellation, Demapper, Mapper
from sionna.phy.nr.utils import generate_prng_seq

from semlink.errors import InvalidField
from semlink.signal.csi.rvq import block_matmul

MCS_TABLE: Final = (
    (2, 120.0),
    (2, 193.0),
    (2, 308.0),
    (2, 449.0),
    (2, 602.0),
    (4, 378.0),
    (4, 434.0),
    (4, 490.0),
    (4, 553.0),
    (4, 616.0),
    (4, 658.0),
    (6, 466.0),
    (6, 517.0),
    (6, 567.0),
    (6, 616.0),
    (6, 666.0),
    (6, 719.0),
    (6, 772.0),
    (6, 822.0),
    (6, 873.0),
    (8, 682.5),
    (8, 711.0),
    (8, 754.0),
    (8, 797.0),
    (8, 841.0),
    (8, 885.0),
    (8, 916.5),
    (8, 948.0),
)
"""Bits of a QAM symbol and 1024 × code rate for each MCS: TS 38.214 Table 5.1.3.1-2 (QPSK … 256QAM)."""
NUM_ITERATIONS: Final = 20
"""Of belief propagation (sum-product, flooding)."""
SCRAMBLING_SEED: Final = 38_211
"""``c_init`` of the Gold sequence (TS 38.211 clause 5.2.1); any constant that both ends know."""
_MIN_LDPC_BITS: Final = 12
_MAX_EXHAUSTIVE_BITS: Final = 16
"""Block bits up to which every codeword is tried."""
_MIN_LDPC_RATE: Final = 1 / 5
_CRC_BITS: Final = {"CRC6": 6, "CRC11": 11}
_LONG_CRC_FROM: Final = 20
"""Payload bits from which CRC11 replaces CRC6: TS 38.212 clause 6.3.1.2.1."""
_BLOCK_CODE_ROWS: Final = (
    "11000000001 11100000011 10010010111 10110000101 11110001001 11001011101 10101010111 10011001101 "
    "11011001011 10111010011 10100111011 11100110101 10010101111 11010101011 10001101001 11001111011 "
    "11101110010 10011100100 11011111000 10000110000 10100010001 11010000011 10001001101 11101000111 "
    "11111011110 11000111001 10110100110 11110101110 10101110100 10111111100 11111111111 10000000000"
)
"""Basis sequences ``M_{i,0…10}`` of TS 38.212 Table 5.3.3.3-1, one row for each coded bit."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """An MCS at a number of symbols: every length of the chain, in bits."""

    mcs: int
    num_symbols: int
    bits_per_symbol: int
    payload_bits: int
    crc: str
    """ "CRC6" or "CRC11"."""

    @property
    def block_bits(self) -> int:
        """Payload and CRC: what the channel code protects."""
        return self.payload_bits + _CRC_BITS[self.crc]

    @property
    def coded_bits(self) -> int:
        """On the air."""
        return self.num_symbols * self.bits_per_symbol

    @property
    def is_block_code(self) -> bool:
        """Whether the block is too short for LDPC."""
        return self.block_bits < _MIN_LDPC_BITS

    @property
    def mother_bits(self) -> int:
        """Coded bits before repetition: LDPC goes down to rate 1/5, the block code has 32 (TS 38.212 clause 5.4)."""
        if self.is_block_code:
            return 32
        return min(self.coded_bits, int(self.block_bits / _MIN_LDPC_RATE))


@lru_cache(maxsize=1024)
def scheme_of(mcs: int, num_symbols: int, *, field: str = "mcs") -> Scheme:
    """Lengths of an MCS at ``num_symbols`` channel uses.

    The block has ``⌊coded bits · code rate⌋`` bits, less where the next longer CRC would leave a shorter payload.

    :param mcs: row of TS 38.214 Table 5.1.3.1-2.
    :raises InvalidField: naming ``field``, for an MCS that is not in the table or that leaves no payload.
    """
    found = _scheme_or_none(mcs, num_symbols) if 0 <= mcs < len(MCS_TABLE) else None
    if found is None:
        usable = usable_mcs(num_symbols)
        offered = f"{usable[0]}…{usable[-1]}" if usable else "none"
        raise InvalidField(
            f"{field} is {mcs}, allowed with {num_symbols} symbols: {offered}", field=field
        )
    return found


def _scheme_or_none(mcs: int, num_symbols: int) -> Scheme | None:
    bits_per_symbol, rate = MCS_TABLE[mcs]
    block_bits = int(num_symbols * bits_per_symbol * rate / 1024)
    short = min(block_bits - _CRC_BITS["CRC6"], _LONG_CRC_FROM - 1)
    long = block_bits - _CRC_BITS["CRC11"]
    payload_bits, crc = (long, "CRC11") if long >= _LONG_CRC_FROM else (short, "CRC6")
    if payload_bits < 1:
        return None
    return Scheme(mcs, num_symbols, bits_per_symbol, payload_bits, crc)


@lru_cache(maxsize=64)
def usable_mcs(num_symbols: int) -> tuple[int, ...]:
    """Every MCS that carries at least one payload bit over ``num_symbols`` symbols, most robust first."""
    return tuple(m for m in range(len(MCS_TABLE)) if _scheme_or_none(m, num_symbols) is not None)


def modulate(payload: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Payload bits to QAM symbols: CRC, LDPC or block code, rate matching, interleaver, scrambling, QAM.

    :param payload: uint8 0/1 ``[batch, payload_bits]``.
    :returns: complex64 ``[batch, num_symbols]``. The constellation has unit mean power; a single message has it in
        expectation (its bits are scrambled).
    :raises InvalidField: for another number of bits.
    """
    if payload.ndim != 2 or payload.shape[1] != scheme.payload_bits:
        raise InvalidField(
            f"payload has shape {tuple(payload.shape)}, expected (batch, {scheme.payload_bits})",
            field="payload",
        )
    chain = _chain(scheme, str(payload.device))
    block = chain.with_crc(payload.float())
    mother = chain.encode(block)
    repeated = mother[:, chain.repetition]
    scrambled = (repeated[:, chain.interleaver] + chain.scrambling) % 2
    symbols: torch.Tensor = chain.mapper(scrambled)
    return symbols.to(torch.complex64)


def demodulate(
    symbols: torch.Tensor, noise_variance: torch.Tensor, scheme: Scheme
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equalised symbols to payload bits and whether the CRC holds.

    :param symbols: complex64 ``[batch, num_symbols]``, unbiased.
    :param noise_variance: float32, the same shape, > 0, of each symbol.
    :returns: uint8 ``[batch, payload_bits]`` and bool ``[batch]``.
    :raises InvalidField: for another shape.
    """
    if symbols.shape[1:] != (scheme.num_symbols,) or noise_variance.shape != symbols.shape:
        raise InvalidField(
            f"symbols have shape {tuple(symbols.shape)} and noise_variance {tuple(noise_variance.shape)}, "
            f"expected (batch, {scheme.num_symbols})",
            field="symbols",
        )
    chain = _chain(scheme, str(symbols.device))
    llr = chain.demapper(symbols, noise_variance)
    llr = torch.where(chain.scrambling > 0.5, -llr, llr)
    deinterleaved = llr[:, chain.deinterleaver]
    # Repetitions of a bit add up.
    missing = -scheme.coded_bits % scheme.mother_bits
    padded = torch.nn.functional.pad(deinterleaved, (0, missing))
    combined = padded.view(len(llr), -1, scheme.mother_bits).sum(1)
    block = chain.decode(combined)
    payload = block[:, : scheme.payload_bits]
    passed = (chain.with_crc(payload) == block).all(1)
    return payload.to(torch.uint8), passed


def constellation(bits_per_symbol: int) -> torch.Tensor:
    """Points of the square QAM constellation of unit mean power, TS 38.211 clause 5.1: complex64 ``[2^bits]``."""
    return _constellation(bits_per_symbol).to(torch.complex64)


@lru_cache(maxsize=8)
def _constellation(bits_per_symbol: int) -> torch.Tensor:
    points: torch.Tensor = Constellation("qam", bits_per_symbol, device="cpu")()
    return points


class _Chain:
    """Encoder, decoder and index tables of one scheme on one device; nothing in it changes after it is built."""

    def __init__(self, scheme: Scheme, device: str) -> None:
        self.scheme = scheme
        coded, per_symbol = scheme.coded_bits, scheme.bits_per_symbol
        place = torch.arange(coded, device=device)
        self.repetition = place % scheme.mother_bits
        # TS 38.212 clause 5.4.2.2: written row by row, a row for each bit of a symbol, read column by column.
        self.interleaver = place.view(per_symbol, -1).T.flatten()
        self.deinterleaver = self.interleaver.argsort()
        sequence = np.asarray(generate_prng_seq(coded, SCRAMBLING_SEED), dtype=np.float32)
        self.scrambling = torch.from_numpy(sequence).to(device)
        self.mapper = Mapper("qam", per_symbol, device=device)
        self.demapper = Demapper("app", "qam", per_symbol, device=device)
        self._crc = CRCEncoder(scheme.crc, device=device)
        self._words: torch.Tensor | None = None
        if scheme.is_block_code:
            self._words = _codewords(_block_code(scheme.block_bits)).to(device)
        else:
            self._encoder, self._decoder = _ldpc(scheme.block_bits, scheme.mother_bits, device)
            if scheme.block_bits <= _MAX_EXHAUSTIVE_BITS:
                generator = self._encoder(torch.eye(scheme.block_bits, device=device))
                self._words = _codewords(generator.cpu()).to(device)
        # Sionna's blocks build themselves on the first call: do it here, under the lock.
        ones = torch.ones(1, scheme.num_symbols, device=device)
        self.decode(torch.zeros(1, scheme.mother_bits, device=device))
        self.encode(self.with_crc(torch.zeros(1, scheme.payload_bits, device=device)))
        self.demapper(self.mapper(torch.zeros(1, coded, device=device)), ones)

    def with_crc(self, payload: torch.Tensor) -> torch.Tensor:
        """Payload and its inverted CRC: an all-zero block, what a dead receiver decodes to, is none."""
        block: torch.Tensor = self._crc(payload)
        length = self.scheme.payload_bits
        return torch.cat([block[:, :length], 1 - block[:, length:]], 1)

    def encode(self, block: torch.Tensor) -> torch.Tensor:
        """``[batch, block_bits]`` → ``[batch, mother_bits]``."""
        if self._words is not None:
            weights = 2 ** torch.arange(self.scheme.block_bits, device=block.device)
            return self._words[(block.long() * weights).sum(1)]
        coded: torch.Tensor = self._encoder(block)
        return coded

    def decode(self, llr: torch.Tensor) -> torch.Tensor:
        """Log-likelihood ratios ``log P(1)/P(0)`` ``[batch, mother_bits]`` → hard bits ``[batch, block_bits]``."""
        if self._words is not None:
            # The codeword of the largest Σ LLR over its ones is the most likely one.
            best = block_matmul(llr, self._words.T).argmax(1)
            places = torch.arange(self.scheme.block_bits, device=llr.device)
            return ((best[:, None] >> places) & 1).float()
        bits: torch.Tensor = self._decoder(llr)
        return bits


_lock = threading.Lock()


def _chain(scheme: Scheme, device: str) -> _Chain:
    with _lock:
        return _chain_of(scheme, device)


@lru_cache(maxsize=256)
def _chain_of(scheme: Scheme, device: str) -> _Chain:
    return _Chain(scheme, device)


@lru_cache(maxsize=256)
def _ldpc(
    num_info_bits: int, num_coded_bits: int, device: str
) -> tuple[LDPC5GEncoder, LDPC5GDecoder]:
    encoder = LDPC5GEncoder(num_info_bits, num_coded_bits, device=device, check_input=False)
    decoder = LDPC5GDecoder(
        encoder, num_iter=NUM_ITERATIONS, hard_out=True, return_infobits=True, device=device
    )
    return encoder, decoder


@lru_cache(maxsize=16)
def _block_code(num_bits: int) -> torch.Tensor:
    """Generator of the (32, K) code, K ≤ 11: float32 0/1 ``[K, 32]``."""
    basis = torch.tensor([[float(b) for b in row] for row in _BLOCK_CODE_ROWS.split()])
    return basis[:, :num_bits].T.contiguous()


def _codewords(generator: torch.Tensor) -> torch.Tensor:
    """Every codeword of a generator ``[K, n]``: float32 0/1 ``[2^K, n]``; bit i of a row's number is block bit i."""
    num_bits = len(generator)
    blocks = torch.arange(2**num_bits)[:, None] >> torch.arange(num_bits) & 1
    return blocks.float() @ generator % 2
