"""``afina studio``: take the port, say the address, and answer until told to stop."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.errors import RecipeError
from afina.studio.settings import StudioSettings, is_loopback

INSTALL = "pip install 'afina[studio]'"


@dataclass(frozen=True)
class OpenStudio:
    """A studio whose port is taken and which answers once :meth:`serve` runs."""

    settings: StudioSettings
    listener: socket.socket

    def serve(self, *, browser: bool, say: Callable[[str], None]) -> None:
        """Answer until Ctrl-C or a signal; runs that were started go on without it.

        Args:
            browser: open the address in the person's browser.
            say: for remarks.
        """
        import uvicorn

        from afina.studio.app import studio_app

        config = uvicorn.Config(
            studio_app(self.settings), log_level="warning", server_header=False, timeout_graceful_shutdown=2
        )
        if browser:
            threading.Thread(target=webbrowser.open, args=(self.settings.url,), daemon=True).start()
        say("Ctrl-C ends the studio; runs that it started go on")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it once more when it has ended
            uvicorn.Server(config).run(sockets=[self.listener])


def open_studio(runs: Path, roots: Sequence[Path], *, host: str, port: int, language: str) -> OpenStudio:
    """Take the port of a studio.

    Args:
        roots: further folders to look into. None given: the one it is started in, unless that is somebody's home or
            the whole disk.
        port: 0 takes one that is free.

    Raises:
        RecipeError: a folder is not there, the port is taken, or the libraries are not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RecipeError(f"{error.name} is not installed", INSTALL, "studio") from error
    roots = roots or _started_in()
    for folder in roots:
        if not folder.is_dir():
            raise RecipeError("there is no such folder", "name one that is there", f"--root {folder}")
    if runs.exists() and not runs.is_dir():
        raise RecipeError("is no folder", "name the folder that holds your runs", f"--runs {runs}")
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:  # the others: a port beyond 65535, a name that is none
        why = getattr(error, "strerror", None) or error
        away = isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", 0) == errno.EADDRNOTAVAIL
        fix = "--host 127.0.0.1, or an address of this machine" if away else "--port 0 takes a free one"
        raise RecipeError(f"cannot listen there: {why}", fix, f"{host}:{port}") from error
    port = listener.getsockname()[1]
    settings = StudioSettings(runs.resolve(), tuple(each.resolve() for each in roots), host, port, token, language)
    return OpenStudio(settings, listener)


def _started_in() -> Sequence[Path]:
    here = Path.cwd()
    try:
        home = Path.home()
    except RuntimeError:  # nobody's
        home = here
    return () if here == home or here.parent == here else (here,)
