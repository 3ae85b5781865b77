"""An adapter fits one base: its weights, its token ids, its chat template."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_base

from afina.errors import BaseError, Problem
from afina.model.base import IDENTITY_FILE, check_adapter_fits, identify_base
from afina.model.hub import hub_commit
from afina.recipe import Chat
from afina.tokenizer.load import load_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def identity(folder):
    return identify_base(folder, folder.name, load_tokenizer(str(folder), Chat()))


@pytest.fixture
def adapter(base, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / IDENTITY_FILE).write_text(json.dumps({"base": identity(base).as_json()}))
    return folder


def test_the_same_base_in_another_place_fits(base, adapter, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    assert check_adapter_fits(adapter, identity(copy)) is None


def test_the_same_model_with_permuted_token_ids_is_refused(base, adapter, tmp_path):
    """Every text has the logits it had, under other numbers: nothing else could tell."""
    from transformers import AutoModelForCausalLM

    other = shutil.copytree(base, tmp_path / "permuted")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    first, second = (token for token, number in tokenizer["model"]["vocab"].items() if number in (300, 301))
    vocab = tokenizer["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    weights = load_file(other / "model.safetensors")
    order = torch.arange(len(weights["model.embed_tokens.weight"]))
    order[[300, 301]] = order[[301, 300]]
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][order].contiguous()
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    logits = [AutoModelForCausalLM.from_pretrained(each)(torch.tensor([[9, 8, 7]])).logits for each in (base, other)]
    assert torch.equal(logits[0][..., order], logits[1])
    with pytest.raises(BaseError, match="whose weights and tokenizer differ"):
        check_adapter_fits(adapter, identity(other))
    shutil.copy(base / "model.safetensors", other)  # even where the weights were left as they were
    with pytest.raises(BaseError, match="whose tokenizer differ"):
        check_adapter_fits(adapter, identity(other))


def test_other_weights_are_refused(adapter, tmp_path):
    with pytest.raises(BaseError, match="whose weights differ"):
        check_adapter_fits(adapter, identity(make_base(tmp_path / "other", seed=1)))


def test_an_adapter_that_names_no_base_is_opened_with_a_warning(base, tmp_path):
    assert "cannot be checked" in str(check_adapter_fits(tmp_path, identity(base)))


# ---- the hub


REVISION = "0123456789abcdef0123456789abcdef01234567"


def refused_by_hub(monkeypatch: pytest.MonkeyPatch, error: Exception, revision: str | None = None) -> Problem:
    """What is said where the hub answers with an error."""
    import huggingface_hub

    from afina.model.base import find_base

    def refuse(name: str, **_: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BaseError) as caught:
        find_base("owner/name", revision=revision, say=print)
    assert caught.value.__cause__ is error
    (problem,) = caught.value.problems
    assert problem.where == "owner/name"
    return problem


def answer(status: int) -> Any:
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


def test_a_gated_base_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    """Nothing is wrong with the name; its terms were not accepted. Who is logged in is told of the account."""
    from huggingface_hub.errors import GatedRepoError

    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    nobody = refused_by_hub(monkeypatch, GatedRepoError("401", response=answer(401)))
    assert "accepted its terms" in nobody.what
    assert "https://huggingface.co/owner/name" in nobody.fix and "hf auth login, or set HF_TOKEN" in nobody.fix
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    other = refused_by_hub(monkeypatch, GatedRepoError("403", response=answer(403)))
    assert "this machine's account has not" in other.what and "hf auth whoami" in other.fix
    assert "https://huggingface.co/owner/name" in other.fix and "hf auth login" in other.fix


def test_a_gated_tokenizer_says_it_too(monkeypatch: pytest.MonkeyPatch):
    """transformers puts words of its own around the hub's answer."""
    from huggingface_hub.errors import GatedRepoError

    from afina.model import named_tokenizer

    def refuse(_: str) -> None:
        try:
            raise GatedRepoError("401", response=answer(401))
        except GatedRepoError as cause:
            try:
                raise OSError("You are trying to access a gated repo.") from cause
            except OSError as told:
                raise BaseError("no tokenizer can be opened there", "", "owner/name") from told

    monkeypatch.setattr(named_tokenizer, "open_tokenizer", refuse)
    with pytest.raises(BaseError, match="accepted its terms") as caught:
        named_tokenizer.open_pieces("owner/name")
    assert "https://huggingface.co/owner/name" in caught.value.problems[0].fix

    def damaged(_: str) -> None:
        raise BaseError("no tokenizer can be opened there", "", "owner/name")

    monkeypatch.setattr(named_tokenizer, "open_tokenizer", damaged)
    with pytest.raises(BaseError, match="no tokenizer can be opened there"):
        named_tokenizer.open_pieces("owner/name")


def test_a_mirror_is_named_and_terms_are_accepted_at_the_hub(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    monkeypatch.setattr(constants, "ENDPOINT", "https://mirror.example")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    gated = refused_by_hub(monkeypatch, GatedRepoError("403", response=answer(403)))
    assert "(asked: https://mirror.example)" in gated.what and "https://huggingface.co/owner/name" in gated.fix
    unknown = refused_by_hub(monkeypatch, RepositoryNotFoundError("404", response=answer(404)))
    assert "that the hub gives (asked: https://mirror.example): 404" in unknown.what


def test_a_revision_that_is_none_is_told_from_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub.errors import RevisionNotFoundError

    found = refused_by_hub(monkeypatch, RevisionNotFoundError("404", response=answer(404)), REVISION)
    assert found.what == f"the hub has no revision {REVISION} of it" and "/commits/main" in found.fix


def test_a_connection_that_breaks_is_no_defect(monkeypatch: pytest.MonkeyPatch):
    """The HTTP library's errors are no OSError: a proxy that fails, or a read that takes too long, was a traceback."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    library = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
    for kind in (library.ReadTimeout, library.ProxyError):
        assert not issubclass(kind, OSError)
        assert "that the hub gives: no way through" in refused_by_hub(monkeypatch, kind("no way through")).what


def in_cache(base: Path, cache: Path, *, main: bool) -> Path:
    """The base as the hub's cache holds it, at one commit."""
    model = cache / "models--owner--name"
    shutil.copytree(base, model / "snapshots" / REVISION)
    if main:
        (model / "refs").mkdir()
        (model / "refs/main").write_text(REVISION)
    return model / "snapshots" / REVISION


def test_offline_a_pinned_base_is_taken_from_the_cache_and_another_one_is_said_to_be_missing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """huggingface_hub itself, offline as all tests are."""
    from huggingface_hub import constants

    from afina.model.base import find_base

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = in_cache(base, tmp_path, main=False)
    assert find_base("owner/name", revision=REVISION, say=print) == place
    assert hub_commit(place) == REVISION and hub_commit(base) is None
    with pytest.raises(BaseError, match="HF_HUB_OFFLINE is set") as caught:
        find_base("owner/name", revision="f" * 40, say=print)
    assert f"hf download owner/name --revision {'f' * 40} --local-dir" in caught.value.problems[0].fix
    with pytest.raises(BaseError, match="HF_HUB_OFFLINE is set"):
        find_base("owner/name", say=print)  # nobody knows what `main` is


def test_a_base_that_is_not_pinned_is_said_to_be_at_its_commit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    from afina.recipe import Recipe, Source
    from afina.walk.base import base_folder

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = in_cache(base, tmp_path, main=True)
    said: list[str] = []

    def context(revision: str | None) -> Any:
        recipe = Recipe(name="x", base="owner/name", base_revision=revision, sources=[Source(path="a")])
        return SimpleNamespace(recipe=recipe, ranks=None, tell=said.append, computed={})

    assert base_folder(context(REVISION)) == place and said == []
    assert base_folder(context(None)) == place
    assert said == [f"base: owner/name as it is now; to have the same one later: `base_revision: {REVISION}`"]
