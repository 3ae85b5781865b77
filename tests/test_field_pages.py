"""Pages, PDFs and repositories as people have them: what of them is content, and what stands around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina.recipe import Source
from afina.sources import Document, Ledger, read_source

FIELD = Path(__file__).parents[2] / "shared" / "field" / "data"
needs_field = pytest.mark.skipif(not FIELD.exists(), reason="needs ../shared/field, which is not here")


def read(root: Path, path: str, ledger: Ledger | None = None, **keys: object) -> list[Document]:
    ledger = ledger if ledger is not None else Ledger()
    documents = list(read_source(Source(path=path, **keys), 0, root, ledger))  # type: ignore[arg-type]
    assert all(entry.balanced for entry in ledger.files), ledger.files
    return documents


def page(tmp_path: Path, body: str, ledger: Ledger | None = None) -> str:
    """The text of a page with this body."""
    (tmp_path / "a.html").write_text(f"<!doctype html><html><head><title>T</title></head><body>{body}</body></html>")
    found = read(tmp_path, "a.html", ledger)
    return found[0].text if found else ""


@needs_field
def test_of_a_page_only_its_main_content_is_read() -> None:
    ledger = Ledger()
    (document,) = read(FIELD / "20-html", "index.html", ledger)
    assert document.text == (
        "# Berths\n\nThis is the documentation of version 3.1, which is no longer maintained.\n\n"
        "The harbour of Vela has **42** berths. Take one with `vela berth take`:\n\n"
        "```python\nfrom vela import take\n\nfor n in range(3):\n    take(n)   # keep <n>\n```\n\n"
        "| Berth | Length | Price |\n|---|---|---|\n| A | 8 m | 10 € |\n|  | 12 m | 12 € |\n\n"
        "Why twelve metres?\n\nThe basin is narrow.\n\nWater H2O, area 12 m^2, energy E=m.\n\n"
        "- First, moor.\n  1. Bow line\n  2. Stern line\n- Then pay.\n"
    )
    assert ledger.files[0].dropped == {
        "title": 15, "style": 13, "script": 36, "dialog": 45, "header": 38, "sidebar": 17, "navigation": 41,
        "heading link": 1, "button": 4, "line numbers": 4, "hidden": 20, "feedback": 24, "footer": 24, "noscript": 16,
    }  # fmt: skip


CONTENT = "<h1>Tides</h1><p>High water comes fifty minutes later every day, in Faro as in Lagos.</p>"
TEXT = "# Tides\n\nHigh water comes fifty minutes later every day, in Faro as in Lagos.\n"


@pytest.mark.parametrize(
    ("around", "reason"),
    [
        ('<div class="topbar">Vela Docs 3</div><main>{}</main>', "outside of the main content"),
        ('Loose words <div role="main">{}</div> and more', "outside of the main content"),
        ("<aside>About us, at some length.</aside><main>{}</main>", "sidebar"),
        ("<header>Vela <a href=/>Docs</a></header><article>{}</article>", "header"),
        ('<div role="banner"><a href=/>Vela</a></div>{}', "header"),
        ("{}<footer>© Vela 2026</footer>", "footer"),
        ('{}<div role="contentinfo">© Vela 2026</div>', "footer"),
        ('<ol class="breadcrumb"><li><a href=/>Home</a><li>Guide</ol>{}', "breadcrumbs"),
        ('<div class="theme-doc-breadcrumbs_Ab1"><a href=/>Home</a></div>{}', "breadcrumbs"),
        ('<main>{}<ul class="toc"><li><a href="#a">Tides</a></ul></main>', "navigation"),
        ('<main>{}<div class="prev-next"><a href=x>Berths</a></div></main>', "navigation"),
        ('<main>{}<aside><a href=x>Related: berths</a></aside></main>', "sidebar"),
        ('<div id="onetrust-banner">We value privacy</div>{}', "cookie notice"),
        ("<div><p>This site uses cookies.</p><button>Got it</button></div>{}", "cookie notice"),
        ('<div id="modal" role="alertdialog">Sign up now</div>{}', "dialog"),
        ("<main>{}<p>Was this article helpful?</p></main>", "feedback"),
        ("<main>{}<div><span>Esta página foi útil?</span></div></main>", "feedback"),
        ('{}<p><a class="edit-this-page" href=x>Edit this page on GitHub</a></p>', "edit link"),
        ('{}<div class="last-updated">Last updated on 3 May</div>', "date of change"),
        ('<div class="theme-doc-version-banner">Not the newest.</div>{}', "version banner"),
        ('<select><option>v3<option>v2</select>{}', "form field"),
        ('<div class="lang-picker">English Português</div>{}', "version switcher"),
        ('{}<div class="code-copy"><span>Copy</span></div>', "button"),
        ('{}<clipboard-copy>Copy</clipboard-copy>', "button"),
        ('<a class="skip-link" href="#main">Skip to content</a>{}', "skip link"),
        ('{}<span class="visually-hidden">opens a window</span>', "hidden (for screen readers)"),
        ('<form class="site-search"><label>Find</label></form>{}', "search"),
    ],
)  # fmt: skip
def test_what_stands_around_the_content_is_left_out_with_its_reason(tmp_path: Path, around: str, reason: str) -> None:
    ledger = Ledger()
    text = page(tmp_path, around.format(CONTENT), ledger)
    assert text == TEXT
    assert set(ledger.files[0].dropped) == {"title", reason}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("<div class=main><p>A page without landmarks</p></div><div>stays whole.</div>", "landmarks stays whole."),
        ("<main><input></main><div><p>The text stands outside of the landmark here.</p></div>", "The text stands"),
        ("<main>Search</main><div><p>The text stands outside of the landmark here.</p></div>", "The text stands"),
        ("<header><h1>Tides</h1><p>An abstract.</p></header><section><h1>One</h1></section>", "An abstract."),
        ("<header><h1>Tides</h1></header><main><p>High water at noon.</p></main>", "# Tides"),
        ("<article><header><h1>A</h1><p>By Ana</p></header><p>Text.</p><footer>Written in Faro.</footer></article>",
         "By Ana Text. Written in Faro."),
        ("<main><p>x y z</p><aside class=sidebar><p>Take care: tides turn.</p></aside></main>", "Take care"),
        ("<main><h2>Cookies</h2><section id=cookies><h3>Cookies</h3><p>A cookie is set.</p></section></main>",
         "A cookie is set."),
        ('<main><div class="section" id="cookie-banner"><h2>Cookie banner</h2><p>How to show one.</p></div></main>',
         "How to show one."),
        ('<body class="has-sidebar"><div class="sidebar-layout"><h1>T</h1><a href=x>All of the text</a></div>',
         "All of the text"),
        ("<h3><button>What is a berth?</button></h3><p>A place.</p>", "What is a berth? A place."),
        ('<button aria-expanded="false">What is a berth?</button><p>A place.</p>', "What is a berth? A place."),
        ('<div role="tabpanel" hidden><p>On Linux</p></div><p>all</p>', "On Linux"),
        ('<div hidden="until-found">Found by searching</div>', "Found by searching"),
        ('<div class="admonition note"><p class="admonition-title">Note</p><p>Boats first.</p></div>',
         "Note Boats first."),
        ("<p>body</p><footer><ol class=footnotes><li>A note of mine.</ol></footer>", "A note of mine."),
        ("<p class=body-copy>The copy of a text is longer than a button.</p>", "The copy of a text"),
        ("<pre class=line-numbers>42\n43</pre>", "42 43"),
        ("<table><tr><th>n<th>m<tr><td>1<td>2</table>", "| 1 | 2 |"),
        ("<p>This guide is about cookies. Accept the offer.</p>", "about cookies"),
    ],
)  # fmt: skip
def test_what_may_be_content_stays(tmp_path: Path, body: str, kept: str) -> None:
    assert kept in " ".join(page(tmp_path, body).split())


@pytest.mark.parametrize(
    "code",
    [
        '<pre><code class="language-py"><span class="ln">1</span>if a:\n<span class="ln">2</span>    b\n</code></pre>',
        '<pre class="language-py"><span class="linenos"> 1</span>if a:\n<span class="linenos">10</span>    b\n</pre>',
        '<table class="rouge-table"><tr><td class="rouge-gutter gl"><pre class="lineno">1\n2</pre></td>'
        '<td class="rouge-code"><pre class="language-py">if a:\n    b\n</pre></td></tr></table>',
        '<table><tr><td class="lntd"><pre><code><span class="lnt">1\n</span><span class="lnt">2\n</span></code></pre>'
        '</td><td class="lntd"><pre><code class="language-py">if a:\n    b\n</code></pre></td></tr></table>',
        '<pre><code class="language-py"><table class="hljs-ln"><tr><td class="hljs-ln-numbers"><div class="hljs-ln-n">1'
        '</div></td><td>if a:</td></tr><tr><td class="hljs-ln-numbers">2</td><td>    b</td></tr></table></code></pre>',
        '<pre class="language-py">if a:\n    b<span class="line-numbers"><span>1</span><span>2</span></span></pre>',
        '<div class="code"><button>Copy code</button><pre class="language-py">if a:<br>    b</pre></div>',
    ],
)
def test_code_comes_without_numbers_and_buttons_and_with_its_indents(tmp_path: Path, code: str) -> None:
    assert page(tmp_path, f"<main><p>So:</p>{code}</main>") == "So:\n\n```py\nif a:\n    b\n```\n"
