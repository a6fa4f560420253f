r"""The semantic codec: deep joint source-channel coding of 256-d features (methods: our definition).

One model a task serves every length k. The encoder writes 128 complex symbols in order of importance and sends the
first k; both ends are a linear transform along the principal axes of the task's features plus a network that learns
what is better than linear, conditioned (FiLM, Perez et al., arXiv 1709.07871) on the SNR and on k.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from semlink.errors import InvalidField
from semlink.semantics.heads import FEATURE_DIM
from semlink.semantics.int8_tensors import unpack
from semlink.semantics.spaces import train_command, weights_of
from semlink.weight_files import Weights

SYMBOL_COUNTS: Final = (8, 16, 32, 64, 128)
"""Complex channel uses that a message may take."""
MAX_SYMBOLS: Final = SYMBOL_COUNTS[-1]
SNR_DB_SEEN: Final = (-30.0, 45.0)
"""SNRs are clamped to this range before they condition a network."""


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """Shape of a codec."""

    hidden: int = 384
    num_blocks: int = 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class Codec(nn.Module):
    """Encoder and decoder of one task; :meth:`encode` and :meth:`decode` are a pair.

    A row of a batch depends on nothing but its own inputs.
    """

    mean: torch.Tensor

    def __init__(self, config: CodecConfig | None = None) -> None:
        super().__init__()
        self.config = config or CodecConfig()
        self.register_buffer("mean", torch.zeros(FEATURE_DIM))
        self.analysis = nn.Linear(FEATURE_DIM, 2 * MAX_SYMBOLS, bias=False)
        self.synthesis = nn.Linear(2 * MAX_SYMBOLS, FEATURE_DIM, bias=False)
        self.encoder = _ConditionedNet(FEATURE_DIM, 2 * MAX_SYMBOLS, self.config)
        self.decoder = _ConditionedNet(3 * MAX_SYMBOLS, FEATURE_DIM, self.config)
        last = nn.Linear(32, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.power = nn.Sequential(nn.Linear(3, 32), nn.GELU(), last)
        self.prior = nn.Parameter(torch.zeros(MAX_SYMBOLS))

    @torch.no_grad()
    def start_from(self, features: torch.Tensor) -> None:
        """Set the linear part to the principal axes of ``features`` [n, 256], float32, most important first.

        A component of variance λ is sent with gain λ^(−1/4): the power split of linear analogue coding at high SNR
        (Lee and Petersen, IEEE Trans. Comm. 24(12), 1976).
        """
        self.mean.copy_(features.mean(0))
        centred = features - self.mean
        variance, axes = torch.linalg.eigh(centred.T @ centred / len(features))
        variance = variance.flip(0).clamp_min(1e-6)
        axes = axes.flip(1)
        gain = variance.pow(-0.25)
        gain = gain / (gain.square() * variance).mean().sqrt()
        self.analysis.weight.copy_((axes * gain).T)
        self.synthesis.weight.copy_(axes / gain)

    def encode(self, feature: torch.Tensor, snr_db: torch.Tensor, k: int) -> torch.Tensor:
        r"""Features to symbols.

        Input
        -----
        feature : [batch, 256], float32, unit norm
        snr_db : [batch, k], float32
            The SNR after equalisation that the transmitter predicts for each symbol [dB], any finite value.
        k : one of 8, 16, 32, 64, 128

        Output
        ------
        : [batch, k], complex64, :math:`\frac1k\sum_j |u_j|^2 = 1` for every row

        Raises InvalidField for another k, another shape, or values that are not finite.
        """
        if k not in SYMBOL_COUNTS:
            raise InvalidField(
                f"symbols is {k}, allowed: {', '.join(map(str, SYMBOL_COUNTS))}", field="symbols"
            )
        _check(feature, (None, FEATURE_DIM), "feature")
        _check(snr_db, (len(feature), k), "snr_db")
        scaled = snr_db.clamp(*SNR_DB_SEEN) / 10.0
        condition = _condition(scaled, k)
        centred = feature - self.mean
        flat = self.analysis(centred) + self.encoder(centred * FEATURE_DIM**0.5, condition)
        # A symbol's two components are neighbours in importance: the first k symbols hold the first 2k components.
        symbols = torch.view_as_complex(flat.view(-1, MAX_SYMBOLS, 2))[:, :k]
        relative = scaled - scaled.mean(1, keepdim=True)
        level = scaled.mean(1, keepdim=True).expand_as(scaled)
        place = torch.arange(k, device=scaled.device).div(MAX_SYMBOLS).expand_as(scaled)
        gain = self.power(torch.stack([relative, level, place], -1))[..., 0].tanh().exp()
        symbols = symbols * gain
        power = (symbols.real.square() + symbols.imag.square()).mean(1, keepdim=True)
        # A feature that gives no symbols still sends unit power.
        unit = symbols * power.clamp_min(1e-12).rsqrt()
        return torch.where(power > 1e-12, unit, torch.ones_like(symbols))

    def decode(self, symbols: torch.Tensor, noise_variance: torch.Tensor) -> torch.Tensor:
        r"""Equalised symbols to features.

        Input
        -----
        symbols : [batch, k], complex64
            :math:`\hat u = u + e`, unbiased.
        noise_variance : [batch, k], float32, > 0
            :math:`E|e_j|^2` as the receiver estimates it.

        Output
        ------
        : [batch, 256], float32, unit norm

        Raises InvalidField for another k, another shape, values that are not finite, or a variance ≤ 0.
        """
        k = symbols.shape[-1]
        if k not in SYMBOL_COUNTS:
            raise InvalidField(
                f"symbols is {k}, allowed: {', '.join(map(str, SYMBOL_COUNTS))}", field="symbols"
            )
        _check(torch.view_as_real(symbols).flatten(1), (None, 2 * k), "symbols")
        _check(noise_variance, (len(symbols), k), "noise_variance")
        if not bool((noise_variance > 0).all()):
            raise InvalidField(
                "noise_variance has values ≤ 0, allowed: > 0", field="noise_variance"
            )
        snr = -torch.log10(noise_variance)
        snr = snr.clamp(SNR_DB_SEEN[0] / 10.0, SNR_DB_SEEN[1] / 10.0)
        # Shrinkage to the prior: the linear MMSE estimate of a symbol of learned variance under this noise.
        variance = self.prior[:k].exp()
        shrink = variance / (variance + 10.0**-snr)
        missing = MAX_SYMBOLS - k
        estimate = F.pad(torch.view_as_real(symbols * shrink).flatten(1), (0, 2 * missing))
        trust = F.pad(shrink, (0, missing))
        net = self.decoder(torch.cat([estimate.clamp(-6.0, 6.0), trust], 1), _condition(snr, k))
        return F.normalize(self.mean + self.synthesis(estimate) + net * FEATURE_DIM**-0.5, dim=-1)


class _ConditionedNet(nn.Module):
    """Residual MLP whose blocks are scaled and shifted by the condition; it starts as the zero function."""

    def __init__(self, in_dim: int, out_dim: int, config: CodecConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.enter = nn.Linear(in_dim, hidden)
        self.condition = nn.Sequential(nn.Linear(_CONDITION_DIM, 64), nn.GELU())
        self.norms = nn.ModuleList(
            [nn.LayerNorm(hidden, elementwise_affine=False) for _ in range(config.num_blocks)]
        )
        self.films = nn.ModuleList([nn.Linear(64, 2 * hidden) for _ in range(config.num_blocks)])
        self.mixes = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(config.num_blocks)])
        self.leave = nn.Linear(hidden, out_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        c = self.condition(condition)
        h = self.enter(x)
        for norm, film, mix in zip(self.norms, self.films, self.mixes, strict=True):
            scale, shift = film(c).chunk(2, dim=-1)
            h = h + mix(F.gelu(norm(h) * (1.0 + scale) + shift))
        out: torch.Tensor = self.leave(h)
        return out


_CONDITION_DIM: Final = 4


def _condition(snr: torch.Tensor, k: int) -> torch.Tensor:
    """What FiLM is told: mean, deviation and least SNR of the symbols (in 10 dB), and log₂ k / 7; [batch, 4]."""
    length = torch.full_like(snr[:, :1], torch.tensor(float(k)).log2().item() / 7.0)
    deviation = snr.var(1, keepdim=True, correction=0).add(1e-6).sqrt()
    return torch.cat([snr.mean(1, keepdim=True), deviation, snr.amin(1, keepdim=True), length], 1)


def _check(value: torch.Tensor, shape: tuple[int | None, ...], field: str) -> None:
    fits = value.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise InvalidField(
            f"{field} has shape {tuple(value.shape)}, expected {shape} (None: any)", field=field
        )
    if not bool(value.isfinite().all()):
        raise InvalidField(f"{field} holds values that are not finite", field=field)


def codec_path(space: str) -> Path:
    """File of a space's trained codec. Raises NotFound, with the command that makes it, when it is missing."""
    return weights_of(space, "codec")


def load_codec(space: str, device: torch.device | str = "cpu") -> Codec:
    """The process's trained codec of a space (a task or an added corpus with heads), without gradients.

    Raises InvalidField for an unknown space, NotFound when its weights are missing, CorruptModel when they are damaged.
    """
    path = codec_path(space)
    return Weights(path.parent).load(
        path.name, _read, str(device), made_by=train_command(space, "codec")
    )


def _read(path: Path, device: str) -> Codec:
    with safe_open(path, framework="pt") as file:
        codec = Codec(CodecConfig(**json.loads(file.metadata()["config"])))
        codec.load_state_dict(unpack({name: file.get_tensor(name) for name in file.keys()}))  # noqa: SIM118
    return codec.eval().requires_grad_(False).to(device)
