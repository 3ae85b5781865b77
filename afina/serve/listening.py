"""Whether a server can listen at an address, what is in the way where it cannot, and how the address is written."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket

from afina.errors import Problem

PORTS = range(1, 1 << 16)
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?$")


def url_of(host: str, port: int) -> str:
    """Where this machine reaches a server that listens there.

    >>> url_of("0.0.0.0", 8000), url_of("::1", 8000)
    ('http://127.0.0.1:8000', 'http://[::1]:8000')
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_own_name(host: str) -> bool:
    """Whether a request's ``Host`` is no name that somebody elsewhere could own: an address, this machine's own name,
    or one of a domain that is never given away (``localhost``; ``local``, of a network's own machines; ``internal``,
    such as ``host.docker.internal``). An old client sends none.

    >>> [is_own_name(each) for each in ("127.0.0.1:8000", "[::1]:8000", "localhost", "host.docker.internal:80", "")]
    [True, True, True, True, True]
    >>> is_own_name("localhost.example.com:8000"), is_own_name("127.0.0.1.example.com")
    (False, False)
    """
    found = _HOST.match(host.lower())
    name = found["name"].strip("[]").rstrip(".") if found else host
    if not host or name.rpartition(".")[2] in ("localhost", "local", "internal"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == socket.gethostname().lower()
    return True


def not_listening(host: str, port: int) -> Problem | None:
    """What is in the way of a server that is to listen there; None where nothing is.

    >>> print(not_listening("127.0.0.1", 70000))
    --port: 70000 is no port
      -> name one from 1 to 65535
    """
    if port not in PORTS:
        return Problem(f"{port} is no port", f"name one from {PORTS[0]} to {PORTS[-1]}", "--port")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return _no_address(host, f"{host!r} is a name of no machine")
    # `localhost` may have an address of a kind that this machine does not speak: the others do.
    errors = [_refusal(family, address) for family, _, _, _, address in found]
    taken = next((each for each in errors if each and each.errno == errno.EADDRINUSE), None)
    refused = taken or (errors[0] if all(errors) else None)
    return _in_the_way(refused, host, port) if refused else None


def _refusal(family: int, address: object) -> OSError | None:
    """The system's answer where nothing can listen at an address."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        return error
    return None


def _in_the_way(error: OSError, host: str, port: int) -> Problem:
    """What the system's answer to a bind means."""
    if error.errno == errno.EADDRINUSE:
        return Problem(f"something listens on {host}:{port} already", "choose another --port, or end it", "--port")
    if error.errno == errno.EADDRNOTAVAIL:
        return _no_address(host, f"{host} is an address of another machine, or of none")
    if error.errno == errno.EACCES:
        return Problem(f"this user may not listen on port {port}", "choose a --port from 1024 on", "--port")
    return Problem(f"cannot listen on {host}:{port}: {error.strerror}", "choose another --host or --port", "--host")


def _no_address(host: str, what: str) -> Problem:
    bare = host.strip("[]")
    fix = f"--host {bare}" if bare != host and bare else "--host 127.0.0.1, or an address of this machine"
    return Problem(what, fix, "--host")
