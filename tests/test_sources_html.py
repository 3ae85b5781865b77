"""HTML pages: no word lost, doubled or moved; what is left out is counted."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import times

from afina.errors import DataError
from afina.recipe import Source
from afina.sources import Document, FileLedger, Ledger, read_source, visible
from afina.sources.files import FileText, SourceReading
from afina.sources.html import read_html

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def convert(page: str) -> tuple[Document | None, FileLedger]:
    """The document of a page that stands in no file."""
    entry = FileLedger("a.html", "0" * 64)
    reading = SourceReading(Source(path="a.html"), 0, Path(), Ledger())
    found = list(read_html(FileText(Path("a.html"), "a.html", entry.sha256, page, entry), reading))
    assert entry.balanced, entry
    assert entry.chars_out == sum(visible(document.text) for document in found)
    return (found[0] if found else None), entry


def markdown(page: str) -> str:
    document, _ = convert(page)
    return document.text if document else ""


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>One\n  two</p><p>three", "One two\n\nthree\n"),
        ("<h1>A <em>b</em></h1><h3>C</h3>", "# A b\n\n### C\n"),
        ("<h2>C #</h2>", "## C \\#\n"),
        ("<p>a <b>bold </b>move, <i>and</i> <code>x = 1</code>", "a **bold** move, *and* `x = 1`\n"),
        ("<p><code>a`b</code> <code>`</code>", "``a`b`` `` ` ``\n"),
        ("<p>a<br>b", "a\nb\n"),
        ("<p>#1 thing<p># not a heading<p>``` not code", "#1 thing\n\n\\# not a heading\n\n\\``` not code\n"),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>", "- a\n- b\n  - c\n"),
        ("<ol start=3><li>a<li><p>b<p>c</ol>", "3. a\n\n4. b\n\n   c\n"),
        ("<ul><li>a<pre>x\n\n  y</pre></ul>", "- a\n\n  ```\n  x\n\n    y\n  ```\n"),
        ("<blockquote><p>a<p>b</blockquote>", "> a\n>\n> b\n"),
        ("<dl><dt>T<dd>D<dt>U<dd><p>E<p>F</dl>", "- **T**: D\n\n- **U**: E\n\n  F\n"),
        ("<p>a<hr><p>b", "a\n\n---\n\nb\n"),
        ("<p>10<sup>2</sup> see <img alt='a cat' src=x>", "10^2 see a cat\n"),
        ("<p>H<sub>2</sub>O, x<sub>i</sub>", "H2O, x_i\n"),
        ("<math><msup><mi>x</mi><mn>2</mn></msup><mo>=</mo><mfrac><mi>a</mi><mi>b</mi></mfrac></math>", "x^2=a/b\n"),
        (
            "<math><mfrac><mrow><mi>a</mi><mo>+</mo><mn>12</mn></mrow><msqrt><mi>b</mi></msqrt></mfrac></math>",
            "(a+12)/√b\n",
        ),
        ("<div>a<div>b</div>c</div>", "a\n\nb\n\nc\n"),
        ("<a href=x>link</a><span> text</span>", "link text\n"),
        ("<p>&lt;script> a &amp; b &nbsp;c", "\\<script> a & b \xa0c\n"),
    ],
)
def test_elements(page: str, text: str) -> None:
    assert markdown(page) == text


def test_code_is_exact_and_its_fence_longer_than_any_inside() -> None:
    code = "  a <b>\n\n\tif x:\n```\n  end  "
    assert markdown(f"<pre>\n{html.escape(code)}\n</pre>") == f"````\n{code}\n````\n"
    spans = "<pre><code><span>fn</span> <b>f</b>()\n  <i>x</i></code></pre>"
    assert markdown(spans) == "```\nfn f()\n  x\n```\n"
    assert markdown("<pre><code>a\nb</code><code>c</code><button>copy</button></pre>") == "```\na\nb\nc\n```\n"
    assert markdown("<pre><code>a</code> <code>b</code>\n<code>c</code></pre>") == "```\na b\nc\n```\n"
    assert markdown("<pre><div>a</div><div>b</div>c<br>d</pre>") == "```\na\nb\nc\nd\n```\n"


@pytest.mark.parametrize(
    ("page", "language"),
    [
        ('<pre><code class="language-zig">x</code></pre>', "zig"),
        ('<pre class="rust">x</pre>', "rust"),
        ('<div class="highlight-python notranslate"><div class="highlight"><pre>x</pre></div></div>', "python"),
        ('<figure><figcaption class="shell-cap">Shell</figcaption><pre>x</pre></figure>', "sh"),
        ("<figure><figcaption><cite>a.zig</cite></figcaption><pre>x</pre></figure>", "zig"),
        ('<pre class="language-text">x</pre>', ""),
        ('<pre class="box wide">x</pre>', ""),
    ],
)
def test_language_of_a_code_block(page: str, language: str) -> None:
    assert f"```{language}\nx\n```" in markdown(page)


def test_a_caption_stands_right_above_its_code() -> None:
    page = '<figure><figcaption class="zig-cap"><cite class="file">a.zig</cite></figcaption><pre>x</pre></figure>'
    assert markdown(page) == "a.zig\n```zig\nx\n```\n"


def test_tables() -> None:
    page = """<table><caption>T</caption><thead><tr><th>A<th>B</thead>
    <tr><td><code>a | b</code><td><pre>x\n  y</pre><tr><td colspan=2><ul><li>p<li>q</ul></table>"""
    assert markdown(page) == "T\n\n| A | B |\n|---|---|\n| `a \\| b` | `x`<br>`  y` |\n| p<br>q |  |\n"


@pytest.mark.parametrize(
    ("rows", "lines", "repeated"),
    [
        ("<tr><td rowspan=2>a<td>b<tr><td>c", "| a | b |\n| a | c |", 1),
        ("<tr><td>x<td rowspan=3>a<tr><td>y<tr><td>z<tr><td>u<td>v", "| x | a |\n| y | a |\n| z | a |\n| u | v |", 2),
        ("<tr><td rowspan=9><code>a|b</code><td>b<tr><td>c", "| `a\\|b` | b |\n| `a\\|b` | c |", 5),
        ("<tr><th rowspan=2>N<th colspan=2>S<tr><th>W<th>H", "| N | S |  |\n|---|---|---|\n| N | W | H |", 1),
        ("<tr><td rowspan=2 colspan=2>a<td>b<tr><td>c", "| a |  | b |\n| a |  | c |", 1),
        ("<tr><td rowspan=2>a<td rowspan=2>b<tr><tr><td>c<td>d", "| a | b |\n| c | d |", 0),
        (f"<tr><td rowspan=2>{'long ' * 41}<td>b<tr><td>c", f"| {'long ' * 40}long | b |\n| \N{DITTO MARK} | c |", 1),
    ],
    ids=["two", "three", "marks", "heads", "both ways", "a row of nothing else", "long"],
)
def test_a_cell_of_several_rows_stands_in_each_of_them_and_is_counted(rows: str, lines: str, repeated: int) -> None:
    """Markdown has none: the rows below had an empty cell, and nothing told whose values they hold."""
    document, entry = convert(f"<table>{rows}</table>")
    assert document and document.text.endswith(f"{lines}\n")
    assert entry.added.get("Markdown: cell of several rows", 0) == repeated


def test_a_table_that_only_arranges_is_no_table() -> None:
    assert markdown("<table><tr><td><h2>A</h2><p>b</table>") == "## A\n\nb\n"
    lines = "\n".join("abcdef")
    numbered = f'<table><tr><td class="linenos"><pre>1\n2</pre><td class="code"><pre>{lines}</pre></table>'
    document, entry = convert(numbered)
    assert document and document.text == f"```\n{lines}\n```\n" and entry.dropped == {"line numbers": 2}


def test_what_is_left_out_is_counted_by_reason() -> None:
    page = """<head><title>My title</title><style>b{}</style></head><!-- no --><nav>abc <a>d</a></nav>
    <h2 id="x">Head<a href="#x">§</a></h2><script>xyz</script><p hidden>hide<p style="display: none">me
    <p>seen <span aria-hidden="true">icon</span><svg><text>drawn</text></svg><template>t</template>"""
    document, entry = convert(page)
    assert document and document.text == "## Head\n\nseen\n"
    assert entry.dropped == {
        "title": 7, "style": 3, "comment": 2, "navigation": 4, "heading link": 1, "script": 3, "hidden": 6,
        "hidden (aria-hidden)": 4, "drawing (svg)": 5, "template": 1,
    }  # fmt: skip
    assert entry.added == {"Markdown: heading": 2}


def test_title_and_anchors() -> None:
    document, _ = convert(
        "<title>Page</title><h1>Only</h1><p>x<h2 id=b>B</h2><section id=c><h2>C</h2></section><h2>D</h2>"
    )
    assert document and (document.title, document.meta["page_title"]) == ("Only", "Page")
    anchors = json.loads(document.meta["anchors"])
    lines = document.text.split("\n")
    assert {lines[int(line) - 1]: anchor for line, anchor in anchors.items()} == {"## B": "b", "## C": "c"}
    document, _ = convert("<title>Page</title><p>x")
    assert document and document.title == "Page"


def test_a_page_without_text_gives_no_document() -> None:
    for page in ("<!-- x -->", "<script>x</script>", "<html></html>", " "):
        assert convert(page)[0] is None


def test_deep_nesting_is_read_or_refused_never_cut() -> None:
    for tag in ("div", "ul><li", "blockquote", "span", "b"):
        levels = 1800 // len(tag.split("><"))
        assert re.sub(r"\W", "", markdown(f"<{tag}>" * levels + "deep" + "<p>after")) == "deepafter"
    with pytest.raises(DataError, match=r"a\.html:1: the page cannot be read to its end"):
        convert("<div>" * 5000 + "x" + "</div>" * 5000 + "<p>after")


TAGS = (
    "p div span b i em strong code kbd pre ul ol li dl dt dd table thead tbody tr td th caption blockquote h1 h2 h4"
    " figure figcaption a section br hr img sup q aside center option unknown-tag"
)
TREES = st.recursive(
    st.just("word"),
    lambda inner: st.tuples(st.sampled_from(TAGS.split()), st.lists(inner, max_size=4)),
    max_leaves=25,
)


@settings(max_examples=times(100, 300), deadline=None)
@given(st.lists(TREES, min_size=1, max_size=4))
def test_no_word_is_lost_doubled_or_moved(trees: list[object]) -> None:
    count = 0

    def write(tree: object) -> str:
        nonlocal count
        if isinstance(tree, str):
            count += 1
            return f" w{count} "
        assert isinstance(tree, tuple)
        tag, inner = tree
        if tag in ("br", "hr"):
            return f"<{tag}>"
        if tag == "img":
            count += 1
            return f'<img alt=" w{count} ">'
        return f"<{tag}>{''.join(map(write, inner))}</{tag}>"

    text = markdown("".join(map(write, trees)))
    assert re.findall(r"\bw\d+\b", text) == [f"w{number}" for number in range(1, count + 1)]


@settings(max_examples=times(50, 150), deadline=None)
@given(st.text(alphabet=st.sampled_from("ab #`~|>-=*_1.\\<\n\t\u00a0é"), max_size=40))
def test_any_text_balances_in_prose_code_and_cells(text: str) -> None:
    shown = html.escape(text)
    for page in (f"<p>{shown}", f"<pre>{shown}</pre>", f"<code>{shown}</code>", f"<table><tr><td>{shown}<td>x</table>"):
        letters = re.sub(r"\s", "", text)
        assert _is_subsequence(letters, re.sub(r"\s", "", markdown(page)))


def _is_subsequence(inner: str, outer: str) -> bool:
    rest = iter(outer)
    return all(letter in rest for letter in inner)


MARKED = ("code", "kbd", "samp", "em", "strong", "i", "b")


class Words(HTMLParser):
    """The words of a page by Python's own parser, without what a reader does not see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.left_out = self.in_code = 0
        self.feed(page)
        self.words = re.findall(r"\w+", "".join(self.parts))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.in_code += tag == "pre"
        if tag in ("head", "nav", "script", "style"):
            self.left_out += 1
        elif tag == "img":
            self.parts.append(dict(attributes).get("alt") or "")
        elif tag in MARKED and not self.in_code:
            self.parts.append(" ")  # a Markdown mark comes here: "`var`s" has two words
        elif tag in ("p", "li", "td", "th", "pre", "div", "dt", "dd", "h1", "h2", "h3", "h4", "figcaption", "tr", "br"):
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("head", "nav", "script", "style"):
            self.left_out -= 1
        self.in_code -= tag == "pre"
        if tag in MARKED and not self.in_code:
            self.parts.append(" ")
        self.parts.append(" " if tag in ("figcaption", "h1", "h2", "h3", "h4", "pre", "p") else "")

    def handle_data(self, data: str) -> None:
        if not self.left_out:
            self.parts.append(data)


def extra_words(text: str, words: list[str]) -> Counter[str]:
    """Words of a document that the page lacks; every word of the page must come, in order."""
    position = 0
    extra: Counter[str] = Counter()
    for word in re.findall(r"\w+", text):
        if position < len(words) and word == words[position]:
            position += 1
        else:
            extra[word] += 1
    assert position == len(words), f"lost from {words[position : position + 12]}"
    return extra


def read(path: str, ledger: Ledger) -> Document:
    (document,) = read_source(Source(path=path), 0, SHARED / "zig", ledger)
    return document


@needs_shared
def test_the_zig_manual_comes_through_word_for_word() -> None:
    ledger = Ledger()
    document = read("documentation-0.14.0.html", ledger)
    page = (SHARED / "zig" / "documentation-0.14.0.html").read_text(encoding="utf-8")
    extra = extra_words(document.text, Words(page).words)
    languages = {name for name in extra if f"```{name}\n" in document.text}
    numbers = {name for name in extra if f"\n{name}. " in document.text}  # of the one numbered list
    assert set(extra) == languages | numbers | {"br"} and all(extra[number] == 1 for number in numbers), extra
    (entry,) = ledger.files
    assert entry.balanced and set(entry.dropped) == {"title", "style", "navigation", "heading link"}
    assert entry.dropped["heading link"] == 343  # one § for each
    assert document.title == "Zig Language Reference"
    assert sum(line.lstrip() == "```zig" for line in document.text.split("\n")) == 304
    assert len(json.loads(document.meta["anchors"])) == 343
    assert "pub fn main() !void {\n    const stdout = std.io.getStdOut().writer();\n" in document.text


@needs_shared
def test_the_release_notes_are_expanded_and_come_through_word_for_word() -> None:
    ledger = Ledger()
    document = read("release-notes-0.14.0.html", ledger)
    folder = SHARED / "zig" / "release-notes-0.14.0"
    page = (SHARED / "zig" / "release-notes-0.14.0.html").read_text(encoding="utf-8")
    page = re.sub(r"<!--.*?-->", "", page, flags=re.S)
    zig_blocks = len(re.findall(r"<pre>\{#syntax#\}|\{#syntax_block\||\{#code\|", page))
    blocks = r"(\{#syntax#\}|\{#syntax_block\|zig#\})(.*?)\{#end_?syntax(?:_block)?#\}"
    page = re.sub(
        blocks,
        lambda found: ("<pre>{}</pre>" if "block" in found[1] else "<code>{}</code>").format(html.escape(found[2])),
        page,
        flags=re.S,
    )
    page = re.sub(
        r"\{#code\|(.*?)#\}", lambda found: f" {found[1]} {html.escape((folder / found[1]).read_text())} ", page
    )
    page = re.sub(r"\{#(?:link|header_open)\|([^|#]*)(?:\|[^#]*)?#\}", r" \1 ", page)
    page = re.sub(r"\{#\w+#\}", "", page)
    extra = extra_words(document.text, Words(page).words)
    assert extra == {"zig": zig_blocks, "diff": 2, "1": 1, "2": 1}, extra
    assert "{#" not in document.text
    assert all(entry.balanced for entry in ledger.files)
    assert len(ledger.files) == 1 + len(list(folder.iterdir())) == 14
    assert ledger.files[0].added["included file"] == sum(entry.chars_in for entry in ledger.files[1:])
    assert "\n### Labeled Switch\n" in document.text and "\nlabeled_switch.zig\n```zig\ntest " in document.text


TEMPLATE = (
    "{#header_open|One|first#}<p>{#syntax#}1 << n{#endsyntax#} {#link|Text|Target#}"
    "{#header_open|Two#}{#nav#}{#header_close#}"
)


def test_docgen_directives(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.zig").write_text("a < b\n")
    (tmp_path / "a.html").write_text(TEMPLATE + "{#code|x.zig#}{#header_close#}")
    ledger = Ledger()
    (document,) = read_source(Source(path="a.html"), 0, tmp_path, ledger)
    assert document.text == "## One\n\n`1 << n` Text\n\n### Two\n\nx.zig\n```zig\na < b\n```\n"
    assert json.loads(document.meta["anchors"]) == {"1": "first", "5": "Two"}
    page, included = ledger.files
    assert page.added["included file"] == 3 and included.dropped == {"included in a.html": 3}
    assert page.balanced and included.balanced


def test_broken_docgen_says_where(tmp_path: Path) -> None:
    page = "{#header_open|One#}\n{#code|no.zig#}\n{#code|../../etc/passwd#}\n{#lnk|x#}\n"
    page += "{#header_close#}{#header_close#}\n{#header_open|x#}"
    (tmp_path / "a.html").write_text(page)
    with pytest.raises(DataError) as caught:
        list(read_source(Source(path="a.html"), 0, tmp_path, Ledger()))
    found = [(problem.where, problem.what) for problem in caught.value.problems]
    assert [where for where, _ in found] == ["a.html:2", "a.html:3", "a.html:4", "a.html:5", "a.html:6"]
    assert "a/no.zig does not exist" in found[0][1] and "leads outside" in found[1][1]
    assert caught.value.problems[2].fix == "did you mean `link`?"


def test_links_back_from_notes_and_page_numbers_are_left_out() -> None:
    """As pandoc, Sphinx and e-books write them; a note's own number and any other link stay."""
    page = (
        '<p>Faro<sup><a href="#n1">1</a></sup> <span role="doc-pagebreak">7</span>and <a href="b.html#x">…</a></p>'
        '<section><ol><li id="n1">South. <a href="#r1" class="footnote-back" role="doc-backlink">↩︎</a></li>'
        '<li>North <a href="one.html#r2">↩</a> <a href="#r3" role="doc-backlink">[3]</a></li></ol></section>'
    )
    document, entry = convert(page)
    assert document is not None and document.text == "Faro^1 and …\n\n1. South.\n2. North [3]\n"
    assert entry.dropped == {"back-link of a note": 3, "page number": 1}
