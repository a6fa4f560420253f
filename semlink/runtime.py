"""Run frozen networks: on the CPU by OpenVINO, converted once into the cache; elsewhere, and as reference, by torch.

Two choices hold for a whole process and are made once, at its start, by :func:`use`: the runtime and the precision.
``f32`` gives torch's results up to rounding (cosine ≥ 0.999999). ``bf16`` halves the cost on processors that compute
in it (AVX512-BF16, AMX); a network whose features it changes too much says so and stays in f32.

OpenVINO sends usage statistics when it is imported: it is imported by :func:`load_openvino` alone, which keeps it from
that.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, cast, get_args

import structlog
import torch
from torch import nn

from semlink.errors import InvalidField
from semlink.models import cache_dir
from semlink.settings import current_settings

RuntimeName = Literal["openvino", "torch"]
Precision = Literal["f32", "bf16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
BF16_FLAGS: Final = ("avx512_bf16", "amx_bf16")
"""Processor features without which bf16 is emulated and saves nothing."""

Inputs = tuple[torch.Tensor, ...]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs the frozen networks of this process, and in which precision where a network allows it."""

    name: RuntimeName
    precision: Precision = "f32"

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


_lock = threading.Lock()
_chosen: Final[dict[str, Runtime]] = {}


def use(
    name: Literal["auto", "openvino", "torch"] = "auto", precision: Precision = "f32"
) -> Runtime:
    """Choose the runtime and the precision of this process, before its first network runs.

    :param name: ``auto`` is OpenVINO where it is installed, else torch.
    :raises InvalidField: for OpenVINO where it is not installed, for bf16 without OpenVINO or on a processor that
        would only emulate it, and when another choice is in use already.
    """
    wanted = _resolved(name, precision)
    with _lock:
        chosen = _chosen.setdefault("process", wanted)
    if chosen != wanted:
        raise InvalidField(
            f"networks run on {chosen} already, {wanted} has to be chosen before the first one runs",
            field="runtime",
        )
    return chosen


def current() -> Runtime:
    """Return the choice of this process; the first call without :func:`use` takes ``SEMLINK_RUNTIME``, in f32."""
    return _chosen.get("process") or use(current_settings().runtime)


def running_on(device: str | torch.device) -> Runtime:
    """Return what runs networks on a device: the choice of this process on the CPU, torch elsewhere."""
    return current() if torch.device(device).type == "cpu" else Runtime("torch")


def _resolved(name: str, precision: Precision) -> Runtime:
    installed = find_spec("openvino") is not None
    if name == "openvino" and not installed:
        raise InvalidField(
            "runtime is openvino, which is not installed: pip install openvino", field="runtime"
        )
    resolved: RuntimeName = "torch" if name == "torch" or not installed else "openvino"
    if precision == "bf16":
        if resolved == "torch":
            raise InvalidField(
                "precision is bf16, allowed with the runtime torch: f32", field="precision"
            )
        if not computes_bf16():
            raise InvalidField(
                "precision is bf16, this processor computes in f32 "
                f"(it has none of {', '.join(BF16_FLAGS)})",
                field="precision",
            )
    return Runtime(resolved, precision)


def computes_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in flags for flag in BF16_FLAGS)


def load_openvino() -> Any:
    """Import OpenVINO without its package of usage statistics.

    It would report each import to Google Analytics, from a process that it forks and, where nobody answers, ends by
    SIGTERM after three seconds. That process shares our event loop's signal descriptor, so the service would end too.
    """
    # As if it were not installed: OpenVINO then takes its own stand-in.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return import_module("openvino")


def compile_for_cpu(model: Any, precision: Precision, num_threads: int, **more: str) -> Any:
    """Compile an OpenVINO model for the least time of one call; ``more``: further properties of the CPU plugin."""
    properties = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": num_threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return load_openvino().Core().compile_model(model, "CPU", properties | more)


class FrozenNetwork:
    """A torch module in evaluation mode, run by the process's runtime. Safe to call from several threads.

    :param name: in logs and in the cache, for example "minilm".
    :param module: returns the module, float32 on the CPU; called where torch runs it or it is not converted yet.
    :param example: returns inputs to trace it with; called only then.
    :param shapes: of the inputs, −1 for what differs between calls.
    :param identity: changes with the weights: their hash.
    :param device: "cpu", or where torch runs the module.
    :param bf16: False where its features in bf16 are not those of f32: it then stays in f32.
    """

    def __init__(
        self,
        name: str,
        module: Callable[[], nn.Module],
        *,
        example: Callable[[], Inputs],
        shapes: Sequence[Sequence[int]],
        identity: str,
        device: str | torch.device = "cpu",
        bf16: bool = True,
    ) -> None:
        self.name = name
        self.device = torch.device(device)
        chosen = running_on(self.device)
        self.runtime = chosen if bf16 else Runtime(chosen.name)
        self._shapes = [list(shape) for shape in shapes]
        self._requests = threading.local()
        if self.runtime.name == "torch":
            self._module = module().eval().requires_grad_(False).to(self.device)
        else:
            self._compiled = self._compile(module, example, identity)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the module's output, a tensor of its own on the network's device."""
        if self.runtime.name == "torch":
            with torch.inference_mode():
                return cast(torch.Tensor, self._module(*(x.to(self.device) for x in inputs)))
        # An inference request holds the buffers of one call at a time.
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        arrays = [x.detach().contiguous().numpy() for x in inputs]
        (output,) = request.infer(arrays, share_inputs=True, share_outputs=True).values()
        return torch.from_numpy(output.copy())

    def _compile(
        self, module: Callable[[], nn.Module], example: Callable[[], Inputs], identity: str
    ) -> Any:
        made_of = f"{identity}\x1f{self._shapes}".encode() + _program()
        key = blake2b(made_of, digest_size=10).hexdigest()
        path = cache_dir() / "networks" / f"{self.name}-{key}.xml"
        model = None
        if not path.is_file():
            model = _converted(module().eval().requires_grad_(False), example(), self._shapes)
            if _store(model, path):
                # As every later process reads it: what was just converted differs from it by rounding.
                model = None
        if model is None:
            model = load_openvino().Core().read_model(path)
        return compile_for_cpu(model, self.runtime.precision, torch.get_num_threads())


@lru_cache(maxsize=1)
def _program() -> bytes:
    """Hash of what builds and converts networks: the sources of the semantics, the converter and torch."""
    versions = [_version(package) for package in ("openvino", "torch", "transformers")]
    sources = [
        path.read_text() for path in sorted((Path(__file__).parent / "semantics").rglob("*.py"))
    ]
    return blake2b("\x1f".join([*versions, *sources]).encode()).digest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _converted(module: nn.Module, example: Inputs, shapes: list[list[int]]) -> Any:
    """The module as an OpenVINO model, traced with the example."""
    openvino = load_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(False), torch.no_grad():
        # The decoder has to live until the model is converted: OpenVINO calls back into it.
        decoder = TorchScriptPythonDecoder(module, example_input=example)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape(
        {
            source.get_any_name(): openvino.PartialShape(shape)
            for source, shape in zip(model.inputs, shapes, strict=True)
        }
    )
    return model


def _store(model: Any, path: Path) -> bool:
    """Cache a converted network, whole or not at all; whether it could be written (if not, that is logged)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            load_openvino().save_model(model, made, compress_to_fp16=False)
            # The description comes last: where it is, its weights are.
            made.with_suffix(".bin").replace(path.with_suffix(".bin"))
            made.replace(path)
    except (OSError, RuntimeError) as error:
        _log.warning("a converted network is not cached", network=path.stem, reason=str(error))
        return False
    return True
