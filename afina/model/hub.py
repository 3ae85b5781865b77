"""The hub, as huggingface_hub reaches it (HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN): what its errors mean, and what to do.

A name stands for other files tomorrow; a commit does not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from afina.errors import BaseError

PAGES = "https://huggingface.co"
"""Where terms are accepted and tokens made, whichever mirror files come from."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_commit(folder: Path) -> str | None:
    """The commit of a snapshot in the hub's cache; None for any other folder.

    >>> hub_commit(Path("hub/models--a--b/snapshots/" + "0" * 40))
    '0000000000000000000000000000000000000000'
    """
    pinned = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if pinned else None


def network_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where a request fails: its own errors, those of the HTTP library below it, whichever
    that is, and of the system."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)


def not_given(error: Exception, name: str, revision: str | None = None) -> BaseError:
    """What is wrong where the hub does not give a model, and what to do.

    Args:
        error: of huggingface_hub, or one of :func:`network_errors`.
        revision: that was asked for.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    page = f"{PAGES}/{name}"
    mirror = "" if constants.ENDPOINT == PAGES else f" (asked: {constants.ENDPOINT})"
    if isinstance(error, GatedRepoError) and get_token() is None:
        return BaseError(
            f"is given only to those who have accepted its terms{mirror}",
            f"ask for access on its page, {page}; then make a token ({PAGES}/settings/tokens) and log in here with it: "
            "hf auth login, or set HF_TOKEN",
            name,
        )
    if isinstance(error, GatedRepoError):
        return BaseError(
            f"is given only to those who have accepted its terms, and this machine's account has not{mirror}",
            f"ask for access on its page, {page}, with the account that `hf auth whoami` names, and wait until it is "
            "granted; or log in as another one: hf auth login",
            name,
        )
    if isinstance(error, RevisionNotFoundError):
        return BaseError(
            f"the hub has no revision {revision} of it{mirror}",
            f"its commits stand on {page}/commits/main: take the whole hash of one",
            name,
        )
    if constants.is_offline_mode():
        pinned = f" --revision {revision}" if revision else ""
        return BaseError(
            "is not whole on this machine, and HF_HUB_OFFLINE is set: the hub is not asked",
            f"unset HF_HUB_OFFLINE; or, where there is a network, hf download {name}{pinned} --local-dir FOLDER, and "
            "name that folder here",
            name,
        )
    return BaseError(
        f"is neither a folder nor a model that the hub gives{mirror}: {(str(error).splitlines() or ['no answer'])[0]}",
        "check the name; for a model in a folder write its path (./models/x); offline, download it first",
        name,
    )


def told_by_hub(error: BaseError, name: str) -> BaseError:
    """What the hub answered, where that is the cause of an error of another library; else the error itself."""
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            return not_given(cause, name)
        cause = cause.__cause__ or cause.__context__
    return error
