"""The differentiable link: it is the link's own arithmetic, and its gradients are right."""

from __future__ import annotations

import pytest
import torch

from lab.training.differentiable_link import differentiable_precoder, dominant_rows, effective_sinr
from semlink.errors import InvalidField
from semlink.signal.equalization import lmmse
from semlink.signal.precoding import noise_power, own_streams_first, precoder


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.complex128, generator=generator)


@pytest.mark.parametrize(
    ("users", "rx", "layers"), [(1, 1, 1), (1, 2, 2), (4, 1, 1), (3, 2, 1), (2, 2, 2)]
)
def test_it_precodes_as_the_transmitter_does(users: int, rx: int, layers: int) -> None:
    """Equal columns up to their phases; of several layers of one user the spanned subspace is what matters."""
    csi = gaussian(5, users, 8, rx, 16)
    csi[..., 0, :] *= 3.0  # singular values apart, so that the iteration has converged
    snr_db = torch.linspace(-5, 25, 5, dtype=torch.float64)
    mine = differentiable_precoder(csi, layers, snr_db)
    theirs = precoder(csi, layers, snr_db).to(torch.complex128)
    inner = (mine.mH @ theirs).abs()
    if layers == 1:
        assert float((inner.diagonal(dim1=2, dim2=3) - 1).abs().max()) < 1e-4
    # the projector on the span, whatever its basis
    bases = [torch.linalg.qr(w)[0] for w in (mine, theirs)]
    mine_onto, theirs_onto = (q @ q.mH for q in bases)
    assert (mine_onto - theirs_onto).abs().max() < 1e-3


def test_sinr_is_that_of_the_receivers_equaliser() -> None:
    channel, csi = gaussian(3, 4, 8, 2, 16), gaussian(3, 4, 8, 2, 16, seed=1)
    snr_db = torch.tensor([-5.0, 10.0, 25.0], dtype=torch.float64)
    w = differentiable_precoder(csi, 1, snr_db)
    found = effective_sinr(channel, w, snr_db)
    for user in range(4):
        own = torch.full((3,), user)
        g = own_streams_first(channel[:, user] @ w, own, 1)
        _, expected = lmmse(g, noise_power(4, snr_db), 1)
        torch.testing.assert_close(found[:, user].float(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("users", "rx", "layers"), [(1, 1, 1), (4, 1, 1), (2, 2, 1), (1, 3, 2)])
def test_gradients_are_those_of_finite_differences(users: int, rx: int, layers: int) -> None:
    channel = gaussian(1, users, 2, 2, 6, seed=2)
    snr_db = torch.tensor([7.0], dtype=torch.float64)

    def mean_sinr_db(pairs: torch.Tensor) -> torch.Tensor:
        csi = torch.view_as_complex(pairs)
        w = differentiable_precoder(csi, layers, snr_db)
        return effective_sinr(channel, w, snr_db, layers).log10().mean()

    csi = torch.view_as_real(gaussian(1, users, 2, rx, 6, seed=3)).requires_grad_()
    assert torch.autograd.gradcheck(mean_sinr_db, (csi,), eps=1e-6, atol=1e-5, rtol=1e-3)


def test_gradients_are_finite_where_singular_values_are_equal() -> None:
    """Two orthogonal rows of equal norm: the gradient of an SVD divides by zero there."""
    csi = torch.zeros(1, 2, 6, dtype=torch.complex128)
    csi[0, 0, 0] = csi[0, 1, 3] = 1.0
    pairs = torch.view_as_real(csi).clone().requires_grad_()
    rows = dominant_rows(torch.view_as_complex(pairs), 2)
    (rows - gaussian(1, 2, 6, seed=4)).abs().square().sum().backward()  # type: ignore[no-untyped-call]
    assert pairs.grad is not None
    assert bool(pairs.grad.isfinite().all())


def test_layers_that_csi_does_not_have_are_refused() -> None:
    with pytest.raises(InvalidField, match="2 layers") as caught:
        dominant_rows(gaussian(3, 1, 8), 2)
    assert caught.value.field == "csi"
