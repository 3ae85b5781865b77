"""A website, played by a server of our own on the loopback address."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from afina.dataset.build.build import build_dataset, dataset_inputs
from afina.errors import DataError
from afina.recipe import Recipe, Source
from afina.sources import Document, Ledger, fetch, read_source
from afina.text.example import read_examples

Answer = tuple[int, dict[str, str], bytes]


def page(text: str, *links: str, head: str = "") -> Answer:
    anchors = "".join(f'<a href="{link}">more</a>' for link in links)
    body = f"<html><head>{head}</head><body><h1>{text}</h1><p>About {text}.</p>{anchors}</body></html>"
    return 200, {"Content-Type": "text/html; charset=utf-8"}, body.encode()


class Site:
    """Answers by path; a list is used up one by one, its last stays. Every request is written down."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.headers.append(dict(self.headers))
                found = site.answers.get(self.path, (404, {}, b""))
                if isinstance(found, list):
                    found = found.pop(0) if len(found) > 1 else found[0]
                status, headers, body = found
                if status == 200 and headers.get("ETag") and self.headers.get("If-None-Match") == headers["ETag"]:
                    status, body = 304, b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def sitemap(self, *paths: str) -> None:
        places = "".join(f"<url><loc>{path if '://' in path else self.url + path}</loc></url>" for path in paths)
        body = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{places}</urlset>'
        self.answers["/sitemap.xml"] = (200, {"Content-Type": "application/xml"}, body.encode())

    def stop(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No pause is waited for; how long each would have been is written down."""
    waits: list[float] = []
    monkeypatch.setattr("afina.sources.fetch.time.sleep", waits.append)
    return waits


def read(root: Path, url: str, ledger: Ledger | None = None, **keys: object) -> list[Document]:
    return list(read_source(Source(path=url, **keys), 0, root, ledger if ledger is not None else Ledger()))  # type: ignore[arg-type]


def refused(root: Path, url: str, **keys: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(root, url, **keys)
    return [f"{problem.where}: {problem.what}" for problem in caught.value.problems]


def test_a_page_is_a_document_and_the_second_run_needs_no_network(tmp_path: Path, site: Site) -> None:
    site.answers["/docs/club"] = page("Farense")
    ledger = Ledger()
    (document,) = read(tmp_path, f"{site.url}/docs/club#history", ledger)
    assert site.asked == ["/robots.txt", "/docs/club"]
    assert document.text.startswith("# Farense\n\nAbout Farense.") and document.title == "Farense"
    assert document.meta["url"] == f"{site.url}/docs/club" and document.meta["fetched"].startswith("20")
    assert document.path.startswith(".afina-cache/web/127.0.0.1_") and (tmp_path / document.path).is_file()
    assert ledger.files[0].balanced and ledger.files[0].sha256 == document.sha256
    site.stop()
    again = read(tmp_path, f"{site.url}/docs/club")
    assert again == [document]


def test_the_agent_says_who_it_is(tmp_path: Path, site: Site) -> None:
    site.answers["/a"] = page("A")
    read(tmp_path, f"{site.url}/a")
    assert all(headers["User-Agent"].startswith("afina/") for headers in site.headers)


def test_a_sitemap_with_all_that_can_go_wrong(tmp_path: Path, site: Site) -> None:
    site.answers["/robots.txt"] = (200, {}, b"User-agent: *\nDisallow: /private\n")
    site.answers |= {
        "/a": page("A"), "/b.txt": (200, {"Content-Type": "text/plain"}, b"plain B"),
        "/logo.png": (200, {"Content-Type": "image/png"}, b"\x89PNG"),
        "/away": (302, {"Location": "http://other.invalid/x"}, b""), "/same": (301, {"Location": "/a"}, b""),
    }  # fmt: skip
    site.sitemap("/a", "/b.txt", "/gone", "/private/x", "/logo.png", "/away", "/same", "https://other.invalid/y")
    ledger = Ledger()
    documents = read(tmp_path, f"{site.url}/sitemap.xml", ledger)
    assert [document.text.split("\n")[0] for document in documents] == ["# A", "plain B"]
    assert {url.removeprefix(site.url): reason for url, reason in ledger.skipped.items()} == {
        "/gone": "the server says 404 Not Found",
        "/private/x": "robots.txt forbids it",
        "/logo.png": "image/png is no text",
        "/away": "redirects to another host: http://other.invalid/x",
        "/same": f"the same page as {site.url}/a",
        "https://other.invalid/y": f"on another host than {site.url.removeprefix('http://')}",
    }
    assert "/private/x" not in site.asked
    before = len(site.asked)
    assert read(tmp_path, f"{site.url}/sitemap.xml") == documents and len(site.asked) == before


def test_an_index_of_sitemaps(tmp_path: Path, site: Site) -> None:
    index = f"<sitemapindex><sitemap><loc>{site.url}/sitemap.xml</loc></sitemap></sitemapindex>"
    site.answers |= {"/index.xml": (200, {"Content-Type": "text/xml"}, index.encode()), "/a": page("A")}
    site.sitemap("/a")
    assert [document.title for document in read(tmp_path, f"{site.url}/index.xml")] == ["A"]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/gone", "the server says 404 Not Found"),
        ("/private/x", "robots.txt forbids it"),
        ("/away", "redirects to another host: http://other.invalid/x"),
        ("/round", "redirects to where robots.txt forbids it"),
        ("/logo.png", "image/png is no text"),
        ("/feed.xml", "XML, but not a sitemap: its root is <rss>"),
        ("/broken.xml", "not a sitemap"),
    ],
)
def test_what_the_recipe_names_must_be_there(tmp_path: Path, site: Site, path: str, what: str) -> None:
    site.answers |= {
        "/robots.txt": (200, {}, b"User-agent: afina\nDisallow: /private\n"),
        "/away": (302, {"Location": "http://other.invalid/x"}, b""),
        "/round": (302, {"Location": "/private/x"}, b""),
        "/logo.png": (200, {"Content-Type": "image/png"}, b"\x89PNG"),
        "/feed.xml": (200, {"Content-Type": "application/xml"}, b"<rss/>"),
        "/broken.xml": (200, {"Content-Type": "application/xml"}, b"<urlset>"),
    }
    (problem,) = refused(tmp_path, site.url + path)
    assert problem.startswith(f"{site.url}{path}: ") and what in problem
    if path == "/gone":  # mended in the meantime: asked again, not refused out of the cache
        site.answers["/gone"] = page("Back")
        assert read(tmp_path, site.url + path)[0].title == "Back"


def test_a_busy_server_is_asked_again_after_what_it_says(tmp_path: Path, site: Site, slept: list[float]) -> None:
    site.answers["/a"] = [(429, {"Retry-After": "7"}, b""), (503, {}, b""), page("A")]
    assert read(tmp_path, f"{site.url}/a", delay_seconds=0)[0].title == "A"
    assert site.asked == ["/robots.txt", "/a", "/a", "/a"] and slept == [7.0, 2.0]


def test_a_server_that_fails_is_an_error_and_the_next_start_goes_on(tmp_path: Path, site: Site) -> None:
    site.sitemap("/a", "/bad", "/c")
    site.answers |= {"/a": page("A"), "/bad": (500, {}, b""), "/c": page("C")}
    (problem,) = refused(tmp_path, f"{site.url}/sitemap.xml")
    assert problem == f"{site.url}/bad: the server says 500 Internal Server Error (5 attempts)"
    site.asked.clear()
    site.answers["/bad"] = page("B")
    assert [each.title for each in read(tmp_path, f"{site.url}/sitemap.xml")] == ["A", "B", "C"]
    assert site.asked == ["/robots.txt", "/bad"]


def test_a_long_wait_is_told_and_not_waited(tmp_path: Path, site: Site, slept: list[float]) -> None:
    site.answers["/a"] = (429, {"Retry-After": "3600"}, b"")
    assert "asks to wait 3600 seconds" in refused(tmp_path, f"{site.url}/a")[0]
    assert max(slept, default=0.0) <= 1.0


def test_a_dead_server_is_given_up(tmp_path: Path, site: Site) -> None:
    site.sitemap(*(f"/{number}" for number in range(9)))
    site.answers |= {f"/{number}": (503, {}, b"") for number in range(9)}
    problems = refused(tmp_path, f"{site.url}/sitemap.xml")
    assert len(problems) == 4 and problems[3] == "sources.0.path: 6 more pages were not tried"
    site.stop()
    assert "no answer" in refused(tmp_path, f"{site.url}/other")[0]


def test_robots_that_fail_forbid_all(tmp_path: Path, site: Site) -> None:
    site.answers |= {"/robots.txt": (500, {}, b""), "/a": page("A")}
    assert "500" in refused(tmp_path, f"{site.url}/a")[0]
    assert "/a" not in site.asked


def test_requests_wait_for_each_other(tmp_path: Path, site: Site, slept: list[float]) -> None:
    site.sitemap("/a", "/b")
    site.answers |= {"/a": page("A"), "/b": page("B")}
    site.answers["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 5\n")
    read(tmp_path, f"{site.url}/sitemap.xml", delay_seconds=2.0)
    assert len(slept) == 3 and all(4.5 < wait <= 5.0 for wait in slept)


def test_follow_takes_what_lies_below_and_max_pages_counts_the_rest(tmp_path: Path, site: Site) -> None:
    site.answers |= {
        "/docs/": page("Start", "one", "two#x", "../blog", "http://other.invalid/docs/", "mailto:a@b", "drafts/x"),
        "/docs/one": page("One", "three", "/docs/"), "/docs/two": page("Two"), "/docs/three": page("Three"),
    }  # fmt: skip
    ledger = Ledger()
    keys = {"follow": True, "exclude": ["docs/drafts"]}
    assert [each.title for each in read(tmp_path, f"{site.url}/docs/", ledger, **keys)] == [
        "Start", "One", "Two", "Three",
    ]  # fmt: skip
    assert ledger.skipped == {f"{site.url}/docs/drafts/x": "excluded by 'docs/drafts'"}
    ledger = Ledger()
    assert len(read(tmp_path, f"{site.url}/docs/", ledger, max_pages=2, **keys)) == 2
    assert ledger.skipped[f"{site.url}/docs/"] == "2 more pages than `max_pages: 2` were not read"
    assert len(read(tmp_path, f"{site.url}/docs/")) == 1


def test_the_root_of_a_host_is_one_page_however_it_is_written(tmp_path: Path, site: Site) -> None:
    site.answers |= {"/": page("Root", "/", site.url, "/empty"), "/empty": (200, {"Content-Type": "text/html"}, b" ")}
    ledger = Ledger()
    assert [each.title for each in read(tmp_path, site.url, ledger, follow=True)] == ["Root"]
    assert list(ledger.skipped.values()) == ["empty file"]
    assert site.asked == ["/robots.txt", "/", "/empty"]


def test_old_pages_are_asked_for_with_their_tag(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    status, headers, body = page("A")
    headers |= {"ETag": '"1"', "Last-Modified": "Sat, 21 Nov 2026 00:00:00 GMT"}
    site.answers["/a"] = (status, headers, body)
    (first,) = read(tmp_path, f"{site.url}/a")
    later = fetch._STARTED.replace(year=fetch._STARTED.year + 1)
    monkeypatch.setattr(fetch, "_STARTED", later)
    assert read(tmp_path, f"{site.url}/a", refresh_days=1) == [first] and len(site.asked) == 2
    (second,) = read(tmp_path, f"{site.url}/a", refresh_days=0)
    assert site.headers[-1]["If-None-Match"] == '"1"' and "If-Modified-Since" in site.headers[-1]
    assert second.text == first.text and second.sha256 == first.sha256
    site.answers["/a"] = page("New")
    assert read(tmp_path, f"{site.url}/a", refresh_days=0)[0].title == "New"


def test_a_page_that_was_changed_on_disk_is_fetched_again(tmp_path: Path, site: Site) -> None:
    site.answers["/a"] = page("A")
    (document,) = read(tmp_path, f"{site.url}/a")
    (tmp_path / document.path).write_text("cut")
    with next((tmp_path / ".afina-cache/web").glob("*.jsonl")).open("ab") as index:
        index.write('{"asked": "cut by a kill, in the middle of a é'.encode()[:-1])
    assert read(tmp_path, f"{site.url}/a")[0].text == document.text


@pytest.mark.parametrize(
    ("header", "head", "encoding"),
    [("; charset=iso-8859-1", "", "cp1252"), ("", '<meta charset="windows-1252">', "cp1252"), ("", "", "utf-8")],
)
def test_the_declared_encoding_is_used(tmp_path: Path, site: Site, header: str, head: str, encoding: str) -> None:
    body = f"<html><head>{head}</head><body><p>três “golos”</p></body></html>".encode(encoding)
    site.answers["/a"] = (200, {"Content-Type": f"text/html{header}"}, body)
    assert read(tmp_path, f"{site.url}/a")[0].text == "três “golos”\n"


def test_addresses_with_odd_letters_and_queries_are_different_files(tmp_path: Path, site: Site) -> None:
    site.answers |= {"/a?x=1": page("One"), "/a?x=2": page("Two"), "/caf%C3%A9": page("Café")}
    site.sitemap("/a?x=1", "/a?x=2", "/café")
    documents = read(tmp_path, f"{site.url}/sitemap.xml")
    assert [each.title for each in documents] == ["One", "Two", "Café"]
    assert len({each.path for each in documents}) == 3


@pytest.mark.parametrize("url", ["http://name:secret@127.0.0.1/", "https://[broken/"])
def test_addresses_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    (problem,) = refused(tmp_path, url)
    assert problem.startswith("sources.0.path: ") and "no address" in problem
    assert not (tmp_path / ".afina-cache").exists()


def test_a_dataset_of_a_website(tmp_path: Path, site: Site) -> None:
    site.answers["/a"] = page("A")
    source = Source(path=f"{site.url}/a")
    recipe = Recipe(name="x", root=str(tmp_path), base="b", sources=[source], dataset={"validation": 0})  # type: ignore[arg-type]
    seen: list[str] = []
    inputs = dataset_inputs(recipe, lambda done, total, what: seen.append(what))
    assert seen == [f"{site.url}/a"] and list(inputs["files"].values()) and inputs == dataset_inputs(recipe)
    summary = build_dataset(recipe, tmp_path / "dataset")
    (example,) = read_examples(tmp_path / "dataset/train.jsonl")
    assert inputs["files"] == {example.path: example.sha256} and summary["balanced"]
    assert site.asked.count("/a") == 1
    index = next((tmp_path / ".afina-cache/web").glob("*.jsonl")).read_text().splitlines()
    assert json.loads(index[0])["sha256"] == example.sha256
