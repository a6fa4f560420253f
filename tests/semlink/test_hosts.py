"""Host names in one form, what is this machine, and which hosts the settings trust."""

from __future__ import annotations

import httpx
import pytest

from semlink.errors import InvalidField
from semlink.hosts import bare_host_name, host_name, httpx_options, is_loopback
from semlink.settings import Settings


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("localhost.:8000", "localhost"),
        ("localhost:", "localhost"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8000", "::1"),
        ("[0:0:0:0:0:0:0:1]:8000", "::1"),
        ("[2001:DB8::A]", "2001:db8::a"),
        ("my_host.example", "my_host.example"),
    ],
)
def test_a_host_in_one_form(authority: str, name: str) -> None:
    assert host_name(authority) == name


@pytest.mark.parametrize(
    "authority",
    [
        *("", ".", ":8000", "a b", "a:b", "a:1:2", "::1", "[::1", "[::1]x", "[127.0.0.1]", "[::g]"),
        *(
            "user@localhost",
            "localhost/",
            "localhost,evil",
            "lo\ncalhost",
            "localhost\n",
            "[::1%lo]",
        ),
        *("localhost:123456", "ⓛocalhost", "localhost:１"),
    ],
)
def test_what_is_no_host(authority: str) -> None:
    with pytest.raises(ValueError, match=r"no host name|no IPv6 address"):
        host_name(authority)


def test_a_setting_may_leave_out_the_brackets() -> None:
    assert bare_host_name("::1") == bare_host_name("[::1]") == "::1"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.8.9.10", "::1"])
def test_this_machine(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name", ["localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "::2", "0.0.0.0", ""]
)
def test_not_this_machine(name: str) -> None:
    assert not is_loopback(name)


def test_tls_to_this_machine_trusts_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/missing.pem")
    with pytest.raises(OSError, match="No such file"):
        httpx_options("https://localhost/v1")
    assert httpx_options("http://localhost/v1") == {"trust_env": False}
    assert httpx_options("https://example.org/v1") == {}
    httpx.Client(**httpx_options("http://[::1]:1/v1")).close()


def test_the_hosts_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = {"localhost", "127.0.0.1", "::1"}
    assert Settings().gateway_hosts == loopback
    assert Settings(host="0.0.0.0").gateway_hosts == loopback
    assert Settings(host="::").gateway_hosts == loopback
    assert Settings(host="10.1.2.3").gateway_hosts == loopback | {"10.1.2.3"}
    assert Settings(host="Lab-7.example.").gateway_hosts == loopback | {"lab-7.example"}
    assert Settings(host="2001:db8::1").gateway_hosts == loopback | {"2001:db8::1"}
    monkeypatch.setenv("SEMLINK_TRUSTED_HOSTS", " gateway, LAB.example ,,[2001:db8::2],")
    assert Settings().gateway_hosts == loopback | {"gateway", "lab.example", "2001:db8::2"}
    monkeypatch.setenv("SEMLINK_TRUSTED_HOSTS", "*")
    assert "*" in Settings().gateway_hosts


@pytest.mark.parametrize(
    "value", ["http://lab.example", "lab.example/x", "*.lab.example", "a b", "[::1", "a;b"]
)
def test_a_trusted_host_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SEMLINK_TRUSTED_HOSTS", f"gateway,{value}")
    with pytest.raises(InvalidField, match="SEMLINK_TRUSTED_HOSTS") as caught:
        Settings()
    assert caught.value.field == "SEMLINK_TRUSTED_HOSTS"
