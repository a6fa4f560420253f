"""A user's own predictor, precoder, codec, fusion rule and the method that names them, outside the packages."""

from __future__ import annotations

from typing import Any

import torch

from semlink.components import (
    register_codec,
    register_fusion,
    register_precoder,
    register_predictor,
)
from semlink.methods import Method, add_method
from semlink.semantics.message import JsccCodec
from semlink.signal.csi import content_of
from semlink.signal.precoding import precoder

CALLED: list[str] = []
"""Names of the components in the order of their calls."""


@register_predictor("mean-report")
class MeanReport:
    """The mean of the reports, turned to agree with the first that is there."""

    name = "mean-report"

    def predict(
        self, history: torch.Tensor, present: torch.Tensor, age_slots: torch.Tensor, config: Any
    ) -> torch.Tensor:
        CALLED.append(self.name)
        reports = history * present[..., None, None, None]
        return content_of(config).phase_aligned(reports, reports[:, :, -1:]).mean(2)


@register_precoder("one-by-one")
def one_by_one(csi: torch.Tensor, num_layers: int, snr_db: torch.Tensor) -> torch.Tensor:
    """Every user's own directions, blind to the others."""
    CALLED.append("one-by-one")
    return torch.cat([precoder(csi[:, [u]], num_layers, snr_db) for u in range(csi.shape[1])], -1)


@register_codec("jscc-again")
class JsccAgain(JsccCodec):
    """JSCC under another name."""

    def encode(self, *args: Any) -> Any:
        CALLED.append("jscc-again")
        return super().encode(*args)


@register_fusion("rewrites-only")
def rewrites_only(
    features: torch.Tensor, similarity: torch.Tensor, present: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The mean of the rewrites; the source counts for nothing."""
    CALLED.append("rewrites-only")
    weights = present.float()
    weights[:, 0] = 0
    return weights


add_method(
    Method(
        "sc-own",
        "A plug-in's predictor, precoder, codec and fusion rule",
        "tests",
        available=True,
        rewrites=True,
        fusion="rewrites-only",
        predictor="mean-report",
        precoder="one-by-one",
        coding="jscc-again",
    )
)
