"""The physical layer by itself: an example in every module that runs, and nothing of the services behind it."""

from __future__ import annotations

import doctest
import pkgutil
import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from sionna.phy.nr import LayerMapper
from sionna.phy.utils import db_to_lin, lin_to_db

from semlink import decibels, signal
from semlink.signal.layer_mapping import demap_layers, map_layers, per_symbol

MODULES = [
    "semlink.signal",
    "semlink.decibels",
    *(found.name for found in pkgutil.walk_packages(signal.__path__, "semlink.signal.")),
]
SERVICES = ("semlink.settings", "semlink.telemetry", "semlink.v1", "semlink.store", "semlink.rpc")
BEHIND = (
    *SERVICES,
    "google.protobuf",
    "grpc",
    "prometheus_client",
    "pydantic",
    "structlog",
)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_an_example_that_runs(name: str) -> None:
    found = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted, f"{name} has no example"
    assert not found.failed


def test_nothing_of_the_services_is_imported() -> None:
    code = f"""
import sys
{chr(10).join(f"import {name}" for name in MODULES)}
from semlink.signal.csi import QuantizerRequest, make_quantizer
from semlink.signal.csi.layers import WholeChannel
make_quantizer(QuantizerRequest("learned", WholeChannel(2), 2, 16, 64))
print([name for name in {BEHIND!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("x", [7.3, np.array([-3.0, 12.5]), torch.tensor([-3.0, 12.5])], ids=type)
def test_decibels_keep_type_and_precision(x: Any) -> None:
    """The same bits as Sionna's for tensors of one precision, and both ways undo each other."""
    lin, amplitude = decibels.db_to_lin(x), decibels.db_to_amplitude(x)
    assert type(lin) is type(x)
    assert getattr(lin, "dtype", None) == getattr(x, "dtype", None)
    assert amplitude * amplitude == pytest.approx(lin)
    assert decibels.lin_to_db(lin) == pytest.approx(x)
    assert decibels.amplitude_to_db(amplitude) == pytest.approx(x)
    if isinstance(x, torch.Tensor):
        assert torch.equal(lin, db_to_lin(x))
        assert torch.equal(decibels.lin_to_db(lin), lin_to_db(lin))


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_layers_are_mapped_as_sionna_maps_them(num_layers: int) -> None:
    symbols = torch.randn(3, 32, dtype=torch.complex64)
    layers = map_layers(symbols, num_layers)
    assert torch.equal(layers, LayerMapper(num_layers, device="cpu")(symbols))
    assert torch.equal(demap_layers(layers, 32), symbols)
    assert torch.equal(demap_layers(map_layers(symbols[:, :31], num_layers), 31), symbols[:, :31])
    subband = torch.arange(8.0).view(1, 8, 1).expand(3, 8, num_layers)
    assert torch.equal(per_symbol(subband, 31)[0], torch.arange(31) // num_layers % 8)
