"""An e-mail: its subject as heading and its text. Headers and attachments are left out, counted."""

from __future__ import annotations

import email
import email.policy
import hashlib
from collections.abc import Iterator
from email.message import EmailMessage

from afina.errors import DataError
from afina.sources.files import FileText, SourceFile, SourceReading
from afina.sources.html import read_html
from afina.text.document import Document, FileLedger, visible


def read_mail(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The text of a message in its own encoding, else its HTML; kind ``markdown``.

    Raises:
        DataError: it cannot be read, or decoded as it declares.
    """
    raw = file.full.read_bytes()
    message = email.message_from_bytes(raw, policy=email.policy.default)
    entry = FileLedger(file.path, hashlib.sha256(raw).hexdigest())
    reading.ledger.files.append(entry)
    body = message.get_body(("plain", "html"))
    try:
        text = str(body.get_content()).replace("\r\n", "\n") if body else ""
    except (LookupError, UnicodeError, ValueError) as error:
        raise DataError(
            f"cannot be decoded as it declares: {error}", "save it again, or exclude it", file.path
        ) from None
    subject = " ".join(str(message.get("Subject", "")).split())
    headers = "".join(str(value) for name, value in message.items() if name.lower() != "subject")
    for reason, beside in (("headers", headers), ("attachments and other forms", _beside(message, body))):
        entry.chars_in += visible(beside)
        if visible(beside):
            entry.drop(reason, beside)
    if body and body.get_content_type() == "text/html":
        pages = list(read_html(FileText(file.full, file.path, entry.sha256, text, entry), reading))
        text = "\n\n".join(page.text for page in pages)
        entry.documents -= len(pages)  # they become one, below
        entry.chars_out -= visible(text)
    else:
        entry.chars_in += visible(text)
    entry.chars_in += visible(subject)
    head = f"# {subject}\n\n" if subject else ""
    if subject:
        entry.add("Markdown marks", "#")
    whole = f"{head}{text.strip()}\n"
    if not whole.strip():
        return
    entry.chars_out += visible(whole)
    entry.documents += 1
    yield Document(file.path, entry.sha256, kind="markdown", title=subject, text=whole, source=reading.position)


def _beside(message: EmailMessage, body: object) -> str:
    """What other parts hold, as it was sent: their names where they are no text."""
    said = []
    for part in message.walk():
        if part is not body and not part.is_multipart():
            payload = part.get_payload() if part.get_content_maintype() == "text" else part.get_filename()
            said.append(str(payload or ""))
    return "".join(said)
