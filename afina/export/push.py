"""A folder with its card to the hub, as one commit. New repositories are private; what is private here stays here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from afina.errors import Problem, RecipeError
from afina.model.hub import PAGES, network_errors
from afina.recipe import Recipe

Kind = Literal["model", "dataset"]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WRITTEN = ("*.safetensors", "*.gguf", "*.json", "*.jsonl", "*.jinja", "*.model", "*.txt")
"""What exports and datasets write: what an earlier one left of these in the repository goes in the same commit, as a
program would open it beside the new ones. Other files, a picture or a page, stay."""


@dataclass(frozen=True)
class PushTarget:
    """Where a folder goes, as the command line says it."""

    name: str
    """``OWNER/NAME``."""
    public: bool = False
    send_private: bool = False


def push_target(name: str | None, *, public: bool, send_private: bool) -> PushTarget | None:
    """What ``--push``, ``--public`` and ``--send-private`` ask for; None where nothing is sent.

    >>> push_target("my-team/my-docs", public=False, send_private=False)
    PushTarget(name='my-team/my-docs', public=False, send_private=False)

    Raises:
        RecipeError: options of a push without one, or a name that is none.
    """
    if name is None:
        if public or send_private:
            option = "--public" if public else "--send-private"
            raise RecipeError(f"{option} says how something is sent, and nothing is", "--push OWNER/NAME", option)
        return None
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        known = _NAME.fullmatch(name)
    except HFValidationError:
        known = None
    if not known:
        raise RecipeError(
            f"{name!r} is no name of a repository",
            "write --push OWNER/NAME, each of letters, digits and single - _ . between them, 96 together at most",
            "--push",
        )
    return PushTarget(name, public, send_private)


def check_push(target: PushTarget, recipe: Recipe, kind: Kind) -> None:
    """Whether a push may begin, before anything takes minutes.

    Raises:
        RecipeError: a source is private, nobody is logged in, the hub is not to be asked or does not answer, or the
            repository is there and everybody would see what was not to be public.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    problems = [
        Problem(
            f"{source.path} is marked `private`, and what was made of it would leave this machine",
            "--send-private, if it may; without --push the folder is written here",
            f"sources.{position}",
        )
        for position, source in enumerate(recipe.sources)
        if source.private and not target.send_private
    ]
    if constants.is_offline_mode():
        problems.append(Problem("HF_HUB_OFFLINE is set: the hub is not asked", "unset HF_HUB_OFFLINE", "--push"))
    elif get_token() is None:
        problems.append(
            Problem(
                "this machine is not logged in to the hub",
                f"make a token that may write ({PAGES}/settings/tokens), then: hf auth login, or set HF_TOKEN",
                "--push",
            )
        )
    if problems:
        raise RecipeError(problems=problems)
    try:
        found: Any = HfApi().repo_info(target.name, repo_type=kind)
    except RepositoryNotFoundError:
        return  # it is made, private unless asked otherwise
    except network_errors() as error:
        raise _refused(target, error) from error
    private = bool(found.private)
    if private == target.public:
        raise RecipeError(
            f"the repository {target.name} is there, and is {'private' if private else 'public'}",
            "leave --public out" if private else "--public, if everybody may see it; else name another one",
            "--push",
        )


def push_folder(
    folder: Path, target: PushTarget, kind: Kind, message: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Send a whole folder to its repository, which is made where it is not there.

    Returns:
        ``repository``, ``kind``, ``private``, ``commit`` (the hash to pin it by) and ``url``.

    Raises:
        RecipeError: the hub refuses it or does not answer; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(target.name, repo_type=kind, private=not target.public, exist_ok=True)
        done = api.upload_folder(
            repo_id=target.name,
            repo_type=kind,
            folder_path=folder,
            commit_message=message,
            delete_patterns=list(WRITTEN),
        )
    except network_errors() as error:
        raise _refused(target, error, folder) from error
    say(f"pushed: {done.commit_url}")
    about = {"repository": target.name, "kind": kind, "private": not target.public}
    return about | {"commit": done.oid, "url": done.commit_url}


def _refused(target: PushTarget, error: Exception, folder: Path | None = None) -> RecipeError:
    from huggingface_hub import constants

    words = (str(error).splitlines() or [type(error).__name__])[0]
    whole = f"; what was written is whole in {folder}" if folder else ""
    return RecipeError(
        f"the hub did not take {target.name} (asked: {constants.ENDPOINT}): {words}{whole}",
        "look whether the token may write there (`hf auth whoami`), then the same command again",
        "--push",
    )
