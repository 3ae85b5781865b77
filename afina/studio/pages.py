"""The studio's pages: templates by jinja2, everything escaped, words in the studio's language."""

from __future__ import annotations

from functools import cache, partial

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from afina.report.language import mark
from afina.studio.settings import StudioSettings
from afina.studio.translate import PACKAGE, word, words

PAGES = (
    (mark("Runs"), "/"),
    (mark("Data"), "/data"),
    (mark("Plan"), "/plan"),
    (mark("Playground"), "/playground"),
    (mark("Start"), "/start"),
)
"""The navigation: what a page is called (the templates translate it), and its address."""


def render(name: str, settings: StudioSettings, /, *, status: int = 200, **values: object) -> HTMLResponse:
    """A page of the folder ``templates``; it may use ``_()`` and ``_n()`` for words, and `settings`.

    Args:
        status: of the answer.
        values: for the template. ``here``: the address in the navigation that the page belongs to.
    """
    tag = settings.language
    made = (
        _environment()
        .get_template(name)
        .render(
            **{"here": None, "pages": PAGES, "settings": settings, "language": tag} | values,
            _=partial(word, tag),
            _n=partial(words, tag),
        )
    )
    return HTMLResponse(made, status)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
