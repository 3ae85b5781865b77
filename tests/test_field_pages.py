"""Pages, PDFs and repositories as people have them: what of them is content, and what stands around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina.errors import DataError
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


BANNER = "<div><p>You are reading the manual of version 3.1, which nobody looks after.</p></div>"
BOX = "<section><h2>Join us</h2><p>Every Monday at the quay, for whoever likes boats.</p></section>"


def site(root: Path, pages: int, around: str = "{banner}{text}{box}") -> tuple[list[str], Ledger]:
    """The texts of pages that share a banner and a box."""
    for number in range(pages):
        text = f"<h1>Page {number}</h1><h2>Returns</h2><p>Nothing.</p><p>{'About the boat ' + 'abcdefgh'[number]}, " + (
            f"which is {number} metres long.</p><pre>import vela_and_whatever_it_takes</pre>"
        )
        shown = around.format(banner=BANNER, text=text, box=BOX)
        (root / f"{number}.html").write_text(f"<html><body>{shown}</body></html>")
    ledger = Ledger()
    return [document.text for document in read(root, ".", ledger)], ledger


def test_what_most_pages_of_a_source_repeat_is_left_out(tmp_path: Path) -> None:
    texts, ledger = site(tmp_path, 6)
    assert texts[3] == (
        "# Page 3\n\n## Returns\n\nNothing.\n\nAbout the boat d, which is 3 metres long.\n\n"
        "```\nimport vela_and_whatever_it_takes\n```\n"
    )
    assert ledger.files[3].dropped == {
        "repeated on most pages: You are reading the manual of version 3.1, which nobody look…": 57,
        "repeated on most pages: Join us Every Monday at the quay, for whoever likes boats.": 48,
    }


def test_few_pages_the_same_page_and_one_page_alone_repeat_nothing(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    assert all("nobody looks after" in text for text in site(tmp_path / "few", 4)[0])
    (tmp_path / "same").mkdir()
    for number in range(6):
        (tmp_path / "same" / f"{number}.html").write_text(f"<body>{BANNER}<h1>A</h1>{BOX}</body>")
    assert all("nobody looks after" in each.text for each in read(tmp_path / "same", "."))
    site(tmp_path, 6)
    assert "nobody looks after" in read(tmp_path, "2.html")[0].text


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")


def left_out(root: Path, path: str = ".", **keys: object) -> tuple[list[str], dict[str, str]]:
    """What is read of a folder, and what is not with the reason."""
    ledger = Ledger()
    return [document.path for document in read(root, path, ledger, **keys)], ledger.skipped


@needs_field
def test_of_a_repository_only_the_work_of_its_authors_is_read() -> None:
    found, skipped = left_out(FIELD, "30-repo")
    names = ["Makefile", "README.md", "docs/CHANGELOG.md", "pyproject.toml", "src/vela.py", "web/app.js"]
    assert found == [f"30-repo/{name}" for name in names]
    assert skipped == {
        "30-repo/.github/": "hidden folder",
        "30-repo/LICENSE": "no ending",
        "30-repo/data/ports.json": "configuration or data of a repository, no rows",
        "30-repo/node_modules/": "vendored folder: 1 file",
        "30-repo/package-lock.json": "lock file",
        "30-repo/src/berth_pb2.py": "generated, by its name",
        "30-repo/vendor/": "vendored folder: 1 file",
        "30-repo/web/app.min.js": "minified",
    }  # fmt: skip


GENERATED = {
    "go.go": "// Code generated by stringer; DO NOT EDIT.\npackage a\n",
    "tool.py": '"""Generated by tool 3.\n\nDo not edit."""\nx = 1\n',
    "rel.rs": "/* @generated by relay */\nfn a() {}\n",
    "x.c": "/* Generated by Cython 3.0.11 */\nint a;\n",
    "m.sql": "-- This file was automatically generated.\n-- Please DO NOT EDIT it by hand.\nselect 1;\n",
    "a.pb.go": "package a\n", "b.g.dart": "int b = 1;\n", "zz_generated.deepcopy.go": "package z\n",
}  # fmt: skip
BY_HAND = {
    "server.py": "# Do not edit the port while the server runs.\nport = 1\n",
    "gen.py": '# Writes files.\nHEADER = "# Code generated by gen.py. DO NOT EDIT."\n',
    "doc.md": "<!-- Code generated by docs. DO NOT EDIT. -->\n# Guide\n",
    "long.py": "x = 1\n" * 60 + "# generated by nobody, do not edit\n",
    "minify.js": "export const minify = (code) => code.trim();\n",
    "uv.toml": "lock = true\n",
    "vendor/brief.md": "Our vendors deliver on Mondays.\n",
    "keys.md": "How to keep keys.\n",
}


def test_generated_and_vendored_code_is_told_from_what_people_wrote(tmp_path: Path) -> None:
    put(tmp_path, GENERATED | BY_HAND)
    put(tmp_path, {"third_party/x/a.c": "int a;\n", "third_party/x/b.c": "int b;\n", "lib/app.js.map": "{}",
                   "lib/app.js": "var a=1;" * 500, "go.sum": "x h1:y\n", "docs/yarn.lock": "x\n"})  # fmt: skip
    found, skipped = left_out(tmp_path)
    assert found == sorted(BY_HAND)
    assert {skipped[name].partition(",")[0] for name in GENERATED} == {"generated"}
    assert {name: reason for name, reason in skipped.items() if name not in GENERATED} == {
        "third_party/": "vendored folder: 2 files", "lib/app.js.map": "source map", "lib/app.js": "minified",
        "go.sum": "lock file", "docs/yarn.lock": "lock file",
    }  # fmt: skip
    everything, _ = left_out(tmp_path, all_files=True)
    assert set(everything) == set(found) | set(GENERATED) | {"third_party/x/a.c", "third_party/x/b.c", "lib/app.js"}
    assert left_out(tmp_path, "third_party/x/a.c")[0] == ["third_party/x/a.c"]


def test_a_wildcard_matches_no_vendored_code_unless_it_is_spelled_out(tmp_path: Path) -> None:
    put(tmp_path, {"src/a.c": "int a;", "vendor/b.c": "int b;", "src/a_pb2.py": "x = 1"})
    assert left_out(tmp_path, "**/*.c") == (["src/a.c"], {"vendor/": "vendored folder: 1 file"})
    assert left_out(tmp_path, "vendor/*.c") == (["vendor/b.c"], {})
    assert left_out(tmp_path, "vendor") == (["vendor/b.c"], {})


def test_gitignore_is_read_as_git_reads_it(tmp_path: Path) -> None:
    put(tmp_path, {
        ".gitignore": "# mine\n*.log.md\n/out/\n!keep.log.md\ndeep/**/x.py\n", "a.log.md": "a", "keep.log.md": "k",
        "out/b.md": "b", "out/c/d.md": "d", "docs/out/e.md": "e", "docs/.gitignore": "!a.log.md\nf.md\n",
        "docs/a.log.md": "a", "docs/f.md": "f", "f.md": "f", "deep/1/2/x.py": "x", "deep/1/y.py": "y",
    })  # fmt: skip
    found, skipped = left_out(tmp_path)
    assert found == ["deep/1/y.py", "docs/a.log.md", "docs/out/e.md", "f.md", "keep.log.md"]
    assert skipped == {
        ".gitignore": "hidden file", "docs/.gitignore": "hidden file", "a.log.md": "by .gitignore",
        "out/": "by .gitignore: 2 files", "docs/f.md": "by .gitignore", "deep/1/2/x.py": "by .gitignore",
    }  # fmt: skip


def test_the_repository_around_a_folder_counts_unless_it_ignores_the_folder_itself(tmp_path: Path) -> None:
    put(tmp_path, {"repo/.git/HEAD": "ref", "repo/.gitignore": "data/\n*.tmp.md\n", "repo/docs/a.tmp.md": "a",
                   "repo/docs/b.md": "b", "repo/data/c.tmp.md": "c", ".gitignore": "*.md\n"})  # fmt: skip
    assert left_out(tmp_path, "repo/docs")[0] == ["repo/docs/b.md"]
    assert left_out(tmp_path, "repo/data")[0] == ["repo/data/c.tmp.md"]


def test_the_marks_of_gitattributes_count_both_ways(tmp_path: Path) -> None:
    put(tmp_path, {
        ".gitattributes": "api/** linguist-generated=true\napi/hand.py -linguist-generated\nlibs/** linguist-vendored\n"
        "vendor/** linguist-vendored=false\n*.py text eol=lf\n",
        "api/a.py": "a", "api/hand.py": "# @generated\n", "libs/b.py": "b", "vendor/c.py": "c", "d.py": "d",
    })  # fmt: skip
    found, skipped = left_out(tmp_path)
    assert found == ["api/hand.py", "d.py", "vendor/c.py"]
    assert skipped["api/a.py"] == "generated, by .gitattributes"
    assert skipped["libs/b.py"] == "vendored, by .gitattributes"


def test_secrets_are_never_read_whoever_names_them(tmp_path: Path) -> None:
    secret = {".env": "KEY=1", "prod.env": "KEY=1", "tls.pem": "x", "deploy/id_ed25519": "x", "a.tfvars": "x"}
    key = "-----BEGIN RSA PRIVATE KEY-----\nx\n"
    put(tmp_path, {**secret, "hidden.txt": key, "readme.md": "Never commit these."})
    found, skipped = left_out(tmp_path)
    assert found == ["readme.md"]
    assert skipped == dict.fromkeys([*secret, "hidden.txt"], "may hold secrets: never read")
    with pytest.raises(DataError, match="made to hold secrets is never read"):
        left_out(tmp_path, ".env")


def test_a_licence_is_read_once_and_data_of_a_repository_is_no_rows(tmp_path: Path) -> None:
    licence = "MIT License\n\nPermission is hereby granted...\n"
    put(tmp_path, {
        "LICENSE.md": licence, "a/LICENSE.txt": licence.replace("\n", "\n\n"), "b/LICENSE.md": "Apache",
        "package.json": '{"name": "vela"}', "ports.json": '[{"port": "Faro"}]', "t.csv": "Port;Water\nFaro;14:20\n",
        "rows.json": '[{"prompt": "q", "completion": "a"}]',
    })  # fmt: skip
    found, skipped = left_out(tmp_path)
    assert sorted(set(found)) == ["LICENSE.md", "b/LICENSE.md", "rows.json"]
    assert skipped.pop("a/LICENSE.txt") == "a licence that is read already"
    assert skipped == dict.fromkeys(["package.json", "ports.json", "t.csv"],
                                    "configuration or data of a repository, no rows")  # fmt: skip
    with pytest.raises(DataError, match="unknown columns"):
        left_out(tmp_path, "ports.json")


@needs_field
def test_mdx_comes_without_imports_components_and_comments() -> None:
    ledger = Ledger()
    (document,) = read(FIELD / "19-mdx", "berths.mdx", ledger)
    assert document.title == "Berths" and document.text == (
        "# Berths\n\nThe harbour of Vela has **42** berths for boats of up to twelve metres.\n\n**Book early**\n\n"
        "In August every berth is taken by noon.\n\n**Command line**\n\nRun this to take one:\n\n"
        "```sh\nimport_berth --number 4   # not an import line\nvela berth take 4\n```\n\n**Web**\n\n"
        "Open the page and click on the berth.\n\n"
        "The port is 7411. See [the tides](./tides.mdx) and ![map](map.png).\n\n**Prices**\n\nTwelve euros a night.\n"
    )
    assert ledger.files[0].dropped == {
        "front matter": 57, "MDX: imports and exports": 83, "component": 135, "comment": 59, "MDX: expression": 6,
        "container": 9,
    }  # fmt: skip


@needs_field
def test_marks_of_documentation_systems_are_no_text() -> None:
    ledger = Ledger()
    (document,) = read(FIELD / "19-mdx", "plain.md", ledger)
    assert document.text == (
        "# Tides\n\nHigh water comes fifty minutes later every day.\n\nShortcodes of Hugo stand like this.\n\n"
        "GitBook writes hints like this.\n\n| Port | High water |\n|------|-----------:|\n| Faro | 14:20 |\n"
        "| Lagos | 15:02 |\n\n[^1]: A footnote of mine.\n"
    )
    assert set(ledger.files[0].dropped) == {"front matter", "shortcode", "template tag", "badge"}


@needs_field
def test_columns_of_a_pdf_are_read_in_order_without_headers_and_split_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("afina.sources", "afina.sources.parsers"):
        monkeypatch.setattr(f"{module}.has_docling", lambda: False)
    ledger = Ledger()
    (document,) = read(FIELD / "22-pdf", "raster.pdf", ledger)
    first = document.text.split("\n\n")[0]
    assert first == (
        "The harbour of Vela opened in\n1931 with a single quay made of\nstone from the hills behind the\n"
        "town. Boats came from Culatra\nand unloaded tuna for the factories,\nwhich closed in the year\n"
        "1972 when the fish stayed away.\nToday the harbour has forty-two\nberths for boats of up to twelve\n"
        "metres. A night costs ten euros\nin winter and twelve in summer,\nwater and power included. The\n"
        "office opens at nine and closes\nat six, on Sundays at one."
    )
    assert "Handbook" not in document.text and "Page" not in document.text
    assert ledger.files[0].dropped == {"running header, footer or page number": 81, "hyphen of a split word": 3}
