"""What mkdocs adds to docs/ for the site: the two READMEs, the log, the changelog, and the files that pages link to.

Pages are written so that their links work where the repository is read. Of what lies outside of docs/ the site gets a
copy below the same name, and links lead to that.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
PAGES = {"README.md": "index.md", "README.pt-BR.md": "pt.md", "LOG.md": "log.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository -> pages of the site."""
RECIPES = "recipes.md"
FOLDERS = {"recipes": RECIPES}
"""Folders that pages link to -> the page that lists them."""
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, RECIPES, content=recipes_page()))
    for name in sorted(_linked(files)):
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links lead to where the site has their files."""
    here = page.file.src_uri
    source = next((name for name, written in PAGES.items() if written == here), f"docs/{here}")
    return _outside_code(markdown, lambda text: _LINK.sub(lambda link: _on_site(link, source), text))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change a page but for what stands in blocks and spans of code."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def _on_site(link: re.Match[str], source: str) -> str:
    before, target, anchor, after = link.groups()
    if re.match(r"[a-z]+:", target):
        return link[0]
    return (
        f"{before}{_place(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))}{anchor or ''}{after}"
    )


def _place(path: str) -> str:
    """Where the site has a file or folder of the repository."""
    if path in PAGES:
        return PAGES[path]
    if (ROOT / path).is_dir():
        page = FOLDERS.get(path.split("/")[0])
        if page is None:
            raise PluginError(f"a page links to the folder {path}, which the site does not list")
        return page
    return path.removeprefix("docs/")


def _linked(files: Files) -> set[str]:
    """The files outside of docs/ that pages link to, and all recipes."""
    recipes = (file for file in (ROOT / "recipes").rglob("*") if file.is_file() and file.suffix != ".md")
    found = {str(file.relative_to(ROOT)) for file in recipes}  # a file of Markdown would be a page of the site
    for source in [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages() if not file.generated_by)]:
        for _, target, _, _ in _LINK.findall(_CODE.sub("", (ROOT / source).read_text(encoding="utf-8"))):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
            if not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file():
                found.add(path)
    return found


def recipes_page() -> str:
    """The recipes of the repository, each with the sentence that it begins with."""
    lines = [
        "# Recipes to start from",
        "",
        "Real jobs, each with a head that says what it does and how to start it.",
        "",
    ]
    folder = None
    for file in sorted((ROOT / "recipes").rglob("*.yaml"), key=lambda file: (file.parent != ROOT / "recipes", file)):
        if file.parent != folder:
            folder = file.parent
            lines += ["", f"## {folder.relative_to(ROOT)}", ""]
        head = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))
        words = " ".join(line.lstrip("# ") for line in head[0].splitlines()) if head else ""
        said = re.split(r"(?<=[.:?]) ", words)[0]
        lines.append(f"- [{file.name}]({file.relative_to(ROOT)}): {said}")
    return "\n".join(lines) + "\n"
