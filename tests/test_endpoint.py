"""The client of an endpoint by itself: certificates, proxies, connections, packed answers, caches of old."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from afina.endpoint import client as client_module
from afina.endpoint.cache import AnswerCache, answer_key
from afina.endpoint.client import EndpointClient, Failure, Purpose, Reply
from afina.errors import RecipeError
from afina.recipe import Endpoint

PURPOSE = Purpose(name="oracle", key="some.oracle", questions="riddles", again="ask again")
ASK = [{"role": "user", "content": "?"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 1}
ANSWER = json.dumps({"choices": [{"message": {"content": "yes"}}], "usage": USAGE})
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", *PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)


class Server:
    """Answers every request with `body`; `requests` are their lines, `connections` counts who came."""

    def __init__(self, body: bytes = ANSWER.encode(), headers: dict[str, str] | None = None) -> None:
        self.body, self.headers = body, headers or {}
        self.requests: list[str] = []
        self.payloads: list[bytes] = []
        self.connections = 0


@contextmanager
def serving(
    server: Server, *, hang_up: bool = False, wrap: Callable[[ThreadingHTTPServer], None] | None = None
) -> Iterator[str]:
    """The address; `hang_up`: each connection is closed after its answer, unannounced."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def do_POST(self) -> None:
            server.payloads.append(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(self.requestline)
            self.send_response(200)
            for name, value in {"Content-Length": str(len(server.body)), **server.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(server.body)
            self.close_connection = hang_up

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    if wrap:
        wrap(listening)
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()


def opened(url: str, **settings: object) -> EndpointClient:
    endpoint = Endpoint(url=url, model="m", timeout_seconds=5.0, **settings)  # type: ignore[arg-type]
    return EndpointClient(endpoint, PURPOSE, temperature=0.0)


# ---- who is at the other end


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_vouches_for_is_named_at_once(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run(make.split(), check=True, capture_output=True)

    def over_tls(listening: ThreadingHTTPServer) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)

    said = "the oracle at https.* certificate verify failed: self.signed"
    server = serving(Server(), wrap=over_tls)
    with server as address, opened(f"https://{address}/v1") as client, pytest.raises(RecipeError, match=said) as raised:
        client.ask(ASK)
    assert raised.value.problems[0].where == "some.oracle.url"


def test_https_asked_of_a_server_without_it_is_named(tmp_path: Path) -> None:
    with (
        serving(Server()) as address,
        opened(f"https://{address}/v1") as client,
        pytest.raises(RecipeError, match=r"cannot be reached: .*SSL"),
    ):
        client.ask(ASK)


def test_an_address_that_is_none_is_an_error_of_the_recipe() -> None:
    with pytest.raises(RecipeError, match=r"some\.oracle\.url: url is no address"):
        opened("http://oracle.example/\x01v1")


# ---- proxies


def test_the_environments_proxy_is_used_for_others_and_never_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, local = Server(), Server()
    with serving(proxy) as proxy_address, serving(local) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy_address}")
        monkeypatch.setenv("http_proxy", f"http://{proxy_address}")
        with opened("http://oracle.example/v1") as client:
            assert client.ask(ASK) == Reply("yes", 3, 1)
        assert proxy.requests == ["POST http://oracle.example/v1/chat/completions HTTP/1.1"]
        with opened(f"http://{address}/v1") as client:
            client.ask(ASK)
        assert len(proxy.requests) == 1 and local.requests == ["POST /v1/chat/completions HTTP/1.1"]


@pytest.mark.parametrize("proxy", ["ftp://user:secret@127.0.0.1:1", "http://user:secret@[::1"])
def test_a_proxy_that_cannot_be_used_is_an_error_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(RecipeError, match="the proxy that the environment names") as raised:
        opened("http://oracle.example/v1")
    assert "secret" not in str(raised.value) and raised.value.__suppress_context__


def test_a_proxy_that_is_not_there_is_an_error_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://user:secret@127.0.0.1:1")
    with opened("https://oracle.example/v1") as client, pytest.raises(RecipeError, match="cannot be reached") as raised:
        client.ask(ASK)
    assert "secret" not in str(raised.value)


# ---- connections and bodies


def test_a_connection_is_used_again_and_one_that_was_closed_is_not_a_failed_try() -> None:
    kept, hanging_up = Server(), Server()
    with serving(kept) as address, opened(f"http://{address}/v1") as client:
        assert [client.ask(ASK).content for _ in range(3)] == ["yes"] * 3
    with serving(hanging_up, hang_up=True) as address, opened(f"http://{address}/v1") as client:
        for _ in range(3):
            assert client.ask(ASK).content == "yes"
            threading.Event().wait(0.05)  # until the end of the connection is here
    assert (kept.connections, hanging_up.connections) == (1, 3)


def test_half_a_character_in_a_question_is_sent() -> None:
    server = Server()
    with serving(server) as address, opened(f"http://{address}/v1") as client:
        client.ask([{"role": "user", "content": "a\ud83d"}])
    assert json.loads(server.payloads[0])["messages"][0]["content"] == "a\ud83d"


def test_a_packed_answer_is_read_and_a_damaged_one_has_a_kind() -> None:
    packed = gzip.compress(ANSWER.encode())
    with serving(Server(packed, {"Content-Encoding": "gzip"})) as address, opened(f"http://{address}/v1") as client:
        assert client.ask(ASK).content == "yes"
    broken = packed[:12] + bytes(8) + packed[20:]
    server = Server(broken, {"Content-Encoding": "gzip"})
    with serving(server) as address, opened(f"http://{address}/v1") as client, pytest.raises(Failure) as raised:
        client.ask(ASK)
    assert raised.value.kind == "half_answer" and raised.value.billed


@pytest.mark.parametrize("pack", [False, True])
def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch, pack: bool) -> None:
    monkeypatch.setattr(client_module, "LONGEST_BODY", 1 << 20)
    body = b" " * (3 << 20)
    server = Server(gzip.compress(body), {"Content-Encoding": "gzip"}) if pack else Server(body)
    with serving(server) as address, opened(f"http://{address}/v1") as client, pytest.raises(Failure) as raised:
        client.ask(ASK)
    assert (raised.value.kind, raised.value.note) == ("wrong_content", "more than 1 MiB")


def test_the_key_stands_in_no_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    caplog.set_level(logging.DEBUG)
    with serving(Server()) as address, opened(f"http://{address}/v1") as client:
        client.ask(ASK)
    assert "chat/completions" in caplog.text, "the log of the library was not seen"
    assert "very-secret" not in caplog.text and not re.search("very-secret", repr(caplog.records))


# ---- answers that were paid for by earlier versions


def test_a_cache_of_an_earlier_version_is_read_under_the_same_keys(tmp_path: Path) -> None:
    """Key and line as urllib's client wrote them, with the teacher's temperature and with the judge's and its seed."""
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="m")
    assert answer_key(endpoint, ASK, 0.3) == "7b6159c79d8aa4ac3eb07bc9f7293ba02b9c10ae2a404a271b1c20b5064d007e"
    assert answer_key(endpoint, ASK, 0.0, 5) == "4b52200a398ceebb536d996071d7bb4ff7a70d43161de19210e3398035368a7e"
    (tmp_path / "answers.jsonl").write_text(
        '{"key": "k", "model": "m", "where": "a.md:1", "content": "\\u00fc", "read": 5, "written": 6, '
        '"estimated": false, "cut": false}\n',
        encoding="utf-8",
    )
    assert list(AnswerCache(tmp_path).replies("k")) == [Reply("ü", 5, 6)]
