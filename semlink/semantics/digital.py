"""Source coders of the digital methods: a 256-d unit-norm feature to exactly as many bits as the channel code carries.

``separation``: transform coding. The feature is projected on the principal axes of the task's features; bits go to the
components by reverse water-filling over their variances (at most 8 a component), each is quantised by Lloyd and Max's
quantiser of a Gaussian (IEEE Trans. Inf. Theory 28(2), 1982).

``vq-digital``: residual vector quantisation in the same axes. Each stage is a codebook of 256 words, trained by
k-means, for the components that hold most of what the stages before it left, most important stage first. Bits that are
not a whole stage, and those after the last one, are spent on what is left as ``separation`` spends all of its own; a
message of fewer bits than a stage takes a smaller codebook of the first stage's components.

Both are our definition, and of fixed rate: the number of bits decides the format, nothing else is sent. Decoders give
the centroid of the cell, the conditional mean, and normalise.

Statistics are those of the train split; the mean and the deviations of ``separation`` are the modality's, which the
header names. Made by ``semlink train vq --task person``; weights in ``weights/vq-TASK.safetensors``.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.special import ndtr, ndtri

from semlink.errors import InvalidField
from semlink.semantics.heads import FEATURE_DIM
from semlink.semantics.int8_tensors import unpack
from semlink.semantics.spaces import task_of, train_command, weights_of
from semlink.signal.coding import demodulate, modulate, scheme_of
from semlink.signal.csi.rvq import block_matmul
from semlink.signal.link import LinkLike
from semlink.signal.link_adaptation import choose_mcs, load_calibration
from semlink.tasks import modality_names
from semlink.weight_files import Weights

DigitalCoding = Literal["separation", "vq-digital"]
DIGITAL_CODINGS: Final[tuple[DigitalCoding, ...]] = get_args(DigitalCoding)
NUM_COMPONENTS: Final = 128
"""Principal components that are coded; the rest is taken as its mean."""
MAX_BITS_PER_COMPONENT: Final = 8
STAGE_BITS: Final = 8
MAX_STAGE_COMPONENTS: Final = 16
MAX_PAYLOAD_BITS: Final = NUM_COMPONENTS * MAX_BITS_PER_COMPONENT
QUALITY_BITS: Final = (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
"""Payloads at which :attr:`Statistics.quality` was measured."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What both ends know of a task's features, float32 unless noted.

    ``axes`` ``[128, 256]``, most important first; ``mean`` ``[2, 256]`` and ``deviation`` ``[2, 128]`` of the
    components, text then media; ``stages`` int64 ``[num_stages, 16]``, the components of each stage, −1 where it has
    fewer; ``codebooks`` ``[num_stages, 256, 16]``, zero there; ``short`` ``[254, 16]``, the first stage's codebooks of
    1…7 bits one after the other; ``residual`` ``[num_stages + 1, 128]``, deviations left after so many stages;
    ``quality`` ``[2, len(QUALITY_BITS)]``, mAP of text→media on val for payloads of
    :data:`QUALITY_BITS`, a row for each of :data:`DIGITAL_CODINGS`.
    """

    axes: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    stages: torch.Tensor
    codebooks: torch.Tensor
    short: torch.Tensor
    residual: torch.Tensor
    quality: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """As a file stores them: matrices of axes and codebooks in eight bits."""
        scale = self.codebooks.abs().amax((1, 2)).clamp_min(1e-12) / 127.0
        return {
            "axes": self.axes,
            "mean": self.mean,
            "deviation": self.deviation,
            "stages": self.stages.to(torch.int16),
            "words": (self.codebooks / scale[:, None, None]).round().to(torch.int8),
            "short_words": (self.short / scale[0]).round().clamp(-127, 127).to(torch.int8),
            "words_scale": scale,
            "residual": self.residual,
            "quality": self.quality,
        }

    @classmethod
    def from_tensors(cls, stored: dict[str, torch.Tensor]) -> Statistics:
        """The inverse of :meth:`tensors` after :func:`semlink.semantics.int8_tensors.pack`."""
        t = unpack(stored)
        return cls(
            axes=t["axes"],
            mean=t["mean"],
            deviation=t["deviation"],
            stages=stored["stages"].long(),
            codebooks=t["words"] * t["words_scale"][:, None, None],
            short=t["short_words"] * t["words_scale"][0],
            residual=t["residual"],
            quality=t["quality"],
        )

    def to(self, device: str) -> Statistics:
        """On another device."""
        return Statistics(*(getattr(self, name).to(device) for name in self.__slots__))


class SourceCoder:
    """Encoder and decoder of one task and coding; a row of a batch depends on nothing but its own inputs."""

    def __init__(self, statistics: Statistics, coding: DigitalCoding) -> None:
        self.statistics = statistics
        self.coding = coding
        # Which bits a component gets must not depend on a device's rounding.
        self._deviation = statistics.deviation.cpu().double().numpy()
        self._residual = statistics.residual.cpu().double().numpy()
        self._formats: dict[tuple[int, int], _Format] = {}

    def encode(self, feature: torch.Tensor, modality: str, num_bits: int) -> torch.Tensor:
        """Features to bits: float32 ``[batch, 256]``, unit norm → uint8 0/1 ``[batch, num_bits]``.

        ``modality``: of :func:`semlink.tasks.modality_names`. Raises InvalidField for another shape, values that
        are not finite, or more bits than :data:`MAX_PAYLOAD_BITS`.
        """
        if feature.ndim != 2 or feature.shape[1] != FEATURE_DIM:
            raise InvalidField(
                f"feature has shape {tuple(feature.shape)}, expected (batch, {FEATURE_DIM})",
                field="feature",
            )
        if not bool(feature.isfinite().all()):
            raise InvalidField("feature holds values that are not finite", field="feature")
        s, side = self.statistics, _side(modality)
        layout = self._format(side, num_bits)
        left = block_matmul(feature - s.mean[side], s.axes.T)
        indices = []
        for stage in range(layout.num_stages):
            places, words = self._codebook(stage, layout.stage_bits)
            # ‖x − c‖² without ‖x‖²
            match = block_matmul(left[:, places], words.T.contiguous()) - 0.5 * words.square().sum(
                1
            )
            index = match.argmax(1)
            left = left.index_add(1, places, -words[index])
            indices.append(index)
        scalars = torch.searchsorted(
            layout.edges, (left / layout.deviation)[:, layout.components].T.contiguous()
        )
        fields = torch.cat([torch.stack(indices), scalars]) if indices else scalars
        # bit t of the message is bit shift[t] of field owner[t]
        return (fields.T[:, layout.owner] >> layout.shift & 1).to(torch.uint8)

    def decode(self, bits: torch.Tensor, modality: str) -> torch.Tensor:
        """Bits to features: uint8 0/1 ``[batch, num_bits]`` → float32 ``[batch, 256]``, unit norm."""
        s, side = self.statistics, _side(modality)
        layout = self._format(side, bits.shape[1])
        num_fields = layout.num_stages + len(layout.components)
        fields = torch.zeros(len(bits), num_fields, dtype=torch.int64, device=bits.device)
        fields.index_add_(1, layout.owner, bits.long() << layout.shift)
        components = torch.zeros(len(bits), NUM_COMPONENTS, device=bits.device)
        for stage in range(layout.num_stages):
            places, words = self._codebook(stage, layout.stage_bits)
            components = components.index_add(1, places, words[fields[:, stage]])
        cells = fields[:, layout.num_stages :]
        values = layout.centroids.expand(len(bits), -1, -1).gather(2, cells[..., None])[..., 0]
        scaled = values * layout.deviation[layout.components]
        components = components.index_add(1, layout.components, scaled)
        return F.normalize(s.mean[side] + block_matmul(components, s.axes), dim=-1)

    def quality(self, num_bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a payload of so many bits is worth: mAP on val, interpolated, never falling with the bits."""
        row = self.statistics.quality[DIGITAL_CODINGS.index(self.coding)].cpu().double().numpy()
        measured = np.maximum.accumulate(row)
        return np.interp(np.log2(num_bits + 1), np.log2(np.array(QUALITY_BITS) + 1.0), measured)

    def _codebook(self, stage: int, num_bits: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A stage's components ``[d]`` and its codebook of ``2^num_bits`` words ``[2^num_bits, d]``."""
        s = self.statistics
        places = s.stages[stage]
        places = places[places >= 0]
        if num_bits == STAGE_BITS:
            return places, s.codebooks[stage, :, : len(places)]
        return places, s.short[2**num_bits - 2 : 2 ** (num_bits + 1) - 2, : len(places)]

    def _format(self, side: int, num_bits: int) -> _Format:
        if not 1 <= num_bits <= MAX_PAYLOAD_BITS:
            raise InvalidField(
                f"payload has {num_bits} bits, allowed: 1…{MAX_PAYLOAD_BITS}", field="payload"
            )
        found = self._formats.get((side, num_bits))
        if found is None:
            stage_bits = min(num_bits, STAGE_BITS)
            stages = len(self.statistics.stages) if self.coding == "vq-digital" else 0
            stages = min(stages, num_bits // stage_bits)
            deviation = self._residual[stages] if stages else self._deviation[side]
            device = self.statistics.axes.device
            found = _Format.from_deviation(stages, stage_bits, deviation, num_bits, device)
            self._formats[side, num_bits] = found
        return found


@dataclass(frozen=True, slots=True)
class _Format:
    """What each bit of a message means: ``num_stages`` indices of ``stage_bits``, then scalars.

    ``components`` int64 ``[n]`` are quantised alone; ``edges`` ``[n, cells − 1]`` (infinite where there are fewer) and
    ``centroids`` ``[n, cells]`` for unit deviation; ``deviation`` ``[128]``; ``owner``, ``shift`` int64 ``[num_bits]``.
    """

    num_stages: int
    stage_bits: int
    components: torch.Tensor
    edges: torch.Tensor
    centroids: torch.Tensor
    deviation: torch.Tensor
    owner: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def from_deviation(
        cls,
        num_stages: int,
        stage_bits: int,
        deviation: NDArray[np.float64],
        num_bits: int,
        device: torch.device,
    ) -> _Format:
        allocated = allocate_bits(deviation**2, num_bits - stage_bits * num_stages)
        components = np.flatnonzero(allocated)
        depths = allocated[components]
        cells = 2 ** int(depths.max(initial=1))
        edges = np.full((len(components), cells - 1), np.inf)
        centroids = np.zeros((len(components), cells))
        for depth in np.unique(depths).tolist():
            rows = np.flatnonzero(depths == depth)
            of_depth = lloyd_max(depth)
            edges[rows, : 2**depth - 1] = of_depth.edges
            centroids[rows, : 2**depth] = of_depth.centroids
        widths = np.concatenate([np.full(num_stages, stage_bits), depths]).astype(np.int64)
        owner = np.repeat(np.arange(len(widths)), widths)
        first = np.repeat(np.cumsum(widths) - widths, widths)
        shift = widths[owner] - 1 - (np.arange(len(owner)) - first)
        return cls(
            num_stages,
            stage_bits,
            torch.from_numpy(components).to(device),
            torch.from_numpy(edges).float().to(device),
            torch.from_numpy(centroids).float().to(device),
            torch.from_numpy(deviation).float().clamp_min(1e-9).to(device),
            torch.from_numpy(owner).to(device),
            torch.from_numpy(shift).to(device),
        )


@dataclass(frozen=True, slots=True)
class ScalarQuantizer:
    """Cells of a unit Gaussian: inner ``edges`` ``[2^b − 1]``, ``centroids`` ``[2^b]``, mean squared error."""

    edges: NDArray[np.float64]
    centroids: NDArray[np.float64]
    error: float


@lru_cache(maxsize=MAX_BITS_PER_COMPONENT + 1)
def lloyd_max(num_bits: int) -> ScalarQuantizer:
    """The quantiser of ``2^num_bits`` cells of least mean squared error for a unit Gaussian, by Lloyd's iteration."""
    # The asymptotically best compander (Panter and Dite) is where the iteration starts.
    start = np.sqrt(3.0) * ndtri((np.arange(2**num_bits) + 0.5) / 2**num_bits)
    centroids = start
    edges = np.empty(0)
    mass = np.ones(1)
    for _ in range(200):
        edges = (centroids[1:] + centroids[:-1]) / 2
        bounded = np.concatenate([[-np.inf], edges, [np.inf]])
        density = np.exp(-(bounded**2) / 2) / np.sqrt(2 * np.pi)
        mass = np.diff(ndtr(bounded))
        centroids = -np.diff(density) / mass
    return ScalarQuantizer(edges, centroids, float(1.0 - (mass * centroids**2).sum()))


def allocate_bits(variance: NDArray[np.float64], num_bits: int) -> NDArray[np.int64]:
    """Reverse water-filling with whole bits: each next bit to the component whose error it lowers most.

    ``variance`` ``[n]``, ≥ 0. Returns bits of each component, at most :data:`MAX_BITS_PER_COMPONENT`, ``num_bits`` in
    all. Raises InvalidField for more bits than all components can take.
    """
    if num_bits > MAX_BITS_PER_COMPONENT * len(variance):
        raise InvalidField(
            f"payload has {num_bits} bits for {len(variance)} components, allowed: "
            f"at most {MAX_BITS_PER_COMPONENT} each",
            field="payload",
        )
    gain = -np.diff([lloyd_max(b).error for b in range(MAX_BITS_PER_COMPONENT + 1)])
    bits = np.zeros(len(variance), dtype=np.int64)
    waiting = [(-float(v) * gain[0], i) for i, v in enumerate(variance)]
    heapq.heapify(waiting)
    for _ in range(num_bits):
        _, i = heapq.heappop(waiting)
        bits[i] += 1
        if bits[i] < MAX_BITS_PER_COMPONENT:
            heapq.heappush(waiting, (-float(variance[i]) * gain[bits[i]], i))
    return bits


class DigitalCodec:
    """A :class:`semlink.semantics.message.MessageCodec` of the first component: source coder, channel code, QAM.

    The MCS is the one that promises the most for the SINR that the known CSI promises
    (:mod:`semlink.signal.link_adaptation`).
    """

    def __init__(
        self, coding: DigitalCoding, space: str, device: torch.device, weights: Weights
    ) -> None:
        self._coder = load_source_coder(space, coding, device)
        self._weights = weights

    def encode(
        self,
        components: torch.Tensor,
        sinr_db: torch.Tensor,
        modality: str,
        links: Sequence[LinkLike],
        known: bool,
    ) -> tuple[torch.Tensor, list[int]]:
        """See the protocol; messages of equal MCS are coded together."""
        features, k = components[:, 0], sinr_db.shape[1]
        mcs = choose_mcs(
            sinr_db.cpu().double().numpy(),
            links,
            known,
            self._coder.quality,
            load_calibration(self._weights),
        )
        symbols = torch.empty(sinr_db.shape, dtype=torch.complex64, device=features.device)
        for chosen in np.unique(mcs).tolist():
            rows = torch.from_numpy(np.flatnonzero(mcs == chosen)).to(features.device)
            scheme = scheme_of(chosen, k)
            payload = self._coder.encode(features[rows], modality, scheme.payload_bits)
            symbols[rows] = modulate(payload, scheme)
        return symbols, mcs.tolist()

    def decode(
        self,
        symbols: torch.Tensor,
        noise_variance: torch.Tensor,
        modality: str,
        num_components: int,  # noqa: ARG002
        mcs: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See the protocol; erased where the CRC fails."""
        scheme = scheme_of(mcs, symbols.shape[1])
        payload, passed = demodulate(symbols, noise_variance, scheme)
        feature = torch.zeros(len(symbols), FEATURE_DIM, device=symbols.device)
        if bool(passed.any()):
            feature[passed] = self._coder.decode(payload[passed], modality)
        return feature[:, None], ~passed


separation = partial(DigitalCodec, "separation")
vq_digital = partial(DigitalCodec, "vq-digital")


def _side(modality: str) -> int:
    if modality not in (allowed := modality_names()):
        raise InvalidField(
            f"modality is {modality!r}, allowed: {', '.join(allowed)}", field="modality"
        )
    return 0 if modality == "text" else 1


def statistics_path(space: str) -> Path:
    """File of a space's statistics. Raises NotFound, with the command that makes it, when it is missing."""
    return weights_of(space, "vq")


def load_source_coder(space: str, coding: str, device: torch.device | str = "cpu") -> SourceCoder:
    """The process's source coder of a space (a task or an added corpus with heads) for "separation" or "vq-digital".

    Raises InvalidField for an unknown space or coding, NotFound when its weights are missing, CorruptModel when they
    are damaged.
    """
    task_of(space)
    if coding not in DIGITAL_CODINGS:
        raise InvalidField(
            f"coding is {coding!r}, allowed: {', '.join(DIGITAL_CODINGS)}", field="coding"
        )
    path = statistics_path(space)
    return Weights(path.parent).load(
        path.name, _read, coding, str(device), made_by=train_command(space, "vq")
    )


def _read(path: Path, coding: DigitalCoding, device: str) -> SourceCoder:
    return SourceCoder(Statistics.from_tensors(load_file(path)).to(device), coding)
