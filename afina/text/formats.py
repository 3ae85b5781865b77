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
    names: tuple[str, ...] = ()
    """Whole names of files, in lower case, that are of this format whatever their ending."""
    rows: str = ""
    """What opens it as a table, where it is one."""
    export: bool = False
    """Whether its rows are made of what another program keeps in it: no table that one would score."""
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
        "Markdown", (".md", ".markdown", ".mdx", ".rmd", ".qmd"), "markdown", f"{_READERS}markdown:read_markdown",
        "markdown",
        own_lines=True, content_types=("text/markdown",),
    ),
    Format(
        "plain text", (".txt", ".text"), "text", f"{_READERS}text:read_plain", "text",
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
    Format("reStructuredText", (".rst", ".rest"), "markdown", f"{_READERS}rst:read_rst", "markdown"),
    Format("AsciiDoc", (".adoc", ".asciidoc"), "markdown", f"{_READERS}asciidoc:read_asciidoc", "markdown"),
    Format("Org", (".org",), "markdown", f"{_READERS}org:read_org", "markdown"),
    Format("LaTeX", (".tex", ".latex"), "markdown", f"{_READERS}latex:read_latex", "markdown", text_share=0.9),
    Format("notebooks", (".ipynb",), "markdown", f"{_READERS}notebook:read_notebook", "markdown", text_share=0.3),
    Format(
        "e-mail", (".eml",), "markdown", f"{_READERS}mail:read_mail", "markdown", opens=True, packed=True,
        text_share=0.5,
    ),
    Format("subtitles", (".srt", ".vtt"), "text", f"{_READERS}subtitles:read_subtitles", "text", text_share=0.6),
    Format("code", tuple(LANGUAGES), "code", f"{_READERS}code:read_code", "code", own_lines=True),
    Format(
        "JSONL", (".jsonl", ".ndjson", ".jsonlines", ".ldjson"), "rows", f"{_READERS}rows:read_rows", "rows",
        opens=True,
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
        "TSV", (".tsv", ".tab"), "rows", f"{_READERS}rows:read_rows", "rows", opens=True,
        rows=f"{_READERS}tables:open_tsv",
    ),
    Format(
        "Parquet", (".parquet",), "rows", f"{_READERS}rows:read_rows", "rows", opens=True, packed=True,
        rows=f"{_READERS}tables:open_parquet", extra="parquet", text_share=1.5,
    ),
    Format(
        "Arrow", (".arrow", ".feather"), "rows", f"{_READERS}rows:read_rows", "rows", opens=True, packed=True,
        rows=f"{_READERS}tables:open_arrow", extra="parquet", text_share=0.9,
    ),
    Format(
        "qna.yaml", (), "rows", f"{_READERS}rows:read_rows", "rows", opens=True, names=("qna.yaml", "qna.yml"),
        rows=f"{_READERS}exports:open_qna", export=True, text_share=0.9,
    ),
    Format(
        "ZIP of a chat export", (".zip",), "rows", f"{_READERS}rows:read_rows", "rows", opens=True, packed=True,
        rows=f"{_READERS}exports:open_zip", export=True, text_share=2.0,
    ),
)  # fmt: skip
"""The first format of a kind reads files of that kind whose ending is not known."""

BINARY = frozenset({
    ".a", ".avi", ".bin", ".bmp", ".class", ".db", ".dll", ".dylib", ".ear", ".eot", ".exe", ".flac", ".gguf", ".gif",
    ".icns", ".ico", ".jar", ".jpeg", ".jpg", ".lz4", ".mkv", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".o", ".obj",
    ".ogg", ".onnx", ".otf", ".pickle", ".pkl", ".png", ".pt", ".pth", ".pyc", ".pyo", ".rlib", ".safetensors", ".so",
    ".sqlite", ".tif", ".tiff", ".ttf", ".wasm", ".wav", ".webm", ".webp", ".whl", ".woff", ".woff2",
})  # fmt: skip
"""Endings of files that hold no text, or none that is read here."""

CONVERT: dict[str, str] = {
    **dict.fromkeys((".doc", ".odt", ".rtf", ".pages", ".wpd"), "save it as .docx, or as plain text"),
    **dict.fromkeys((".xls", ".xlsx", ".xlsm", ".ods", ".numbers"), "save each of its sheets as .csv"),
    **dict.fromkeys((".ppt", ".pptx", ".odp", ".key"), "save it as PDF"),
    **dict.fromkeys((".mobi", ".azw", ".azw3", ".fb2"), "convert it to EPUB"),
    **dict.fromkeys((".msg", ".mbox", ".pst"), "save each message as .eml, or as plain text"),
    **dict.fromkeys((".djvu", ".ps", ".xps"), "convert it to PDF"),
    **dict.fromkeys((".tar", ".tgz", ".7z"), "unpack it"),
}
"""Endings of files that hold text which is not read -> what to do."""

COMPRESSED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""Ending of a packed file, ``rows.jsonl.gz`` -> how it is packed."""
_UNPACKED: tuple[FileKind, ...] = ("rows", "text", "markdown", "html")
"""Kinds that are read packed."""
_UNPACKED_SHARE = 4.0
"""How much longer a packed text usually is unpacked: for estimates alone."""

ROW_FORMATS = tuple(each for each in FORMATS if each.rows and not each.export)
"""Those that are tables."""

_BY_ENDING = {each: found for found in FORMATS for each in found.endings}
_BY_NAME = {each: found for found in FORMATS for each in found.names}


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

    That of a packed text is the one below: ``rows.jsonl.gz`` is read as ``rows.jsonl``.

    >>> ending("docs/README.MD"), ending("Makefile"), ending("a.docx!/word/document.xml")
    ('.md', '', '.docx')
    >>> ending("a.jsonl.gz"), ending("a.tar.gz"), ending("a.pdf.gz")
    ('.jsonl', '.gz', '.gz')
    """
    file = PurePath(file_of(name))
    last = file.suffix.lower()
    if last in COMPRESSED:
        below = _BY_ENDING.get(PurePath(file.stem).suffix.lower())
        if below and not below.packed and below.kind in _UNPACKED:
            return PurePath(file.stem).suffix.lower()
    return last


def compression_of(name: str) -> str | None:
    """How a file is packed whose text is read; None where it is not.

    >>> compression_of("a.jsonl.gz"), compression_of("a.jsonl"), compression_of("a.tar.gz")
    ('gzip', None, None)
    """
    last = PurePath(name).suffix.lower()
    return COMPRESSED.get(last) if ending(name) != last else None


def text_share(name: str) -> float:
    """How much text a byte of a file gives, roughly.

    >>> text_share("a.csv"), text_share("a.csv.gz"), text_share("a.png")
    (1.0, 4.0, 1.0)
    """
    found = format_of(name)
    return (found.text_share if found else 1.0) * (_UNPACKED_SHARE if compression_of(name) else 1.0)


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
    if named := _BY_NAME.get(PurePath(name).name.lower()):
        return named
    return format_as("", "code") if language_of(name) else _BY_ENDING.get(ending(name))


def format_as(name: str, kind: FileKind) -> Format:
    """The format by which a file is read as `kind`: that of its name, or the first one of the kind.

    >>> format_as("a.parquet", "rows").name, format_as("answers.log", "rows").name
    ('Parquet', 'JSONL')
    """
    named = _BY_NAME.get(PurePath(name).name.lower()) or _BY_ENDING.get(ending(name))
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
    return found is not None and found.own_lines and not compression_of(name)


def kind_of(name: str) -> FileKind | Literal["binary"] | None:
    """What a file is, by its name; None where the ending says nothing.

    >>> kind_of("a.md"), kind_of("a.zig"), kind_of("a.png"), kind_of("a.doc"), kind_of("a.new")
    ('markdown', 'code', 'binary', 'binary', None)
    """
    found = format_of(name)
    if found:
        return found.kind
    return "binary" if ending(name) in BINARY | CONVERT.keys() | COMPRESSED.keys() else None


def why_unread(name: str) -> tuple[str, str]:
    """Why a file is binary by its name, and what to do.

    >>> why_unread("a.png")[0], why_unread("a.doc"), why_unread("a.tar.gz")[1]
    ('binary by its ending .png', ('.doc is not read', 'save it as .docx, or as plain text'), 'unpack it')
    """
    last = ending(name)
    fix = CONVERT.get(last) or ("unpack it" if last in COMPRESSED else None)
    if fix:
        return f"{last} is not read", fix
    return f"binary by its ending {last}", "convert it to Markdown, HTML, plain text or JSONL first"


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
