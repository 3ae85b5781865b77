"""What a folder of code holds beside the work of its authors, by rules that people know from their tools.

Left out of a folder, each with its reason: what ``.gitignore`` names; vendored code (``vendor/``, ``third_party/``,
``node_modules/``, ``site-packages/``, and what ``.gitattributes`` calls ``linguist-vendored``); generated code (by its
name, by ``linguist-generated``, or by a comment at its start that says so); minified code and source maps; lock files;
the second copy of a licence; configuration and data as JSON or CSV that are no rows of a dataset. `all_files` on the
source reads them all the same, and a file that the recipe names itself is always read.

Files that are made to hold secrets are never read, whoever names them.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pathspec import GitIgnoreSpec

from afina.text.formats import ending, language_of

_VENDORED = frozenset({
    "node_modules", "bower_components", "jspm_packages", "site-packages", "dist-packages", "vendor", "vendors",
    "third_party", "third-party", "thirdparty", "godeps", "carthage", "pods",
})  # fmt: skip
_ALWAYS_VENDORED = frozenset({"node_modules", "bower_components", "jspm_packages", "site-packages", "dist-packages"})
_LOCKS = frozenset({
    "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb", "deno.lock",
    "poetry.lock", "pdm.lock", "uv.lock", "pipfile.lock", "conda-lock.yml", "pixi.lock", "cargo.lock", "go.sum",
    "go.work.sum", "gemfile.lock", "composer.lock", "mix.lock", "pubspec.lock", "podfile.lock", "package.resolved",
    "flake.lock", "packages.lock.json", "gradle.lockfile", ".terraform.lock.hcl", "cabal.project.freeze",
    "stack.yaml.lock", "rebar.lock", "shard.lock",
})  # fmt: skip
_SECRETS = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "*.ovpn",
    "*.tfstate", "*.tfstate.backup", "*.tfvars", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", "_netrc",
    ".npmrc", ".pypirc", ".pgpass", ".htpasswd", ".git-credentials", "credentials", "credentials.json",
    "client_secret*.json", "service-account*.json", "service_account*.json", "secrets.json", "secrets.toml",
    "secrets.yaml", "secrets.yml",
)  # fmt: skip
_SHOWN_SECRETS = ("*.example", "*.sample", "*.template", "*.dist", "*.pub")
"""Models of such files, without secrets in them."""
_PRIVATE_KEY = re.compile(rb"\A\s*-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY")
_GENERATED = (
    "*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*.pb.go", "*.pb.cc", "*.pb.h", "*.pb.swift", "*.pb.dart", "*_pb.js",
    "*_pb.d.ts", "*_grpc.pb.go", "*.g.dart", "*.freezed.dart", "*.g.cs", "*.designer.cs", "*.designer.vb",
    "*.generated.*", "*_generated.*", "zz_generated.*", "*.gen.go", "*.gen.ts", "*.snap", "gradlew", "gradlew.bat",
    "mvnw", "mvnw.cmd",
)  # fmt: skip
_HEADER = re.compile(
    r"@(?:partially-)?generated\b|\b(?:code|file|source) (?:is |was |has been )?(?:auto(?:matically)?[ -]?)?generated\b"
    r"|\bauto-?generated (?:by|from|file|code)\b|\bautomatically generated\b|\bgenerated (?:by|from|with|using)\b"
    r"|\bdo not (?:edit|modify|change)\b[^.]*\bgenerated\b",
    re.I,
)
_DO_NOT_EDIT = re.compile(r"\bdo not (?:edit|modify|change)\b|\bdon't edit\b|\bnot be edited\b", re.I)
_CERTAIN = re.compile(
    r"@(?:partially-)?generated\b|\bcode generated .* do not edit\b|^\W*(?:this (?:file|code) (?:is|was) )?"
    r"(?:auto-?|automatically )?generated (?:by|from|with|using) (?!hand\b)",
    re.I,
)
_COMMENT = re.compile(r"^\s*(?:#|//|/\*|\*|--|;|%|<!--|\"\"\"|'''|\(\*|\{-|REM\b|!)", re.I)
_HEADER_LINES, _FIRST_LINES, _NEAR_LINES = 30, 5, 4
"""How far down a header goes; where its certain forms stand; how near "generated" and "do not edit" are."""
_LICENCE = re.compile(r"(?:un)?licen[cs]es?|copying(?:\.lesser)?|notice", re.I)
_MANIFESTS = (
    ".git", "package.json", "pyproject.toml", "setup.py", "setup.cfg", "Cargo.toml", "go.mod", "build.zig", "pom.xml",
    "build.gradle", "build.gradle.kts", "CMakeLists.txt", "composer.json", "Gemfile", "mix.exs", "pubspec.yaml",
    "Package.swift", "deno.json", "stack.yaml", "dune-project",
)  # fmt: skip
_ROW_KEYS = frozenset({
    "messages", "conversations", "conversation", "prompt", "instruction", "question", "pergunta", "text", "chosen",
    "completion", "response", "answer", "resposta", "output", "query", "history", "chat", "mapping", "chat_messages",
    "data", "rows", "train", "examples", "features", "entries",
})  # fmt: skip
"""One of these stands in every table that could be rows to learn; JSON without any is configuration or other data."""
_LARGEST_LOOKED_AT = 4 << 20
_MINIFIED_LINE = 200
"""Characters per line on average; hand-written code has about 30, and no linter lets it past 120."""
_COUNTED = 100_000


def is_secret(name: str) -> bool:
    """Whether a file is made to hold passwords or keys, by its name.

    >>> is_secret(".env.production"), is_secret("server.pem"), is_secret(".env.example"), is_secret("keys.md")
    (True, True, False, False)
    """
    lower = name.lower()
    return _matches(lower, _SECRETS) and not _matches(lower, _SHOWN_SECRETS)


@dataclass(frozen=True, slots=True)
class FolderRules:
    """The rules that hold in one folder of a source, its own and those of the folders above."""

    folder: Path
    above: FolderRules | None = None
    is_repository: bool = False
    ignored: GitIgnoreSpec | None = None
    attributes: tuple[tuple[GitIgnoreSpec, dict[str, bool]], ...] = ()
    licences: dict[str, str] = field(default_factory=dict)
    """Text of each licence met so far, without white space -> where."""

    @classmethod
    def of(cls, folder: Path, above: FolderRules | None = None) -> FolderRules:
        """The rules of a folder. Without `above`, those of the repository around it are looked for, up to its ``.git``;
        one that ignores the folder as a whole does not count, for the recipe names it."""
        folder = _whole(folder)
        if above is None:
            above = _around(folder)
        ignored = _lines(folder / ".gitignore")
        return cls(
            folder,
            above,
            (above is not None and above.is_repository) or any((folder / name).exists() for name in _MANIFESTS),
            GitIgnoreSpec.from_lines(ignored) if ignored else None,
            tuple(_attributes(_lines(folder / ".gitattributes"))),
            above.licences if above else {},
        )

    def why_not_folder(self, inner: Path) -> str | None:
        """Why a folder below this one is left out, with the number of its files; None where it is walked."""
        inner = _whole(inner)
        if self._is_ignored(inner, folder=True):
            reason = "by .gitignore"
        elif self._is_vendored(inner):
            reason = "vendored folder"
        else:
            return None
        count = _count_files(inner)
        return f"{reason}: {count:,} file{'s' * (count != 1)}"

    def why_not_file(self, file: Path, *, rows: bool) -> str | None:
        """Why a file of this folder is left out; None where it is read.

        Args:
            rows: whether the recipe says that JSON and CSV are rows.
        """
        file = _whole(file)
        name = file.name.lower()
        if self._is_ignored(file, folder=False):
            return "by .gitignore"
        marks = self._marks(file)
        for mark in ("vendored", "generated"):
            if marks.get(f"linguist-{mark}"):
                return f"{mark}, by .gitattributes"
        if name in _LOCKS:
            return "lock file"
        if ending(name) == ".map" and ending(name.removesuffix(".map")) in (".js", ".mjs", ".cjs", ".css", ".ts"):
            return "source map"
        if re.search(r"[.-]min\.(?:m?js|cjs|css|html)$", name):
            return "minified"
        if marks.get("linguist-generated") is None and _matches(name, _GENERATED):
            return "generated, by its name"
        if not rows and ending(name) in (".json", ".csv"):
            return self._is_no_rows(file)
        return self._by_content(file, marks)

    def _by_content(self, file: Path, marks: dict[str, bool]) -> str | None:
        """What only the first lines of a file say."""
        try:
            with file.open("rb") as opened:
                start = opened.read(1 << 16)
        except OSError:
            return None  # the reader says so
        if _PRIVATE_KEY.match(start):
            return "may hold secrets: never read"
        if _LICENCE.fullmatch(file.name.partition(".")[0]):
            text = "".join(start.decode("utf-8", errors="replace").split())
            first = self.licences.setdefault(text, file.as_posix())
            return None if first == file.as_posix() else "a licence that is read already"
        if language_of(file.name) is None or marks.get("linguist-generated") is False:
            return None
        text = start.decode("utf-8", errors="replace")
        if says_generated(text):
            return "generated, by its header"
        if ending(file.name) in (".js", ".mjs", ".cjs", ".css") and len(text) > _MINIFIED_LINE * (text.count("\n") + 1):
            return "minified"
        return None

    def _is_no_rows(self, file: Path) -> str | None:
        """Of JSON and CSV in a repository: configuration, fixtures and other data that no model learns as rows."""
        if not self.is_repository or file.stat().st_size > _LARGEST_LOOKED_AT:
            return None
        try:
            keys = _keys(file)
        except (ValueError, RecursionError, csv.Error):
            return None  # the reader says what is wrong with it, and where
        return None if keys & _ROW_KEYS else "configuration or data of a repository, no rows"

    def _is_vendored(self, inner: Path) -> bool:
        name = inner.name.lower()
        if name not in _VENDORED or self._marks(inner / "any").get("linguist-vendored") is False:
            return False
        # A folder of documents about vendors is no code of others.
        return name in _ALWAYS_VENDORED or any(language_of(each) for each in _files(inner))

    def _is_ignored(self, inner: Path, *, folder: bool) -> bool:
        for rules in self._upwards():
            if rules.ignored:
                below = inner.relative_to(rules.folder).as_posix() + "/" * folder
                found = rules.ignored.check_file(below).include
                if found is not None:
                    return found
        return False

    def _marks(self, inner: Path) -> dict[str, bool]:
        """Attributes of a file; the last line that matches counts, and the deepest file of them."""
        marks: dict[str, bool] = {}
        for rules in reversed(list(self._upwards())):
            for pattern, attributes in rules.attributes:
                if pattern.match_file(inner.relative_to(rules.folder).as_posix()):
                    marks |= attributes
        return marks

    def _upwards(self) -> Iterator[FolderRules]:
        rules: FolderRules | None = self
        while rules is not None:
            yield rules
            rules = rules.above


def says_generated(text: str) -> bool:
    """Whether the comments that a file of code starts with say that a program wrote it.

    >>> says_generated("// Code generated by protoc-gen-go. DO NOT EDIT.\\npackage a\\n")
    True
    >>> says_generated("# Do not edit this file while the server runs.\\nport = 1\\n")
    False
    >>> says_generated('MESSAGE = "generated by hand, do not edit"\\n')
    False
    """
    comments = [line for line in text.split("\n")[:_HEADER_LINES] if _COMMENT.match(line)]
    if any(_CERTAIN.search(line) for line in comments[:_FIRST_LINES]):
        return True
    together = ["\n".join(comments[at : at + _NEAR_LINES]) for at in range(len(comments))]
    return any(_HEADER.search(lines) and _DO_NOT_EDIT.search(lines) for lines in together)


def _around(folder: Path) -> FolderRules | None:
    """The rules of the repository that a folder lies in; None where it lies in none, or is ignored there."""
    if (folder / ".git").exists():
        return None
    chain = []
    for parent in folder.parents:
        chain.append(parent)
        if (parent / ".git").exists():
            break
    else:
        return None
    rules: FolderRules | None = None
    for parent in reversed(chain):
        ignored = _lines(parent / ".gitignore")
        rules = FolderRules(
            parent,
            rules,
            True,
            GitIgnoreSpec.from_lines(ignored) if ignored else None,
            tuple(_attributes(_lines(parent / ".gitattributes"))),
            rules.licences if rules else {},
        )
    assert rules is not None
    below = [folder, *chain[:-1]]
    return None if any(rules._is_ignored(each, folder=True) for each in below) else rules


def _attributes(lines: Iterable[str]) -> Iterator[tuple[GitIgnoreSpec, dict[str, bool]]]:
    """The lines of a ``.gitattributes`` that say who wrote a file."""
    for line in lines:
        pattern, *attributes = line.split()
        said = {}
        for each in attributes:
            name, _, value = each.lstrip("-!").partition("=")
            if name in ("linguist-generated", "linguist-vendored"):
                said[name] = not each.startswith(("-", "!")) and value.lower() != "false"
        if said:
            yield GitIgnoreSpec.from_lines([pattern]), said


def _whole(path: Path) -> Path:
    """A path from the root, without ``..``; links stay, for rules are about names."""
    return Path(os.path.normpath(path.absolute()))


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.split("\n") if line.strip() and not line.startswith("#")]


def _keys(file: Path) -> set[str]:
    """The names of a table's columns, or of an object's keys, in lower case."""
    text = file.read_text(encoding="utf-8-sig")
    if ending(file.name) == ".csv":
        line = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=line.count)
        return {cell.strip().lower() for row in csv.reader([line], delimiter=delimiter) for cell in row}
    value = json.loads(text)
    rows = value if isinstance(value, list) else [value]
    return {str(key).lower() for row in rows[:100] if isinstance(row, dict) for key in row}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _files(folder: Path) -> Iterator[str]:
    for _, _, names in os.walk(folder):
        yield from names


def _count_files(folder: Path) -> int:
    """How many files lie below, up to a number that takes a second to count."""
    count = 0
    for _ in _files(folder):
        count += 1
        if count == _COUNTED:
            break
    return count
