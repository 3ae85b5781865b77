"""The studio's application: every room's routes behind one guard, and every error as one kind of answer."""

from __future__ import annotations

import mimetypes

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles

from afina.errors import AfinaError, Problem, unreadable_path
from afina.studio import compare, data_routes, jobs, plan_routes, play_routes, run_page, runs, start_routes, streams
from afina.studio.pages import render
from afina.studio.readers import Readers
from afina.studio.refusal import StudioRefusal, error_values
from afina.studio.runs import RunIndex
from afina.studio.security import HEADERS, StudioGuard
from afina.studio.settings import StudioSettings
from afina.studio.translate import all_words


def studio_app(settings: StudioSettings) -> FastAPI:
    """The application.

    Raises:
        AfinaError: it would be reached from other machines and has no token.
    """
    if not settings.only_this_machine and not settings.token:
        raise AfinaError(f"{settings.host} can be reached from other machines and there is no token", "give one")
    mimetypes.add_type("text/javascript", ".js")  # some systems say text/plain, which a browser runs no module of
    app = FastAPI(
        title="afina studio",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[Middleware(StudioGuard, settings=settings)],
    )
    app.mount("/static", StaticFiles(packages=[("afina.studio", "static")]))
    index, readers = RunIndex(settings), Readers(settings)
    app.include_router(runs.routes(settings, index))
    app.include_router(run_page.routes(settings, index, readers))
    app.include_router(streams.routes(settings, index, readers))
    for module in (compare, jobs, data_routes, play_routes, plan_routes, start_routes):
        app.include_router(module.routes(settings))
    app.include_router(_word_routes(settings))
    _add_errors(app, settings)
    return app


def _word_routes(settings: StudioSettings) -> APIRouter:
    routes = APIRouter()

    @routes.get("/api/words")
    def words() -> Response:
        """The words of the studio's language."""
        return JSONResponse(all_words(settings.language))

    return routes


def _add_errors(app: FastAPI, settings: StudioSettings) -> None:
    """Errors as JSON below ``/api``, as a page elsewhere; never a traceback."""

    def answer(request: Request, status: int, *problems: Problem) -> Response:
        if request.url.path.startswith(("/api/", "/static/")):
            return JSONResponse(error_values(*problems), status)
        return render("error.html", settings, status=status, problems=problems)

    @app.exception_handler(AfinaError)
    async def refused(request: Request, error: AfinaError) -> Response:
        return answer(request, error.status if isinstance(error, StudioRefusal) else 422, *error.problems)

    @app.exception_handler(OSError)
    async def unreadable(request: Request, error: OSError) -> Response:
        if error.filename is None:  # nothing that the person named
            raise error
        return answer(request, 422, *unreadable_path(error).problems)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [Problem(each["msg"], "", ".".join(map(str, each["loc"][1:]))) for each in error.errors()]
        return answer(request, 422, *problems)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        found = answer(request, error.status_code, Problem(str(error.detail), "", request.url.path))
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, and uvicorn prints it where the studio was started.
        what = f"a defect of afina: {type(error).__name__}"
        found = answer(request, 500, Problem(what, "the terminal of `afina studio` says more"))
        found.headers.update(HEADERS)  # Starlette answers this outside of the guard
        return found
