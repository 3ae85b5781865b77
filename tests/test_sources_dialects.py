"""Marks of documentation systems in Markdown: what is text stays, what is not is counted, and code is not touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import times

from afina.recipe import Source
from afina.sources import Document, FileLedger, Ledger, read_source, visible
from afina.sources.dialects import plain_markdown
from afina.text.lines import file_lines


def plain(body: str, *, mdx: bool = False) -> str:
    entry = FileLedger("a", "", chars_in=visible(body))
    text, lines = plain_markdown(body, entry, mdx=mdx)
    entry.chars_out = visible(text)
    assert entry.balanced, entry
    assert len(lines) == text.count("\n") + 1 and lines == sorted(lines)
    return text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("import A from 'a';\nimport {\n  b,\n\n  c,\n} from 'b'\n\nText.\n", "Text.\n"),
        ("export const meta = {\n  a: 1,\n\n  b: [2],\n};\n\nText.\n", "Text.\n"),
        ("Text.\n\nimport taxes are high.\n", "Text.\n\nimport taxes are high.\n"),
        ("Exporters\nexport much.\n", "Exporters\nexport much.\n"),
        ("export const port = 80;\n\nThe port is {port}, {other}, {'x'}.\n", "The port is 80, , x.\n"),
        ("a {/* b\n c */} d\n", "a\nd\n"),
        ("a <!-- b --> c\n", "a c\n"),
        ("Use `<Tabs>` and `{port}` \\{here}.\n", "Use `<Tabs>` and `{port}` \\{here}.\n"),
        ("```jsx\nimport A from 'a'\n<B {...c} />\n{d}\n```\n", "```jsx\nimport A from 'a'\n<B {...c} />\n{d}\n```\n"),
        ("<Card\n  title='A > B'\n  on={() => { go('}') }}\n>\n  Text.\n</Card>\n", "**A > B**\n\nText.\n"),
        ("<Steps>\n  <Step title=\"One\">\n    Do.\n\n    ```sh\n    a\n      b\n    ```\n  </Step>\n</Steps>\n",
         "**One**\n\nDo.\n\n```sh\na\n  b\n```\n"),
        ("A <Badge text=\"new\"/> thing and <Term>words</Term>.\n", "A new thing and words.\n"),
        ("<details>\n<summary>Why?</summary>\n\nSo.\n\n</details>\n", "Why?\n\nSo.\n"),
        ("H<sub>2</sub>O <br/> x<sup>2</sup> <b>y</b> <img src='a' alt='map'/>\n", "H2O   x^2 **y** map\n"),
        ("<Tabs items={['a', 'b']}><Tab>One</Tab></Tabs>\n", "One\n"),
        ("1 < 2 and 3 <4> {unclosed\n", "1 < 2 and 3 <4> {unclosed\n"),
        ("<>\nText\n</>\n", "Text\n"),
        ("In $a_{1}$ and\n\n$$\n\\frac{a}{b}\n$$\n", "In $a_{1}$ and\n\n$$\n\\frac{a}{b}\n$$\n"),
        ("It is $5 {x} or $10.\n", "It is $5 or $10.\n"),
        ("| {'{x}'} | <code>y</code> |\n", "| {x} | `y` |\n"),
        ("## Head {#id}\n", "## Head\n"),
        ("<style>{`\n.a { b }\n`}</style>\n\nText\n", "Text\n"),
    ],
)  # fmt: skip
def test_mdx(body: str, text: str) -> None:
    assert plain(body, mdx=True) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (":::tip\nText\n:::\n", "**tip**\n\nText\n"),
        ("::: details Click me\nText\n:::\n", "**Click me**\n\nText\n"),
        (":::note[Look *here*]\n\nText\n\n:::\n", "**Look *here***\n\nText\n"),
        ("::::cards\n:::card\nText\n:::\n::::\n", "Text\n"),
        (":::{warning} Sharp\nText\n:::\n", "**Sharp**\n\nText\n"),
        ("!!! note \"Look\"\n    Text\n\n    ```py\n    if a:\n        b\n    ```\n\nAfter\n",
         "**Look**\n\nText\n\n```py\nif a:\n    b\n```\n\nAfter\n"),
        ("??? tip\n    Text\n", "**tip**\n\nText\n"),
        ("=== \"Linux\"\n\n    Text\n\n=== \"Mac\"\n\n    More\n", "**Linux**\n\nText\n\n**Mac**\n\nMore\n"),
        ("> [!NOTE]\n> Text\n", "> **NOTE**\n> Text\n"),
        ("> [!warning] Sharp\n> Text\n", "> **Sharp**\n> Text\n"),
        ("{{< tabs >}}\n{{% tab \"Linux\" %}}\nText\n{{% /tab %}}\n{{< /tabs >}}\n", "**Linux**\n\nText\n"),
        ("{{< figure src=\"a.png\" caption=\"A map\" >}}\n", "**A map**\n"),
        ("{{< highlight go >}}\na <!-- b -->\n{{< /highlight >}}\n", "```go\na <!-- b -->\n```\n"),
        ("{{</* note */>}} and {{ .Title }} and {{#if a}}\n", "{{</* note */>}} and {{ .Title }} and {{#if a}}\n"),
        ("{% highlight ruby %}\nputs 1\n{% endhighlight %}\n", "```ruby\nputs 1\n```\n"),
        ("{% tabs %}\n{% tab title=\"Web\" %}\nText\n{% endtab %}\n{% endtabs %}\n", "**Web**\n\nText\n"),
        ("{% raw %}a{% endraw %} `{% b %}` {% comment %}\nno\n{% endcomment %}\n", "a `{% b %}`\n"),
        ("# A\n\n[![CI](https://github.com/a/b/workflows/ci/badge.svg)](x) ![cov](https://codecov.io/x)\n\nText\n",
         "# A\n\nText\n"),
        ("[![A map](map.png)](big.png)\n", "[![A map](map.png)](big.png)\n"),
        ("[TOC]\n\nText\n{: .note }\n\n## Head {: #head }\n", "Text\n\n## Head\n"),
        ("<script setup>\nimport a from 'a'\n</script>\n\nText <Badge type=\"tip\" text=\"new\" />\n", "Text new\n"),
        ("<Note>\nText\n</Note>\n", "Text\n"),
        ("import Tabs from '@theme/Tabs';\n\n<Tabs>\nText {a}\n</Tabs>\n", "Text\n"),
        ("Vec<String> and <b>HTML</b> stay, {as} do braces.\n", "Vec<String> and <b>HTML</b> stay, {as} do braces.\n"),
        ("Text\n\n    {% if a %}\n    <!-- code -->\n", "Text\n\n    {% if a %}\n    <!-- code -->\n"),
        ("- item\n\n    <!-- no code --> text\n", "- item\n\n    text\n"),
        ("Text  \nbroken\n\n\n\nnothing changed\n", "Text  \nbroken\n\n\n\nnothing changed\n"),
        ("A note.[^1]\n\n[^1]: Its text.\n", "A note.[^1]\n\n[^1]: Its text.\n"),
    ],
)  # fmt: skip
def test_marks_of_other_systems(body: str, text: str) -> None:
    assert plain(body) == text


def read(root: Path, name: str, body: str, ledger: Ledger | None = None) -> Document:
    (root / name).write_text(body, encoding="utf-8")
    (document,) = read_source(Source(path=name), 0, root, ledger or Ledger())
    return document


def test_lines_are_still_those_of_the_file(tmp_path: Path) -> None:
    body = "---\ntitle: Tides\n---\nimport A from 'a'\n\n<A>\n\nOne\n\n</A>\n\n{/* x */}\n\nTwo\n"
    document = read(tmp_path, "a.mdx", body)
    assert (document.text, document.title, document.line) == ("One\n\nTwo\n", "Tides", 8)
    assert json.loads(document.meta["moved"]) == {"8": 8, "10": 14}
    in_file = file_lines(document, tmp_path)
    assert [body.split("\n")[in_file(line) - 1] for line in (8, 10)] == ["One", "Two"]


PIECES = st.sampled_from([
    "word", " ", "\n", "\n\n", "`", "```\n", "~~~", "<A>", "</A>", "<A b='c' />", "<!-- ", "-->", "{", "}", "{/* x */}",
    ":::tip", ":::", "!!! note", '=== "T"', "    ", "{{< a >}}", "{% b %}", "import a from 'b'", "export const c = 1",
    "\\", "> ", "- ", "'", '"', "# H {#i}", "[![a](badge)](b)", "<script>", "</script>", "{{< highlight go >}}",
])  # fmt: skip


@settings(max_examples=times(70, 200), deadline=None)
@given(st.lists(PIECES, max_size=25), st.booleans())
def test_every_character_is_kept_or_counted(pieces: list[str], mdx: bool) -> None:
    plain("".join(pieces), mdx=mdx)
