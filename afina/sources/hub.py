"""A dataset of the hub: ``hf://owner/name?split=train&config=x``, streamed; one document per row.

The recipe gives the commit hash: a branch or a tag may point to other rows tomorrow. Nothing is
kept on disk here; rows come from the network one after the other, each with its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from afina.errors import DataError
from afina.recipe import HUB, Source
from afina.sources.files import SourceReading
from afina.sources.rows import row_documents
from afina.sources.tables import Row, RowProblems
from afina.text.document import Document, FileLedger

PAGES = "https://huggingface.co"
"""Where access is asked for, whichever mirror rows come from (HF_ENDPOINT)."""
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A dataset's name, with the split and the configuration to read."""

    name: str
    split: str = "train"
    config: str | None = None


def hub_address(path: str, where: str) -> HubAddress:
    """Take a source's path apart.

    Raises:
        DataError: for a name that is none, or a part behind ``?`` other than split and config.

    >>> hub_address("hf://owner/name?split=test&config=pt", "sources.0.path")
    HubAddress(name='owner/name', split='test', config='pt')
    """
    name, _, query = path.removeprefix(HUB).partition("?")
    keys = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(keys) - {"split", "config"})
    if not _NAME.fullmatch(name) or unknown or not all(keys.values()):
        what = f"unknown: {', '.join(unknown)}" if unknown else f"{name!r} is no dataset's name, or a value is empty"
        raise DataError(f"{path!r}: {what}", "write hf://owner/name?split=train&config=x (both may be left out)", where)
    return HubAddress(name, **keys)


def read_hub(address: HubAddress, reading: SourceReading) -> Iterator[Document]:
    """The rows of a dataset as documents, columns recognised as in :mod:`afina.sources.rows`.

    `Document.path` is the source's path, `line` the number of the row from 1, and `sha256` the
    commit hash: the hub keeps no other hash of all rows.

    Raises:
        DataError: where `datasets` is missing, the hub does not know the dataset, or rows are broken.
    """
    path = reading.source.path
    entry = FileLedger(path, reading.source.revision or "")
    reading.ledger.files.append(entry)
    yield from row_documents(_rows(address, reading), reading, entry, RowProblems(path))


def _rows(address: HubAddress, reading: SourceReading) -> Iterator[Row]:
    try:
        import datasets
    except ModuleNotFoundError:
        fix = "pip install 'afina[hub]', or download the dataset's files and name them as `path`"
        raise DataError("reading a dataset of the hub needs `datasets`", fix, reading.source.path) from None
    from huggingface_hub.errors import HfHubHTTPError

    wrong: tuple[Any, ...] = (OSError, ValueError, LookupError, RuntimeError, datasets.exceptions.DatasetsError)
    wrong += HfHubHTTPError.__bases__  # those of the HTTP library below, whichever it is
    number = 0
    try:
        stream: Any = datasets.load_dataset(
            address.name, address.config, split=address.split, revision=reading.source.revision, streaming=True
        )
        # Pictures and sounds stay bytes: they are counted, not decoded.
        for row in stream.decode(False):
            number += 1
            yield number, row
    except wrong as error:
        offline = isinstance(error, ConnectionError) and datasets.config.HF_HUB_OFFLINE
        raise _not_read(error, number, address, reading.source, offline=offline) from error


def _not_read(error: Exception, number: int, address: HubAddress, source: Source, *, offline: bool) -> DataError:
    """Why no row came after row `number`."""
    said, where = " ".join(str(error).split())[:300], source.path
    if "gated dataset" in said:
        return DataError(
            "is given only to those who have accepted its terms",
            f"ask for access on its page, {PAGES}/datasets/{address.name}, then log in here with that account: "
            "hf auth login, or set HF_TOKEN",
            where,
        )
    if offline:
        return DataError(
            f"its rows come from the hub, and HF_HUB_OFFLINE is set ({type(error).__name__})",
            f"unset HF_HUB_OFFLINE; or, where there is a network, hf download {address.name} --repo-type dataset "
            f"--revision {source.revision} --local-dir FOLDER, and name its files as `path`",
            where,
        )
    return DataError(
        f"cannot be read after row {number}: {type(error).__name__}: {said}",
        "check name, split, config and revision, the network, and for a private dataset `hf auth login`",
        where,
    )
