"""Who may ask the studio, for what, and which files it may touch: pages of others in the same browser may nothing."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from report_fixture import RECIPE, write_run
from watched import start, steps, write_watched

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from afina.errors import AfinaError
from afina.studio.app import studio_app
from afina.studio.security import POLICY, inside, run_folder
from afina.studio.serving import open_studio
from afina.studio.settings import StudioSettings

PAGES = ("/", "/run/a", "/compare?runs=a&runs=b", "/data", "/plan", "/playground", "/start", "/nothing")
CHANGING = ("/api/runs/a/stop", "/api/runs/a/resume")
CHANGES = {"x-afina-studio": "1"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs/a")
    return tmp_path / "runs"


def client_of(runs: Path, base: str = "http://127.0.0.1:8321", **settings: Any) -> TestClient:
    return TestClient(studio_app(StudioSettings(runs, **settings)), base_url=base, raise_server_exceptions=False)


# ---- names and origins


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8321",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "192.168.0.2:8321",
        "0.0.0.0:8321",
        "",
        "localhost:8321 ",
        "local host",
        "[::1]evil",
    ],
)
def test_another_name_than_this_machines_is_refused(runs: Path, host: str) -> None:
    """A page whose name begins to mean 127.0.0.1 (DNS rebinding) reads nothing and starts nothing."""
    client = client_of(runs)
    for path in (*PAGES, "/api/runs", "/static/api.js", "/api/runs/a/stream"):
        assert client.get(path, headers={"host": host}).status_code == 421, path
    assert client.post(CHANGING[0], headers={"host": host} | CHANGES).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8321", "localhost:8321", "LOCALHOST", "[::1]:8321", "127.0.0.1:9999"])
def test_this_machines_names_are_taken(runs: Path, host: str) -> None:
    """By another port too: a tunnel has one of its own."""
    assert client_of(runs).get("/api/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1:3000",
        "http://localhost:8321",
        "http://127.0.0.1:8321.evil.example",
        "file://",
        "",
    ],
)
def test_another_origin_is_refused(runs: Path, origin: str) -> None:
    """Also a page of another program on this machine, by its port."""
    client = client_of(runs)
    assert client.get("/api/runs", headers={"origin": origin}).status_code == 403
    for path in CHANGING:
        assert client.post(path, headers={"origin": origin} | CHANGES).status_code == 403


def test_the_studios_own_origin_is_taken(runs: Path) -> None:
    own = {"origin": "http://127.0.0.1:8321", "sec-fetch-site": "same-origin"}
    assert client_of(runs).get("/api/runs", headers=own).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_page_of_another_site_asks_is_refused_and_a_link_is_not(runs: Path, site: str) -> None:
    """Without an Origin too: pictures, styles and scripts of others send none."""
    client = client_of(runs)
    for mode in ("no-cors", "cors", "websocket"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
        assert client.get("/api/runs", headers=headers).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": site, "sec-fetch-mode": "navigate"}).status_code == 200


def test_no_answer_lets_another_origin_read_it(runs: Path) -> None:
    client = client_of(runs)
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answers = [client.options("/api/runs", headers=asked), client.get("/api/runs")]
    assert all(not name.startswith("access-control") for each in answers for name in each.headers)
    assert answers[0].status_code == 403


# ---- what changes something


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
@pytest.mark.parametrize("headers", [{}, {"x-afina-studio": "0"}, {"x-afina-studio": ""}])
def test_nothing_changes_without_the_header_that_no_form_can_send(
    runs: Path, method: str, headers: dict[str, str]
) -> None:
    client = client_of(runs)
    for path in (*CHANGING, "/api/start", "/api/play/open", "/"):
        assert client.request(method, path, headers=headers).status_code == 403, path


def test_reading_changes_nothing(runs: Path) -> None:
    """Every route by GET that is not for reading answers 405, and the folder stays byte by byte as it is."""
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    client = client_of(runs)
    for path in CHANGING:
        assert client.get(path).status_code == 405
    for path in (*PAGES, "/api/runs", "/api/runs/a", "/api/runs/a/metrics", "/api/words"):
        client.get(path)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


# ---- paths


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/recipe.yaml").write_text("name: TOP-SECRET\nbase: TOP/SECRET\n")
    (tmp_path / "secret/metrics.jsonl").write_text('{"event": "step", "step": 1, "note": "TOP-SECRET"}\n')
    (tmp_path / "secret/report.html").write_text("<p>TOP-SECRET")
    (tmp_path / "secret/samples.jsonl").write_text('{"prompt": "TOP-SECRET", "adapter": "TOP-SECRET"}\n')
    return tmp_path / "secret"


@pytest.mark.parametrize(
    "name",
    ["..%2Fsecret", "%2e%2e%2fsecret", "..%5Csecret", "%2e%2e", "..", ".", "a%2F..%2F..%2Fsecret", "%00", "a%00"],
)
def test_no_name_of_a_run_leads_out_of_the_folder(runs: Path, secret: Path, name: str) -> None:
    client = client_of(runs)
    for rest in ("", "/metrics", "/report", "/stream"):
        answer = client.get(f"/api/runs/{name}{rest}")
        assert answer.status_code in (404, 405) or answer.url.path == "/api/runs", rest
        assert "SECRET" not in answer.text
    for path in (f"/api/runs/{name}/stop", f"/api/runs/{name}/resume"):
        assert client.post(path, headers=CHANGES).status_code in (404, 405)
    assert "SECRET" not in client.get(f"/compare?runs={name}&runs=a").text


def test_an_absolute_name_is_no_run(runs: Path, secret: Path) -> None:
    with pytest.raises(AfinaError, match="there is no run"):
        run_folder(StudioSettings(runs), str(secret))


def test_a_run_that_is_a_link_out_of_the_roots_is_damaged_and_not_read(runs: Path, secret: Path) -> None:
    (runs / "linked").symlink_to(secret)
    client = client_of(runs)
    answer = client.get("/api/runs")
    line = next(each for each in answer.json()["runs"] if each["name"] == "linked")
    assert line["state"] == "damaged" and "leads out" in line["problem"]
    assert "SECRET" not in answer.text
    for rest in ("", "/metrics", "/report"):
        refused = client.get(f"/api/runs/linked{rest}")
        assert refused.status_code == 403 and "SECRET" not in refused.text
    allowed = client_of(runs, roots=(secret,)).get("/api/runs/linked")
    assert "TOP-SECRET" in allowed.json()["recipe"]


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "samples.jsonl", "report.html"])
def test_a_file_of_a_run_that_is_a_link_out_of_the_roots_is_not_read(runs: Path, secret: Path, name: str) -> None:
    """A run's folder may come from anyone."""
    (runs / "a" / name).unlink(missing_ok=True)
    (runs / "a" / name).symlink_to(secret / name)
    client = client_of(runs)
    assert client.get("/api/runs").json()["runs"][0]["state"] == "damaged"
    for path in ("/api/runs", "/api/runs/a", "/api/runs/a/metrics", "/api/runs/a/report"):
        assert "SECRET" not in client.get(path).text, path
    write_run(runs / "b")
    assert "SECRET" not in client.get("/api/compare?runs=a&runs=b").text


def test_a_path_has_to_lie_in_the_runs_folder_or_a_root(tmp_path: Path, secret: Path) -> None:
    root, runs = tmp_path / "root", tmp_path / "runs"
    for folder in (root / "docs", runs):
        folder.mkdir(parents=True)
    settings = StudioSettings(runs, (root,))
    (root / "docs/a.md").write_text("a")
    (root / "link").symlink_to(secret)
    assert inside(settings, "docs/a.md") == (root / "docs/a.md").resolve()
    assert inside(settings, str(root / "docs/../docs/a.md")) == (root / "docs/a.md").resolve()
    assert inside(settings, runs / "x") == (runs / "x").resolve()
    for path in ("../secret", "docs/../../secret/recipe.yaml", str(secret), "/etc/passwd", "link/recipe.yaml", "/"):
        with pytest.raises(AfinaError, match="outside of the folders"):
            inside(settings, path)
    for path in ("a\0b", "", " "):
        with pytest.raises(AfinaError, match="no path"):
            inside(settings, path)
    beside = tmp_path / "root-of-others"
    beside.mkdir()
    with pytest.raises(AfinaError, match="outside"):
        inside(settings, beside)


def test_static_files_are_those_of_the_package_alone(runs: Path) -> None:
    client = client_of(runs)
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/",
    ):
        answer = client.get(path)
        assert answer.status_code == 404 and "import" not in answer.text


# ---- beyond this machine


def test_without_a_token_it_is_not_opened_to_other_machines(runs: Path) -> None:
    for host in ("0.0.0.0", "192.168.0.2", "::", "my-machine"):
        with pytest.raises(AfinaError, match="no token"):
            studio_app(StudioSettings(runs, host=host))


def test_beyond_loopback_a_token_is_made_and_asked_for(runs: Path) -> None:
    opened = open_studio(runs, (), host="0.0.0.0", port=0, language="en")
    opened.listener.close()
    token = opened.settings.token
    assert token and len(token) >= 32 and f"?token={token}" in opened.settings.url
    app = studio_app(opened.settings)
    client = TestClient(app, base_url="http://192.168.0.2:8321", follow_redirects=False)
    for path in (*PAGES, "/api/runs", "/static/studio.css", "/api/words"):
        assert client.get(path).status_code == 401, path
    assert client.post(CHANGING[0], headers=CHANGES).status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/", headers={"cookie": "afina_studio=wrong"}).status_code == 401
    there = client.get(f"/compare?token={token}&runs=a%2Cb")
    assert (there.status_code, there.headers["location"]) == (303, "/compare?runs=a%2Cb")
    cookie = there.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert client.get("/api/runs").status_code == 200  # by the cookie that it has now


def test_a_token_in_an_address_leads_nowhere_else(runs: Path) -> None:
    client = TestClient(
        studio_app(StudioSettings(runs, host="0.0.0.0", token="t" * 32)),
        base_url="http://192.168.0.2",
        follow_redirects=False,
    )
    there = client.get("http://192.168.0.2//evil.example/?token=" + "t" * 32)
    assert there.status_code == 303 and re.match(r"^/[^/]", there.headers["location"])


def test_beyond_loopback_names_of_others_are_refused_and_addresses_taken(runs: Path) -> None:
    settings = {"host": "0.0.0.0", "token": "t" * 32}
    client = client_of(runs, **settings)
    cookie = {"cookie": "afina_studio=" + "t" * 32}
    assert client.get("/api/runs", headers={"host": "evil.example"} | cookie).status_code == 421
    for host in ("192.168.0.2:8321", "[fd00::2]:8321", socket.gethostname(), "localhost"):
        assert client.get("/api/runs", headers={"host": host} | cookie).status_code == 200, host


def test_without_a_root_it_looks_into_the_folder_that_it_is_started_in_and_never_into_a_home(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def roots() -> tuple[Path, ...]:
        opened = open_studio(runs, (), host="127.0.0.1", port=0, language="en")
        opened.listener.close()
        return opened.settings.roots

    monkeypatch.chdir(runs)
    assert roots() == (runs.resolve(),)
    monkeypatch.setenv("HOME", str(runs))
    assert roots() == ()
    monkeypatch.chdir("/")
    assert roots() == ()


def test_on_loopback_there_is_no_token(runs: Path) -> None:
    opened = open_studio(runs, (), host="127.0.0.1", port=0, language="en")
    opened.listener.close()
    assert opened.settings.token is None
    assert opened.settings.url == f"http://127.0.0.1:{opened.settings.port}/"


def test_a_port_that_is_taken_and_a_folder_that_is_not_there_are_said(runs: Path) -> None:
    opened = open_studio(runs, (), host="127.0.0.1", port=0, language="en")
    with opened.listener, pytest.raises(AfinaError, match="cannot listen there"):
        open_studio(runs, (), host="127.0.0.1", port=opened.settings.port, language="en")
    for host, port in (("127.0.0.1", 99_999), ("127.0.0.1", -1), ("", 0), ("a" * 70 + ".com", 0)):
        with pytest.raises(AfinaError, match="cannot listen there"):
            open_studio(runs, (), host=host, port=port, language="en")
    with pytest.raises(AfinaError, match="no such folder"):
        open_studio(runs, (runs / "none",), host="127.0.0.1", port=0, language="en")
    with pytest.raises(AfinaError, match="no folder"):
        open_studio(runs / "a/recipe.yaml", (), host="127.0.0.1", port=0, language="en")


# ---- pages


def test_every_page_has_the_policy(runs: Path) -> None:
    client = client_of(runs)
    paths = (*PAGES, "/api/runs", "/api/nothing", "/static/api.js", "/api/runs/nothing")
    answers = [client.get(path) for path in paths]
    answers += [client.get("/", headers={"host": "evil.example"}), client.post("/")]
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    allowed = {part.split()[0]: part.split()[1:] for part in POLICY.split("; ")}
    assert allowed["default-src"] == allowed["frame-ancestors"] == allowed["form-action"] == ["'none'"]
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*"} & {word for words in allowed.values() for word in words}


def test_a_defect_shows_no_traceback_and_has_the_policy(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr("afina.studio.runs.RunIndex.lines", fail)
    answer = client_of(runs).get("/api/runs")
    assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
    assert answer.json()["error"]["what"] == "a defect of afina: ZeroDivisionError"
    assert answer.headers["content-security-policy"] == POLICY


def test_pages_hold_no_script_and_no_style_of_their_own(runs: Path) -> None:
    """The policy would forbid them: whoever writes one notices here."""
    client = client_of(runs)
    for path in PAGES:
        page = client.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)", page), path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page), path
        assert re.findall(r'(?:src|href)="(?!/|#)([^"]*)"', page) == [], path


def test_modules_write_text_and_never_html() -> None:
    """What a model or a row holds goes into a page as text: no module has a way to write markup."""
    import afina.studio

    folder = Path(afina.studio.__file__).parent / "static"
    modules = sorted(folder.glob("*.js"))
    assert len(modules) > 5
    banned = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setHTML|createContextualFragment"
    )
    wrong = [file.name for file in modules if re.search(banned, file.read_text(encoding="utf-8"))]
    assert not wrong
    addresses = [file.name for file in modules if re.search(r"https?://(?!www\.w3\.org)", file.read_text("utf-8"))]
    assert not addresses, "a page of the studio asks nobody else"


def test_a_name_that_is_markup_stays_text(runs: Path) -> None:
    name = '"><img src=x onerror=alert(1)><!--'
    write_watched(runs / name, [*start(), *steps(3)], recipe_yaml=RECIPE + "# <script>alert(1)</script>\n")
    client = client_of(runs)
    address = "/run/" + "".join(f"%{byte:02x}" for byte in name.encode())
    for path in (address, "/compare?runs=a&runs=" + address.removeprefix("/run/")):
        page = client.get(path)
        assert page.status_code == 200 and "<img" not in page.text
    assert client.get("/api" + address.replace("run", "runs", 1)).json()["name"] == name


def test_a_report_may_run_no_script(runs: Path) -> None:
    (runs / "a/report.html").write_text("<script>alert(1)</script><p>report")
    answer = client_of(runs).get("/api/runs/a/report")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox") and "allow-scripts" not in policy and "script-src" not in policy
    assert "default-src 'none'" in policy


# ---- a folder that somebody gave


@pytest.mark.parametrize("name", ["console.log", "console.json"])
@pytest.mark.parametrize("place", ["root", "outside"])
def test_a_start_writes_nothing_where_a_link_leads(tmp_path: Path, runs: Path, name: str, place: str) -> None:
    """A run's folder may come from anyone: what a process says would be written over somebody's file, also over one
    that the studio may read."""
    kept = tmp_path / place / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    (runs / "a" / name).symlink_to(kept)
    answer = client_of(runs, roots=(tmp_path / "root",)).post("/api/runs/a/resume", headers=CHANGES)
    assert answer.status_code in (409, 422) and "link" in answer.json()["error"]["what"]
    assert kept.read_text() == "mine"


def test_a_run_whose_recipe_is_a_link_outside_is_not_gone_on_with(runs: Path, secret: Path) -> None:
    """Nor is it asked, nor does its tokenizer look at data."""
    (runs / "a/recipe.yaml").unlink()
    (runs / "a/recipe.yaml").symlink_to(secret / "recipe.yaml")
    client = client_of(runs, roots=(runs,))
    for path, body in (
        ("/api/runs/a/resume", {}),
        ("/api/play/open", {"run": "a"}),
        ("/api/data/audit", {"path": str(runs), "run": "a"}),
    ):
        answer = client.post(path, json=body, headers=CHANGES)
        assert answer.status_code == 422 and "leads out" in answer.json()["error"]["what"], path
        assert "SECRET" not in answer.text


def test_a_lock_that_is_a_link_stops_nobody(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds what it leads to may be any program of the same user: here this one."""
    fcntl = pytest.importorskip("fcntl")
    stopped: list[int] = []
    monkeypatch.setattr("afina.studio.jobs.os.kill", lambda process, _: stopped.append(process))
    with (tmp_path / "another.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (runs / "a/.lock").unlink(missing_ok=True)
        (runs / "a/.lock").symlink_to(tmp_path / "another.lock")
        answer = client_of(runs).post("/api/runs/a/stop", headers=CHANGES)
    assert answer.status_code == 409 and "is a link" in answer.json()["error"]["what"] and not stopped
