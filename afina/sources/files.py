"""Which files a source names, and how their bytes become text.

A folder is walked in order of names. What is left out (hidden and build folders, binary files,
unknown endings, excluded globs, and by :mod:`afina.sources.repository` what is not its authors' work)
stands in :attr:`Ledger.skipped` with the reason. Bytes are decoded as the recipe says or refused: a
wrong guess would be trained as if it were the text.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from afina.errors import DataError, RecipeError
from afina.recipe import FileKind, Source, expand_path
from afina.recipe.home import in_roots
from afina.run import hash_file, what_runs_left
from afina.sources.repository import FolderRules, is_secret
from afina.sources.saved import about_the_data, is_chat_export
from afina.sources.unpack import LARGEST_UNPACKED_BYTES, open_unpacked, too_large, unpacked_bytes
from afina.text.document import FileLedger, Ledger
from afina.text.formats import KINDS, compression_of, ending, format_as, is_packed, kind_of, why_unread

BYTE_ORDER_MARK = "\ufeff"
_BUILD_FOLDERS = frozenset({"__pycache__", "zig-cache", "zig-out", "venv"})
_BUILD_MARKS = ("CACHEDIR.TAG", "pyvenv.cfg")
_LOCK = "~$"
"""How a file begins that Word keeps beside a document while it is open."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceReading:
    """A source being read: the recipe's entry, its position, the root, and where it is all added up."""

    source: Source
    position: int
    root: Path
    ledger: Ledger
    drop_unreadable: bool = False
    """Rows that cannot be used become documents of that kind, for `dropped.jsonl`, and are no error."""
    repeated: Callable[[], frozenset[str]] = frozenset
    """Texts that most pages of the source repeat, known at the first call; see :mod:`afina.sources.repeated`."""

    def relative(self, full: Path) -> str:
        """A file's path as documents and errors show it: POSIX, relative to `root`."""
        return Path(os.path.relpath(full, self.root)).as_posix()

    def skip(self, path: str, reason: str) -> None:
        """Put a file that is not read into the ledger."""
        earlier = self.ledger.skipped.get(path)
        if earlier is None or earlier == reason:
            self.ledger.skipped[path] = reason
        elif reason not in earlier.split("; "):
            self.ledger.skipped[path] = f"{earlier}; {reason}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to be read; `named` where the recipe names the file itself, not a folder or glob."""

    full: Path
    path: str
    kind: FileKind
    named: bool = False


@dataclass(frozen=True, slots=True)
class FileText:
    """A file's text (line ends are ``\\n``, byte order mark removed) and its line of the ledger."""

    full: Path
    path: str
    sha256: str
    text: str
    entry: FileLedger


def expand(reading: SourceReading, pattern: str, kind: str) -> list[SourceFile]:
    """The files that `pattern` names, in order; what is left out goes to the ledger.

    `kind` is a source's: ``auto`` takes known endings, any other takes files of that kind and
    unknown endings; ``text`` takes every file that is not binary.

    Raises:
        DataError: where a named file cannot be read as text, or nothing matches.
    """
    matches = list(expand_path(reading.root, pattern))
    if not matches:
        raise DataError(
            f"nothing matches {pattern!r} below {reading.root}", "check the path", f"sources.{reading.position}.path"
        )
    named = len(matches) == 1 and (reading.root / pattern).is_file()
    found: dict[str, SourceFile] = {}
    unused = set(reading.source.exclude)
    seen: set[str] = set()
    wild = _RulesOfGlob(reading, pattern)
    for anchor in matches:
        hidden_wanted = any(part.startswith(".") and part not in ("..", ".") for part in PurePosixPath(pattern).parts)
        parts = () if hidden_wanted or named else _below(anchor, reading.root)
        if any(part.startswith(".") for part in parts):
            reading.skip(reading.relative(anchor), "hidden")
            continue
        if wild.leaves_out(anchor):
            continue
        for full in _walk(reading, anchor, seen):
            path = reading.relative(full)
            below = full.relative_to(anchor).as_posix() if full != anchor else full.name
            globs = excluding(path, below, reading.source.exclude)
            unused -= set(globs)
            if globs:
                reading.skip(path, f"excluded by {globs[0]!r}")
            elif named and is_secret(full.name):
                fix = "remove it from the recipe; what it says would be learned, and told to anybody who asks"
                raise DataError("a file that is made to hold secrets is never read", fix, path)
            elif named:
                found[path] = SourceFile(full, path, _kind_of_named(path, kind), named=True)
            else:
                taken = _kind_in_folder(full, kind)
                if isinstance(taken, _No):
                    reading.skip(path, taken.reason)
                else:
                    found[path] = SourceFile(full, path, taken)
    for glob in sorted(unused):
        reading.skip(f"sources.{reading.position}.exclude: {glob}", "this glob matches no file")
    return list(found.values())


def read_text(reading: SourceReading, full: Path) -> FileText:
    """Read a whole file as text, and open its line in the ledger.

    A byte order mark is removed and counted; ``\\r\\n`` and ``\\r`` become ``\\n``. The caller adds the
    characters of the text itself to ``entry.chars_in``.

    Raises:
        DataError: for a file that cannot be opened, is binary, or is not in the source's encoding.
    """
    path = reading.relative(full)
    try:
        raw = unpacked_bytes(full, path) if compression_of(path) else full.read_bytes()
        sha256 = hash_file(full) if compression_of(path) else hashlib.sha256(raw).hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", "check the file's permissions", path) from None
    try:
        text = raw.decode(reading.source.encoding)
    except UnicodeDecodeError as error:
        raise _undecodable(raw, path, reading, error.start) from None
    if "\0" in text:
        raise _binary(path, reading)
    entry = FileLedger(path, sha256)
    if text.startswith(BYTE_ORDER_MARK):
        text = text[1:]
        entry.chars_in += 1
        entry.drop("byte order mark", BYTE_ORDER_MARK)
    reading.ledger.files.append(entry)
    return FileText(full, path, entry.sha256, text.replace("\r\n", "\n").replace("\r", "\n"), entry)


def open_packed(reading: SourceReading, full: Path) -> FileLedger:
    """Open the line of the ledger of a file whose bytes are no text; they are hashed as a stream.

    Raises:
        DataError: for a file that cannot be opened.
    """
    path = reading.relative(full)
    try:
        entry = FileLedger(path, hash_file(full))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", "check the file's permissions", path) from None
    reading.ledger.files.append(entry)
    return entry


def open_lines(reading: SourceReading, full: Path) -> tuple[FileLedger, Iterator[str]]:
    """A file's lines without holding it whole; its bytes are hashed and checked in a first pass.

    Raises:
        DataError: as :func:`read_text`.
    """
    path = reading.relative(full)
    decoder = codecs.getincrementaldecoder(reading.source.encoding)()
    digest = hashlib.sha256()
    line = 0
    try:
        with open_unpacked(full, path) as opened:
            while True:
                chunk = opened.read(_CHUNK)
                digest.update(chunk)
                line = len(chunk) - chunk.rfind(b"\n") - 1 if b"\n" in chunk else line + len(chunk)
                if compression_of(path) and line > LARGEST_UNPACKED_BYTES:
                    raise too_large(path)
                if "\0" in decoder.decode(chunk, final=not chunk):
                    raise _binary(path, reading)
                if not chunk:
                    break
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", "check the file's permissions", path) from None
    except UnicodeDecodeError:
        read_text(reading, full)  # says where in the file; costs memory only on this way out
        raise
    entry = FileLedger(path, hash_file(full) if compression_of(path) else digest.hexdigest())
    reading.ledger.files.append(entry)
    return entry, _lines(full, reading.source.encoding, entry)


def _lines(full: Path, encoding: str, entry: FileLedger) -> Iterator[str]:
    with io.TextIOWrapper(open_unpacked(full, entry.path), encoding=encoding, newline=None) as lines:
        for line in lines:
            if line.startswith(BYTE_ORDER_MARK):  # of each of several files that were put together
                entry.chars_in += 1
                entry.drop("byte order mark", BYTE_ORDER_MARK)
                line = line[1:]
            yield line


def check_encoding(reading: SourceReading) -> None:
    """Refuse an encoding that Python does not know.

    Raises:
        RecipeError: naming the source.
    """
    try:
        b"a".decode(reading.source.encoding)
    except UnicodeDecodeError:
        return  # known; one byte is no character of it
    except LookupError:
        raise RecipeError(
            f"{reading.source.encoding!r} is not a known text encoding",
            "utf-8, cp1252, latin-1 and utf-16 are the usual ones",
            f"sources.{reading.position}.encoding",
        ) from None


def inside(reading: SourceReading, including: Path, target: Path) -> bool:
    """Whether a file may be included: below `root`, or below the folder above the including file's."""
    resolved, places = target.resolve(), (reading.root, including.parent.parent)
    return in_roots(resolved) and any(resolved.is_relative_to(place.resolve()) for place in places)


@dataclass(frozen=True, slots=True)
class _No:
    reason: str


def _kind_of_named(path: str, kind: str) -> FileKind:
    """A file that the recipe names is read whatever its ending; an unknown one as plain text."""
    by_name = kind_of(path)
    if kind in KINDS and not (is_packed(path) and kind != by_name):
        return kind
    if by_name == "binary":
        raise DataError(f"a {ending(path)} file is not text", why_unread(path)[1], path)
    if is_packed(path) and kind != "auto":
        raise DataError(
            f"a {ending(path)} file is not text", "convert it to Markdown, HTML, plain text or JSONL first", path
        )
    return by_name or "text"


def _kind_in_folder(full: Path, kind: str) -> FileKind | _No:
    by_name = kind_of(full.name)
    if by_name == "binary":
        why, fix = why_unread(full.name)
        return _No(why if why.startswith("binary") else f"{why}: {fix}")
    if is_packed(full.name) and kind in ("text", "pairs"):
        return _No(f"binary by its ending {ending(full.name)}")
    if is_packed(full.name) and format_as(full.name, by_name or "text").export and not is_chat_export(full):
        return _No(f"{ending(full.name)} is not read: unpack it")
    if kind == "pairs":
        kind = by_name or "text"
    if kind in ("auto", by_name):
        if by_name:
            return by_name
        return _No(f"unknown ending {ending(full.name)}" if ending(full.name) else "no ending")
    if by_name and kind != "text" and not (kind == "markdown" and by_name == "text"):
        return _No(f"{by_name} by its ending, not {kind}")
    if not by_name:
        if kind in KINDS and format_as("", kind).packed:
            return _No(f"not {kind} by its ending")
        if not ending(full.name) and kind != "text":
            return _No("no ending")
        with full.open("rb") as opened:
            if b"\0" in opened.read(8192):
                return _No("binary by its content")
    return kind  # type: ignore[return-value]


def _below(full: Path, root: Path) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(os.path.relpath(full, root)).parts if part not in ("..", "."))


class _RulesOfGlob:
    """The rules of a repository for what a pattern matched by its wildcards; what it spells out is wanted."""

    def __init__(self, reading: SourceReading, pattern: str) -> None:
        parts = PurePosixPath(pattern).parts
        spelled = next((at for at, part in enumerate(parts) if any(letter in part for letter in "*?[")), len(parts))
        self._reading = reading
        self._is_wild = spelled < len(parts)
        self._start = reading.root.joinpath(*parts[:spelled])
        self._rules: dict[Path, FolderRules] = {}

    def leaves_out(self, anchor: Path) -> bool:
        """Whether a match is left out; it then stands in the ledger, or the folder above it does."""
        if not self._is_wild:
            return False
        place = self._start
        for part in anchor.relative_to(self._start).parts:
            if place not in self._rules:
                self._rules[place] = FolderRules.of(place, self._rules.get(place.parent))
            rules, place = self._rules[place], place / part
            folder = place.is_dir()
            if reason := _why_not(self._reading, rules, place, folder=folder):
                self._reading.skip(self._reading.relative(place) + "/" * folder, reason)
                return True
        return False


def _why_not(reading: SourceReading, rules: FolderRules, inner: Path, *, folder: bool) -> str | None:
    """Why something in a folder is left out, by what its repository says of it; None where it is read."""
    if not folder and is_secret(inner.name):
        return "may hold secrets: never read"
    if reading.source.all_files:
        return None
    rows = reading.source.kind == "rows" or bool(reading.source.columns)
    return rules.why_not_folder(inner) if folder else rules.why_not_file(inner, rows=rows)


def _walk(reading: SourceReading, place: Path, seen: set[str], above: FolderRules | None = None) -> Iterator[Path]:
    """Files of `place` in order of names; links are followed once, so that a loop ends."""
    real = os.path.realpath(place)
    if real in seen:
        if place.is_symlink():
            reading.skip(reading.relative(place), "a link to what is already read")
        return
    seen.add(real)
    try:
        mode = place.stat().st_mode
    except OSError:
        reading.skip(reading.relative(place), "a broken link")
        return
    if not stat.S_ISDIR(mode):
        if stat.S_ISREG(mode):
            yield place
        else:
            reading.skip(reading.relative(place), "not a regular file")
        return
    try:
        names = sorted(inner.name for inner in place.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot be listed: {error.strerror}", "check its permissions, or exclude it", reading.relative(place)
        ) from None
    no_data, rules = about_the_data(place, names), FolderRules.of(place, above)
    for name in names:
        inner = place / name
        folder = inner.is_dir()
        shown = reading.relative(inner) + ("/" if folder else "")
        if name in no_data:
            reading.skip(shown, no_data[name])
        elif name.startswith(".") and not is_secret(name):
            reading.skip(shown, "hidden folder" if folder else "hidden file")
        elif not folder and name.startswith(_LOCK):
            reading.skip(shown, "the lock of a document that is open")
        elif folder and (name in _BUILD_FOLDERS or any((inner / mark).exists() for mark in _BUILD_MARKS)):
            reading.skip(shown, "build folder")
        elif reason := (what_runs_left(inner) if folder else "") or _why_not(reading, rules, inner, folder=folder):
            reading.skip(shown, reason)
        else:
            yield from _walk(reading, inner, seen, rules)


def excluding(path: str, below: str, globs: Sequence[str]) -> list[str]:
    """The globs that leave a file out: by its path, its name, or a folder above it.

    >>> excluding("docs/old/a.md", "old/a.md", ["*.txt", "old", "a.*", "**/a.md"])
    ['old', 'a.*', '**/a.md']
    """
    tried = set()
    for whole in (PurePosixPath(path), PurePosixPath(below)):
        for part in (whole, *whole.parents):
            tried |= {part.as_posix(), part.name}
    tried -= {"", "."}
    found = []
    for glob in globs:
        pattern = glob.rstrip("/").removeprefix("./")
        if any(fnmatchcase(name, pattern) or fnmatchcase(name, pattern.removeprefix("**/")) for name in tried):
            found.append(glob)
    return found


def _binary(path: str, reading: SourceReading) -> DataError:
    return DataError(
        "a binary file: it holds NUL bytes",
        f"leave it out with `exclude` on sources.{reading.position}, or give its `encoding` if it is UTF-16",
        path,
    )


def _undecodable(raw: bytes, path: str, reading: SourceReading, start: int) -> DataError:
    """The error for bytes that are not in the encoding: line, byte, what they probably are, what to do."""
    encoding, key = reading.source.encoding, f"sources.{reading.position}"
    line = raw[:start].decode(encoding, errors="replace").count("\n") + 1
    what = f"not {encoding}: byte 0x{raw[start]:02x} at offset {start}"
    for mark, name in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if raw.startswith(mark):
            return DataError(f"{what}; looks like UTF-16", f"set `encoding: {name}` on {key}", f"{path}:{line}")
    if b"\0" in raw:
        return _binary(path, reading)
    for name, shown in (("utf-8", "UTF-8"), ("cp1252", "Latin-1 / Windows-1252"), ("latin-1", "Latin-1")):
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        at = len(raw[:start].decode(name, errors="ignore"))
        before = re.search(r"\S*\Z", text[max(0, at - 40) : at])
        after = re.match(r"\S*", text[at : at + 40])
        word = (before[0] if before else "") + (after[0] if after else "")
        bad = raw.decode("utf-8", errors="replace").count("\ufffd")
        well = sum(letter > "\x7f" for letter in raw.decode("utf-8", errors="ignore"))
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8") and well > 2 * bad:
            return DataError(
                f"{what} (`{word}` as {shown}); {bad} such bytes beside {well} letters in good UTF-8",
                "the file mixes two encodings: fix these lines and save it as UTF-8",
                f"{path}:{line}",
            )
        return DataError(
            f"{what}; looks like {shown}: `{word}`",
            f"set `encoding: {name}` on {key}, or save the file as UTF-8",
            f"{path}:{line}",
        )
    raise AssertionError("latin-1 decodes any byte")
