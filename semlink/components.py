"""Predictors, precoders, codecs and fusion rules by name; :mod:`semlink.quantizers` has the CSI quantisers.

A row of :data:`semlink.methods.METHODS` names one of each. They are registered below, or in a module of one's own
(:mod:`semlink.registry`) by the same decorators. ::

    @register_fusion("first-rewrite")
    def first_rewrite(features, similarity, present, temperature):
        return torch.nn.functional.one_hot(torch.ones(len(features), dtype=torch.int64), features.shape[1])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from semlink.registry import Entry, Registry, Target
from semlink.weight_files import Weights

T = TypeVar("T", bound=Target)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSpec(Entry):
    """A predictor of CSI; see :func:`register_predictor`."""

    trained: bool
    needs_llm: bool

    def weights_file(self, num_tx_ant: int, num_rows: int) -> str:
        """Name of the file of its weights for so many ports and rows of a report."""
        return f"csi-{self.name}-{num_tx_ant}x{num_rows}.safetensors"

    def antennas(self, weights: Weights) -> tuple[str, ...]:
        """Ports x rows that there are weights for, as "16x1"."""
        return weights.variants(f"csi-{self.name}-")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec(Entry):
    """A codec of messages; see :func:`register_codec`."""

    digital: bool


PREDICTORS: Final[Registry[PredictorSpec]] = Registry("predictor")
PRECODERS: Final[Registry[Entry]] = Registry("precoder")
CODECS: Final[Registry[CodecSpec]] = Registry("coding")
FUSIONS: Final[Registry[Entry]] = Registry("fusion")


def register_predictor(
    name: str, *, trained: bool = False, needs_llm: bool = False
) -> Callable[[T], T]:
    """Register what makes the predictor ``name`` of the CSI in the slot of transmission.

    It is called without arguments and returns a :class:`kb_service.predictors.CsiPredictor`, for any link. With
    ``trained`` it is called as ``make(antennas, **settings)`` and returns a
    :class:`kb_service.generators.ChannelGenerator`, for links that ``weights_dir`` has its weights for; ``needs_llm``:
    it rests on blocks of the embedded LLM. Raises InvalidField for a name that is taken or not allowed.
    """
    return lambda target: _added(
        PREDICTORS,
        PredictorSpec(name=name, target=target, trained=trained, needs_llm=needs_llm),
        target,
    )


def register_precoder(name: str) -> Callable[[T], T]:
    """Register a precoder: a function as :func:`semlink.signal.precoding.precoder`, ``(csi, num_layers, snr_db)``.

    Columns have unit norm; the link's power allocation comes after. Raises InvalidField for a name that is taken or
    not allowed.
    """
    return lambda target: _added(PRECODERS, Entry(name=name, target=target), target)


def register_codec(name: str, *, digital: bool = False) -> Callable[[T], T]:
    """Register what makes the codec ``name``: ``make(space, device, weights)`` returns a ``MessageCodec``.

    See :class:`semlink.semantics.message.MessageCodec`. ``digital``: the header names an MCS, symbols are points of its
    constellation, and the message is one component that may be erased. Raises InvalidField for a name that is taken or
    not allowed.
    """
    return lambda target: _added(
        CODECS, CodecSpec(name=name, target=target, digital=digital), target
    )


def register_fusion(name: str) -> Callable[[T], T]:
    """Register a rule of fusion: ``rule(features, similarity, present, temperature)`` returns weights.

    ``features``: float32 ``[batch, 1 + n, size]``, the source first, zeros where a rewrite was dropped; ``similarity``:
    ``[batch, 1 + n]``, cosine with the source; ``present``: bool ``[batch, 1 + n]``. Weights ``[batch, 1 + n]`` or
    ``[batch, 1 + n, size]``; the weighted sum is normalised. Raises InvalidField for a name that is taken or not
    allowed.
    """
    return lambda target: _added(FUSIONS, Entry(name=name, target=target), target)


E = TypeVar("E", bound=Entry)


def _added(registry: Registry[E], entry: E, target: T) -> T:
    registry.add(entry)
    return target


register_predictor("hold-last")("kb_service.predictors:HoldLast")
register_predictor("wiener")("kb_service.predictors:Wiener")
register_predictor("kalman")("kb_service.predictors:Kalman")
register_predictor("cdg", trained=True, needs_llm=True)("kb_service.generators.cdg:cdg")
register_predictor("transformer", trained=True)("kb_service.generators.transformer:transformer")
register_predictor("llm4cp", trained=True, needs_llm=True)("kb_service.generators.llm4cp:llm4cp")
register_predictor("csi-llm", trained=True, needs_llm=True)("kb_service.generators.csi_llm:csi_llm")

register_precoder("svd-rzf")("semlink.signal.precoding:precoder")

register_codec("jscc")("semlink.semantics.message:JsccCodec")
register_codec("separation", digital=True)("semlink.semantics.digital:separation")
register_codec("vq-digital", digital=True)("semlink.semantics.digital:vq_digital")

register_fusion("mean")("semlink.semantics.fusion:mean_weights")
register_fusion("similarity")("semlink.semantics.fusion:similarity_weights")
register_fusion("importance")("semlink.semantics.fusion:importance_weights")
