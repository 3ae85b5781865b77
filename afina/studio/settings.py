"""What a studio was started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from afina.report.language import ENGLISH


@dataclass(frozen=True)
class StudioSettings:
    """Where it looks, where it listens, and how it speaks."""

    runs: Path
    """The folder whose folders are the runs."""
    roots: tuple[Path, ...] = ()
    """Further folders that pages may look into and read files of."""
    host: str = "127.0.0.1"
    port: int = 8321
    token: str | None = None
    """Asked of every request; has to be there where `host` is not this machine alone."""
    language: str = ENGLISH
    """One of :data:`afina.report.language.LANGUAGES`."""

    @property
    def only_this_machine(self) -> bool:
        """Whether `host` can be reached from this machine alone.

        >>> StudioSettings(Path("runs"), host="0.0.0.0").only_this_machine
        False
        """
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """The address that a person opens; with the token where there is one."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine to itself.

    >>> [is_loopback(each) for each in ("127.0.0.1", "::1", "localhost", "127.0.0.1.evil.example", "192.168.0.2")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
