"""One page after the other from one website: robots.txt, pauses, attempts, and a cache on disk.

The cache is a folder per host and one line per answer in ``HOST.jsonl`` beside it: address, file,
day, SHA-256, ETag, or why there is no file. The last line about an address counts.
"""

from __future__ import annotations

import codecs
import email.utils
import gzip
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from afina import __version__
from afina.run import hash_file, parse_json
from afina.text.formats import format_of_content
from afina.whole import write_whole

AGENT = f"afina/{__version__}"
LARGEST_BYTES = 64 << 20
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 5
_LONGEST_WAIT_SECONDS = 120.0
_AGAIN = frozenset({429, 500, 502, 503, 504})
_META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_STARTED = datetime.now(UTC).replace(microsecond=0)
_PORTS = {"http": 80, "https": 443}


class Failed(Exception):
    """A server that does not answer as it should, after all attempts."""


class _OffHost(Exception):
    """A redirect to where this source may not go."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered: a file of the cache, or the reason why there is none."""

    asked: str
    url: str
    """Where it was in the end, after redirects."""
    fetched: str
    """Day and hour, UTC."""
    path: str = ""
    """Below the cache's folder."""
    sha256: str = ""
    content_type: str = ""
    encoding: str | None = None
    """As declared by the server or the page."""
    etag: str = ""
    modified: str = ""
    refused: str = ""
    """Why there is no file: it does not exist, is forbidden, leads to another host."""


class _Answer(NamedTuple):
    status: int
    url: str
    headers: Any
    body: bytes


def site_of(url: str) -> tuple[str, int]:
    """Host and port: what counts as one website. http and https of a host are one, by default ports.

    >>> site_of("https://A.org/x") == site_of("http://a.org"), site_of("http://a.org:81")
    (True, ('a.org', 81))
    """
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme, 0)
    return parts.hostname or "", 443 if port == 80 else port


class Fetcher:
    """Fetches the pages of one website into `folder`, at most one every `delay_seconds`.

    Pages of the cache are asked for again only when older than `refresh_days`, and then with their
    ETag, so that a page that has not changed is not sent again.
    """

    def __init__(self, folder: Path, delay_seconds: float, refresh_days: float | None = None) -> None:
        self.folder, self.delay_seconds, self.refresh_days = folder, delay_seconds, refresh_days
        self._known: dict[str, dict[str, Page]] = {}
        self._robots: dict[tuple[str, int], RobotFileParser] = {}
        self._last = 0.0

    def get(self, url: str, *, insist: bool = False) -> Page:
        """The page of an address, from the cache or the network; `insist`: ask again where it was refused.

        Raises:
            Failed: the server does not answer, or with an error that is its own.
        """
        cached = self._index(url).get(url)
        if cached is not None and self._whole(cached) and not self._too_old(cached):
            if not (insist and cached.refused):
                return cached
            cached = None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            if not self.allowed(url):
                return self._keep(Page(url, url, now, refused="robots.txt forbids it"))
            answer = self._ask(url, cached if cached is not None and self._whole(cached) else None)
        except _OffHost as error:
            return self._keep(Page(url, url, now, refused=str(error)))
        if answer.status == 304 and cached is not None:
            return self._keep(replace(cached, fetched=now))
        if not 200 <= answer.status < 300:
            status = f"{answer.status} {http.client.responses.get(answer.status, '')}".strip()
            return self._keep(Page(url, answer.url, now, refused=f"the server says {status}"))
        body, refused = _unpacked(answer)
        if refused:
            return self._keep(Page(url, answer.url, now, refused=refused))
        content_type = answer.headers.get_content_type() if answer.headers.get("Content-Type") else ""
        page = Page(
            url,
            answer.url,
            now,
            path=_file_name(url, content_type),
            sha256=hashlib.sha256(body).hexdigest(),
            content_type=content_type,
            encoding=_declared(answer.headers.get_content_charset(), body, content_type),
            etag=answer.headers.get("ETag") or "",
            modified=answer.headers.get("Last-Modified") or "",
        )
        write_whole(self.folder / page.path, body, shared=True)  # by every run of the project
        return self._keep(page)

    def file(self, page: Page) -> Path:
        """Where a page lies."""
        return self.folder / page.path

    def content(self, page: Page) -> bytes:
        """A page's bytes."""
        return self.file(page).read_bytes()

    def _index(self, url: str) -> dict[str, Page]:
        host = _host_name(url)
        if host not in self._known:
            pages: dict[str, Page] = {}
            file = self.folder / f"{host}.jsonl"
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []:
                try:
                    page = Page(**parse_json(line))
                except (ValueError, TypeError):  # cut by a kill: the page is fetched again
                    continue
                pages[page.asked] = page
            self._known[host] = pages
        return self._known[host]

    def _keep(self, page: Page) -> Page:
        self._index(page.asked)[page.asked] = page
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{_host_name(page.asked)}.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(page), ensure_ascii=False) + "\n")
        return page

    def _whole(self, page: Page) -> bool:
        """Whether the page's file is there and still what was fetched."""
        return bool(page.refused) or (self.file(page).is_file() and hash_file(self.file(page)) == page.sha256)

    def _too_old(self, page: Page) -> bool:
        if self.refresh_days is None:
            return False
        fetched = datetime.fromisoformat(page.fetched)
        if fetched >= _STARTED:  # asked for a moment ago, by an earlier stage
            return False
        return (datetime.now(UTC) - fetched).total_seconds() >= self.refresh_days * 86400

    def allowed(self, url: str) -> bool:
        """What robots.txt says; none (4xx) allows all, a server that fails allows nothing (RFC 9309)."""
        site = site_of(url)
        if site not in self._robots:
            parts = urlsplit(url)
            rules = RobotFileParser()
            answer = self._ask(f"{parts.scheme}://{parts.netloc}/robots.txt", None, checked=False)
            rules.parse(answer.body.decode("utf-8", errors="replace").splitlines() if answer.status < 300 else [])
            self._robots[site] = rules
            self.delay_seconds = max(self.delay_seconds, float(rules.crawl_delay(AGENT) or 0))
        return self._robots[site].can_fetch(AGENT, url)

    def _ask(self, url: str, cached: Page | None, *, checked: bool = True) -> _Answer:
        """One address, with pauses and attempts. Statuses that are an answer (404, 304) are returned."""
        headers = {"User-Agent": AGENT, "Accept": "text/html, text/plain, text/markdown, */*;q=0.5"}
        if cached is not None and cached.etag:
            headers["If-None-Match"] = cached.etag
        if cached is not None and cached.modified:
            headers["If-Modified-Since"] = cached.modified
        opener = urllib.request.build_opener(_SameHost(url, self if checked else None))
        why = ""
        for attempt in range(_ATTEMPTS):
            wait = 0.0
            self._pause()
            try:
                with opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as got:
                    return _Answer(got.status, got.url, got.headers, got.read(LARGEST_BYTES + 1))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in _AGAIN:
                        return _Answer(error.code, error.url or url, error.headers, b"")
                    why = f"the server says {error.code} {error.reason}"
                    wait = _retry_after(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, UnicodeError) as error:  # no connection, cut, too slow
                why = f"no answer: {getattr(error, 'reason', None) or error or type(error).__name__}"
            if wait > _LONGEST_WAIT_SECONDS:
                raise Failed(f"{why}, and asks to wait {wait:.0f} seconds")
            if attempt + 1 < _ATTEMPTS:
                time.sleep(max(wait, 2.0**attempt))
        raise Failed(f"{why} ({_ATTEMPTS} attempts)")

    def _pause(self) -> None:
        left = self._last + self.delay_seconds - time.monotonic()
        if self._last and left > 0:
            time.sleep(left)
        self._last = time.monotonic()


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only on the same website, and where robots.txt allows it."""

    def __init__(self, url: str, fetcher: Fetcher | None) -> None:
        self.url, self.fetcher = url, fetcher

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or site_of(newurl) != site_of(self.url):
            raise _OffHost(f"redirects to another host: {newurl}")
        if scheme == "http" and urlsplit(self.url).scheme == "https":
            raise _OffHost(f"redirects from https to http: {newurl}")
        if self.fetcher is not None and not self.fetcher.allowed(newurl):
            raise _OffHost(f"redirects to where robots.txt forbids it: {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _unpacked(answer: _Answer) -> tuple[bytes, str]:
    """The body, or why it cannot be had."""
    body = answer.body
    packed = answer.headers.get("Content-Encoding", "identity").lower()
    if len(body) > LARGEST_BYTES:
        return b"", f"larger than {LARGEST_BYTES >> 20} MiB"
    if packed in ("gzip", "x-gzip") or urlsplit(answer.url).path.endswith(".xml.gz"):
        try:
            body = zlib.decompressobj(wbits=31).decompress(body, LARGEST_BYTES + 1) if body[:2] == b"\x1f\x8b" else body
        except (zlib.error, gzip.BadGzipFile, EOFError) as error:
            return b"", f"damaged gzip: {error}"
        if len(body) > LARGEST_BYTES:
            return b"", f"larger than {LARGEST_BYTES >> 20} MiB"
    elif packed not in ("identity", ""):
        return b"", f"packed as {packed}, which was not asked for"
    return body, ""


def _declared(charset: str | None, body: bytes, content_type: str) -> str | None:
    """The encoding that the server or the page itself names, where Python knows it.

    Browsers read Latin-1 as Windows-1252, and pages are written for browsers.

    >>> _declared(None, b'<meta charset="iso-8859-1">', "text/html"), _declared("utf-9", b"", "text/html")
    ('cp1252', None)
    """
    if charset is None and content_type in ("text/html", "application/xhtml+xml"):
        found = _META_CHARSET.search(body[:4096])
        charset = found[1].decode("ascii") if found else None
    if charset is None:
        return None
    try:
        name = codecs.lookup(charset).name
    except LookupError:
        return None
    return "cp1252" if name in ("iso8859-1", "ascii") else name


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait: a number, or a date.

    >>> _retry_after("7"), _retry_after(None), _retry_after("soon")
    (7.0, 0.0, 0.0)
    """
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())


def _host_name(url: str) -> str:
    """A website's name as a folder's: ``127.0.0.1_8000``."""
    name = urlsplit(url).netloc.rpartition("@")[2].lower()
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_"


def _file_name(url: str, content_type: str) -> str:
    """Where a page lies in the cache: readable, and different for every address.

    >>> _file_name("https://a.org/docs/?v=2", "text/html")
    'a.org/docs/index-dc4be225.html'
    """
    parts = urlsplit(url)
    names = [re.sub(r"[^\w.-]", "_", part).strip(".")[:60] or "_" for part in parts.path.split("/") if part]
    if not names or parts.path.endswith("/"):
        names.append("index")
    last = names.pop()
    form = format_of_content(content_type)
    ending = form.endings[0] if form else ".xml"
    mark = hashlib.sha256(url.encode()).hexdigest()[:8]
    return "/".join([_host_name(url), *names, f"{last.removesuffix(ending)}-{mark}{ending}"])
