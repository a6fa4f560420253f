r"""The semantic link as a function that gradients pass: from the CSI a transmitter believes in to the retrieval loss.

Precoder from the generated CSI, SINR of the true channel behind it, codec with noise of that SINR, cross-entropy of the
received feature among a batch's media: ``L_CE`` of SC-LMKB's joint loss. What the link does besides (pilots, their
estimation error, frames) changes no gradient of interest and is left out. Our definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import torch

from lab.training.codec import Embedded, embedded
from lab.training.csi_history_dataset import GROUP_USERS, SNR_DB, Histories
from lab.training.data import split_data
from lab.training.losses import contrastive_loss
from semlink.corpora.registry import corpus_named
from semlink.decibels import db_to_lin, lin_to_db
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.semantics.codec import Codec, load_codec
from semlink.signal.csi import content_of
from semlink.signal.layer_mapping import per_symbol
from semlink.signal.precoding import RANK_FLOOR, SINR_FLOOR
from semlink.tasks import task_spec

ITERATIONS: Final = 30
"""Of the orthogonal iteration."""
LOGIT_SCALE: Final = 30.0
SYMBOLS: Final = (16, 32, 64)
"""Lengths that training draws from."""
SCORED_SYMBOLS: Final = 16
SCORED_SNR_DB: Final = 5.0


def dominant_rows(csi: torch.Tensor, num_layers: int) -> torch.Tensor:
    r"""Rows :math:`\sigma_l v_l^H` of the strongest layers, safe to differentiate where singular values are close.

    Orthogonal iteration :math:`Q \leftarrow \mathrm{qr}(A A^H Q)` in place of an SVD, whose gradient has
    :math:`1/(\sigma_i^2 - \sigma_j^2)`; its rows span the dominant subspace, which is all that a precoder uses of them.
    One row is its own dominant direction and takes no iteration. A row that CSI does not resolve is
    ``RANK_FLOOR`` of the strongest, as in :func:`semlink.signal.precoding.precoder`.

    ``csi``: complex ``[..., num_rx_ant, num_tx_ant]``, rows of zeros allowed below the first. Returns complex
    ``[..., num_layers, num_tx_ant]``.
    """
    there = csi[..., : int((csi.abs().amax((*range(csi.ndim - 2), -1)) > 0).sum()), :]
    if there.shape[-2] < num_layers:
        raise InvalidField(
            f"csi has {there.shape[-2]} rows, {num_layers} layers need as many", field="csi"
        )
    if there.shape[-2] == 1:
        return there
    gram = there @ there.mH
    q = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)[:, :num_layers]
    # not orthogonal to any layer that matters
    q = (q + 0.1).expand(*gram.shape[:-1], num_layers)
    for _ in range(ITERATIONS):
        q, _ = torch.linalg.qr(gram @ q)
    rows: torch.Tensor = q.mH @ there
    norm = rows.abs().square().sum(-1, keepdim=True).sqrt()
    floor = RANK_FLOOR * norm.amax(-2, keepdim=True)
    return rows * (torch.maximum(norm, floor) / norm.clamp_min(1e-30)).detach()


def differentiable_precoder(
    csi: torch.Tensor, num_layers: int, snr_db: torch.Tensor
) -> torch.Tensor:
    """:func:`semlink.signal.precoding.precoder`, up to the phase of each column, with gradients everywhere.

    ``csi``: complex ``[batch, num_users, num_subbands, num_rx_ant, num_tx_ant]``; ``snr_db``: float ``[batch]``.
    Returns complex ``[batch, num_subbands, num_tx_ant, num_users·num_layers]``, columns of unit norm, user-major.
    """
    users = csi.shape[1]
    rows = dominant_rows(csi, num_layers).transpose(1, 2).flatten(2, 3)
    streams = rows.shape[2]
    if users == 1:
        columns = rows.mH
    else:
        alpha = streams / db_to_lin(snr_db)
        eye = torch.eye(streams, dtype=rows.dtype, device=rows.device)
        gram = rows @ rows.mH + alpha[:, None, None, None] * eye
        columns = torch.linalg.solve(gram, rows).mH
    norm = columns.abs().square().sum(-2, keepdim=True)
    return columns * norm.clamp_min(1e-20).rsqrt()


def effective_sinr(
    channel: torch.Tensor, precoder: torch.Tensor, snr_db: torch.Tensor, num_layers: int = 1
) -> torch.Tensor:
    """SINR of every stream after its user's LMMSE equaliser, the other streams being interference.

    ``channel``: complex ``[batch, num_users, num_subbands, num_rx_ant, num_tx_ant]``; ``precoder``: complex
    ``[batch, num_subbands, num_tx_ant, num_streams]``; ``snr_db``: float ``[batch]``. Returns float
    ``[batch, num_users, num_subbands, num_layers]``, linear.
    """
    g = channel @ precoder[:, None]
    users, streams = channel.shape[1], precoder.shape[-1]
    level = streams / db_to_lin(snr_db)
    eye = torch.eye(g.shape[-2], dtype=g.dtype, device=g.device)
    covariance = g @ g.mH + level[:, None, None, None, None] * eye
    own = g.reshape(*g.shape[:-1], users, num_layers)
    own = own.diagonal(dim1=1, dim2=-2).movedim(-1, 1)  # each user's own streams
    biased = torch.linalg.solve(covariance, own)
    bias = (own.conj() * biased).sum(-2).real
    sinr: torch.Tensor = (bias / (1 - bias).clamp_min(1e-7)).clamp_min(SINR_FLOOR)
    return sinr


@dataclass(frozen=True, slots=True)
class SemanticLink:
    """A frozen codec and what is sent through it."""

    codec: Codec
    data: Embedded

    @classmethod
    def from_corpus(
        cls, task: str = "person", split: str = "train", device: torch.device | str = "cpu"
    ) -> Self:
        """The link of a task with the features of a split of its embedded corpus."""
        corpus = corpus_named(task_spec(task).corpus)
        return cls(load_codec(task, device), embedded(task, split_data(corpus, split)))  # type: ignore[arg-type]

    def sinr(
        self, rows: torch.Tensor, channel: torch.Tensor, snr_db: torch.Tensor, users: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SINR that users get, and what the transmitter expects, float ``[n, num_subbands]`` each.

        ``rows``: complex64 ``[n, num_subbands, 1, num_tx_ant]``, cells of ``users`` one behind the other; ``channel``:
        ``[n, num_subbands, num_rx_ant, num_tx_ant]``; ``snr_db``: float ``[n / users]``.
        """
        config = Link()
        csi, true = (
            x.reshape(-1, users, *x.shape[1:]) for x in (content_of(config).csi(rows), channel)
        )
        precoder = differentiable_precoder(csi, config.num_layers, snr_db)
        got = effective_sinr(true, precoder, snr_db)
        expected = effective_sinr(csi, precoder, snr_db)
        return got.flatten(0, 1).squeeze(-1), expected.flatten(0, 1).squeeze(-1)

    def received(
        self,
        sent: torch.Tensor,
        sinr: torch.Tensor,
        expected: torch.Tensor,
        k: int,
        draws: torch.Generator,
    ) -> torch.Tensor:
        """Features behind the link, float32 ``[n, 256]``; symbol j lies in subband ``j mod num_subbands``."""
        noise = torch.randn(len(sent), k, dtype=torch.complex64, generator=draws).to(sent.device)
        symbols = self.codec.encode(sent, lin_to_db(per_symbol(expected[..., None], k)), k)
        variance = 1 / per_symbol(sinr[..., None], k)
        return self.codec.decode(symbols + noise * variance.sqrt(), variance)

    def __call__(
        self, rows: torch.Tensor, histories: Histories, draws: torch.Generator
    ) -> torch.Tensor:
        """Retrieval cross-entropy of random captions sent to the users: alone in their cells, and together."""
        n = len(rows)
        caption = torch.randint(len(self.data.text), (n,), generator=draws)
        item = self.data.caption_item[caption]
        identity = self.data.identity[item]
        positive = (identity[:, None] == identity[None, :]).to(rows.device)
        sent, media = self.data.text[caption].to(rows.device), self.data.media[item].to(rows.device)
        k = SYMBOLS[int(torch.randint(len(SYMBOLS), (), generator=draws))]
        total = rows.real.new_zeros(())
        for users in (1, GROUP_USERS):
            snr_db = torch.empty(n // users).uniform_(*SNR_DB, generator=draws).to(rows.device)
            sinr, expected = self.sinr(rows, histories.channel, snr_db, users)
            received = self.received(sent, sinr, expected, k, draws)
            total = total + contrastive_loss(LOGIT_SCALE * received @ media.T, positive)
        return total / 2

    @torch.inference_mode()
    def scores(
        self, rows: torch.Tensor, histories: Histories, users: int = GROUP_USERS
    ) -> dict[str, float]:
        """What CSI is worth: R@1 of captions among all media of the split, and the mean SINR [dB].

        Every history carries several captions at ``SCORED_SNR_DB`` with ``SCORED_SYMBOLS`` symbols; the draws of noise
        are the same for all CSI.
        """
        draws = torch.Generator().manual_seed(1)
        snr_db = torch.full((len(rows) // users,), SCORED_SNR_DB)
        sinr, expected = self.sinr(rows, histories.channel, snr_db, users)
        hits = []
        for repeat in range(4):
            caption = (torch.arange(len(rows)) * 4 + repeat) % len(self.data.text)
            received = self.received(self.data.text[caption], sinr, expected, SCORED_SYMBOLS, draws)
            best = (received @ self.data.media.T).argmax(1)
            wanted = self.data.identity[self.data.caption_item[caption]]
            hits.append((self.data.identity[best] == wanted).float())
        return {
            "r_at_1": float(torch.cat(hits).mean()),
            "sinr_db": float(lin_to_db(sinr).mean()),
        }
