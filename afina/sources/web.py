"""A website: a page, the pages that it links to, or those of a sitemap, fetched politely into a cache.

`robots.txt` is obeyed, requests follow one another with a pause, and no other host is asked, not
even by a redirect. Each page lies in ``.afina-cache/web/`` below the recipe's root and is read from
there as any file is; the second run needs no network. A page that does not exist, is forbidden or
is no text is listed with the reason; a server that fails is an error after some attempts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from afina.errors import DataError, Problem
from afina.run import Progress, no_progress
from afina.sources.fetch import Failed, Fetcher, Page, site_of
from afina.sources.files import SourceFile, SourceReading, excluding
from afina.text.document import Document
from afina.text.formats import format_of_content

_GIVE_UP = 3
"""So many pages in a row without an answer, and the others are not tried."""
_SITEMAPS = ("application/xml", "text/xml", "application/gzip", "application/x-gzip")


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A page in the cache, as a file to be read, and what the server said of it."""

    file: SourceFile
    page: Page


def site_files(reading: SourceReading, progress: Progress = no_progress) -> list[SiteFile]:
    """The pages of a source in the order found; what the cache lacks is fetched.

    Raises:
        DataError: the address itself gives no text; or servers failed, all in one error. What was
            fetched stays, so the next start goes on from there.
    """
    source = reading.source
    fetcher = Fetcher(reading.root / ".afina-cache" / "web", source.delay_seconds, source.refresh_days)
    where = f"sources.{reading.position}.path"
    start = next(iter(_absolute("", [source.path])), "")
    if not start or "@" in urlsplit(start).netloc:
        what = f"{source.path!r} is no address" + (" that may be kept: it holds a password" if start else "")
        raise DataError(what, "write https://host/path", where)
    waiting = deque([start])
    known, seen = {start}, set()
    found: list[SiteFile] = []
    problems: list[Problem] = []
    failed = 0
    while waiting and len(found) < source.max_pages:
        url = waiting.popleft()
        progress(len(found), None, url)
        try:
            page = fetcher.get(url, insist=url == start)
        except Failed as error:
            problems.append(Problem(str(error), "start again later: it goes on from here", url))
            failed += 1
            if failed == _GIVE_UP:
                problems.append(Problem(f"{len(waiting)} more pages were not tried", "start again later", where))
                break
            continue
        failed = 0
        reason = page.refused or ("the same page as " + page.url if page.url in seen else "")
        if not reason and _is_sitemap(page):
            more = _sitemap_links(fetcher, page)
        elif not reason and (form := format_of_content(page.content_type)):
            seen.add(page.url)
            full = fetcher.file(page)
            file = SourceFile(full, reading.relative(full), form.kind, named=url == start)
            found.append(SiteFile(file, page))
            more = _links(fetcher, page, start) if source.follow else []
        else:
            more, reason = [], reason or f"{page.content_type or 'no type given'} is no text"
        if reason and url == start:
            raise DataError(reason, "check the address", url)
        if reason:
            reading.skip(url, reason)
        for link in more:
            if link not in known:
                known.add(link)
                path = urlsplit(link).path.lstrip("/")
                if globs := excluding(path, path, source.exclude):
                    reading.skip(link, f"excluded by {globs[0]!r}")
                elif site_of(link) != site_of(start):
                    reading.skip(link, f"on another host than {urlsplit(start).netloc}")
                else:
                    waiting.append(link)
    if waiting and not problems:
        reading.skip(source.path, f"{len(waiting)} more pages than `max_pages: {source.max_pages}` were not read")
    if problems:
        raise DataError(problems=problems)
    return found


def in_its_encoding(reading: SourceReading, site: SiteFile) -> SourceReading:
    """The source with the encoding that a page declares; the recipe's where it declares none."""
    if site.page.encoding is None:
        return reading
    return replace(reading, source=reading.source.model_copy(update={"encoding": site.page.encoding}))


def with_address(documents: Iterator[Document], site: SiteFile) -> Iterator[Document]:
    """The documents of a page with its address and the day it was fetched in their `meta`."""
    for document in documents:
        about = {"url": site.page.url, "fetched": site.page.fetched}
        yield replace(document, meta={**document.meta, **about})


def _is_sitemap(page: Page) -> bool:
    xml = page.content_type in _SITEMAPS or urlsplit(page.url).path.endswith((".xml", ".xml.gz"))
    return xml and format_of_content(page.content_type) is None


def _sitemap_links(fetcher: Fetcher, page: Page) -> list[str]:
    """The addresses of a sitemap, or of the sitemaps that an index of them names."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    try:
        tree = etree.fromstring(fetcher.content(page), parser)
    except etree.XMLSyntaxError as error:
        raise DataError(f"not a sitemap: {error.msg}", "name a page, or a sitemap.xml", page.url) from None
    if etree.QName(tree).localname not in ("urlset", "sitemapindex"):
        what = f"XML, but not a sitemap: its root is <{etree.QName(tree).localname}>"
        raise DataError(what, "name a page, or a sitemap.xml", page.url)
    return _absolute(page.url, tree.xpath("/*/*/*[local-name() = 'loc']/text()"))


def _links(fetcher: Fetcher, page: Page, start: str) -> list[str]:
    """The addresses that a page links to, as far as they lie below `start`."""
    from lxml import etree

    form = format_of_content(page.content_type)
    if form is None or form.kind != "html":
        return []
    content = fetcher.content(page)
    if not content.strip():
        return []
    try:
        parser = etree.HTMLParser(encoding=page.encoding, huge_tree=True)
    except LookupError:  # known to Python but not to lxml; addresses are plain letters anyhow
        parser = etree.HTMLParser(encoding="latin-1", huge_tree=True)
    tree: Any = etree.fromstring(content, parser)
    if tree is None:
        return []
    base = urljoin(page.url, next(iter(tree.xpath("//base/@href")), ""))
    folder = start.partition("?")[0].rpartition("/")[0] + "/"
    return [link for link in _absolute(base, tree.xpath("//a/@href")) if link.startswith(folder)]


def _absolute(base: str, links: Sequence[Any]) -> list[str]:
    """Links as whole addresses, without the part behind ``#``, each once.

    >>> _absolute("https://a.org/d/", ["x.html#top", "/y", "x.html", "mailto:z@a.org"])
    ['https://a.org/d/x.html', 'https://a.org/y']
    """
    out: dict[str, None] = {}
    for link in links:
        try:
            whole = quote(urldefrag(urljoin(base, str(link).strip()))[0], safe="%/:=&?~+!$,;'@()*[]")
            parts = urlsplit(whole)
            if parts.scheme in ("http", "https") and parts.hostname:
                out[parts._replace(path=parts.path or "/").geturl()] = None
        except ValueError:  # e.g. a broken IPv6 address: leads nowhere
            continue
    return list(out)
