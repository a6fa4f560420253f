"""Settings of every process, read from the environment (``SEMLINK_…``): one class, one place, checked at start."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from semlink.errors import InvalidField
from semlink.hosts import LOOPBACK_NAMES, bare_host_name
from semlink.scenarios import SCENARIOS
from semlink.weight_files import SHIPPED_FOLDER, Weights

ServiceName = Literal["transmitter", "channel", "receiver", "knowledge", "gateway"]
SERVICE_NAMES: Final[tuple[ServiceName, ...]] = get_args(ServiceName)

_PREFIX: Final = "SEMLINK_"
_Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the kernel choose a free one."""


_ANY_INTERFACE: Final = ("0.0.0.0", "::", "[::]")


def _split(names: str) -> list[str]:
    """The parts of a comma-separated setting that are not empty."""
    return [name.strip() for name in names.split(",") if name.strip()]


class SecretUrl(SecretStr):
    """A URL that may hold a password. As text it has neither user, password nor query."""

    def _display(self) -> str:
        parts = urlsplit(self.get_secret_value())
        if not parts.scheme:
            return ""
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def credentials(self) -> tuple[str, ...]:
        """What in it is secret, in every form in which it is sent: the password, or the user where there is none."""
        parts = urlsplit(self.get_secret_value())
        found = {parts.password or parts.username}
        found |= {value for name, value in parse_qsl(parts.query) if "pass" in name.lower()}
        values = {value for value in found if value}
        values |= {unquote(value) for value in values}
        if values:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            values.add(base64.b64encode(pair.encode()).decode())  # Basic authentication
        return tuple(values)


def _half_of_the_cores() -> int:
    """Threads of torch in one service: half of the usable cores, because several services share a machine."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


class Settings(BaseSettings):
    """All settings with their defaults, for one machine. Raises InvalidField, naming the variable, for a bad value.

    Durations are in seconds, ``*_address`` are gRPC targets (``host:port`` or ``dns:///name:port``).
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    # computing
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where tensors live: "cpu", "cuda" or "cuda:N"."""
    num_threads: int = Field(default_factory=_half_of_the_cores, ge=1, le=1024)
    """Threads of torch and OpenMP in each service; default half of the cores this process may use."""
    runtime: Literal["auto", "openvino", "torch"] = "auto"
    """What runs the frozen networks on the CPU; "auto": OpenVINO where it is installed. Elsewhere torch runs them."""
    precision: Literal["f32", "bf16"] = "f32"
    """Of the frozen networks in the services. "bf16" halves their cost on processors with AVX512-BF16 or AMX; answers
    then differ in a few places from those of f32, which experiments always use."""
    profile: Literal["embedded", "hub"] = "embedded"
    """"embedded": models from installed packages; "hub": larger models by name from a model hub."""

    # the knowledge base's language model
    llm: Literal["", "embedded", "hub", "endpoint"] = ""
    """"embedded": SmolLM2-135M-Instruct from its package; "hub": ``llm_model`` in this process, by transformers;
    "endpoint": ``llm_model`` behind ``llm_url``. Empty: "hub" where the profile is and ``llm_model`` is named, else
    "embedded"."""
    llm_model: str = Field("", max_length=300)
    """Name on the model hub or local folder of any causal language model; or the name that an endpoint knows it by."""
    llm_revision: str = Field("", max_length=100)
    """Branch, tag or commit of a model of the hub. Rewrites are kept by it: a commit never changes its meaning."""
    llm_url: SecretUrl = SecretUrl("")
    """Base URL of an OpenAI-compatible endpoint, up to and with "/v1"; user and password are sent as Basic
    authentication."""
    llm_api_key: SecretStr = SecretStr("")
    """Sent to the endpoint as bearer token; shown nowhere."""
    llm_timeout_s: float = Field(60.0, gt=0, le=600)
    """Longest time that the endpoint may take for one answer."""
    llm_retries: int = Field(3, ge=0, le=10)
    """Tries after the first when the endpoint answers 429 or 5xx, or cannot be reached."""

    # modules of one's own
    plugins: str = ""
    """Modules, comma-separated, that every process imports: they register components (:mod:`semlink.registry`)."""

    # files
    cache_dir: Path = Path("~/.cache/semlink")
    """Generated corpora, converted models."""
    weights_dir: Path = SHIPPED_FOLDER
    """Trained heads and codebooks (:mod:`semlink.weight_files`)."""
    data_dir: Path = Path("~/.local/share/semlink")
    """What users add: corpora with their heads and galleries, items. All services of one system share it."""
    state_dir: Path = Path("~/.local/state/semlink")
    """What `semlink up` writes: logs and the ids of its processes."""

    # galleries
    gallery_index: Literal["auto", "exact", "hnsw", "ivf-pq"] = "auto"
    """"auto": exact up to ``gallery_exact_limit`` vectors, HNSW up to ``gallery_graph_limit``, then IVF-PQ."""
    gallery_exact_limit: int = Field(50_000, ge=1)
    """Up to so many vectors a scan answers in about two milliseconds on one core, and misses nothing."""
    gallery_graph_limit: int = Field(500_000, ge=1)
    """Beyond so many vectors an inverted file (IVF-PQ) is quicker and smaller than a graph (HNSW)."""

    # logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"
    """"auto": for a terminal "console", else one JSON object a line."""

    # store
    redis_url: SecretUrl = SecretUrl("redis://127.0.0.1:6379/0")
    """The store: ``redis://``, ``rediss://``, ``unix://`` and a socket's path; ``memory://`` keeps it in the process,
    which is enough when all services share one. `semlink up` starts a server of its own where this is not set."""
    redis_timeout_s: float = Field(0.4, gt=0, le=10)
    """Longest time that one access to the store may take."""

    # where services listen and are found
    host: str = Field("127.0.0.1", min_length=1)
    """Interface on which services listen."""
    trusted_hosts: str = Field("", max_length=10_000)
    """Names by which clients may reach the gateway, comma-separated, besides loopback ones and ``host``; ``*``: any."""
    gateway_port: _Port = 8000
    transmitter_port: _Port = 50051
    channel_port: _Port = 50052
    receiver_port: _Port = 50053
    knowledge_port: _Port = 50054
    transmitter_metrics_port: _Port = 9101
    channel_metrics_port: _Port = 9102
    receiver_metrics_port: _Port = 9103
    knowledge_metrics_port: _Port = 9104
    gateway_address: str = ""
    """Empty, like the next four: the service's port on this machine."""
    transmitter_address: str = ""
    channel_address: str = ""
    receiver_address: str = ""
    knowledge_address: str = ""

    # time and load
    deadline_s: float = Field(30.0, gt=0, le=3600)
    """Deadline of a call whose caller gave none."""
    connect_timeout_s: float = Field(1.0, gt=0, le=60)
    """How long a call waits for a connection before it fails as unavailable."""
    drain_s: float = Field(10.0, ge=0, le=600)
    """How long calls in flight may go on after SIGTERM."""
    max_batch: int = Field(64, ge=1, le=4096)
    """Items that a micro-batcher runs at once."""
    max_queue: int = Field(512, ge=1, le=65536)
    """Items that a micro-batcher lets wait; more are refused (RESOURCE_EXHAUSTED, HTTP 429)."""
    batch_delay_s: float = Field(0.0, ge=0, le=1)
    """How long a micro-batcher waits for more items. 0: none; batches form while the one before runs."""

    # what a service keeps
    channel_cache_mib: int = Field(512, ge=32, le=1 << 20)
    """Of the channel service: channels and CSI reports of links, the least recently used first out. What is not there
    any more is computed again, to the same bits."""

    # what a request may hold
    max_image_pixels: int = Field(50_000_000, ge=1, le=89_000_000)
    """Pixels of one picture, by its header; more are refused before anything is decoded."""
    max_image_side: int = Field(32_768, ge=1, le=65_535)
    """Pixels of a picture's longer side: a decoder's rows cost memory even where they hold next to nothing."""
    max_request_image_pixels: int = Field(256_000_000, ge=1)
    """Pixels of all pictures of one request together: what bounds the time of their decoding."""
    max_audio_seconds: float = Field(30.0, gt=0, le=30)
    """Length of a sound; the audio encoder reads no more than 30 s."""
    max_audio_channels: int = Field(8, ge=1, le=64)
    min_audio_rate_hz: int = Field(1_000, ge=100)
    max_audio_rate_hz: int = Field(192_000, le=768_000)
    """Sample rates outside of the two are refused: resampling costs by their ratio to 16 kHz."""
    max_decodes: int = Field(2, ge=1, le=64)
    """Pictures and sounds that one service decodes at once; of pictures over 8 million pixels always one."""
    max_decode_queue_bytes: int = Field(128 * 2**20, ge=2**20)
    """Encoded bytes of the pictures and sounds that wait to be decoded; more are refused (RESOURCE_EXHAUSTED)."""

    # the link of a query that names none
    scenario: str = "umi-los"
    """Scenario of the default :class:`semlink.links.Link` as the gateway and the command line use it."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = _PREFIX + ".".join(map(str, first["loc"])).upper()
            given = "" if first["loc"][0] in secret_fields() else f" is {first['input']!r}"
            why = first["msg"].removeprefix("Value error, ")
            raise InvalidField(f"{name}{given}: {why}", field=name) from error

    @field_validator("cache_dir", "weights_dir", "data_dir", "state_dir")
    @classmethod
    def _expand_home(cls, path: Path) -> Path:
        return path.expanduser()

    @field_validator("trusted_hosts")
    @classmethod
    def _host_names(cls, names: str) -> str:
        for name in _split(names):
            if name != "*":
                bare_host_name(name)
        return names

    @field_validator("plugins")
    @classmethod
    def _module_names(cls, names: str) -> str:
        for name in _split(names):
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is no name of a module")
        return names

    @field_validator("llm_url")
    @classmethod
    def _http_url(cls, url: SecretUrl) -> SecretUrl:
        text = url.get_secret_value()
        if text:
            _check_url(text, ("http", "https"))
            if "?" in text or "#" in text:
                raise ValueError("a base URL has no query and no fragment")
        return url

    @field_validator("redis_url")
    @classmethod
    def _store_url(cls, url: SecretUrl) -> SecretUrl:
        text = url.get_secret_value()
        _check_url(text, ("redis", "rediss", "unix", "memory"))
        if text.startswith("memory:") and text != "memory://":
            raise ValueError("nothing follows memory://")
        return url

    @field_validator("scenario")
    @classmethod
    def _known_scenario(cls, scenario: str) -> str:
        if scenario not in SCENARIOS:
            raise ValueError(f"allowed: {', '.join(SCENARIOS)}")
        return scenario

    @property
    def weights(self) -> Weights:
        """The trained weights of ``weights_dir``."""
        return Weights(self.weights_dir)

    @property
    def plugin_modules(self) -> tuple[str, ...]:
        """The modules of ``plugins``."""
        return tuple(_split(self.plugins))

    @property
    def llm_kind(self) -> Literal["embedded", "hub", "endpoint"]:
        """Which LLM the knowledge base asks: ``llm``, or what stands for its being empty."""
        return self.llm or ("hub" if self.profile == "hub" and self.llm_model else "embedded")

    def port(self, service: ServiceName) -> int:
        """Port on which the service listens: gRPC, for the gateway HTTP."""
        return int(getattr(self, f"{service}_port"))

    def metrics_port(self, service: ServiceName) -> int:
        """Port on which the service's ``/metrics`` is read; the gateway's is its own HTTP port."""
        return (
            self.gateway_port
            if service == "gateway"
            else int(getattr(self, f"{service}_metrics_port"))
        )

    def address(self, service: ServiceName) -> str:
        """Where callers find the service: as set, else its port on this machine."""
        return getattr(self, f"{service}_address") or f"{self.local_host}:{self.port(service)}"

    @property
    def gateway_hosts(self) -> frozenset[str]:
        """What may stand in the ``Host`` header of a request to the gateway, as `semlink.hosts.host_name` writes it.

        The names of this machine, ``host`` if it is one address or name, and ``trusted_hosts``; ``*`` allows any.
        """
        bound = [] if self.host in _ANY_INTERFACE else [self.host]
        names = [*LOOPBACK_NAMES, *bound, *_split(self.trusted_hosts)]
        return frozenset(name if name == "*" else bare_host_name(name) for name in names)

    @property
    def local_host(self) -> str:
        """The host by which this machine reaches its own services."""
        return "127.0.0.1" if self.host in _ANY_INTERFACE else self.host

    def secrets(self) -> tuple[str, ...]:
        """Every secret among these settings, in every form in which a text may hold it; the longest first.

        Of fewer than four characters they are left out: they would be found in any text.
        """
        values: set[str] = set()
        for _, value in self:
            if isinstance(value, SecretUrl):
                values |= set(value.credentials())
            elif isinstance(value, SecretStr):
                values.add(value.get_secret_value())
        values |= {json.dumps(value)[1:-1] for value in values}
        return tuple(sorted((v for v in values if len(v) > 3), key=lambda v: (-len(v), v)))

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a child process; OpenMP's threads too. Holds secrets."""
        values = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in self
        }
        return {_PREFIX + name.upper(): value for name, value in values.items()} | {
            "OMP_NUM_THREADS": str(self.num_threads)
        }


def current_settings() -> Settings:
    """The settings of the environment as it is now, built again only when it has changed. For what is asked often."""
    return _settings_of(
        tuple((k, v) for k, v in os.environ.items() if k.upper().startswith(_PREFIX) or k == "HOME")
    )


@lru_cache(maxsize=4)
def _settings_of(environment: tuple[tuple[str, str], ...]) -> Settings:  # noqa: ARG001 - the key of the cache
    return Settings()


def without_secrets(secrets: Iterable[str], text: str) -> str:
    """The text with every secret in it replaced by an ellipsis."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    return text


def secret_fields() -> frozenset[str]:
    """Names of the settings that are, or may hold, a secret."""
    return frozenset(
        name
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, SecretStr)
    )


def _check_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raises ValueError, without the URL in it, for another scheme or for what would not be read as meant."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in schemes or any(c.isspace() for c in url):
        raise ValueError(f"must be a URL: {', '.join(f'{scheme}://…' for scheme in schemes)}")
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise ValueError("the URL names no host")
    if parts.scheme != "unix" and "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("in a user or password write / as %2F, ? as %3F, # as %23 and @ as %40")
