"""To the hub with a card: what leaves, what is refused before, and what huggingface_hub, a stand-in here, is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from called import call_afina
from exported import make_run
from ruamel.yaml import YAML

from afina.errors import RecipeError
from afina.export.push import check_push, push_target
from afina.recipe import Recipe, Source
from afina.run import hash_file, read_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """huggingface_hub's HfApi as far as a push asks it; `repositories`: name -> whether it is private."""

    repositories: dict[str, bool]
    asked: list[tuple[str, dict[str, Any]]]
    fails: Exception | None = None

    def repo_info(self, name: str, *, repo_type: str) -> SimpleNamespace:
        import httpx
        from huggingface_hub.errors import RepositoryNotFoundError

        if name not in self.repositories:
            response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
            raise RepositoryNotFoundError("404", response=response)
        return SimpleNamespace(private=self.repositories[name])

    def create_repo(self, name: str, **given: Any) -> None:
        self.asked.append((f"create {name}", given))

    def upload_folder(self, *, folder_path: Path, **given: Any) -> SimpleNamespace:
        if self.fails:
            raise self.fails
        files = {file.relative_to(folder_path).as_posix() for file in folder_path.rglob("*") if file.is_file()}
        self.asked.append(("upload", given | {"files": files}))
        return SimpleNamespace(oid=COMMIT, commit_url=f"https://huggingface.co/x/commit/{COMMIT}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    from huggingface_hub import constants

    class Api(StandIn):
        repositories, asked = {}, []

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Api


def problems_of(recipe: Recipe, **push: Any) -> list[str]:
    target = push_target("team/rows", **{"public": False, "send_private": False} | push)
    assert target is not None
    try:
        check_push(target, recipe, "dataset")
    except RecipeError as error:
        return [str(problem) for problem in error.problems]
    return []


def recipe_of(private: bool = False) -> Recipe:
    return Recipe(name="x", base="b", sources=[Source(path="a"), Source(path="secret", private=private)])


def test_what_is_private_stays_unless_it_may_leave(hub: type[StandIn]) -> None:
    (said,) = problems_of(recipe_of(private=True))
    assert said.startswith("sources.1: secret is marked `private`") and "--send-private" in said
    assert problems_of(recipe_of(private=True), send_private=True) == []
    assert hub.asked == [], "nothing is made or sent by looking"


def test_offline_or_nobody_logged_in_is_said_before_anything_is_made(
    hub: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with monkeypatch.context() as nobody:
        nobody.setattr("huggingface_hub.get_token", lambda: None)
        (said,) = problems_of(recipe_of())
        assert "not logged in" in said and "hf auth login" in said and "https://huggingface.co/settings/tokens" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    both = problems_of(recipe_of(private=True))
    assert len(both) == 2 and "HF_HUB_OFFLINE is set" in both[1]


def test_nothing_goes_to_a_repository_that_others_see_by_surprise(hub: type[StandIn]) -> None:
    hub.repositories["team/rows"] = False
    (said,) = problems_of(recipe_of())
    assert "is there, and is public" in said and "--public" in said
    assert problems_of(recipe_of(), public=True) == []
    hub.repositories["team/rows"] = True
    assert problems_of(recipe_of()) == []
    (said,) = problems_of(recipe_of(), public=True)
    assert "is there, and is private" in said and "leave --public out" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "rows"}, "'rows' is no name of a repository"),
        # of which the hub's own library made a traceback
        *(({"name": f"t/{name}"}, "is no name of a repository") for name in ("a--b", "a..b", "a.git", "a-", "a" * 97)),
        ({"name": "a/b/c"}, "no name of a repository"),
        ({"name": None, "public": True}, "--public says how something is sent, and nothing is"),
        ({"name": None, "send_private": True}, "--send-private says how"),
    ],
)
def test_options_that_say_nothing_whole_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        push_target(**{"public": False, "send_private": False} | given)


# ---- a dataset


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A run whose dataset stands on a file beside its root, with personal data and a double."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "docs/a.txt").write_text("A Ana, ana@mar.pt, abre a porta do mar devagar.\n", encoding="utf-8")
    (tmp_path / "project/b.txt").write_text("O rio corre para o mar, e a vila fica longe.\n", encoding="utf-8")
    (tmp_path / "project/c.txt").write_text("O rio corre para o mar, e a vila fica longe.\n", encoding="utf-8")
    (tmp_path / "project/recipe.yaml").write_text(
        "name: rios\nsources: [{path: ../docs/a.txt}, {path: b.txt}, {path: c.txt}]\n"
        "dataset: {language: pt-PT, personal_data: mask, validation: 0.0}\ntrain: {method: scratch}\n",
        encoding="utf-8",
    )
    call_afina("data", "build", "recipe.yaml", folder=tmp_path / "project")
    return tmp_path / "project/runs/rios"


def head_of(card: Path) -> dict[str, Any]:
    """The metadata of a card, as the hub reads it."""
    return dict(YAML(typ="safe", pure=True).load(card.read_text(encoding="utf-8").split("---\n")[1]))


def test_a_dataset_is_written_with_a_card_and_without_this_machines_folders(built: Path, tmp_path: Path) -> None:
    done = call_afina("data", "export", built, "--licence", "cc-by-4.0", "--json")
    made = json.loads(done.stdout)
    folder = built / "export/dataset"
    assert made["folder"] == str(folder) and made["rows"] == {"train": 2}
    assert {file.name for file in folder.iterdir()} == {"README.md", "train.jsonl"}, "nothing that was left out"
    assert made["sha256"] == {"train.jsonl": hash_file(folder / "train.jsonl")}
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["from"]["path"] for row in rows} == {"a.txt", "b.txt"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert head_of(folder / "README.md") == {
        "license": "cc-by-4.0",
        "language": ["pt"],
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["afina"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train.jsonl"}]}],
    }
    assert "2 rows, made of 3 documents." in card and "Left out: 1 duplicate." in card
    assert "personal data: `mask` (1 x " in card and made["sha256"]["train.jsonl"] in card
    assert str(tmp_path) not in card and "ana@mar.pt" not in card + str(rows)
    assert "unknown: ask" not in card
    again = json.loads(call_afina("data", "export", built, "--json").stdout)
    assert again["sha256"] == made["sha256"] and head_of(folder / "README.md")["license"] == "unknown"


def test_a_dataset_goes_to_its_repository_in_one_commit(built: Path, hub: type[StandIn]) -> None:
    made = json.loads(call_afina("data", "export", built, "--push", "team/rios", "--json").stdout)
    (create, created), (_, sent) = hub.asked
    assert create == "create team/rios" and created == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert (sent["repo_id"], sent["repo_type"]) == ("team/rios", "dataset")
    assert sent["files"] == {"README.md", "train.jsonl"} and sent["commit_message"].startswith("rios: 2 rows, by afina")
    assert "*.jsonl" in sent["delete_patterns"] and "*" not in sent["delete_patterns"]
    assert made["pushed"]["commit"] == COMMIT and made["pushed"]["private"] is True
    assert "hf://team/rios?split=train" in (built / "export/dataset/README.md").read_text(encoding="utf-8")


def test_a_hub_that_refuses_leaves_the_folder_whole(built: Path, hub: type[StandIn]) -> None:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    response = httpx.Response(403, request=httpx.Request("POST", "https://huggingface.co"))
    hub.fails = HfHubHTTPError("403 Forbidden: no right to write", response=response)
    said = call_afina("data", "export", built, "--push", "team/rios", "--public", check=2).stderr
    assert "did not take team/rios" in said and "403 Forbidden" in said and "hf auth whoami" in said
    assert (built / "export/dataset/README.md").is_file()


def test_a_run_without_a_dataset_says_what_builds_it(built: Path) -> None:
    (built / "dataset/train.jsonl").unlink()
    said = call_afina("data", "export", built, check=2).stderr
    assert "the run has no dataset" in said and "afina data build" in said
    said = call_afina("data", "export", built.parent, check=2).stderr
    assert "is not a run" in said


# ---- an adapter


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("push") / "corrida", steps=1, asked=2, new=4)


def test_an_adapter_goes_with_its_card_and_only_as_a_hub_folder(
    trained: Path, tmp_path: Path, hub: type[StandIn]
) -> None:
    words = ["export", trained, "--no-check", "--push", "team/corrida", "--out"]
    said = call_afina(*words, tmp_path / "a", "--to", "adapter", check=2).stderr
    assert (
        "--push sends what --to hub-folder writes, not adapter" in said
        and not (tmp_path / "a").exists()
        and hub.asked == []
    )
    made = json.loads(call_afina(*words, tmp_path / "h", "--to", "hub-folder", "--json").stdout)
    (create, created), (_, sent) = hub.asked
    assert create == "create team/corrida" and created["repo_type"] == "model" and created["private"] is True
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= sent["files"]
    assert made["pushed"] == {
        "repository": "team/corrida",
        "kind": "model",
        "private": True,
        "commit": COMMIT,
        "url": f"https://huggingface.co/x/commit/{COMMIT}",
    }


def test_an_adapter_over_a_base_of_the_hub_names_its_commit(trained: Path, tmp_path: Path) -> None:
    """Whoever opens it later gets the weights that it was trained on, though `main` has moved."""
    from afina.export.card import write_card
    from afina.export.export import ExportOptions, _make_adapter
    from afina.export.origin import open_origin

    origin = open_origin(trained)
    snapshot = tmp_path / "models--team--base/snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(origin.base)
    origin.base, origin.recipe = snapshot, origin.recipe.model_copy(update={"base": "team/base"})
    (tmp_path / "out").mkdir()
    assert ExportOptions("hub-folder").push is None
    _make_adapter(origin, tmp_path / "out", scrub=True)
    config = read_json(tmp_path / "out/adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("team/base", COMMIT)
    card = write_card(origin, tmp_path / "out", holds="adapter", comparison=None, notes=[], licence=None)
    assert f'from_pretrained("team/base", revision="{COMMIT}")' in card
