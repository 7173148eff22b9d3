"""What the server takes from its environment: the API key, and proxies that are for others; why it does not start."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import grpc
import pytest

from el4ner_ray.config import load
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.serve import application
from el4ner_ray.serve.api import key_digest
from el4ner_ray.serve.application import API_KEY, api_key
from el4ner_ray.serve.limits import Limits
from el4ner_ray.serve.listening import Address
from tests.conftest import free_port


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose proxy does not answer, and which knows no address that is to be reached without it."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


class Healthy(BaseHTTPRequestHandler):
    """Stands for a server that answers."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def listening() -> Iterator[Address]:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield Address("127.0.0.1", server.server_port)
        server.shutdown()


@pytest.mark.usefixtures("proxies")
def test_the_server_is_looked_for_without_a_proxy(listening: Address) -> None:
    application._check_reachable(listening)
    with pytest.raises(FatalError, match="name an address of this machine with --host"):
        application._check_reachable(Address("127.0.0.1", free_port()))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            'The deployment failed to start. Error:\nTraceback\n  File "listening.py", line 3\n'
            "el4ner_ray.errors.UsageError: --host h --port 80: Permission denied; name a free port\n",
            "el4ner_ray.errors.UsageError: --host h --port 80: Permission denied; name a free port",
        ),
        ("", "Deploying application failed"),
        (None, "Deploying application failed"),
    ],
)
def test_why_the_api_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, message: str | None, told: str) -> None:
    def run(*_: object, **__: object) -> None:
        raise RuntimeError("Deploying application failed")

    here = SimpleNamespace(get_job_id=lambda: "01000000", get_node_id=lambda: "ab")
    monkeypatch.setattr(application.ray, "get_runtime_context", lambda: here)
    failed = SimpleNamespace(deployments={"api": SimpleNamespace(message=message)}, message="")
    found = {} if message is None else {application._name(): failed}
    monkeypatch.setattr(application.serve, "run", run)
    monkeypatch.setattr(application.serve, "status", lambda: SimpleNamespace(applications=found))
    with pytest.raises(FatalError) as raised:
        application._deploy(Address("h", 80), load(profile="fake"), None, Limits(), None)
    assert str(raised.value) == f"the API does not start: {told}"


@pytest.mark.usefixtures("proxies")
def test_engines_are_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in application._CHEAP_CALLS.items():
        monkeypatch.setenv(name, value)
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
    server.stop(None).wait()


def test_a_key_that_headers_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, "k3y with space")
    assert api_key() == key_digest("k3y with space")
    monkeypatch.delenv(API_KEY)
    assert api_key() is None


def test_an_empty_key_does_not_open_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    # `EL4NER_API_KEY="$UNSET" el4ner serve` was open to everybody.
    monkeypatch.setenv(API_KEY, "")
    with pytest.raises(UsageError, match=r"EL4NER_API_KEY: is empty; set a key, or unset it to let anybody ask"):
        api_key()


@pytest.mark.parametrize("key", ["k3y\n", " k3y", "k3y\t", " ", "k3\ny", "k3y\x7f", "kéy"])
def test_a_key_that_headers_do_not_carry_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    # Clients' white space around it is taken off, so that nobody could ask.
    monkeypatch.setenv(API_KEY, key)
    with pytest.raises(UsageError, match=API_KEY):
        api_key()
