"""The runtime of frozen networks: OpenVINO gives what torch gives, converts once, and tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

from semlink import runtime
from semlink.errors import InvalidField
from semlink.runtime import FrozenNetwork, Runtime

if find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has chosen nothing yet, and an empty cache."""
    monkeypatch.setattr(runtime, "_chosen", {})
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    return tmp_path


class Attending(nn.Module):
    """Something with weights, a mask and two lengths that differ between calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(8, 16)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(values).masked_fill(~mask[..., None], 0.0)
        return hidden.sum(1) / mask.sum(1, keepdim=True)


def network(module: object = Attending, **changes: object) -> FrozenNetwork:
    settings: dict[str, object] = {
        "example": lambda: inputs(2, 3),
        "shapes": ([-1, -1, 8], [-1, -1]),
        "identity": "weights",
    }
    return FrozenNetwork("attending", module, **(settings | changes))  # type: ignore[arg-type]


def inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    mask = torch.arange(length) < torch.randint(1, length + 1, (batch, 1), generator=generator)
    return torch.randn(batch, length, 8, generator=generator), mask


def test_openvino_gives_what_torch_gives_for_any_batch_and_length(fresh: Path) -> None:
    runtime.use("openvino")
    one = network()
    reference = Attending()
    for batch, length in ((1, 1), (2, 3), (7, 50), (64, 9)):
        given = inputs(batch, length)
        torch.testing.assert_close(one(*given), reference(*given), atol=1e-5, rtol=1e-5)


def test_an_answer_is_not_changed_by_the_next_call_nor_by_other_threads(fresh: Path) -> None:
    runtime.use("openvino")
    one, reference = network(), Attending()
    cases = [inputs(3, 4 + i % 9) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda given: one(*given), cases))
    for given, output in zip(cases, found, strict=True):
        torch.testing.assert_close(output, reference(*given), atol=1e-5, rtol=1e-5)


def test_a_network_is_converted_once(fresh: Path) -> None:
    runtime.use("openvino")
    first = network()

    def not_again() -> nn.Module:
        raise AssertionError("built again though it is in the cache")

    again = network(not_again)
    assert torch.equal(first(*inputs(2, 5)), again(*inputs(2, 5)))
    with pytest.raises(AssertionError, match="built again"):
        network(not_again, identity="other weights")


def test_a_cache_that_cannot_be_written_is_done_without(fresh: Path) -> None:
    runtime.use("openvino")
    (fresh / "networks").write_text("a file where the folder should be")
    with capture_logs() as logged:
        output = network()(*inputs(2, 5))
    torch.testing.assert_close(output, Attending()(*inputs(2, 5)), atol=1e-5, rtol=1e-5)
    assert [line["event"] for line in logged] == ["a converted network is not cached"]


def test_torch_runs_the_module_itself(fresh: Path) -> None:
    runtime.use("torch")
    assert torch.equal(network()(*inputs(2, 5)), Attending()(*inputs(2, 5)))
    assert not (fresh / "networks").exists()


@pytest.mark.skipif(not runtime.computes_bf16(), reason="this processor has no bf16")
def test_bf16_is_near_f32_and_a_network_may_refuse_it(fresh: Path) -> None:
    runtime.use("openvino", "bf16")
    rough, exact = network(), network(bf16=False)
    given = inputs(64, 20)
    reference = Attending()(*given)
    assert rough.runtime == Runtime("openvino", "bf16")
    assert exact.runtime == Runtime("openvino", "f32")
    torch.testing.assert_close(exact(*given), reference, atol=1e-5, rtol=1e-5)
    error = (rough(*given) - reference).abs().max()
    assert 1e-5 < error < 2e-2


class TestChoice:
    def test_is_f32_where_nobody_chose(self, fresh: Path) -> None:
        assert runtime.current() == Runtime("openvino", "f32")

    def test_is_the_setting_where_there_is_one(
        self, fresh: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SEMLINK_RUNTIME", "torch")
        assert runtime.current() == Runtime("torch", "f32")

    def test_is_made_once(self, fresh: Path) -> None:
        runtime.use("torch")
        runtime.use("torch")
        with pytest.raises(InvalidField, match="openvino f32 has to be chosen before") as caught:
            runtime.use("openvino")
        assert caught.value.field == "runtime"

    def test_bf16_needs_openvino_and_a_processor(
        self, fresh: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(InvalidField, match="allowed with the runtime torch: f32") as caught:
            runtime.use("torch", "bf16")
        assert caught.value.field == "precision"
        monkeypatch.setattr(runtime, "computes_bf16", lambda: False)
        with pytest.raises(InvalidField, match="this processor computes in f32"):
            runtime.use("auto", "bf16")

    def test_says_how_to_install_openvino(
        self, fresh: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runtime, "find_spec", lambda name: None)
        with pytest.raises(InvalidField, match="pip install openvino"):
            runtime.use("openvino")
        assert runtime.use("auto") == Runtime("torch", "f32")


REPORTED = 77
"""Exit status of a process in which anything was reported."""


def _in_a_process_that_ends_when_it_reports(folder: Path, program: str) -> tuple[int, str]:
    """Exit status and output of a program beside a package of usage statistics that ends it."""
    package = folder / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os\n"
        "class Telemetry:\n"
        f"    def __init__(self, *args, **kwargs): os._exit({REPORTED})\n"
    )
    (package / "backend" / "__init__.py").touch()
    (package / "backend" / "backend_ga4.py").touch()
    folders = [str(folder), str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(folders), "SEMLINK_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_no_usage_statistics_are_sent(tmp_path: Path) -> None:
    program = (
        "import test_runtime as t; from semlink import runtime\n"
        "runtime.use('openvino'); t.network()(*t.inputs(2, 3)); t.network()\n"
        "from kb_service import decoders; decoders.load_openvino().opset13\n"
        "import sys; assert sys.modules['openvino.tools.ovc']; print('converted')\n"
    )
    status, output = _in_a_process_that_ends_when_it_reports(tmp_path, program)
    assert (status, output.splitlines()[-1:]) == (0, ["converted"]), output


def test_openvino_by_itself_would_send_them(tmp_path: Path) -> None:
    """Else the test above proves nothing, and :func:`semlink.runtime.load_openvino` is needed no more."""
    status, output = _in_a_process_that_ends_when_it_reports(tmp_path, "import openvino.tools.ovc")
    assert status == REPORTED, output


def test_only_one_function_imports_openvino() -> None:
    root = Path(runtime.__file__).resolve().parents[1]
    found = subprocess.run(
        ["git", "grep", "-nE", r"^\s*(import|from) openvino", "--", "*.py", ":!tests"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert {line.partition(":")[0] for line in found} <= {"semlink/runtime.py"}, found


@pytest.mark.skipif(not runtime.computes_bf16(), reason="this processor has no bf16")
def test_a_service_serves_in_bf16(tmp_path: Path) -> None:
    """Whatever a service makes before it serves has not chosen a precision already."""
    program = (
        "import semlink.runtime as r; from semlink.settings import Settings\n"
        "from semlink.store import MemoryStore; from transmitter.handler import Transmitter\n"
        "Transmitter(None, None, None, MemoryStore(), Settings())\n"
        "print(r.use('auto', 'bf16'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "SEMLINK_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "openvino bf16"), done.stderr
