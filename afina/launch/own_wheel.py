"""This afina as a wheel, from the files that run now: nothing is built and nothing fetched, so that a checkout and an
installed afina send themselves alike."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import afina
from afina.cache import user_cache
from afina.errors import AfinaError
from afina.whole import write_whole

_WHEEL = "Wheel-Version: 1.0\nGenerator: afina launch\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_ENTRY = "[console_scripts]\nafina = afina.cli:main\n"
_DAY = (2020, 1, 1, 0, 0, 0)
"""The time of every file in it: the same files are the same wheel."""


def own_wheel() -> Path:
    """The wheel in the user's cache, written where it is not there.

    Raises:
        AfinaError: there is no user's cache, or afina was not installed and says nothing of what it needs.
    """
    import io

    package = Path(afina.__file__).parent
    try:
        found = distribution("afina")
        about = found.read_text("METADATA") or found.read_text("PKG-INFO")
    except PackageNotFoundError:
        about = None
    cache = user_cache()
    if about is None or cache is None:
        what = "what it needs is not known" if about is None else "there is no cache folder to write it in"
        raise AfinaError(f"no wheel of this afina can be made: {what}", "name an afina over there with --python")
    info = f"afina-{found.version}.dist-info"
    files = {f"afina/{file.relative_to(package).as_posix()}": file.read_bytes() for file in _modules(package)}
    files |= {f"{info}/METADATA": about.encode(), f"{info}/WHEEL": _WHEEL.encode()}
    files[f"{info}/entry_points.txt"] = _ENTRY.encode()
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DAY), content, zipfile.ZIP_DEFLATED)
    target = cache / f"launch/{hashlib.sha256(out.getvalue()).hexdigest()[:12]}/afina-{found.version}-py3-none-any.whl"
    if not target.is_file():
        write_whole(target, out.getvalue(), shared=True)
    return target


def _modules(package: Path) -> list[Path]:
    """The package's files; not what Python, editors and systems leave beside them."""
    found = (file for file in sorted(package.rglob("*")) if file.is_file())
    left = ("__pycache__", ".")
    return [file for file in found if not any(part.startswith(left) for part in file.relative_to(package).parts)]


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
