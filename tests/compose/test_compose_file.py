"""What docker-compose.yml and the Dockerfile promise and a machine without Docker can check; run.sh proves the rest."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from semlink.cli.app import app
from semlink.settings import SERVICE_NAMES, Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name in SERVICES if name != "load"]
"""What `docker compose up` starts; `load` is run by itself."""
USES_STORE = ("redis", "knowledge", "receiver", "channel", "transmitter")


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service)
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), port
    writable = [v for v in service.get("volumes", []) if not v.endswith(":ro")]
    # the store's socket, in memory; the receiver stores the items that users add, a load test its report
    expected = ["store:/run/semlink"] if name in USES_STORE else []
    expected += ["${SEMLINK_DATA:-data}:/var/lib/semlink"] if name == "receiver" else []
    expected += ["${SEMLINK_RESULTS:-results}:/results"] if name == "load" else []
    assert writable == expected
    if service["image"] == "semlink:local":  # the Dockerfile's last word on the user
        users = re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert users[-1:] == ["10001:10001"]
    else:
        assert service["user"].split(":")[0] not in ("0", "root")


@pytest.mark.parametrize("name", LASTING)
def test_every_dependency_is_waited_for(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    conditions = {d: c["condition"] for d, c in service.get("depends_on", {}).items()}
    if name == "receiver":  # waits for the image that knowledge builds, not for its health
        assert conditions.pop("knowledge") == "service_started"
    assert set(conditions.values()) <= {"service_healthy"}


def test_the_image_is_built_once_and_before_it_is_used() -> None:
    assert [n for n, s in SERVICES.items() if "build" in s] == ["knowledge"]
    users = {n for n, s in SERVICES.items() if s["image"] == "semlink:local"}

    def before(name: str) -> set[str]:
        direct = set(SERVICES[name].get("depends_on", {}))
        return direct.union(*map(before, direct)) if direct else set()

    assert users == {*SERVICE_NAMES, "load"}
    assert all("knowledge" in before(name) for name in users - {"knowledge"})


def test_grafana_alone_is_under_a_profile_that_is_on_by_default() -> None:
    assert {n: s["profiles"] for n, s in SERVICES.items() if "profiles" in s} == {
        "grafana": ["dashboards"],
        "load": ["load"],
    }
    assert (ROOT / ".env").read_text().split() == ["COMPOSE_PROFILES=dashboards"]


def test_the_load_test_is_a_command_that_reads_every_service_and_ends() -> None:
    service = SERVICES["load"]
    assert service["restart"] == "no"
    assert service["depends_on"] == {"gateway": {"condition": "service_healthy"}}
    assert "command" not in service  # what `docker compose run` appends
    program, *words = service["entrypoint"]
    assert program == "semlink"
    found: Any = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    with found.make_context("load", words[1:]) as context:
        options = context.params
    assert options["url"] == "http://gateway:8000"
    assert str(options["out"]) == "/results"
    settings = Settings()
    assert sorted(options["metrics"]) == sorted(
        f"{name}=http://{name}:{settings.metrics_port(name)}/metrics"
        for name in SERVICE_NAMES
        if name != "gateway"
    )
    # the named volume takes its owner from the image's folder
    assert re.search(r"install -d -o 10001 .* /results", (ROOT / "Dockerfile").read_text())


def test_the_gateway_answers_to_its_name_among_the_containers() -> None:
    hosts = SERVICES["gateway"]["environment"]["SEMLINK_TRUSTED_HOSTS"]
    assert hosts == "gateway,${SEMLINK_TRUSTED_HOSTS:-}"
    trusted = Settings(trusted_hosts=hosts.split("$")[0], host="0.0.0.0").gateway_hosts
    assert trusted == {"gateway", "localhost", "127.0.0.1", "::1"}


def test_settings_and_ports_exist() -> None:
    """A variable that is no setting would be ignored silently; a port that moved would never become healthy."""
    settings = Settings(host="0.0.0.0")
    for name in SERVICE_NAMES:
        environment = SERVICES[name]["environment"]
        names = {n.removeprefix("SEMLINK_").lower() for n in environment if n != "OMP_NUM_THREADS"}
        assert names <= set(Settings.model_fields)
        assert f":{settings.port(name)}" in " ".join(SERVICES[name]["healthcheck"]["test"])
        if name != "gateway":
            address = environment[f"SEMLINK_{name.upper()}_ADDRESS"]
            assert address == f"dns:///{name}:{settings.port(name)}"


def test_prometheus_scrapes_every_room_where_it_serves_metrics() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [
        t for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]
    ]
    settings = Settings()
    assert sorted(targets) == sorted(f"{r}:{settings.metrics_port(r)}" for r in SERVICE_NAMES)


def test_every_package_of_the_wheel_reaches_the_image() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    let_in = (ROOT / ".dockerignore").read_text().split()
    for folder in wheel["packages"]:
        assert f"\nCOPY {folder} {folder}\n" in dockerfile
        assert f"!{folder}" in let_in


def test_any_builder_can_read_the_dockerfile() -> None:
    """No line that fetches a newer front end, nothing that only BuildKit understands."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "syntax=" not in dockerfile
    assert not re.search(r"--mount|--link|--chmod|<<", dockerfile)
    assert SERVICES["knowledge"]["build"]["network"] == "host"


def test_the_stage_that_converts_the_llm_has_every_file_that_it_imports() -> None:
    """It copies single files, so that other changes do not repeat it; a further import must be copied, too."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    stage = dockerfile[dockerfile.index("AS prepared") :].split("\nRUN ")[0]
    listing = (
        "import sys, kb_service.llm; print(*(m.__file__ for n, m in sys.modules.items() "
        "if n.split('.')[0] in ('kb_service', 'semlink') and m.__file__))"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True
    )
    needed = {Path(name).relative_to(ROOT).as_posix() for name in done.stdout.split()}
    assert "kb_service/llm.py" in needed
    missing = {
        name
        for name in needed
        if not name.startswith("semlink/v1/") and f"/opt/semlink/app/{name}" not in stage
    }
    assert not missing
