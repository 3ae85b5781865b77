"""Schemathesis asks the server whatever its own OpenAPI allows, and whatever it forbids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_serve import make_adapter, run_server, url_of
from tiny import make_base
from waiting import LONGEST

from afina.recipe import Chat
from afina.serve.driver import Driver
from afina.serve.opened import Target, find_target, open_models

KNOWN = """
[parameters]
"body.model" = "um"
"path.name" = "um"
[checks]
# Whether prompt and answer fit into the context (400) or the queue (429) is not to be said in a schema.
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "429"]
"""
"""A name drawn at random ends at 404; with this one the engine is reached."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Driver]]:
    folder = tmp_path_factory.mktemp("openapi")
    base = make_base(folder / "base", num_hidden_layers=1)  # it writes some thousand tokens
    adapter = Target("um", str(make_adapter(base, folder / "um", 1)), Chat(), Path())
    server, driver = run_server(open_models(find_target(str(base)), {"um": adapter})[0], change_adapters=True)
    yield url_of(server), driver
    server.should_exit = True


@pytest.mark.long
@pytest.mark.parametrize("settings", ["", KNOWN], ids=["as it comes", "a known model"])
def test_what_the_openapi_says_is_what_the_server_does(served: tuple[str, Driver], tmp_path: Path, settings: str):
    url, driver = served
    (tmp_path / "schemathesis.toml").write_text(settings, encoding="utf-8")
    words = [Path(sys.executable).parent / "schemathesis", "--config-file", tmp_path / "schemathesis.toml", "run"]
    words += [f"{url}/openapi.json", "--header", "Authorization: Bearer key", "--no-color"]
    words += ["--max-examples", "20", "--seed", "1", "--generation-database", "none"]
    # Its own are ten seconds for an answer, and thirty to think of requests.
    words += ["--request-timeout", str(LONGEST), "--suppress-health-check", "too_slow"]
    done = subprocess.run([str(word) for word in words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert driver.failure is None and not driver.open
