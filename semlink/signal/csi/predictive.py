"""``predictive`` memory for ``rvq``: both ends run one tracking filter, a report codes what it missed. Our definition.

Reports come in groups that begin anew every ``GROUP_SLOTS`` slots, as pictures do in video coding. In a group of
enough reports

1. the first report, and the one that ends the start-up, are *intra* reports: those of ``rvq`` with all bits;
2. between them the *profile* is sent, twice over: which of ``CLASSES`` the user's fading is (how fast it turns beside
   the Doppler shift that both ends know, and what share of it stands still, as a line of sight does), and the power of
   the channel over delays, receive and transmit components, 3 bits each; every parameter stands for itself, so that a
   lost report loses some of them, which then take their usual value;
3. every later report spends one bit to say what follows: an intra report of ``rvq``, which restarts the filter where
   memory does not pay (new scene, fast fading), or the *innovation*.

The filter is a Kalman filter of each component in the separable Karhunen–Loève domain of ``rvq``, second-order
autoregressive with the class's correlation ``κ + (1 − κ) J0(2π s f_D τ)``; the common phase of the channel is turned to
agree with the prediction first. The innovation is coded by stages of random Gaussian codewords, the same bank for all
reports under signs drawn from the report's index, so that errors do not repeat. A stage's codewords have the variance
that reverse water-filling of the predicted error gives each component (the test channel of the Gaussian rate–distortion
function), at the rate that random codebooks reach (``EFFICIENCY``). The covariances depend on no innovation: a lost
report leaves both ends with the same codebooks, and what it would have said fades at the filter's own pace. The
profile is refined from the tracked channel, slowly and smoothly, so that ends that have rounded differently stay
together: nothing in the filter jumps, but for what a report says. A decoder of another batch or processor follows the
encoder's track to better than −70 dB; a payload could differ between batches only where two codewords are as good to
single precision.

Examples
--------
>>> from semlink.signal.csi.layers import WholeChannel
>>> from semlink.weight_files import SHIPPED
>>> books = load_codebooks(SHIPPED, WholeChannel(2), 16)
>>> quantizer = PredictiveQuantizer(2, 16, 32, doppler_hz=9.7, period_slots=5, content=WholeChannel(2), codebooks=books)
>>> ours, theirs = quantizer.start(2), quantizer.start(2)
>>> for report_index in range(3):
...     payload = quantizer.encode_next(ours, torch.randn(2, 8, 2, 16, dtype=torch.complex64), report_index)
...     quantizer.decode_next(theirs, payload, torch.ones(2, dtype=torch.bool), report_index)
>>> bool(torch.equal(ours.now, theirs.now))
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar, Final

import numpy as np
import torch

from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS, SLOT_SECONDS
from semlink.seeds import stable_seed
from semlink.signal.csi.interface import GROUP_SLOTS, ChainedQuantizer, CsiQuantizer, State
from semlink.signal.csi.layers import Content
from semlink.signal.csi.packing import bits_of, bytes_of, fields_of, message_of
from semlink.signal.csi.request import QuantizerRequest
from semlink.signal.csi.rvq import (
    BLOCK_ROWS,
    Codebooks,
    RvqQuantizer,
    block_matmul,
    load_codebooks,
)

BITS_RANGE: Final = (8, 256)
SPEEDS: Final = (1.0, 0.7, 0.45, 0.25)
"""``s``: how fast a user's fading turns, in units of the Doppler shift."""
STILL_SHARES: Final = (0.0, 0.4, 0.75, 0.93)
"""``κ``: the share of the channel that stands still once the common phase has been turned away."""
CLASSES: Final = tuple((speed, still) for speed in SPEEDS for still in STILL_SHARES)
CLASS_BITS: Final = 4
SHARE_BITS: Final = 3
DOUBLINGS: Final = (-5.0, 3.0)
"""Range of a share of the power over its usual value, in doublings; receive antennas have ``RX_DOUBLINGS``."""
RX_DOUBLINGS: Final = (-0.8, 0.8)
USUAL_SHARE: Final = 0.02
"""Of the usual profile mixed into a user's, so that no component is ruled out."""
FORGETTING: Final = 1e-3
"""Innovation that every component has at least, of its power: keeps the filter stable and lets lost reports fade."""
ADAPTATION: Final = 0.02
UNSEEN_SHARE: Final = 0.7
"""Of the predicted error counted as power when the profile is refined: the model expects a little too much."""
STAGE_BITS: Final = 8
EFFICIENCY: Final = 0.72
"""Share of a stage's bits that random codewords turn into gain (best of 256 Gaussians: 2.8²/(2 ln 256))."""
CODEWORD_GAIN: Final = 0.95
BANK_STAGES: Final = 8
SIGN_ROWS: Final = 512
CORRELATION_LAGS: Final = 4
WATER_STEPS: Final = 10
SURE: Final = 0.8
"""SGCS of an innovation from which on no intra report is tried: it saves the encoder half its time."""
MIN_GROUP_IN_STARTS: Final = 4
"""Groups shorter than so many start-ups hold intra reports only."""


@lru_cache(maxsize=8)
def _bank(num_real: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codewords ``[BANK_STAGES, 2^STAGE_BITS, num_real]``, variance ½, and signs ``[SIGN_ROWS, num_real]``, float32.

    NumPy's Philox: the same on every machine.
    """
    rng = np.random.Generator(np.random.Philox(key=stable_seed("predictive-bank", num_real)))
    words = rng.standard_normal((BANK_STAGES, 2**STAGE_BITS, num_real)) * math.sqrt(0.5)
    signs = 2.0 * rng.integers(0, 2, (SIGN_ROWS, num_real)) - 1.0
    return torch.from_numpy(words).float(), torch.from_numpy(signs).float()


def clarke_correlation(doppler_hz: float, still: float, lag_s: float) -> float:
    """``κ + (1 − κ) J0(2π f_D τ)``: Clarke's fading beside a share that stands still."""
    from scipy.special import j0

    return still + (1 - still) * float(j0(2 * math.pi * doppler_hz * lag_s))


@dataclass(slots=True)
class Track(State):
    """What one end knows of a group so far; ``encode_next`` and ``decode_next`` move it on by one report.

    For every item of a batch: the channel now and one report ago (``now``, ``before``, complex64 ``[batch,
    components]``), the covariance of their errors (``p11``, ``p12``, ``p22``), the profile ``power``, the class's
    coefficients; ``header`` and ``received`` are the profile's bits received.
    """

    of_item: ClassVar[tuple[str, ...]] = (
        "now",
        "before",
        "p11",
        "p12",
        "p22",
        "power",
        "fading",
        "header",
        "received",
    )
    now: torch.Tensor
    before: torch.Tensor
    p11: torch.Tensor
    p12: torch.Tensor
    p22: torch.Tensor
    power: torch.Tensor
    fading: torch.Tensor
    header: torch.Tensor
    received: torch.Tensor
    past: list[torch.Tensor] = field(default_factory=list)
    past_power: torch.Tensor | None = None
    correlation: torch.Tensor | None = None


class PredictiveQuantizer(ChainedQuantizer):
    """See the module.

    ``doppler_hz``: the largest Doppler shift, known to both ends; ``period_slots``: slots from report to report.
    ``codebooks``: for the rows of ``content``. Raises InvalidField for bits outside ``BITS_RANGE``.
    """

    name = "rvq"

    def __init__(
        self,
        num_rx_ant: int,
        num_tx_ant: int,
        bits: int,
        doppler_hz: float,
        period_slots: int,
        content: Content,
        codebooks: Codebooks,
    ) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        self._content = content
        low, high = BITS_RANGE
        if not low <= bits <= high:
            raise InvalidField(
                f"link.feedback.bits is {bits}, rvq with predictive memory makes {low}…{high}; "
                f"the nearest allowed: {min(max(bits, low), high)}",
                field="link.feedback.bits",
            )
        self.bits = bits
        # about ten complex channels
        self.state_bytes = 10 * 8 * math.prod(self.shape)
        num_rows = self._num_rows = content.num_rows
        self._intra = RvqQuantizer(num_rows, num_tx_ant, bits, codebooks)
        self._short_intra = RvqQuantizer(num_rows, num_tx_ant, bits - 1, codebooks)
        self._books = codebooks
        self._order = codebooks.order
        self._components = len(self._books.basis)
        shares = NUM_SUBBANDS + (num_rows if num_rows > 1 else 0) + num_tx_ant
        self._header_bits = CLASS_BITS + SHARE_BITS * shares
        self._pieces = -(-self._header_bits // bits)
        self.start_up = 2 * self._pieces + 2
        """Reports until the first innovation."""
        self._tracks = GROUP_SLOTS // period_slots >= MIN_GROUP_IN_STARTS * self.start_up
        interval_s = period_slots * SLOT_SECONDS
        self._lags = torch.tensor(
            [
                [
                    abs(clarke_correlation(doppler_hz * s, k, n * interval_s))
                    for n in range(1, CORRELATION_LAGS + 1)
                ]
                for s, k in CLASSES
            ]
        )
        self._fadings = torch.tensor(
            [self._coefficients(doppler_hz * s, k, interval_s) for s, k in CLASSES]
        )
        widths = [STAGE_BITS] * ((bits - 1) // STAGE_BITS)
        self._widths = [*widths, *([left] if (left := (bits - 1) % STAGE_BITS) else [])]
        self._paths = 4 if bits <= 32 else 2 if bits <= 128 else 1

    @staticmethod
    def _coefficients(doppler_hz: float, still: float, interval_s: float) -> list[float]:
        """``[c1, c2, q, r1]`` of ``h_t = c1 h_{t−1} + c2 h_{t−2} + w`` (Yule–Walker).

        ``q`` is the variance of ``w`` and ``r1`` the correlation of neighbours, at unit power.
        """
        r1, r2 = (
            (1 - FORGETTING) * clarke_correlation(doppler_hz, still, n * interval_s) for n in (1, 2)
        )
        determinant = 1 - r1 * r1
        c1, c2 = r1 * (1 - r2) / determinant, (r2 - r1 * r1) / determinant
        return [c1, c2, 1 - c1 * r1 - c2 * r2, r1]

    # --- sequences -------------------------------------------------------------------------------------------------

    def start(self, batch: int) -> Track:
        """The beginning of a group for ``batch`` items."""
        shape = (batch, self._components)
        zeros = torch.zeros(shape)
        return Track(
            position=0,
            now=torch.zeros(shape, dtype=torch.complex64),
            before=torch.zeros(shape, dtype=torch.complex64),
            p11=zeros,
            p12=zeros,
            p22=zeros,
            power=self._usual.expand(shape),
            fading=self._fadings[:1].expand(batch, -1),
            header=torch.zeros((batch, self._pieces * self.bits), dtype=torch.int64),
            received=torch.zeros((batch, self._pieces), dtype=torch.bool),
        )

    def csi_of(self, track: Track, items: torch.Tensor) -> torch.Tensor:
        """CSI of some items of a track: ``[len(items), …]``."""
        return self._content.csi(self._rows_of(track.now[items]))

    def _rows_of(self, components: torch.Tensor) -> torch.Tensor:
        """``[batch, components]`` to rows ``[batch, num_subbands, num_rows, num_tx_ant]``."""
        rows = block_matmul(components, self._books.basis.mT)
        return rows.view(-1, NUM_SUBBANDS, self._num_rows, self.num_tx_ant)

    def _components_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`_rows_of`."""
        return block_matmul(rows.flatten(1), self._books.basis.conj())

    def encode_next(self, track: Track, h: torch.Tensor, report_index: int) -> torch.Tensor:
        """The next report of every item, ``h [batch, …]`` → uint8 ``[batch, payload_bytes]``."""
        index = torch.full((len(h),), report_index)
        rows = self._content.rows(h)
        self._remember(track, rows)
        match self._kind(track.position):
            case "intra":
                payload = self._intra.encode(rows, index)
            case "profile":
                piece = (track.position - 1) % self._pieces
                message = self._header_of(track)
                payload = bytes_of(message[:, piece * self.bits : (piece + 1) * self.bits])
            case _:
                payload = self._choose(track, rows, index)
        self.decode_next(track, payload, torch.ones(len(h), dtype=torch.bool), report_index)
        return payload

    def decode_next(
        self, track: Track, payload: torch.Tensor, present: torch.Tensor, report_index: int
    ) -> None:
        """Move ``track`` on by one report."""
        index = torch.full((len(payload),), report_index)
        match self._kind(track.position):
            case "intra":
                csi = self._components_of(self._intra.decode(payload, index))
                self._predict(track, hold=track.position < self.start_up)
                self._restart(track, csi, present)
            case "profile":
                piece = (track.position - 1) % self._pieces
                part = slice(piece * self.bits, (piece + 1) * self.bits)
                bits = bits_of(payload, self.bits)
                track.header[:, part] = torch.where(present[:, None], bits, track.header[:, part])
                track.received[:, piece] |= present
                if track.position == self.start_up - 2:
                    self._read_header(track)
            case _:
                self._predict(track)
                self._follow(track, payload, present, report_index)
        track.position += 1

    def _kind(self, position: int) -> str:
        if not self._tracks or position in (0, self.start_up - 1):
            return "intra"
        return "profile" if position < self.start_up - 1 else "innovation"

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return self._intra.encode(self._content.rows(h), report_index)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return self._content.csi(self._intra.decode(payload, report_index))

    # --- the filter ------------------------------------------------------------------------------------------------

    def _predict(self, track: Track, *, hold: bool = False) -> None:
        """Time update by one report; during the start-up the first report is held."""
        if hold:
            return
        c1, c2 = track.fading[:, :1], track.fading[:, 1:2]
        now, p11 = track.now, track.p11
        track.now, track.p11 = self._expected(track)
        track.before, track.p12, track.p22 = now, c1 * p11 + c2 * track.p12, p11

    @staticmethod
    def _expected(track: Track) -> tuple[torch.Tensor, torch.Tensor]:
        """The channel of the next report before it has come, and the variance of its error."""
        c1, c2, q, _ = (c[:, None] for c in track.fading.unbind(1))
        variance = (
            c1.square() * track.p11
            + 2 * c1 * c2 * track.p12
            + c2.square() * track.p22
            + q * track.power
        )
        return c1 * track.now + c2 * track.before, variance.clamp_min(1e-7)

    def _measure(self, track: Track, step: torch.Tensor, removed: torch.Tensor) -> None:
        """Measurement update: ``step`` is known of the error, whose variance falls by ``removed``."""
        gain = track.p12 / track.p11
        track.now = track.now + step
        track.before = track.before + gain * step
        track.p11 = track.p11 - removed
        track.p12 = track.p12 - gain * removed
        track.p22 = (track.p22 - gain.square() * removed).clamp_min(0.0)

    def _restart(self, track: Track, csi: torch.Tensor, present: torch.Tensor) -> None:
        """Forget the past where an intra report ``csi`` (components) has come."""
        r1 = track.fading[:, 3:]
        here = present[:, None]
        left = self._left_of(track.power, EFFICIENCY * self.bits)
        removed = track.power - left
        track.now = torch.where(here, csi, track.now)
        track.before = torch.where(here, r1 * csi, track.before)
        track.p11 = torch.where(here, left, track.p11)
        track.p12 = torch.where(here, r1 * left, track.p12)
        track.p22 = torch.where(here, track.power - r1.square() * removed, track.p22)

    def _follow(
        self, track: Track, payload: torch.Tensor, present: torch.Tensor, report_index: int
    ) -> None:
        """Read a flagged report into the filter; a lost one is taken for an innovation that said nothing."""
        message = bits_of(payload, self.bits)
        restarts = (message[:, 0] == 1) & present
        words = fields_of(message[:, 1:], self._widths)
        variances, left = self._stage_variances(track.p11)
        step = torch.zeros_like(variances[0]).repeat(1, 2)
        for stage in range(len(self._widths)):
            codewords, signs = self._stage(stage, report_index)
            colour = CODEWORD_GAIN * variances[stage].sqrt().repeat(1, 2) * signs
            step = step + colour * codewords[words[:, stage]]
        step = step * (present & ~restarts)[:, None]
        real, imaginary = step.chunk(2, dim=1)
        self._measure(track, torch.complex(real, imaginary), track.p11 - left)
        if restarts.any():
            rows = restarts.nonzero()[:, 0]
            csi = torch.zeros_like(track.now)
            index = torch.full((len(rows),), report_index)
            short = self._short_intra.decode(bytes_of(message[rows, 1:]), index)
            csi[rows] = self._components_of(short)
            self._restart(track, csi, restarts)
        seen = track.now.abs().square() + UNSEEN_SHARE * track.p11
        track.power = track.power + ADAPTATION * (seen - track.power)

    def _stage(self, stage: int, report_index: int) -> tuple[torch.Tensor, torch.Tensor]:
        words, signs = _bank(2 * self._components)
        row = (report_index * 37 + stage // BANK_STAGES * 101) % SIGN_ROWS
        return words[stage % BANK_STAGES, : 2 ** self._widths[stage]], signs[row]

    @staticmethod
    def _water_level(variance: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        """``θ`` of ``Σ max(log2(p/θ), 0) = bits`` for every number of bits: ``[batch, len(bits), 1]``.

        Newton's iteration from below, whose steps are continuous in ``p``; what a last step would still have raised
        is a little rate above ``bits``.
        """
        logs = variance.log2()[:, None]
        level = (logs.mean(-1, keepdim=True) - bits[:, None] / logs.shape[-1]).expand(
            -1, len(bits), 1
        )
        for _ in range(WATER_STEPS):
            above = (logs > level).to(logs.dtype)
            rate = ((logs - level) * above).sum(-1, keepdim=True)
            level = level + (rate - bits[:, None]) / above.sum(-1, keepdim=True).clamp_min(1.0)
        return _exp2(level)

    def _left_of(self, power: torch.Tensor, bits: float) -> torch.Tensor:
        """Error of each component after an ideal description by so many bits."""
        level = self._water_level(power, torch.tensor([bits]))[:, 0]
        return torch.minimum(power, level)

    def _stage_variances(self, p: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Variance of every stage's codewords, and what the stages leave of ``p``."""
        spent = EFFICIENCY * torch.tensor(self._widths, dtype=torch.float32).cumsum(0)
        left = torch.minimum(p[:, None], self._water_level(p, spent))
        steps = torch.cat([p[:, None], left], dim=1)
        return list((steps[:, :-1] - steps[:, 1:]).unbind(1)), left[:, -1]

    # --- the encoder's choices -------------------------------------------------------------------------------------

    def _choose(self, track: Track, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Innovation or intra report, whichever brings the greater SGCS."""
        predicted, p11 = self._expected(track)
        turned = self._components_of(self._content.phase_aligned(rows, self._rows_of(predicted)))
        words, step = self._search(turned - predicted, p11, int(index[0]))
        flag = torch.zeros((len(rows), 1), dtype=torch.int64)
        inter = torch.cat([flag, message_of(words, self._widths)], dim=1)
        truth = _dominant(rows)
        similarity = _similarity(truth, self._rows_of(predicted + step))
        doubtful = (similarity < SURE).nonzero()[:, 0]
        if len(doubtful):
            short = self._short_intra.encode(rows[doubtful], index[doubtful])
            csi = self._short_intra.decode(short, index[doubtful])
            better = _similarity(truth[doubtful], csi) > similarity[doubtful]
            intra = torch.cat([flag[doubtful] + 1, bits_of(short, self.bits - 1)], dim=1)
            inter[doubtful] = torch.where(better[:, None], intra, inter[doubtful])
        return bytes_of(inter)

    def _search(
        self, error: torch.Tensor, p11: torch.Tensor, report_index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best path through the stages: words int64 ``[batch, stages]`` and the step they make."""
        variances, _ = self._stage_variances(p11)
        batch = len(error)
        rows = torch.arange(batch)[:, None]
        origin = torch.cat([error.real, error.imag], dim=1)[:, None]
        left = origin
        chosen = torch.empty((batch, 1, 0), dtype=torch.int64)
        for stage in range(len(self._widths)):
            codewords, signs = self._stage(stage, report_index)
            colour = CODEWORD_GAIN * variances[stage].sqrt().repeat(1, 2) * signs
            paths = left.shape[1]
            inner = block_matmul((left * colour[:, None]).flatten(0, 1), codewords.mT)
            norms = block_matmul(colour.square(), codewords.square().mT)
            power = left.square().sum(-1, keepdim=True)
            cost = (power - 2 * inner.view(batch, paths, -1) + norms[:, None]).flatten(1)
            keep = self._paths if stage + 1 < len(self._widths) else 1
            best = cost.topk(min(keep, cost.shape[1]), dim=1, largest=False).indices
            path, word = best // len(codewords), best % len(codewords)
            left = left[rows, path] - colour[:, None] * codewords[word]
            chosen = torch.cat([chosen[rows, path], word[..., None]], dim=2)
        real, imaginary = (origin - left)[:, 0].chunk(2, dim=1)
        return chosen[:, 0], torch.complex(real, imaginary)

    # --- the profile -----------------------------------------------------------------------------------------------

    @cached_property
    def _usual(self) -> torch.Tensor:
        """Usual power of each component, adding up to their number: mean over the cells of ``rvq``."""
        books = self._books
        size = books.shapes.shape[1]
        stages = torch.zeros((books.stages.shape[0], self._components))
        stages[:, :size] = books.stages.abs().square().mean(2).sum(1)
        left = books.tail_scale.square() + stages[books.cell_family]
        usual = (books.cell_scale[:, None].square() * left).mean(0)
        usual[:size] += books.shapes.abs().square().mean(0)
        return usual * (self._components / usual.sum())

    def _shares(self, power: torch.Tensor) -> list[torch.Tensor]:
        """Shares of ``power [batch, components]`` over delays, receive and transmit components."""
        grid = torch.zeros_like(power)
        grid[:, self._order] = power
        grid = grid.view(-1, NUM_SUBBANDS, self._num_rows, self.num_tx_ant)
        total = grid.sum((1, 2, 3))[:, None]
        return [grid.sum(axes) / total for axes in ((2, 3), (1, 3), (1, 2))]

    def _remember(self, track: Track, rows: torch.Tensor) -> None:
        """Gather what the profile is measured from: powers and correlations of the channels so far."""
        if not self._tracks or track.position > self.start_up - 2:
            track.past = []
            return
        powers = self._components_of(rows).abs().square()
        norm = powers.sum(1).sqrt().clamp_min(1e-12)
        if track.past_power is None or track.correlation is None:
            track.past_power = torch.zeros_like(powers)
            track.correlation = torch.zeros((len(rows), CORRELATION_LAGS))
        track.past_power = track.past_power + powers
        unit = rows / norm[:, None, None, None]
        for lag, earlier in enumerate(reversed(track.past)):
            track.correlation[:, lag] += self._content.similarity(earlier, unit)
        track.past = [*track.past, unit][-CORRELATION_LAGS:]

    def _header_of(self, track: Track) -> torch.Tensor:
        """The profile as it is known now: bits ``[batch, pieces·bits]``, zeros behind."""
        assert track.past_power is not None
        assert track.correlation is not None
        seen = track.position + 1
        counts = torch.tensor([max(seen - lag, 0) for lag in range(1, CORRELATION_LAGS + 1)])
        measured = track.correlation / counts.clamp_min(1)
        distance = (measured[:, None] - self._lags).square() * (counts > 0)
        cells = [distance.sum(2).argmin(1)[:, None]]
        for shares, usual, (low, high) in self._axes(track.past_power):
            z = (torch.log2(shares.clamp_min(1e-12) / usual) - low) / (high - low)
            cells.append((z * 2**SHARE_BITS).floor().clamp(0, 2**SHARE_BITS - 1).to(torch.int64))
        message = message_of(torch.cat(cells, dim=1), self._header_widths)
        spare = self._pieces * self.bits - self._header_bits
        return torch.nn.functional.pad(message, (0, spare))

    @property
    def _header_widths(self) -> list[int]:
        return [CLASS_BITS] + [SHARE_BITS] * ((self._header_bits - CLASS_BITS) // SHARE_BITS)

    def _axes(
        self, power: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor, tuple[float, float]]]:
        """For delays, receive antennas (when there are several) and transmit components: shares, usual ones, range."""
        ranges = (DOUBLINGS, RX_DOUBLINGS, DOUBLINGS)
        found = zip(self._shares(power), self._shares(self._usual[None]), ranges, strict=True)
        return [axis for axis in found if axis[0].shape[1] > 1]

    def _read_header(self, track: Track) -> None:
        """Take class and profile from the header's bits; a parameter that was lost takes its usual value."""
        widths = self._header_widths
        cells = fields_of(track.header, widths)
        received = track.received.repeat_interleave(self.bits, dim=1).to(torch.int64)
        counts = fields_of_sum(received, widths)
        whole = counts == torch.tensor(widths)
        track.fading = self._fadings[torch.where(whole[:, 0], cells[:, 0], 0)]
        grid = torch.ones((len(cells), 1, 1, 1))
        column = 1
        for axis, (_, usual, (low, high)) in zip(
            self._axis_places, self._axes(self._usual[None]), strict=True
        ):
            size = usual.shape[1]
            part = slice(column, column + size)
            factors = torch.tensor(
                [
                    2 ** (low + (high - low) * (n + 0.5) / 2**SHARE_BITS)
                    for n in range(2**SHARE_BITS)
                ]
            )
            shares = usual * torch.where(whole[:, part], factors[cells[:, part]], 1.0)
            shape = [len(cells), 1, 1, 1]
            shape[axis] = size
            grid = grid * (shares / shares.sum(1, keepdim=True)).view(shape)
            column += size
        grid = grid.expand(-1, NUM_SUBBANDS, self._num_rows, self.num_tx_ant)
        profile = grid.flatten(1)[:, self._order] * self._components
        track.power = (1 - USUAL_SHARE) * profile + USUAL_SHARE * self._usual

    @property
    def _axis_places(self) -> list[int]:
        return [1, 2, 3] if self._num_rows > 1 else [1, 3]


def fields_of_sum(message: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """Ones among the bits of each field: int64 ``[batch, len(widths)]``."""
    field_of_bit = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
    sums = message.new_zeros((len(message), len(widths)))
    return sums.index_add_(1, field_of_bit, message[:, : len(field_of_bit)])


def _exp2(x: torch.Tensor) -> torch.Tensor:
    """``2^x`` of ``[…, 1]``, the same whatever stands beside it: never in the odd rest of a vectorised loop."""
    return x.expand(*x.shape[:-1], BLOCK_ROWS).contiguous().exp2()[..., :1]


def _dominant(h: torch.Tensor) -> torch.Tensor:
    """Dominant right singular vector of each subband for one or two receive antennas, in closed form.

    complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]`` → ``[batch, num_subbands, num_tx_ant]``, unit norm.
    """
    first, last = h[:, :, 0], h[:, :, -1]
    if h.shape[2] == 1:
        direction = first.conj()
    else:
        a, c = (row.abs().square().sum(-1) for row in (first, last))
        b = (first * last.conj()).sum(-1)
        half = (a - c) / 2
        root = (half.square() + b.abs().square()).sqrt()
        # Of the two ways to write the eigenvector of the Gram matrix, the one that does not cancel.
        larger = (half.abs() + root).to(b.dtype)
        u = torch.where(half >= 0, larger, b)
        w = torch.where(half >= 0, b.conj(), larger)
        direction = (u.conj()[..., None] * first + w.conj()[..., None] * last).conj()
    return direction / direction.abs().square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12)


def _similarity(truth: torch.Tensor, csi: torch.Tensor) -> torch.Tensor:
    """SGCS of CSI ``[batch, …]`` against dominant directions ``truth``."""
    return (truth.conj() * _dominant(csi)).sum(-1).abs().square().mean(-1)


def rvq(request: QuantizerRequest) -> CsiQuantizer:
    """``rvq`` as a link asks for it, with each of its memories."""
    books = load_codebooks(request.weights, request.content, request.num_tx_ant)
    if request.memory == "predictive":
        return PredictiveQuantizer(
            request.num_rx_ant,
            request.num_tx_ant,
            request.bits,
            request.max_doppler_hz,
            request.period_slots,
            request.content,
            books,
        )
    inner = RvqQuantizer(request.content.num_rows, request.num_tx_ant, request.bits, books)
    return request.over_rows(inner)
