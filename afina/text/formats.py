"""The table of formats: what a file is, who reads it and what it becomes. All that depends on a kind of file asks here.

A format is one row of :data:`FORMATS` and one reader, named there and loaded when such a file is read. The kinds
are those of `Source.kind` in a recipe; a kind may have several formats (rows: JSONL, JSON, CSV, Parquet). What is read
as code stands in :data:`LANGUAGES`, what is known to hold no text in :data:`BINARY`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args

from afina.recipe import FileKind

KINDS: tuple[FileKind, ...] = get_args(FileKind)
"""Every kind of file, as a recipe's `Source.kind` names them."""

LANGUAGES: dict[str, str] = {
    ".ada": "ada",
    ".asm": "asm",
    ".bash": "bash",
    ".bat": "batch",
    ".c": "c",
    ".cc": "cpp",
    ".clj": "clojure",
    ".cmake": "cmake",
    ".cpp": "cpp",
    ".cr": "crystal",
    ".cs": "csharp",
    ".css": "css",
    ".cu": "cuda",
    ".cxx": "cpp",
    ".d": "d",
    ".dart": "dart",
    ".elm": "elm",
    ".erl": "erlang",
    ".ex": "elixir",
    ".exs": "elixir",
    ".f90": "fortran",
    ".fish": "fish",
    ".fs": "fsharp",
    ".gleam": "gleam",
    ".go": "go",
    ".graphql": "graphql",
    ".groovy": "groovy",
    ".h": "c",
    ".hpp": "cpp",
    ".hs": "haskell",
    ".java": "java",
    ".jl": "julia",
    ".js": "javascript",
    ".jsx": "jsx",
    ".kt": "kotlin",
    ".kts": "kotlin",
    ".lisp": "lisp",
    ".lua": "lua",
    ".m": "objectivec",
    ".mjs": "javascript",
    ".ml": "ocaml",
    ".mojo": "mojo",
    ".nim": "nim",
    ".nix": "nix",
    ".odin": "odin",
    ".pas": "pascal",
    ".php": "php",
    ".pl": "perl",
    ".proto": "protobuf",
    ".ps1": "powershell",
    ".py": "python",
    ".pyi": "python",
    ".r": "r",
    ".rb": "ruby",
    ".rkt": "racket",
    ".rs": "rust",
    ".scala": "scala",
    ".scm": "scheme",
    ".scss": "scss",
    ".sh": "sh",
    ".sol": "solidity",
    ".sql": "sql",
    ".sv": "systemverilog",
    ".swift": "swift",
    ".tcl": "tcl",
    ".tf": "hcl",
    ".toml": "toml",
    ".ts": "typescript",
    ".tsx": "tsx",
    ".v": "v",
    ".vhd": "vhdl",
    ".vim": "vim",
    ".vue": "vue",
    ".wgsl": "wgsl",
    ".xml": "xml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".zig": "zig",
    ".zon": "zig",
    ".zsh": "zsh",
}
"""Ending -> language, under the names that Markdown fences use."""

_NAMES = {"makefile": "makefile", "dockerfile": "dockerfile", "cmakelists.txt": "cmake", "justfile": "just"}

_READERS = "afina.sources."


@dataclass(frozen=True, slots=True)
class Format:
    """One row of the table.

    `reader` and `rows` are names as :func:`pkgutil.resolve_name` takes them, ``package.module:function``:

        reader   (text, reading) -> documents    takes the :class:`~afina.sources.files.FileText`, its text decoded
                 (file, reading) -> documents    takes the :class:`~afina.sources.files.SourceFile`, which it `opens`
        rows     (reading, full, problems, wanted) -> ledger's line and rows; see :mod:`afina.sources.tables`
    """

    name: str
    """As people call it."""
    endings: tuple[str, ...]
    """In lower case, with their dots."""
    kind: FileKind
    reader: str
    gives: Literal["markdown", "text", "code", "rows"]
    """What its documents are: text under headings, text without, code, or rows (texts, conversations, preferences)."""
    opens: bool = False
    packed: bool = False
    """Whether its bytes are no text: compressed, or a format of its own. Such a file is never read as another kind."""
    own_lines: bool = False
    """Whether a line of a document's text is that line of the file."""
    rows: str = ""
    """What opens it as a table, where it is one."""
    content_types: tuple[str, ...] = ()
    """As web servers call it; pages of other types are not read."""
    extra: str = ""
    """The extra (``afina[NAME]``) without which it is not read."""
    library: str = ""
    """The distribution that reads it, where its version decides what comes out: part of what a dataset depends on."""
    docling: bool = False
    """Whether docling reads it instead, where that is installed."""
    text_share: float = 1.0
    """How much of the file's bytes is text that is learned: mark-up and the names of columns are not."""


FORMATS: tuple[Format, ...] = (
    Format(
        "Markdown", (".md", ".markdown", ".mdx"), "markdown", f"{_READERS}markdown:read_markdown", "markdown",
        own_lines=True, content_types=("text/markdown",),
    ),
    Format(
        "plain text", (".txt", ".text", ".rst"), "text", f"{_READERS}text:read_plain", "text",
        own_lines=True, content_types=("text/plain",),
    ),
    Format(
        "HTML", (".html", ".htm"), "html", f"{_READERS}html:read_html", "markdown",
        content_types=("text/html", "application/xhtml+xml"), text_share=0.3,
    ),
    Format(
        "PDF", (".pdf",), "pdf", f"{_READERS}pdf:read_pdf", "text", opens=True, packed=True,
        content_types=("application/pdf",), library="pypdf", docling=True, text_share=0.1,
    ),
    Format(
        "Word", (".docx",), "docx", f"{_READERS}docx:read_docx", "markdown", opens=True, packed=True,
        docling=True, text_share=0.4,
    ),
    Format(
        "EPUB", (".epub",), "epub", f"{_READERS}epub:read_epub", "markdown", opens=True, packed=True,
        content_types=("application/epub+zip",), text_share=0.4,
    ),
    Format("code", tuple(LANGUAGES), "code", f"{_READERS}code:read_code", "code", own_lines=True),
    Format(
        "JSONL", (".jsonl",), "rows", f"{_READERS}rows:read_rows", "rows", opens=True,
        rows=f"{_READERS}tables:open_jsonl", text_share=0.85,
    ),
    Format(
        "JSON", (".json",), "rows", f"{_READERS}rows:read_json", "rows", opens=True,
        rows=f"{_READERS}tables:open_json", text_share=0.85,
    ),
    Format(
        "CSV", (".csv",), "rows", f"{_READERS}rows:read_rows", "rows", opens=True,
        rows=f"{_READERS}tables:open_csv",
    ),
    Format(
        "Parquet", (".parquet",), "rows", f"{_READERS}rows:read_rows", "rows", opens=True, packed=True,
        rows=f"{_READERS}tables:open_parquet", extra="parquet", text_share=1.5,
    ),
)  # fmt: skip
"""The first format of a kind reads files of that kind whose ending is not known."""

BINARY = frozenset({
    ".7z", ".a", ".avi", ".bin", ".bmp", ".bz2", ".class", ".db", ".dll", ".doc", ".dylib", ".ear", ".eot",
    ".exe", ".flac", ".gguf", ".gif", ".gz", ".ico", ".icns", ".jar", ".jpeg", ".jpg", ".lz4", ".mkv", ".mov",
    ".mp3", ".mp4", ".npy", ".npz", ".o", ".obj", ".odt", ".ogg", ".onnx", ".otf", ".pickle", ".pkl", ".png", ".ppt",
    ".pptx", ".pt", ".pth", ".pyc", ".pyo", ".rar", ".rlib", ".safetensors", ".so", ".sqlite", ".tar", ".tgz",
    ".tif", ".tiff", ".ttf", ".wasm", ".wav", ".webm", ".webp", ".whl", ".woff", ".woff2", ".xls", ".xlsx", ".xz",
    ".zip", ".zst",
})  # fmt: skip
"""Endings of files that hold no text, or none that is read here."""

ROW_FORMATS = tuple(each for each in FORMATS if each.rows)
"""Those that are tables."""

_BY_ENDING = {each: found for found in FORMATS for each in found.endings}


INSIDE = "!/"
"""Between a packed file and what lies in it, as archives are usually written: ``book.epub!/text/chapter.xhtml``."""


def file_of(path: str) -> str:
    """The file on the disk that a document's path names: the path itself, or the packed file around it.

    >>> file_of("d/a.docx!/word/document.xml"), file_of("d/a.docx"), file_of("what!/a.md")
    ('d/a.docx', 'd/a.docx', 'what!/a.md')
    """
    outer, mark, _ = path.partition(INSIDE)
    found = _BY_ENDING.get(PurePath(outer).suffix.lower()) if mark else None
    return outer if found and found.packed else path


def ending(name: str) -> str:
    """The last ending in lower case, with its dot; empty where there is none. That of the file, not of what lies in it.

    >>> ending("docs/README.MD"), ending("Makefile"), ending("a.docx!/word/document.xml")
    ('.md', '', '.docx')
    """
    return PurePath(file_of(name)).suffix.lower()


def language_of(name: str) -> str | None:
    """The programming language of a file, by its name.

    >>> language_of("src/01-01.zig"), language_of("Makefile"), language_of("notes.txt")
    ('zig', 'makefile', None)
    """
    return _NAMES.get(PurePath(file_of(name)).name.lower()) or LANGUAGES.get(ending(name))


def format_of(name: str) -> Format | None:
    """The format of a file, by its name; None where the name says nothing, or that it holds no text.

    >>> format_of("a.CSV").name, format_of("Makefile").name, format_of("a.png"), format_of("a.new")
    ('CSV', 'code', None, None)
    """
    return format_as("", "code") if language_of(name) else _BY_ENDING.get(ending(name))


def format_as(name: str, kind: FileKind) -> Format:
    """The format by which a file is read as `kind`: that of its name, or the first one of the kind.

    >>> format_as("a.parquet", "rows").name, format_as("answers.log", "rows").name
    ('Parquet', 'JSONL')
    """
    named = _BY_ENDING.get(ending(name))
    return named if named and named.kind == kind else next(each for each in FORMATS if each.kind == kind)


def is_packed(name: str) -> bool:
    """Whether a file is read, but its bytes are no text: PDF, Word, Parquet.

    >>> is_packed("a.PDF"), is_packed("a.jsonl")
    (True, False)
    """
    found = format_of(name)
    return found is not None and found.packed


def has_own_lines(name: str) -> bool:
    """Whether a line of a text that came from this file is one of the file: not where it was converted (HTML, Word)
    or is a row's.

    >>> has_own_lines("a.md"), has_own_lines("a.docx"), has_own_lines("a.jsonl")
    (True, False, False)
    """
    found = format_of(name)
    return found is not None and found.own_lines


def kind_of(name: str) -> FileKind | Literal["binary"] | None:
    """What a file is, by its name; None where the ending says nothing.

    >>> kind_of("a.md"), kind_of("a.zig"), kind_of("a.png"), kind_of("a.new")
    ('markdown', 'code', 'binary', None)
    """
    found = format_of(name)
    if found:
        return found.kind
    return "binary" if ending(name) in BINARY else None


def format_of_content(content_type: str) -> Format | None:
    """The format of what a web server sends; None where it is no text.

    >>> format_of_content("application/xhtml+xml").name, format_of_content("image/png")
    ('HTML', None)
    """
    return next((each for each in FORMATS if content_type in each.content_types), None)


def load_function(name: str) -> Any:
    """The function that a format names as its `reader` or its `rows`; its module is imported now."""
    return pkgutil.resolve_name(name)


def names_of(formats: Sequence[Format]) -> str:
    """Names of formats in a sentence.

    >>> names_of(FORMATS[:3])
    'Markdown, plain text or HTML'
    """
    *first, last = [each.name for each in formats]
    return f"{', '.join(first)} or {last}" if first else last
