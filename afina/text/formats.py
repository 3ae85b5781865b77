"""What a file name's ending says: which kind of source it is, and which programming language."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

FileKind = Literal["text", "markdown", "html", "pdf", "docx", "code", "rows"]

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

_KINDS: dict[str, FileKind] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
    ".jsonl": "rows",
    ".json": "rows",
    ".csv": "rows",
    ".parquet": "rows",
    ".pdf": "pdf",
    ".docx": "docx",
}

_NO_TEXT = frozenset({".parquet", ".pdf", ".docx"})

_BINARY = re.compile(
    r"\.(7z|a|avi|bin|bmp|bz2|class|db|dll|doc|dylib|ear|eot|epub|exe|flac|gguf|gif|gz|ico|icns|jar|jpe?g|lz4|mkv|mov"
    r"|mp3|mp4|npy|npz|o|obj|odt|ogg|onnx|otf|pickle|pkl|png|pptx?|pth?|py[co]|rar|rlib|safetensors|so"
    r"|sqlite|tar|tgz|tiff?|ttf|wasm|wav|webm|webp|whl|woff2?|xlsx?|xz|zip|zst)"
)


def ending(name: str) -> str:
    """The last ending in lower case, with its dot; empty where there is none.

    >>> ending("docs/README.MD"), ending("Makefile")
    ('.md', '')
    """
    return PurePath(name).suffix.lower()


def language_of(name: str) -> str | None:
    """The programming language of a file, by its name.

    >>> language_of("src/01-01.zig"), language_of("Makefile"), language_of("notes.txt")
    ('zig', 'makefile', None)
    """
    return _NAMES.get(PurePath(name).name.lower()) or LANGUAGES.get(ending(name))


def is_packed(name: str) -> bool:
    """Whether a file is read, but its bytes are no text: PDF, Word, Parquet.

    >>> is_packed("a.PDF"), is_packed("a.jsonl")
    (True, False)
    """
    return ending(name) in _NO_TEXT


def kind_of(name: str) -> FileKind | Literal["binary"] | None:
    """What a file is, by its name; None where the ending says nothing.

    >>> kind_of("a.md"), kind_of("a.zig"), kind_of("a.png"), kind_of("a.new")
    ('markdown', 'code', 'binary', None)
    """
    if language_of(name):
        return "code"
    return "binary" if _BINARY.fullmatch(ending(name)) else _KINDS.get(ending(name))
