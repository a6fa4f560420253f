# ruff: noqa: ARG002 (every scheme is handed the report's index; this one does without)
"""``etype2``: the Enhanced Type II codebook (Rel-16) of 3GPP TS 38.214 clause 5.2.2.2.5, ranks 1…4.

A layer's precoding vector in subband ``t`` is (Table 5.2.2.2.5-5)

``w_t ∝ [Σ_i v_i·p¹_0·Σ_f y_t^f·p²_{i,f}·φ_{i,f} ; Σ_i v_i·p¹_1·Σ_f y_t^f·p²_{i+L,f}·φ_{i+L,f}]``

with ``L`` DFT beams of one orthogonal group for all layers, ``M_v`` delays ``y_t^f = exp(j2πt·n3^f/N3)`` for each and
at most ``K0`` coefficients that are not zero. ``N3`` is our 8 subbands (R = 1); ``L``, ``p_v`` and ``β`` come from
``paramCombination-r16`` 1…8 (Table 5.2.2.2.5-1) with the restrictions of the clause.

A report holds, in this order and as wide as TS 38.212 Tables 6.3.2.1.2-1A and -3 say: part 1, the gain
(:mod:`~semlink.signal.csi.cqi`) and the number ``K_NZ`` of coefficients that are not zero; part 2, i1,1 (q1,
q2), i1,2 (beams), i1,6 (delays of each layer), i1,7 (bitmaps), i1,8 (strongest coefficients), i2,3 (amplitude of the
weaker polarisation, 4 bits), i2,4 (amplitudes, 3 bits), i2,5 (phases, 16-PSK). The rank is the link's number of layers
and is not sent. i1,5 does not exist for ``N3 ≤ 19``.

In the standard part 2 is as long as ``K_NZ`` says. Our reports have one length: every field is as wide as at the
largest ``K_NZ``, which is ``K0`` at rank 1 and ``2·K0`` above, and what fewer coefficients leave unused is zero and
checked. So a combination is worth as many bits as the standard's longest report of it. Where two formats are equally
long, wideband CQI and thus more coefficients are meant.

The encoder is ours. For the dominant right singular vectors ``v_t`` it wants ``Σ_t |v_tᴴ·w_t|²`` large. The phase of
``v_t`` over the subbands is free: it turns and scales each ``v_t`` to fit the present ``w_t``, keeps the strongest
coefficients in the delay domain, and so on; from several groups of beams and phase references, of which the best is
sent.

Examples
--------
>>> sorted(formats(Panel.from_num_ports(16), num_layers=1))[:4]
[37, 53, 63, 69]
>>> h, index = torch.randn(2, 8, 2, 16, dtype=torch.complex64), torch.arange(2)
>>> quantizer = ETypeIIQuantizer(2, 16, 63, num_layers=1)
>>> quantizer.encode(h, index).shape
torch.Size([2, 8])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import torch

from semlink.errors import InvalidField
from semlink.grid import MAX_BITS, NUM_SUBBANDS
from semlink.signal.csi.beams import (
    Panel,
    combinations_by_index,
    directions,
    index_of_combination,
    layers_allowed,
    refuse_bits,
    rows_of,
    squared,
    steering,
)
from semlink.signal.csi.cqi import cqi_widths, decode_cqi, encode_cqi
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.packing import pack, unpack
from semlink.signal.csi.request import QuantizerRequest

MAX_GROUPS: Final = 2
REFERENCES: Final = {1: 2, 2: 1, 3: 1, 4: 1}
ITERATIONS: Final = 6
POLISHES: Final = 1
MIN_FIT: Final = 1 / 16
"""Effort of the search (phase references by rank); and the share of a subband's energy below which its scale grows no
more. Chosen on UMi-LOS and UMa-NLOS drops for SGCS within 0.2 ms a report."""
QUARTER, HALF, EIGHTH = Fraction(1, 4), Fraction(1, 2), Fraction(1, 8)
COMBINATIONS: Final[dict[int, tuple[int, Fraction, Fraction | None, Fraction]]] = {
    1: (2, QUARTER, EIGHTH, QUARTER),
    2: (2, QUARTER, EIGHTH, HALF),
    3: (4, QUARTER, EIGHTH, QUARTER),
    4: (4, QUARTER, EIGHTH, HALF),
    5: (4, QUARTER, QUARTER, Fraction(3, 4)),
    6: (4, HALF, QUARTER, HALF),
    7: (6, QUARTER, None, HALF),
    8: (6, QUARTER, None, Fraction(3, 4)),
}
"""``L``, ``p_v`` for ranks 1 and 2, for ranks 3 and 4, and ``β`` by paramCombination-r16 (Table 5.2.2.2.5-1)."""


def _bits(values: int) -> int:
    return (values - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Format:
    """One paramCombination-r16 on one panel at one rank, with or without subband CQI."""

    panel: Panel
    num_layers: int
    combination: int
    num_beams: int
    num_taps: int
    max_per_layer: int
    subband_cqi: bool

    @classmethod
    def from_combination(
        cls, panel: Panel, num_layers: int, combination: int, subband_cqi: bool
    ) -> Format | None:
        """None where the clause does not allow the combination."""
        beams, low, high, beta = COMBINATIONS[combination]
        share = low if num_layers <= 2 else high
        ports = 2 * panel.size
        if share is None or (ports == 4 and combination > 2) or (ports < 32 and combination > 6):
            return None
        taps = math.ceil(share * NUM_SUBBANDS)
        most = math.ceil(beta * 2 * beams * math.ceil(low * NUM_SUBBANDS))
        return cls(panel, num_layers, combination, beams, taps, most, subband_cqi)

    @property
    def max_nonzero(self) -> int:
        """Largest ``K_NZ``: ``K0`` at rank 1, ``2·K0`` above."""
        return self.max_per_layer * min(self.num_layers, 2)

    @property
    def num_sent(self) -> int:
        """Coefficients with an amplitude and a phase, at most: all but the strongest of each layer."""
        return self.max_nonzero - self.num_layers

    @property
    def sections(self) -> dict[str, tuple[int, ...]]:
        """Widths of the fields by name, in the order of the report."""
        p, layers, delays = self.panel, self.num_layers, NUM_SUBBANDS - 1
        strongest = self.max_per_layer if layers == 1 else 2 * self.num_beams
        return {
            "cqi": cqi_widths(self.subband_cqi),
            "k_nz": (_bits(self.max_nonzero),),
            "i11": (_bits(p.o1), _bits(p.o2)),
            "i12": (_bits(math.comb(p.size, self.num_beams)),),
            "i16": (_bits(math.comb(delays, self.num_taps - 1)),) * layers,
            "i17": (1,) * (layers * self.num_taps * 2 * self.num_beams),
            "i18": (_bits(strongest),) * layers,
            "i23": (4,) * layers,
            "i24": (3,) * self.num_sent,
            "i25": (4,) * self.num_sent,
        }

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of all fields."""
        return tuple(width for section in self.sections.values() for width in section)


@lru_cache(maxsize=64)
def formats(panel: Panel, num_layers: int) -> dict[int, Format]:
    """The formats by their bits."""
    found: dict[int, Format] = {}
    for subband_cqi in (False, True):
        for combination in COMBINATIONS:
            entry = Format.from_combination(panel, num_layers, combination, subband_cqi)
            if entry is not None and sum(entry.widths) <= MAX_BITS:
                found.setdefault(sum(entry.widths), entry)
    return found


@lru_cache(maxsize=16)
def beam_groups(panel: Panel) -> torch.Tensor:
    """``v`` of all orthogonal groups: complex64 ``[O1, O2, N1·N2, N1·N2]``; beam ``N1·n2 + n1``, then element."""
    q1, q2, n2, n1 = torch.meshgrid(
        *(torch.arange(x) for x in (panel.o1, panel.o2, panel.n2, panel.n1)), indexing="ij"
    )
    return steering(panel, panel.o1 * n1 + q1, panel.o2 * n2 + q2, panel.n1).flatten(2, 3)


@dataclass(frozen=True, slots=True)
class Indices:
    """What a batch of reports says about precoders, in the standard's indices; int64.

    ``group`` ``[batch, 2]`` (q1, q2); ``beams`` ``[batch, L]``, increasing; ``taps`` ``[batch, layers, M_v]``, rising
    from 0; ``bitmap``, ``amplitude`` (k², 0…7), ``phase`` (c, 0…15) ``[batch, layers, M_v, 2L]``; ``strongest``
    ``[batch, layers]`` (i*, its delay is 0); ``weaker`` ``[batch, layers]`` (k¹ of the other polarisation, 1…15).
    """

    group: torch.Tensor
    beams: torch.Tensor
    taps: torch.Tensor
    bitmap: torch.Tensor
    strongest: torch.Tensor
    weaker: torch.Tensor
    amplitude: torch.Tensor
    phase: torch.Tensor

    def coefficients(self) -> torch.Tensor:
        """``p¹·p²·φ`` of Tables 5.2.2.2.5-2 and -3, zero where the bitmap is: complex64 ``[…, M_v, 2L]``."""
        num_beams = self.beams.shape[1]
        polarisation = torch.arange(2 * num_beams, device=self.beams.device) // num_beams
        other = polarisation != (self.strongest // num_beams)[..., None]
        # p¹ = 2^((k¹ − 15)/4), p² = 2^((k² − 7)/2): all entries of the two tables.
        first = torch.where(other, (self.weaker[..., None] - 15) / 4, 0.0)
        size = torch.exp2(first.unsqueeze(-2) + (self.amplitude - 7) / 2) * self.bitmap
        return torch.polar(size, 2 * math.pi / 16 * self.phase)

    def combination(self) -> torch.Tensor:
        """``Σ_f y_t^f·p¹·p²·φ`` of each beam: complex64 ``[batch, layers, num_subbands, 2L]``."""
        subband = torch.arange(NUM_SUBBANDS, device=self.taps.device)[:, None]
        turns = (self.taps.unsqueeze(-2) * subband) % NUM_SUBBANDS / NUM_SUBBANDS
        y = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
        return (y.unsqueeze(-1) * self.coefficients().unsqueeze(-3)).sum(-2)


def _select(values: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    """``values`` gathered along ``dim``; ``index`` is broadcast over the dimensions after it."""
    shape = list(values.shape)
    shape[dim] = index.shape[dim]
    tail = index.view(*index.shape, *(1,) * (values.ndim - index.ndim))
    return values.gather(dim, tail.expand(shape))


class ETypeIIQuantizer(CsiQuantizer):
    """See the module.

    Decodes to CSI whose first ``num_layers`` rows are the reported precoding vectors, conjugated, at the reported
    gain. From rank 2 on quantised vectors are not quite orthogonal: each row is what the earlier ones leave of it, so
    that the row space is the standard's precoder's and the first direction is exactly layer 1; a layer that is
    quantised to the same vector as an earlier one has a zero row. Re-quantised CSI mostly gives the same precoder, else
    one close to it: the phase over subbands is lost and the search for it is not exhaustive. Raises InvalidField
    naming ``link.feedback.bits`` (with the nearest size) or ``link.num_layers``.
    """

    name = "etype2"

    def __init__(self, num_rx_ant: int, num_tx_ant: int, bits: int, num_layers: int) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        layers_allowed(self.name, num_rx_ant, num_tx_ant, num_layers)
        offered = formats(Panel.from_num_ports(num_tx_ant), num_layers)
        if bits not in offered:
            raise refuse_bits(self.name, bits, num_tx_ant, num_layers, offered)
        self.bits = bits
        self.num_layers = num_layers
        self._format = offered[bits]
        self._gain_of_all = float(num_rx_ant * num_tx_ant)

    # --- coding ------------------------------------------------------------------------------------------------

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        f, batch = self._format, len(h)
        found = self._search(directions(h, self.num_layers))
        columns = self._columns(found)
        gain = squared((h.unsqueeze(2) * columns.unsqueeze(3)).sum(-1)).sum((2, 3))
        bitmap = found.bitmap.flatten(1)
        fields = {
            "cqi": encode_cqi(gain / self.num_layers, self._gain_of_all, f.subband_cqi),
            "k_nz": bitmap.sum(1, keepdim=True) - 1,
            "i11": found.group,
            "i12": index_of_combination(found.beams, f.panel.size)[:, None],
            "i16": index_of_combination(found.taps[..., 1:] - 1, NUM_SUBBANDS - 1),
            "i17": bitmap,
            "i18": found.strongest,
            "i23": found.weaker,
        }
        if self.num_layers == 1:
            # i1,8 counts the coefficients of delay 0 up to the strongest.
            ahead = found.bitmap[:, 0, 0].cumsum(1).gather(1, found.strongest)
            fields["i18"] = ahead - 1
        sent, place = self._places(found.bitmap, found.strongest)
        for name, values in (("i24", found.amplitude), ("i25", found.phase)):
            # One more field than there is takes what is not sent.
            line = place.new_zeros((batch, f.num_sent + 1))
            kept = torch.where(sent, values.flatten(1), 0)
            fields[name] = line.scatter(1, place.where(sent, f.num_sent), kept)[:, :-1]
        return pack(torch.cat([fields[name] for name in f.sections], dim=1), f.widths, self.bits)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        sections = self._format.sections
        lengths = [len(widths) for widths in sections.values()]
        values = torch.split(unpack(payload, self._format.widths), lengths, dim=1)
        fields = dict(zip(sections, values, strict=True))
        columns = self._columns(self._indices(fields))
        amplitude = decode_cqi(fields["cqi"], self._gain_of_all, self.num_layers)
        return rows_of(columns, amplitude, self.num_rx_ant)

    def _places(
        self, bitmap: torch.Tensor, strongest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which coefficients are sent and where: bool and int64 ``[batch, layers·M_v·2L]``."""
        sent = bitmap.clone()
        sent[:, :, 0] = sent[:, :, 0].scatter(2, strongest[..., None], 0)
        sent = sent.flatten(1)
        return sent.bool(), (sent.cumsum(1) - 1).clamp_min(0)

    def _indices(self, fields: dict[str, torch.Tensor]) -> Indices:
        """The standard's indices of received fields. Raises InvalidField for fields that no CSI gives."""
        f, batch = self._format, len(fields["k_nz"])
        device = fields["k_nz"].device

        def check(bad: torch.Tensor, what: str) -> None:
            if bool(bad.any()):
                raise InvalidField(f"payload has {what}", field="payload")

        subsets = combinations_by_index(f.panel.size, f.num_beams).to(device)
        delays = combinations_by_index(NUM_SUBBANDS - 1, f.num_taps - 1).to(device)
        check(fields["i12"] >= len(subsets), f"an i1,2 outside 0…{len(subsets) - 1}")
        check(fields["i16"] >= len(delays), f"an i1,6 outside 0…{len(delays) - 1}")
        check(fields["i23"] == 0, "an i2,3 that is reserved, allowed: 1…15")
        bitmap = fields["i17"].view(batch, f.num_layers, f.num_taps, 2 * f.num_beams)
        count = bitmap.sum((2, 3))
        check(count > f.max_per_layer, f"more than {f.max_per_layer} coefficients in a layer")
        total = count.sum(1, keepdim=True)
        check(total != fields["k_nz"] + 1, "another number of coefficients than it says")
        check(total > f.max_nonzero, f"more than {f.max_nonzero} coefficients")
        strongest = fields["i18"]
        if f.num_layers == 1:
            at_zero = bitmap[:, 0, 0].cumsum(1)
            check(strongest >= at_zero[:, -1:], "an i1,8 that names no coefficient")
            strongest = (at_zero <= strongest).sum(1, keepdim=True)
        check(strongest >= 2 * f.num_beams, "an i1,8 that names no coefficient")
        named = bitmap[:, :, 0].gather(2, strongest[..., None])
        check(named == 0, "an i1,8 that names a zero coefficient")
        sent, place = self._places(bitmap, strongest)
        unused = torch.arange(f.num_sent, device=device) >= sent.sum(1, keepdim=True)
        check(unused & ((fields["i24"] > 0) | (fields["i25"] > 0)), "padding that is not zero")

        def spread(values: torch.Tensor, of_strongest: int) -> torch.Tensor:
            padded = torch.nn.functional.pad(values, (0, 1))
            grid = torch.where(sent, padded.gather(1, place), 0).view(bitmap.shape)
            top = torch.full_like(strongest[..., None], of_strongest)
            grid[:, :, 0] = grid[:, :, 0].scatter(2, strongest[..., None], top)
            return grid

        taps = torch.nn.functional.pad(delays[fields["i16"]] + 1, (1, 0))
        return Indices(
            fields["i11"],
            subsets[fields["i12"][:, 0]],
            taps,
            bitmap,
            strongest,
            fields["i23"],
            spread(fields["i24"], 7),
            spread(fields["i25"], 0),
        )

    def _columns(self, found: Indices) -> torch.Tensor:
        """Orthonormal precoding vectors ``[batch, num_subbands, num_layers, num_tx_ant]``, complex64."""
        f, batch = self._format, len(found.group)
        r = found.combination()
        gamma = squared(r).sum(-1, keepdim=True)
        # Delays can cancel each other in a subband: there the strongest beam stands alone.
        alone = (
            torch.nn.functional.one_hot(found.strongest, 2 * f.num_beams).unsqueeze(2).to(r.dtype)
        )
        r = torch.where(gamma > 1e-9, r * gamma.clamp_min(1e-9).rsqrt(), alone).transpose(1, 2)
        groups = beam_groups(f.panel).to(r.device)
        beams = groups[found.group[:, :1], found.group[:, 1:], found.beams]
        w = torch.bmm(r.reshape(batch, -1, f.num_beams), beams)
        w = w.view(batch, NUM_SUBBANDS, f.num_layers, 2 * f.panel.size)
        rows: list[torch.Tensor] = []
        for layer in w.unbind(2):
            row = layer
            # Twice: one pass leaves rounding errors where two layers are almost parallel.
            for earlier in (*rows, *rows):
                row = row - (earlier.conj() * row).sum(-1, keepdim=True) * earlier
            norm = squared(row).sum(-1, keepdim=True).sqrt()
            rows.append(row / norm.clamp_min(1e-6))
        return torch.stack(rows, dim=2)

    # --- search ------------------------------------------------------------------------------------------------

    def _search(self, v: torch.Tensor) -> Indices:
        """Indices for unit vectors ``[batch, num_subbands, num_layers, num_tx_ant]``."""
        f, batch = self._format, len(v)
        p = f.panel
        groups = beam_groups(p).to(v.device).view(-1, p.size)
        seen = torch.bmm(v.reshape(batch, -1, p.size), groups.conj().mT.expand(batch, -1, -1))
        seen = seen.view(batch, NUM_SUBBANDS, f.num_layers, 2, p.o1 * p.o2, p.size)
        seen = seen.permute(0, 4, 2, 1, 3, 5)
        power = squared(seen).sum((2, 3, 4))
        beams = power.topk(f.num_beams, dim=2).indices.sort(dim=2).values
        c = seen.gather(
            5,
            beams[:, :, None, None, None, :].expand(-1, -1, *seen.shape[2:5], -1),
        ).flatten(4)
        # [batch, groups, layers, subbands, 2L]: a quick look at every group, then the best ones in earnest.
        strength = squared(c).sum(3)
        quick = self._aligned(c, strength.argmax(-1))
        top = squared(quick).flatten(-2).topk(f.max_per_layer, dim=-1, sorted=False).values
        score = top.sum((2, 3))
        group = score.topk(min(MAX_GROUPS, score.shape[1]), dim=1).indices
        c = _select(c, group, 1)
        references = _select(strength, group, 1).topk(REFERENCES[f.num_layers], dim=-1).indices
        c = c.repeat_interleave(REFERENCES[f.num_layers], dim=1).flatten(0, 1)
        taps = self._refine(c, references.movedim(-1, 2).reshape(len(c), -1))
        group = group.repeat_interleave(REFERENCES[f.num_layers], dim=1)
        beams = _select(beams, group, 1).flatten(0, 1)
        pair = torch.stack([group // p.o2, group % p.o2], dim=-1).flatten(0, 1)
        found, fit = self._polished(c, self._quantised(taps, pair, beams))
        best = fit.view(batch, -1).argmax(1) + torch.arange(
            0, len(c), len(c) // batch, device=v.device
        )
        return Indices(*(getattr(found, name)[best] for name in Indices.__slots__))

    @staticmethod
    def _aligned(c: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Delay domain of ``c [..., subbands, 2L]``, each subband turned so that one coefficient is real."""
        at = reference[..., None, None].expand(*c.shape[:-1], 1)
        turn = c.gather(-1, at)
        turn = turn.conj() / turn.abs().clamp_min(1e-12)
        taps: torch.Tensor = torch.fft.fft(c * turn, dim=-2, norm="forward")
        return taps

    def _support(self, taps: torch.Tensor) -> torch.Tensor:
        """Where coefficients may be: the strongest M_v delays, there the strongest K0, 2·K0 over all layers.

        :param taps: ``[…, layers, delays, 2L]``.
        :returns: bool of that shape.
        """
        f = self._format
        energy = squared(taps)
        delays = energy.sum(-1).topk(f.num_taps, dim=-1, sorted=False).indices
        allowed = torch.zeros_like(energy[..., 0], dtype=torch.bool).scatter(-1, delays, True)
        flat = energy.where(allowed[..., None], -1.0).flatten(-2)
        top = flat.topk(f.max_per_layer, dim=-1).indices
        mask = torch.zeros_like(flat, dtype=torch.bool).scatter(-1, top, True)
        if f.num_layers > 2:
            # At least one each, then the strongest of all.
            flat = flat.where(mask, -1.0).scatter(-1, top[..., :1], 9.0).flatten(-2)
            top = flat.topk(f.max_nonzero, dim=-1).indices
            mask = torch.zeros_like(flat, dtype=torch.bool).scatter(-1, top, True)
        mask = mask.view(energy.shape)
        return mask & allowed[..., None]

    def _refine(self, c: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Coefficients before quantisation: ``[paths, layers, delays, 2L]``, zero off the support.

        :param c: beams' shares ``[paths, layers, subbands, 2L]``.
        :param reference: ``[paths, layers]``, the beam that is real at first. A path is a report with one group of
            beams and one reference.
        """
        taps = self._aligned(c, reference)
        for _ in range(ITERATIONS):
            r = torch.fft.ifft(taps * self._support(taps), dim=-2, norm="forward")
            taps = self._turned(c, r)[0]
        return taps * self._support(taps)

    @staticmethod
    def _turned(c: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Delay domain of ``c`` with each subband turned and scaled to fit ``r``, and the fit ``|cᴴr|²/‖r‖²``.

        A subband's vector has any phase and any size, as it is normalised in the end. Scaled by ``‖r‖²/(rᴴc)``, its
        part along ``r`` is ``r`` itself: this finds more than the scale of least error or that of equal norms.
        """
        inner = (c.conj() * r).sum(-1, keepdim=True)
        power = squared(inner)
        norm = squared(r).sum(-1, keepdim=True).clamp_min(1e-12)
        gain = inner * norm / power.clamp_min(MIN_FIT * norm)
        taps = torch.fft.fft(c * gain, dim=-2, norm="forward")
        size = squared(taps).sum((-1, -2), keepdim=True).sqrt()
        return taps / size.clamp_min(1e-12), power / norm

    def _polished(self, c: torch.Tensor, found: Indices) -> tuple[Indices, torch.Tensor]:
        """Indices fitted again to phases and gains of the subbands as quantised ones have them, and their fit.

        The better of before and after for each path: what is already a precoder of the codebook stays as it is.
        """
        taps, fit = self._fit(c, found)
        for _ in range(POLISHES):
            again = self._quantised(taps * self._support(taps), found.group, found.beams)
            taps, new_fit = self._fit(c, again)
            better = new_fit > fit
            fit = torch.where(better, new_fit, fit)
            found = Indices(
                *(
                    torch.where(better.view(-1, *(1,) * (new.ndim - 1)), new, old)
                    for new, old in (
                        (getattr(again, name), getattr(found, name)) for name in Indices.__slots__
                    )
                )
            )
        return found, fit

    def _fit(self, c: torch.Tensor, found: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`_turned` towards quantised coefficients; the fit is summed over layers and subbands, ``[paths]``."""
        taps, fit = self._turned(c, found.combination())
        return taps, fit.sum((1, 2, 3))

    def _quantised(self, taps: torch.Tensor, group: torch.Tensor, beams: torch.Tensor) -> Indices:
        """Indices of the coefficients ``taps [batch, layers, delays, 2L]``."""
        f = self._format
        width = 2 * f.num_beams
        top = squared(taps).flatten(2).argmax(-1)
        first, strongest = top // width, top % width
        # A common delay is a common phase of each subband: the strongest coefficient's becomes 0.
        order = (torch.arange(NUM_SUBBANDS, device=taps.device) + first[..., None]) % NUM_SUBBANDS
        taps = _select(taps, order, 2)
        energy = squared(taps).sum(-1)
        energy[..., 0] = torch.inf
        delays = energy.topk(f.num_taps, dim=-1).indices.sort(dim=-1).values
        values = _select(taps, delays, 2)
        reference = values[:, :, 0].gather(2, strongest[..., None]).unsqueeze(-1)
        ratio = values * reference.conj() / squared(reference).clamp_min(1e-30)
        size = ratio.abs()
        other = torch.arange(width, device=taps.device) // f.num_beams
        other = other != (strongest // f.num_beams)[..., None]
        peak = size.where(other.unsqueeze(-2), 0.0).amax((-1, -2)).clamp_min(1e-9)
        weaker = (15 + 4 * torch.log2(peak)).round().clamp(1, 15).to(torch.int64)
        scale = torch.where(other, torch.exp2((weaker - 15) / 4)[..., None], 1.0).unsqueeze(-2)
        relative = size / scale
        # Nearer to zero than to the smallest amplitude, 2^(−7/2): better not sent.
        bitmap = (relative >= 2**-4.5).to(torch.int64)
        amplitude = (7 + 2 * torch.log2(relative.clamp_min(1e-9))).round().clamp(0, 7)
        phase = (torch.angle(ratio) * (16 / (2 * math.pi))).round().to(torch.int64) % 16
        at = strongest[..., None]
        bitmap[:, :, 0] = bitmap[:, :, 0].scatter(2, at, 1)
        amplitude[:, :, 0] = amplitude[:, :, 0].scatter(2, at, 7.0)
        phase[:, :, 0] = phase[:, :, 0].scatter(2, at, 0)
        return Indices(
            group,
            beams,
            delays,
            bitmap,
            strongest,
            weaker,
            amplitude.to(torch.int64) * bitmap,
            phase * bitmap,
        )


def etype2(request: QuantizerRequest) -> CsiQuantizer:
    """``etype2`` as a link asks for it: its reports are made for a rank, the number of layers."""
    return ETypeIIQuantizer(
        request.num_rx_ant, request.num_tx_ant, request.bits, request.content.num_rows
    )
