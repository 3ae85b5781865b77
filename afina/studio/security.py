"""Who may ask the studio, for what, and which files it may touch.

Whoever reaches the studio can start programs, so four doors are closed to pages of others in the same browser:

- a name that is not this machine's (DNS rebinding): the ``Host`` header,
- another page's scripts and forms: ``Origin`` and ``Sec-Fetch-Site``,
- what changes something needs the header ``X-Afina-Studio: 1``, which a form cannot send and a foreign script may not,
- scripts inside our own pages: a content security policy that allows the studio's own files and nothing else.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response

from afina.errors import Problem
from afina.recipe.home import from_home
from afina.studio.refusal import StudioRefusal, error_values
from afina.studio.settings import StudioSettings, is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHANGES = "x-afina-studio"
"""The header that a request has to send to change something."""
COOKIE = "afina_studio"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""Of every page of the studio: no script and no style but its own files, nothing from anywhere else."""
REPORT_POLICY = (
    "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
"""Of a run's report, which brings its style with it: no script at all, and an origin of its own."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""
_HOST = re.compile(r"^(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?$")


class StudioGuard:
    """The middleware that every request passes, before any route sees it."""

    def __init__(self, app: ASGIApp, settings: StudioSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on and put the headers on its answer."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here: uvicorn answers a handshake that nobody takes with 403

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"].startswith("/static/"):
                    headers.setdefault("cache-control", "no-cache")  # kept, and asked for again by its ETag
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refused(scope)
        await (refused or self.app)(scope, receive, answer)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        try:
            check_host(self.settings, headers.get("host", ""))
            check_origin(headers)
            if scope["method"] not in ("GET", "HEAD") and headers.get(CHANGES) != "1":
                raise StudioRefusal(403, f"a request that changes something needs the header {CHANGES}: 1")
        except StudioRefusal as error:
            return JSONResponse(error_values(*error.problems), error.status)
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        token = self.settings.token
        if token is None:
            return None
        given = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if secrets.compare_digest(given.encode(), token.encode()):
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        named = dict(asked).get("token", "")
        if scope["method"] == "GET" and secrets.compare_digest(named.encode(), token.encode()):
            # The cookie takes the token's place, so that it stands in no address that is kept or shown.
            rest = urlencode([(key, value) for key, value in asked if key != "token"])
            path = "/" + scope["path"].lstrip("/")  # never //host, which would lead elsewhere
            there = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            there.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
            return there
        fix = "open the address that `afina studio` printed, with its ?token="
        return JSONResponse(error_values(Problem("the token is missing or wrong", fix)), 401)


def check_host(settings: StudioSettings, given: str) -> None:
    """Refuse a request whose ``Host`` is another name than this machine's.

    On loopback: ``localhost`` and loopback addresses, by any port, as a tunnel may use another. Beyond it also the name
    that was given, the machine's own, and addresses: a page of others cannot make its name an address.

    Raises:
        StudioRefusal: 421.
    """
    found = _HOST.match(given)
    name = found["name"].strip("[]").lower().rstrip(".") if found else ""
    known = name != "" and (is_loopback(name) or name == settings.host.lower())
    if not known and name and not settings.only_this_machine:
        known = _is_address(name) or name in {socket.gethostname().lower(), socket.getfqdn().lower()}
    if not known:
        raise StudioRefusal(421, f"{given[:100]!r} is not a name of this studio", f"open {settings.url.split('?')[0]}")


def check_origin(headers: Headers) -> None:
    """Refuse what a page of another origin asks, by its ``Origin`` and by what the browser says of its site.

    A person who follows a link from elsewhere to a page comes with ``Sec-Fetch-Mode: navigate`` and may.

    Raises:
        StudioRefusal: 403.
    """
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise StudioRefusal(403, f"{origin[:100]!r} is another origin than this studio's")
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    if site not in ("none", "same-origin") and mode != "navigate":
        raise StudioRefusal(403, f"a page of another site asks ({site[:20]})")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def inside(settings: StudioSettings, path: Path | str) -> Path:
    """A path with its links followed, which lies in the runs' folder or in one of the roots.

    Args:
        path: absolute, from a home (``~``), or from the first root (the runs' folder where there is none).

    Raises:
        StudioRefusal: 403, it lies elsewhere; 400, it is no path.
    """
    if not str(path).strip():  # `Path("")` is the folder that it counts from
        raise StudioRefusal(400, "no path is given", "name a file or folder", "path")
    allowed = [each.resolve() for each in (settings.runs, *settings.roots)]
    start = settings.roots[0] if settings.roots else settings.runs
    try:
        found = (start / from_home(path)).resolve()
        if any(found.is_relative_to(folder) for folder in allowed):
            found.exists()  # whoever gets the path may ask the system for it: what is too long or barred is said here
            return found
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a zero in it, too long
        raise StudioRefusal(400, f"no path: {error}", where=str(path)[:200]) from error
    places = ", ".join(map(str, allowed))
    fix = f"it may lie in {places}; `afina studio --root FOLDER` names further folders"
    raise StudioRefusal(403, "outside of the folders that the studio may read", fix, str(path)[:200])


def lies_inside(settings: StudioSettings, entry: Path) -> bool:
    """Whether an entry of a folder that lies inside does too: but for a link that leads outside it does."""
    if not entry.is_symlink():
        return True
    try:
        inside(settings, entry.absolute())
    except StudioRefusal:
        return False
    return True


def is_name(name: str) -> bool:
    """Whether a name is that of a file or folder in another folder, and leads nowhere else.

    >>> [is_name(each) for each in ("my-docs", "..", "a/b", "")]
    [True, False, False, False]
    """
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def is_text(name: str) -> bool:
    """Whether a page can hold the name of a file: one in bytes of another encoding than UTF-8 is no text, and an answer
    with it would be none.

    >>> is_text("ação"), is_text("ação".encode("latin-1").decode(errors="surrogateescape"))
    (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def run_folder(settings: StudioSettings, name: str) -> Path:
    """The folder of the run with this name, as it lies in the runs' folder.

    Raises:
        StudioRefusal: 404, there is none; 403, a link leads out of the runs' folder and the roots.
    """
    folder = settings.runs / name
    try:
        there = is_name(name) and folder.is_dir()
    except OSError:  # longer than names may be
        there = False
    if not there:
        raise StudioRefusal(404, f"there is no run {name[:100]!r}", "look at the list of runs", str(settings.runs))
    inside(settings, folder.absolute())
    return folder
