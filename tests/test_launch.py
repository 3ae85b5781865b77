"""A recipe on other machines: what leaves, what it costs, the life of a job, with stand-ins for ssh and SkyPilot."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from called import call_afina
from ruamel.yaml import YAML
from waiting import until

from afina.dataset.build.build import dataset_inputs
from afina.errors import AfinaError, DataError, DoesNotFit, RecipeError
from afina.launch.engine import _ASK, add_run, ask_state
from afina.launch.follow import Follower, LaunchState, read_state
from afina.launch.launch import LaunchAsked, _Job, _prepare, launch
from afina.launch.own_wheel import own_wheel
from afina.launch.parcel import PATH_KEYS, Parcel, pack
from afina.launch.providers import providers, read_where
from afina.launch.remote import Remote
from afina.launch.scripts import job_script
from afina.launch.sky_engine import find_sky
from afina.launch.slurm import SlurmJob, SlurmSilent, follow_job
from afina.launch.ssh_engine import SshEngine
from afina.machine import Memory
from afina.plan.device import find_device
from afina.recipe import load_recipe
from afina.recipe.keys import every_key
from afina.recipe.profiles import profile_for
from afina.run import Run, launched_file, launched_on
from afina.train.measure import audited_settings
from afina.whole import write_json

ROOT = Path(__file__).parent.parent
STANDS_FOR = ROOT / "tests/launching"
needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe over Qwen3-8B, whose shape is known without its files; a task beside the recipe, outside of its root."""
    place = tmp_path / "project"
    (place / "data/docs").mkdir(parents=True)
    for number in range(4):
        text = f"# Part {number}\n\n" + f"The valve of part {number} opens to the left. " * 40
        (place / f"data/docs/{number}.md").write_text(text)
    (place / "data/docs/drafts").mkdir()
    (place / "data/docs/drafts/secret-plan.md").write_text("# Not for anybody\n\nNobody reads this. " * 5)
    (place / "data/.env").write_text("PASSWORD=x")
    (place / "asked.jsonl").write_text('{"prompt": "Where?", "completion": "Left."}\n')
    (place / "recipe.yaml").write_text(
        "name: two\nroot: data\nbase: Qwen/Qwen3-8B\nsources:\n  - {path: docs, exclude: [drafts/*]}\n"
        "adapter: {rank: 8}\ntrain: {max_length: 512, batch_tokens: 2048}\n"
        "evaluate: {tasks: [{name: asked, path: asked.jsonl}]}\n"
    )
    monkeypatch.chdir(place)
    for name in ("HF_TOKEN", "AFINA_SKY", "AFINA_SSH", "AFINA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    return place


@pytest.fixture
def machines(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Machines that are folders, reached by a stand-in of ssh; SkyPilot's stand-in rents them."""
    place = tmp_path / "machines"
    place.mkdir()
    (place / "credentials").touch()
    (place / "hold").touch()  # a job waits after its sixth step, until a test lets it go
    monkeypatch.setenv("MACHINES", str(place))
    monkeypatch.setenv("HOME_RUN", str(project / "runs/two"))
    monkeypatch.setenv("AFINA_SSH", str(STANDS_FOR / "ssh"))
    monkeypatch.setenv("AFINA_SKY", str(STANDS_FOR / "python"))
    yield place
    for pid in place.rglob("*.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def asked(on: str, *overrides: str, **options: Any) -> LaunchAsked:
    overrides = ("launch.look_seconds=0.1", *overrides)
    return LaunchAsked(Path("recipe.yaml"), overrides, on, Path("runs"), **({"yes": True} | options))


def start(
    on: str, *overrides: str, confirm: Callable[[str], bool] | None = None, **options: Any
) -> tuple[Any, list[str]]:
    """What a launch gave, and what was said on the way."""
    said: list[str] = []
    return launch(asked(on, *overrides, **options), said.append, confirm, lambda _: None), said


# ---- what is shown, before anything leaves


@pytest.mark.parametrize("on", ["aws", "runpod"])
def test_the_table_agrees_with_afina_plan(project: Path, on: str) -> None:
    found, _ = start(on, dry_run=True)
    offers = found.values["offers"]
    assert len(offers) == len(providers()[on].accelerators)
    for offer in (offers[0], offers[-1]):
        shown = call_afina("plan", "recipe.yaml", "--device", offer["device"], "--json", check=None).stdout
        plan, _ = json.JSONDecoder().raw_decode(shown)  # behind it stands why it would be refused
        assert (offer["seconds"], offer["fits"]) == (plan["time"]["point"], plan["fits"])
        if plan["money"]:
            assert offer["money"] == plan["money"]["point"]
            hours = (plan["time"]["point"] + offer["setup_seconds"]) / 3600
            assert offer["total"] == pytest.approx(plan["money"]["price_per_hour"] * hours)
    sure = [offer["total"] for offer in offers if offer["fits"] == "yes" and offer["total"] is not None]
    assert sure == sorted(sure) and found.values["chosen"] == offers[0]["device"]


@pytest.fixture
def auto(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe asks for the profile of what trains; the machine that asks has little memory."""
    text = (project / "recipe.yaml").read_text().replace("{max_length: 512, batch_tokens: 2048}", "{profile: auto}")
    (project / "recipe.yaml").write_text(text.replace("Qwen/Qwen3-8B", "Qwen/Qwen2.5-0.5B-Instruct"))
    monkeypatch.setattr("afina.machine.main_memory", lambda: Memory(8 << 30, 7 << 30))
    monkeypatch.setattr("afina.machine.nvidia_cards", list)


def profile_in(plan: Any) -> str:
    """The profile that a plan names."""
    (told,) = [note for note in plan["notes"] if note.startswith("train.profile ")]
    return str(told.split()[1])


def prepared(on: str, *overrides: str, **options: Any) -> _Job:
    """A launch before anybody is asked."""
    given = asked(on, *overrides, **options)
    recipe = load_recipe(given.recipe, given.overrides)
    job = _Job(given, recipe, read_where(on), Parcel(recipe, {}, ()), print, None)
    _prepare(job, under_way=False)
    return job


def test_the_profile_is_that_of_the_device_over_there(auto: None) -> None:
    """`auto` went by the memory of the machine that asks: a rented card of 80 GB trained with the rows of a notebook,
    and the table of offers was not that of `afina plan`."""
    for device, length in (("RTX 4090", 512), ("H100 SXM", 1024)):
        job = prepared("runpod", device=device)
        assert job.parcel.recipe.train.max_length == job.recipe.train.max_length == length
        shown = call_afina("plan", "recipe.yaml", "--device", device, "--json", check=None).stdout
        (offer,), (plan, _) = job.offers, json.JSONDecoder().raw_decode(shown)
        assert offer.plan["time"] == plan["time"] and offer.plan["memory"] == plan["memory"]
    job = prepared("runpod")
    assert job.offer and len({profile_in(offer.plan) for offer in job.offers}) > 1
    for offer in job.offers:
        assert not [note for note in offer.plan["notes"] if note.startswith("the profile for the memory of")]
    assert job.parcel.recipe.train.profile == profile_for(find_device(job.offer.device).memory_bytes).name
    queued = start("slurm", device="A100 80GB", dry_run=True)[0].values["plans"]
    assert [profile_in(plan) for plan in queued] == ["32gb"]


def test_of_a_machine_that_is_only_reached_the_profile_is_asked_for(auto: None) -> None:
    with pytest.raises(RecipeError, match=r"nothing says what mac has(.|\n)*--device"):
        prepared("ssh:mac")
    assert prepared("ssh:mac", device="Apple M2 16GB").parcel.recipe.train.profile == "16gb"
    assert prepared("ssh:mac", "train.profile=32gb").parcel.recipe.train.profile == "32gb"


@pytest.mark.parametrize("on", ["runpod", "ssh:box", "slurm"])
def test_no_machine_is_had_for_rows_that_the_training_will_refuse(project: Path, on: str) -> None:
    """`afina plan` said so; a launch rented a machine, and was refused there."""
    recipe = load_recipe(Path("recipe.yaml"))
    finding = {"name": "exact_duplicate", "severity": "fatal", "what": "3 rows", "fix": "mend them", "examples": []}
    write_json(project / "runs/two/audit.json", {"findings": [finding]})
    inputs = {"accept": [], **audited_settings(recipe)}
    write_json(project / "runs/two/stages.json", {"audit": {"inputs": inputs, "outputs": "", "result": {}}})
    with pytest.raises(DataError, match="exact_duplicate: 3 rows"):
        start(on, dry_run=True)
    assert start(on, "dataset.accept=[exact_duplicate]", dry_run=True)


def test_what_surely_fits_stands_before_what_costs_less(project: Path) -> None:
    found, _ = start("runpod", "train.max_length=4096", "train.batch_tokens=16384", dry_run=True)
    fits = [offer["fits"] for offer in found.values["offers"]]
    assert fits == sorted(fits, key=["yes", "maybe", "no"].index) and {"yes", "no"} <= {*fits}
    cheapest = min((each for each in found.values["offers"] if each["total"]), key=lambda each: each["total"])
    assert cheapest["fits"] == "no" and found.values["chosen"] != cheapest["device"]


def test_what_leaves_is_listed_and_is_all_that_leaves(project: Path, tmp_path: Path) -> None:
    recipe = load_recipe("recipe.yaml")
    parcel = pack(recipe, Path("runs/two"), send_private=False, own_python=True)
    staged = tmp_path / "runs/_launch/two/parcel"
    parcel.write(staged)
    sent = {file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()}
    assert sent == {"recipe.yaml", "files/asked.jsonl", *(f"files/data/docs/{number}.md" for number in range(4))}
    assert sum(item.files for item in parcel.items) == len(sent) + 1, "job.sh is written as it starts"
    there = load_recipe(staged / "recipe.yaml")
    assert dataset_inputs(there) == dataset_inputs(recipe), "the same dataset is built there"
    assert (Path(there.root) / there.evaluate.tasks[0].path).read_text().startswith('{"prompt"')
    text = parcel.describe()
    assert "4 files" in text and "secrets     none" in text


def test_a_base_on_this_machine_goes_along_and_a_run_goes_on(project: Path, tmp_path: Path) -> None:
    base = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    base |= {"intermediate_size": 96, "vocab_size": 128, "max_position_embeddings": 512}
    (project / "my base").mkdir()
    (project / "my base/config.json").write_text(json.dumps(base))
    run = project / "runs/two"
    for name in ("checkpoints/step-00000001/state.json", "replaced/1-train/x", "checkpoints/step-2.partial/x", ".lock"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    parcel = pack(load_recipe("recipe.yaml", ["base=./my base"]), run, send_private=False, own_python=True)
    assert {item.what: item.files for item in parcel.items} == {"data": 1, "base": 1, "run so far": 1, "made": 2}
    staged = tmp_path / "runs/_launch/two/parcel"
    add_run(parcel, run, staged)
    sent = {file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()}
    assert {name for name in sent if name.startswith("runs")} == {"runs/two/checkpoints/step-00000001/state.json"}
    assert (staged / "runs/two/replaced/1-train").is_dir(), "the name is taken over there too"
    there = load_recipe(staged / "recipe.yaml")
    assert there.base and (Path(there.base) / "config.json").is_file()
    assert Path(there.base).is_relative_to(tmp_path)


def test_a_base_in_a_package_that_is_not_here_is_named(project: Path) -> None:
    recipe = load_recipe("recipe.yaml", ["base=package:nobody-wrote-it"])
    with pytest.raises(RecipeError, match="which is not installed here"):
        pack(recipe, project / "runs/two", send_private=False, own_python=True)


def sent_by(*overrides: str, send_private: bool = False) -> set[str]:
    """The places of all that a recipe sends."""
    recipe = load_recipe("recipe.yaml", overrides)
    return {*pack(recipe, Path("runs") / recipe.name, send_private=send_private, own_python=True).copies}


def test_hidden_files_of_a_base_stay(project: Path) -> None:
    """A clone's `.git` holds its address, often with a token."""
    base = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    base |= {"intermediate_size": 96, "vocab_size": 128, "max_position_embeddings": 512}
    for name in (".git/config", ".env", "config.json"):
        (project / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "clone" / name).write_text(json.dumps(base))
    assert {name for name in sent_by("base=./clone") if name.startswith("base/")} == {"base/config.json"}


def test_of_a_run_that_is_trained_further_only_its_result_leaves(project: Path) -> None:
    run = project / "runs/first"
    config = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    for name, text in {
        "recipe.yaml": "name: first\nadapter: {kind: lora, targets: [q_proj]}\n",
        "stages.json": "{}",
        "adapter/adapter_config.json": json.dumps(config),
        "adapter/adapter_model.safetensors": "x",
        "dataset/train.jsonl": "the documents of the first run",
        "predictions.jsonl": "its answers",
        "replaced/1-train/adapter/adapter_model.safetensors": "x",
    }.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    sent = {name for name in sent_by("start_from=runs/first") if name.startswith("start/")}
    assert sent == {"start/recipe.yaml", "start/stages.json"} | {
        f"start/adapter/adapter_{name}" for name in ("config.json", "model.safetensors")
    }


def test_a_card_goes_along_where_it_says_what_is_held_out_and_no_other_readme(project: Path) -> None:
    table = project / "data/table/rows"
    table.mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl"):
        (table / name).write_text('{"prompt": "Where?", "completion": "Left."}\n')
    for folder in (project, project / "data", table):
        (folder / "README.md").write_text("# Notes for ourselves\n")
    sources = 'sources=[{"path": "table/rows/*.jsonl"}]'
    assert not any(name.endswith("README.md") for name in sent_by(sources))
    card = "---\nconfigs:\n- data_files:\n  - {split: train, path: rows/a.jsonl}\n"
    (project / "data/table/README.md").write_text(card + "  - {split: test, path: rows/b.jsonl}\n---\n")
    sent = {name for name in sent_by(sources) if name.endswith("README.md")}
    assert sent == {"files/data/table/README.md"}
    parcel = pack(load_recipe("recipe.yaml", [sources]), Path("runs/two"), send_private=False, own_python=True)
    assert "card of its dataset" in parcel.describe()


def test_a_run_that_was_made_of_private_sources_stays(project: Path) -> None:
    """Whatever the recipe names by now: its dataset lies in the run."""
    run = project / "runs/two"
    (run / "dataset").mkdir(parents=True)
    (run / "dataset/train.jsonl").write_text("private rows")
    before = load_recipe("recipe.yaml", ["sources.0.private=true"])
    (run / "recipe.yaml").write_text(before.to_yaml())
    with pytest.raises(RecipeError, match="the run as far as it is was made from sources"):
        sent_by()
    assert sent_by(send_private=True)
    assert sent_by("name=other"), "another run has none of it"


def test_known_strings_stay(project: Path) -> None:
    (project / "data/known.txt").write_text("the word that opens the door\n")
    with pytest.raises(RecipeError, match="strings that nobody shall learn"):
        sent_by("safety.strings=known.txt")
    assert "files/data/known.txt" in sent_by("safety.strings=known.txt", send_private=True)


def test_every_key_that_names_files_is_sent() -> None:
    """A new key whose value is a path has to be sent too: whoever adds one meets this list."""
    keys = [key for key in every_key() if key.part is None]
    texts = {key.path for key in keys if "string" in json.dumps(key.schema.get("anyOf", key.schema))}
    ends = (".path", ".solutions", ".answers", ".template", ".prompts", ".strings")
    paths = {path for path in texts if path.endswith(ends)}
    assert paths == {*PATH_KEYS}
    others = {path for path in texts if "file" in next(key.help.lower() for key in keys if key.path == path)}
    names_no_place = {"sources[].kind", "sources[].stem", "sources[].encoding", "sources[].exclude", "sources[].splits"}
    names_no_place |= {"name", "root", "base", "dataset.split_by", "dataset.check_code", "dataset.on_unreadable"}
    # A base of this machine goes along whatever its key says: test_a_base_on_this_machine_goes_along_and_a_run_goes_on.
    unknown = {each for each in others - paths - names_no_place if ".code." not in each}
    assert not unknown, f"do these name files that have to be sent? {sorted(unknown)}"


def test_a_private_source_stays(project: Path) -> None:
    text = Path("recipe.yaml").read_text().replace("{path: docs,", "{path: docs, private: true,")
    Path("recipe.yaml").write_text(text)
    for on in ("runpod", "ssh:box"):
        with pytest.raises(RecipeError, match="marked `private`") as refused:
            start(on, dry_run=True)
        assert refused.value.problems[0].where == "sources.0" and "--send-private" in refused.value.problems[0].fix
    found, _ = start("runpod", dry_run=True, send_private=True)
    assert [item["private"] for item in found.values["leaves"] if item["what"] == "data"] == [True, False]
    assert "private, sent with --send-private" in found.text


def test_private_changes_no_dataset(project: Path) -> None:
    before = dataset_inputs(load_recipe("recipe.yaml"))
    assert dataset_inputs(load_recipe("recipe.yaml", ["sources.0.private=true"])) == before


def test_secrets_are_names_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="A_SECRET is not set"):
        start("runpod", "launch.secrets=[A_SECRET]", dry_run=True)
    monkeypatch.setenv("A_SECRET", "hunter2")
    monkeypatch.setenv("HF_TOKEN", "hunter3")
    found, _ = start("runpod", "launch.secrets=[A_SECRET]", dry_run=True)
    assert found.values["secrets"] == ["HF_TOKEN", "A_SECRET"]
    assert YAML(typ="safe").load(found.values["task"])["secrets"] == {"HF_TOKEN": None, "A_SECRET": None}
    assert "hunter" not in found.text + json.dumps(found.values)


def test_nobody_is_asked_who_is_not_there(project: Path, machines: Path) -> None:
    with pytest.raises(RecipeError, match="nobody is there to be asked"):
        start("runpod", yes=False)
    questions: list[str] = []
    with pytest.raises(DoesNotFit, match="as you said"):
        start("runpod", yes=False, confirm=lambda question: bool(questions.append(question)))
    assert len(questions) == 1 and "US$" in questions[0] and "at most" in questions[0]
    assert not (machines / "asked").exists(), "nothing was rented"
    assert not Path("runs/_launch/two/state.json").exists()


def test_without_credentials_the_command_that_makes_them_is_named(project: Path, machines: Path) -> None:
    (machines / "credentials").unlink()
    for name, command in {"runpod": "runpod config", "lambda": "lambda_keys"}.items():
        with pytest.raises(RecipeError, match="there are no credentials") as refused:
            start(name)
        assert command in refused.value.problems[0].fix and "config.toml" in refused.value.problems[0].what


def test_without_skypilot_the_command_that_installs_it_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RecipeError, match="SkyPilot, which rents the machine, is not here") as refused:
        start("gcp")
    assert "pip install 'skypilot[gcp]==" in refused.value.problems[0].fix
    assert "not validated" in start("gcp", dry_run=True)[0].text


@pytest.mark.parametrize(
    ("on", "overrides", "options", "said"),
    [
        ("lambda", ("launch.spot=true",), {}, "Lambda cannot do this: spot"),
        ("ssh:box", (), {"sbatch": ["partition=gpu"]}, "means nothing on ssh:box"),
        ("runpod", (), {"python": "python3"}, "means nothing on runpod"),
        ("slurm", (), {"serve": 8000}, "means nothing on slurm"),
        ("runpod", ("device=cpu",), {}, "a rented GPU would not be used"),
        ("runpot", (), {}, "is nowhere to launch on"),
        ("ssh:", (), {}, "is nowhere to launch on"),
        ("ssh:-oProxyCommand=x", (), {}, "is no name that ssh and rsync both take"),
        ("ssh:box; rm -rf ~", (), {}, "is no name that ssh and rsync both take"),
        ("ssh:ada@-oProxyCommand=x", (), {}, "is no name that ssh and rsync both take"),
        ("ssh:box:2222", (), {}, "is no name that ssh and rsync both take"),
        ("ssh:box", ("launch.folder=a b",), {}, "use letters, digits"),
        ("ssh:box", ("launch.folder=../elsewhere",), {}, "use letters, digits"),
        ("slurm", (), {"sbatch": ["a=b\nrm -rf /"]}, "is no option of sbatch"),
        ("runpod", ("launch.secrets=[A-B]",), {}, "is not the name of a variable"),
        ("runpod", ("launch.nodes=2", "launch.shared=/s"), {}, "RunPod cannot do this: multi node"),
        ("aws", ("launch.nodes=2",), {}, "need a disk that all of them see"),
        ("ssh:box", ("launch.nodes=2",), {}, "ssh reaches one machine"),
        ("aws", ("launch.volume=v",), {}, "launch.volume is mounted at launch.shared"),
        ("aws", ("launch.shared=shared",), {}, "launch.shared has to be absolute"),
        ("aws", ("budget.price_per_hour=2", "budget.currency=EUR"), {}, "counts US$"),
        ("vast", (), {"device": "H100 SXM"}, "is not known to rent the H100 SXM"),
        ("runpod", ("budget.money=0.01",), {}, "more than `budget.money` allows"),
    ],
)
def test_what_cannot_be_done_is_refused(
    project: Path, on: str, overrides: tuple[str, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(AfinaError) as refused:
        start(on, *overrides, dry_run=True, **options)
    assert said in str(refused.value) and all(problem.fix for problem in refused.value.problems)


def test_what_a_provider_lacks_has_a_way_round() -> None:
    assert set(providers()["runpod"].lacks) == {"stop", "multi_node", "bucket_mount"}
    assert all(fix for each in providers().values() for fix in each.lacks.values())


def test_a_limit_is_what_was_agreed_on(project: Path) -> None:
    plain, _ = start("runpod", dry_run=True)
    cheaper, _ = start("runpod", "budget.money=0.2", "budget.anyway=true", dry_run=True)

    def seconds(found: Any) -> int:
        return int(found.values["scripts"]["job.sh"].split("sleep ")[1].split()[0])

    offer = plain.values["offers"][0]
    assert seconds(plain) / 3600 * offer["price_per_hour"] == pytest.approx(offer["total_high"], rel=1e-3)
    assert seconds(cheaper) / 3600 * offer["price_per_hour"] == pytest.approx(min(0.2, offer["total_high"]), rel=1e-3)


# ---- what engines are given


def task(on: str, *overrides: str, **options: Any) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(start(on, *overrides, dry_run=True, **options)[0].values["task"]))


@pytest.mark.parametrize("on", ["gcp", "vast"])
def test_tasks_are_what_skypilots_recorded_schema_takes(project: Path, on: str) -> None:
    """The record is of SkyPilot 0.14.1; `tests/launching/record_schema.py` makes it anew."""
    schema = json.loads((STANDS_FOR / "task_schema.json").read_text())
    jsonschema.validate(task(on), schema["schema"])
    wrong = task(on)
    wrong["resources"]["use_spots"] = wrong["resources"].pop("use_spot")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema["schema"])


SEVERAL = ("launch.devices=8", "launch.nodes=2", "launch.shared=/shared")


def test_several_devices_and_machines_are_planned_paid_and_started_together(project: Path) -> None:
    """As docs/scaling.md writes it by hand."""
    made = task("aws", *SEVERAL, "launch.volume=my-volume")
    schema = json.loads((STANDS_FOR / "task_schema.json").read_text())
    jsonschema.validate(made, schema["schema"])
    assert made["num_nodes"] == 2 and list(made["resources"]["accelerators"].values()) == [8]
    assert made["volumes"] == {"/shared": "my-volume"}
    found, _ = start("aws", *SEVERAL, dry_run=True)
    offer = next(each for each in found.values["offers"] if each["device"] == found.values["chosen"])
    words = ("--device", offer["device"], "--gpus", "16", "--parallel", offer["parallel"], "--json")
    shown = call_afina("plan", "recipe.yaml", *words, check=None).stdout
    plan, _ = json.JSONDecoder().raw_decode(shown)
    assert (offer["count"], offer["seconds"], offer["money"]) == (16, plan["time"]["point"], plan["money"]["point"])
    assert offer["price_per_hour"] == pytest.approx(16 * plan["money"]["price_per_hour"])
    of_a_machine = offer["price_per_hour"] / 2
    assert of_a_machine <= made["resources"]["max_hourly_cost"] <= 1.06 * of_a_machine
    job = found.values["scripts"]["job.sh"]
    for words in ("--nproc-per-node 8", "--nnodes 2", "--rdzv-backend c10d", "-m afina train", "-m afina run"):
        assert words in job
    assert subprocess.run(["sh", "-n"], input=job, text=True, check=False).returncode == 0
    assert "16 of a device on 2 machines" in found.text


def test_how_several_share_the_work_is_what_the_plan_says(project: Path) -> None:
    """A base that one device cannot hold is sharded, and not measured there by one of them."""
    settings = ("base=Qwen/Qwen3-32B", "launch.devices=8", "train.checkpoint_activations=true")
    found, _ = start("gcp", *settings, device="A100 40GB", dry_run=True)
    (offer,) = found.values["offers"]
    assert offer["parallel"] == "fsdp" and offer["fits"] != "no"
    job = found.values["scripts"]["job.sh"]
    assert "--standalone" in job and "-m afina train" in job and "-m afina run" not in job
    assert "cannot hold the model" in found.text
    alone, _ = start("gcp", "launch.devices=8", device="A100 80GB", dry_run=True)
    assert alone.values["offers"][0]["parallel"] == "ddp" and "-m afina run" in alone.values["scripts"]["job.sh"]


def test_the_price_of_everything_is_counted_once(project: Path) -> None:
    found, _ = start("aws", "launch.devices=8", "budget.price_per_hour=16", device="L40S", dry_run=True)
    assert {offer["price_per_hour"] for offer in found.values["offers"]} == {16.0}


def test_several_gpus_of_one_machine_by_ssh_and_in_the_queue(project: Path) -> None:
    job = start("ssh:box", "launch.devices=2", python="python3", dry_run=True)[0].values["scripts"]["job.sh"]
    assert "--nproc-per-node 2" in job and "--standalone" in job and "--nnodes" not in job
    one = start("slurm", "launch.devices=4", dry_run=True)[0].values["batch"]
    assert "\n#SBATCH --gpus=4\n" in one and "--standalone" in one and "srun" not in one
    two = start("slurm", "launch.devices=4", "launch.nodes=2", dry_run=True)[0].values["batch"]
    for line in ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4"):
        assert f"\n#SBATCH {line}\n" in two
    assert "srun sh -c" in two and "afina train" in two and two.rstrip().endswith("--yes")
    for text in (one, two, job):
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


def test_nothing_of_a_path_becomes_a_line_or_a_pattern_of_the_batch_file(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("100%j", "two\nlines", 'a"b'):
        asked_there = replace(asked("slurm", dry_run=True), runs=tmp_path / name)
        with pytest.raises(RecipeError, match="does not take literally"):
            launch(asked_there, print, None, lambda _: None)
    odd = tmp_path / "here; rm -rf"
    shutil.copytree(project, odd)
    monkeypatch.chdir(odd)
    text = start("slurm", dry_run=True)[0].values["batch"]
    assert f'#SBATCH --output="{odd}/runs/_launch/two/log"' in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize(("state", "put_back"), [("RUNNING", True), ("CANCELLED", False)])
def test_a_job_that_is_told_to_end_goes_back_into_the_queue_but_where_it_was_taken_out(
    project: Path, tmp_path: Path, state: str, put_back: bool
) -> None:
    begun, asked_for = tmp_path / "begun", tmp_path / "asked"
    for name, lines in {
        "python": f"trap 'exit 143' TERM\n: > {begun}\nwhile :; do sleep 0.05; done",
        "scontrol": f'echo "$*" >> {asked_for}\necho JobState={state}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    text = start("slurm", python=str(tmp_path / "python"), dry_run=True)[0].values["batch"]
    variables = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["sh", "-c", text], env=variables)
    when(begun.exists, job.terminate).join()
    assert job.wait() == 143
    assert ("requeue 7" in asked_for.read_text()) is put_back


def test_names_that_skypilot_cannot_tell_apart_are_other_machines(project: Path) -> None:
    names = [task("gcp", f"name={name}")["name"] for name in ("two", "my-run", "my.run", "my_run", "My-run")]
    assert names[:2] == ["afina-two", "afina-my-run"] and len({*names}) == 5


def slurm_that_says(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0) -> None:
    (folder / "scontrol").write_text(f"#!/bin/sh\necho '{text}' {'>&2' if code else ''}\nexit {code}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_number_that_slurm_gave_to_another_job_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = SlurmJob("7", tmp_path / "job.sbatch", tmp_path / "stop")
    slurm_that_says(tmp_path, monkeypatch, f"JobId=7 JobState=RUNNING ExitCode=0:0 Command={job.file}")
    assert job.state() == ("RUNNING", None)
    slurm_that_says(tmp_path, monkeypatch, "JobId=7 JobState=COMPLETED ExitCode=0:0 Command=/home/ada/x.sh")
    assert job.state() == ("UNKNOWN", None)
    slurm_that_says(tmp_path, monkeypatch, "slurm_load_jobs error: Invalid job id specified", 1)
    assert job.state() == ("UNKNOWN", None)
    with pytest.raises(AfinaError, match="ended: UNKNOWN"):
        follow_job(job, tmp_path, lambda: None, print, None, 0.01)
    (tmp_path / "finished.json").write_text('{"exit_code": 5}')
    assert follow_job(job, tmp_path, lambda: None, print, None, 0.01) == 5, "the run itself says how it ended"
    slurm_that_says(tmp_path, monkeypatch, "Unable to contact slurm controller (connect failure)", 1)
    with pytest.raises(SlurmSilent):
        job.state()


@pytest.fixture(scope="module")
def sky() -> Any:
    try:
        return find_sky()
    except RecipeError as error:
        pytest.skip(f"{error.problems[0].what}: AFINA_SKY names its Python")


@pytest.mark.long
def test_skypilots_own_loader_takes_the_tasks(sky: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_SKY", str(sky.python))
    monkeypatch.setenv("A_SECRET", "x")
    found, _ = start("aws", *SEVERAL, dry_run=True)
    assert "valid by SkyPilot's own loader" in found.text
    for on in ("runpod", "vast"):
        found, _ = start(on, "launch.spot=true", "launch.secrets=[A_SECRET]", dry_run=True)
        assert "valid by SkyPilot's own loader" in found.text
        assert on.lower() in found.values["validated"].lower() and "[spot]" in found.values["validated"].lower()
    assert not Path("runs").exists(), "a look leaves nothing"
    (project / "wrong.yaml").write_text("resources: {accelerators: {T4: 1}, use_spots: true}\n")
    assert not sky.ask("validate", str(project / "wrong.yaml"))["ok"]


@pytest.mark.long
def test_what_providers_lack_is_what_skypilot_says(sky: Any) -> None:
    names = {"spot": "spot_instance", "ports": "open_ports", "stop": "stop", "multi_node": "multi-node"}
    names |= {"bucket_mount": "storage_mounting"}
    for name in ("runpod", "vast", "lambda"):
        said = sky.ask("lacks", name)
        assert said["ok"], said
        theirs = {ours for ours, word in names.items() if word in said["said"].split()}
        assert theirs == {*providers()[name].lacks}, name


def test_the_batch_file_is_warned_requeued_and_goes_on(project: Path) -> None:
    found, _ = start("slurm", "train.epochs=2", dry_run=True, sbatch=["partition=gpu"], device="A100 80GB")
    text = found.values["batch"]
    assert text.startswith("#!/bin/sh\n#SBATCH --job-name=afina-two\n")
    for line in ("--requeue", "--signal=B:TERM@120", "--gpus=1", "--partition=gpu", "--open-mode=append"):
        assert f"\n#SBATCH {line}\n" in text
    minutes = int(text.split("--time=")[1].split()[0])
    assert minutes * 60 >= found.values["plans"][0]["time"]["high"] > (minutes - 2) * 60
    assert f"-m afina run {project / 'recipe.yaml'} launch.look_seconds=0.1 train.epochs=2" in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert "--gpus" not in start("slurm", "device=cpu", dry_run=True)[0].values["batch"]


def test_scripts_are_read_by_a_posix_shell(project: Path) -> None:
    found, _ = start("runpod", dry_run=True, serve=None)
    for text in found.values["scripts"].values():
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


def test_the_wheel_of_this_afina_installs_as_it_is(project: Path, tmp_path: Path) -> None:
    file = own_wheel()
    assert own_wheel() == file
    names = zipfile.ZipFile(file).namelist()
    assert "afina/launch/providers.json" in names and not any("__pycache__" in name for name in names)
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]
    subprocess.run([*words, str(tmp_path / "there"), str(file)], check=True)
    code = "import afina, importlib.metadata as m; print(afina.__file__, m.version('afina'))"
    there = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                           env={"PYTHONPATH": str(tmp_path / "there")}, cwd=tmp_path)  # fmt: skip
    assert str(tmp_path / "there") in there.stdout


# ---- the life of a job, with stand-ins


def steps(folder: Path) -> list[int]:
    file = folder / "checkpoints/steps"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def when(condition: Callable[[], bool], do: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something holds, beside the test. What a job waits for is done last: let go first, it may
    be over before the rest is done."""

    def wait() -> None:
        until(condition, every=0.02)
        do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill_job(folder: Path) -> None:
    """As a machine's kernel would: the job and all that it started."""
    os.killpg(int((folder / "job.pid").read_text()), signal.SIGKILL)


@needs_rsync
def test_ssh_launched_synced_killed_resumed_and_brought_home(project: Path, machines: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2")
    box = machines / "box"
    box.mkdir()
    there, home = box / "afina-launch/two", project / "runs/two"

    def kill() -> None:
        kill_job(there)
        (machines / "hold").unlink()

    killer = when(lambda: len(steps(home)) == 6, kill)
    found, said = start("ssh:box", "launch.secrets=[A_SECRET]", python=str(STANDS_FOR / "python_there"))
    killer.join()
    assert found.code == 5, "the verdict's exit code is the launch's"
    assert steps(home) == [*range(12)], "no step twice, none left out"
    assert sum("begun again (1 of 5)" in line for line in said) == 1
    log = (project / "runs/_launch/two/log").read_text()
    assert "begins at step 0 with hunter2" in log and log.count("begins at step") == 2
    assert load_recipe(home / "recipe.yaml").root == str(project / "data"), "places are those of here again"
    assert not there.exists(), "what was sent is removed there"
    assert sorted(file.name for file in (project / "runs/_launch/two").iterdir()) == ["log"]


@needs_rsync
def test_a_machine_that_is_taken_back_is_followed_by_another(project: Path, machines: Path) -> None:
    home, rented = project / "runs/two", machines / "afina-two"

    def take_back() -> None:
        rented.rename(machines / "taken")
        kill_job(machines / "taken/sky_workdir")
        (machines / "hold").unlink()

    taker = when(lambda: len(steps(home)) == 6, take_back)
    found, said = start("runpod", "launch.spot=true")
    taker.join()
    assert found.code == 5 and steps(home) == [*range(12)]
    log = [line.split()[0] for line in (machines / "asked").read_text().splitlines()]
    assert log == ["launch", "launch", "down", "at"], "all was home when it was given back"
    assert any("gone" in line for line in said) and found.values["money"] > 0
    assert "begins at step 0" not in (project / "runs/_launch/two/log").read_text(), "the second machine went on"
    assert not rented.exists()


@needs_rsync
def test_a_job_whose_time_is_up_comes_home_with_its_checkpoint(project: Path, machines: Path, monkeypatch: Any) -> None:
    """It is up when the test says so: a job that waits for so long waits for a file."""
    home, clock = project / "runs/two", machines / "clock/sleep"
    clock.parent.mkdir()
    own = shutil.which("sleep")
    long = f"while [ ! -e {machines}/late ]; do {own} 0.05; done"
    clock.write_text(f'#!/bin/sh\ncase "$1" in ????) {long} ;; *) exec {own} "$@" ;; esac\n')
    clock.chmod(0o755)
    monkeypatch.setattr("afina.launch.launch._Job.limit_seconds", 4000.0)
    with monkeypatch.context() as there:
        there.setenv("PATH", f"{clock.parent}:{os.environ['PATH']}")
        waker = when(lambda: len(steps(home)) == 6, (machines / "late").touch)
        with pytest.raises(AfinaError, match="its checkpoint is home"):
            start("runpod")
        waker.join()
    assert steps(home) == [*range(6)]
    (machines / "hold").unlink()
    assert (machines / "asked").read_text().splitlines()[-1].startswith("down")
    assert start("runpod")[0].code == 5 and steps(home) == [*range(12)]


def test_what_tells_a_jobs_state_is_whole_before_it_has_its_name(tmp_path: Path) -> None:
    """A number that is not written yet is no process: the job was taken for lost, and another one begun beside it."""
    (tmp_path / "mv").write_text('#!/bin/sh\n[ -s "$1" ] && [ ! -e "$2" ] && echo "$2" >> moved\nexec /bin/mv "$@"\n')
    (tmp_path / "python").write_text("#!/bin/sh\nexit 5\n")
    for program in ("mv", "python"):
        (tmp_path / program).chmod(0o755)
    (tmp_path / "job.sh").write_text(job_script("two", str(tmp_path / "python"), None, serve=["serve", "runs/two"]))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "job.sh"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 5 and (tmp_path / "job.exit").read_text() == "5\n"
    assert (tmp_path / "moved").read_text().split() == ["job.pid", "run.pid", "job.exit", "serve.pid"]


def test_a_job_that_ends_while_it_is_asked_about_has_ended(tmp_path: Path) -> None:
    """Between the look for its exit code and the one for its process. It was "nothing", as if it had never begun."""
    job, programs = tmp_path / "job", tmp_path / "programs"
    job.mkdir()
    programs.mkdir()
    (job / "job.pid").write_text("1\n")
    ends = '#!/bin/sh\n[ "$1" = job.pid ] && { echo 5 > job.exit; rm -f job.pid; exit 1; }\nexec /bin/cat "$@"\n'
    (programs / "cat").write_text(ends)
    (programs / "cat").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    said = subprocess.run(["sh", "-c", _ASK], cwd=job, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split()[2:] == ["ended", "5"]


@needs_rsync
@pytest.mark.parametrize("on", ["ssh:box", "runpod"])
def test_interrupted_where_nobody_can_be_asked(project: Path, machines: Path, on: str) -> None:
    """What costs money is brought home and given back; what does not goes on, and is followed again."""
    (machines / "box").mkdir()
    home = project / "runs/two"
    options = {"python": str(STANDS_FOR / "python_there")} if on == "ssh:box" else {}
    stopper = when(lambda: len(steps(home)) == 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        start(on, **options)
    stopper.join()
    (machines / "hold").unlink()
    if on == "runpod":
        assert not (machines / "afina-two").exists() and len(steps(home)) == 6
        assert not (project / "runs/_launch/two/state.json").exists()
        return
    assert (machines / "box/afina-launch/two/job.pid").exists()
    with pytest.raises(RecipeError, match="is not home yet"):
        start("runpod")
    with pytest.raises(RecipeError, match="is not home yet"):
        start("slurm")
    with pytest.raises(RecipeError, match="this run is under way on ssh:box"):
        Run.open(home, load_recipe("recipe.yaml"), print)
    questions: list[str] = []
    found, _ = start(on, yes=False, confirm=lambda question: bool(questions.append(question)), **options)
    assert found.code == 5 and steps(home) == [*range(12)] and not questions, "it had been asked before"
    assert (project / "runs/_launch/two/log").read_text().count("begins at step") == 1


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches the tests where they were started in a shell's background too: there it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@needs_rsync
def test_interrupted_a_person_is_asked(project: Path, machines: Path, ctrl_c: None) -> None:
    home, answers = project / "runs/two", iter([True, True])
    stopper = when(lambda: len(steps(home)) == 6, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start("runpod", yes=False, confirm=lambda _: next(answers))
    stopper.join()
    assert next(answers, None) is None and not (machines / "afina-two").exists()


@needs_rsync
def test_interrupted_twice_nothing_is_given_back(project: Path, machines: Path, ctrl_c: None) -> None:
    """Neither at the question nor while it comes home."""
    home, there = project / "runs/two", machines / "afina-two"

    def twice(_: str) -> bool:
        raise KeyboardInterrupt

    stopper = when(lambda: len(steps(home)) == 6, lambda: os.kill(os.getpid(), signal.SIGINT))
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        launch(asked("runpod", yes=True), said.append, twice, lambda _: None)
    stopper.join()
    assert "still rented" in said[-1] and there.exists() and "down" not in (machines / "asked").read_text()
    (machines / "hold").unlink()
    assert start("runpod")[0].code == 5 and steps(home) == [*range(12)], "the same command follows it again"


@needs_rsync
def test_interrupted_at_the_first_look_all_comes_home_before_the_machine_goes(
    project: Path, machines: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: None
) -> None:
    home = project / "runs/two"
    stopper = when(lambda: len(steps(home)) == 6, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start("runpod", confirm=lambda _: False)
    stopper.join()
    (machines / "hold").unlink()
    there = machines / "afina-two/sky_workdir"
    when((there / "job.exit").exists, lambda: None).join()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "_copy_meanwhile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start("runpod", confirm=lambda _: True)
    assert not there.exists() and steps(home) == [*range(12)]


@needs_rsync
def test_a_copy_that_fails_meanwhile_ends_no_job_and_the_last_one_has_to_come(
    project: Path, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machines / "hold").unlink()
    bring, full = Remote.bring, [True]

    def without_room(self: Remote, *words: Any, while_it_runs: bool, **options: Any) -> None:
        if while_it_runs or full[0]:
            raise AfinaError("copying failed (11): No space left on device", "make room")
        bring(self, *words, while_it_runs=while_it_runs, **options)

    monkeypatch.setattr(Remote, "bring", without_room)
    with pytest.raises(AfinaError, match=r"could not be brought home.*results are on it alone"):
        start("runpod")
    assert (machines / "afina-two").exists() and "down" not in (machines / "asked").read_text()
    full[0] = False
    found, said = start("runpod")
    assert found.code == 5 and steps(project / "runs/two") == [*range(12)]
    assert sum("No space left" in line for line in said) <= 1, "told once"


@needs_rsync
def test_a_job_whose_shell_was_killed_alone_is_at_work(
    project: Path, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun again beside it, two would write into one run; also where `ps` shows as much as a narrow terminal holds."""
    monkeypatch.setenv("COLUMNS", "20")
    (machines / "box").mkdir()
    home, there = project / "runs/two", machines / "box/afina-launch/two"

    def kill() -> None:
        os.kill(int((there / "job.pid").read_text()), signal.SIGKILL)
        time.sleep(0.5)  # looks enough to begin another one beside it
        (machines / "hold").unlink()

    killer = when(lambda: len(steps(home)) == 6, kill)
    found, said = start("ssh:box", python=str(STANDS_FOR / "python_there"))
    killer.join()
    assert found.code == 5 and steps(home) == [*range(12)]
    log = (project / "runs/_launch/two/log").read_text()
    begun = [int(line.split()[3]) for line in log.splitlines() if line.startswith("begins at step")]
    assert begun == [0, 12] and sum("begun again" in line for line in said) == 1


def following(project: Path) -> tuple[Follower, list[str]]:
    """Who follows a job on the machine `box`, and what is said by it."""
    said: list[str] = []
    state = LaunchState(project / "runs/_launch/two/state.json", "ssh:box", "afina-launch/two")
    engine = SshEngine(Remote("box"), "afina-launch/two")
    nothing: Any = lambda *_: None  # noqa: E731
    run = project / "runs/two"
    return Follower(engine, run, "name: two\n", state, nothing, nothing, said.append, None, every=0.01), said


@needs_rsync
def test_what_an_earlier_recipe_made_is_kept_and_out_of_the_way_at_home(project: Path, machines: Path) -> None:
    """It was moved to `replaced/` over there. Here it would be taken for the new recipe's result."""
    home, there = project / "runs/two", machines / "box/afina-launch/two/runs/two"
    for folder, files in {
        home: ("adapter/a", "model/m", "checkpoints/step-1/x", "replaced/1-train/y", "export/big.gguf", ".lock"),
        there: ("adapter/b", "checkpoints/step-2/x", "replaced/2-train/adapter/a", "replaced/2-train/model/m"),
    }.items():
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(Path(name).name)
    (there / "recipe.yaml").write_text("name: two\nroot: files/data\n")
    follower, said = following(project)
    assert follower._home() and not said
    left = {file.relative_to(home).as_posix() for file in home.rglob("*") if file.is_file()}
    assert left == {
        "adapter/b", "checkpoints/step-2/x", "export/big.gguf", ".lock", "recipe.yaml",
        "replaced/1-train/y", "replaced/2-train/adapter/a", "replaced/2-train/model/m",
    }  # fmt: skip
    assert not (home / "model").exists() and (home / "recipe.yaml").read_text() == "name: two\n"


@needs_rsync
def test_a_look_is_two_connections_where_no_checkpoint_is_new(
    project: Path, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was nine, each with a handshake: of a machine that bears few, the look itself was refused."""
    counts = machines / "counts"
    counts.write_text(f'#!/bin/sh\necho >> {machines}/connections\nexec {STANDS_FOR}/ssh "$@"\n')
    counts.chmod(0o755)
    monkeypatch.setenv("AFINA_SSH", str(counts))
    home, there = project / "runs/two", machines / "box/afina-launch/two/runs/two"

    def writes(**files: str) -> None:
        for name, text in files.items():
            file = there / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def looked(meanwhile: Callable[[], None] = lambda: None) -> int:
        (machines / "connections").write_text("")
        seen = follower._see()
        meanwhile()
        follower._copy_meanwhile(seen)
        assert not said
        return len((machines / "connections").read_text())

    follower, said = following(project)
    writes(checkpoints__one="1", replaced__0__old="0", metrics="1")
    (there.parent.parent / "job.log").write_text("it says so\n")
    assert looked() == 4, "one that asks; what was set aside, the checkpoints, the rest"
    assert follower.log.read_text() == "it says so\n" and (home / "replaced/0/old").exists()
    writes(metrics="1 2")
    assert looked() == 2 and (home / "metrics").read_text() == "1 2"
    writes(checkpoints__two="2", metrics="1 2 3")
    (there / "checkpoints/one").unlink()
    assert looked() == 3
    assert [file.name for file in (home / "checkpoints").iterdir()] == ["two"]
    written = (there / "checkpoints/two").stat()
    (there / "checkpoints/other").write_text("3")
    os.utime(there / "checkpoints/other", ns=(written.st_atime_ns, written.st_mtime_ns))
    (there / "checkpoints/other").replace(there / "checkpoints/two")
    assert looked() == 3, "another one of the same name, size and time is seen"
    assert looked(lambda: writes(checkpoints__three="3", metrics="1 2 3 4")) == 2
    assert not (home / "checkpoints/three").exists(), "no checkpoint without the log that tells of it"
    assert (home / "metrics").read_text() == "1 2 3 4"
    assert follower._home(), "byte by byte, whatever was here before"
    assert (home / "checkpoints/two").read_text() == (home / "checkpoints/three").read_text() == "3"


@needs_rsync
def test_what_only_has_the_size_of_what_was_set_aside_stays(project: Path, machines: Path) -> None:
    """Two adapters of one shape have one size: the one that had not come was removed here, and was nowhere then."""
    home, there = project / "runs/two", machines / "box/afina-launch/two/runs/two"
    for file, text in {
        home / "adapter/a": "1234", home / "adapter/b": "same",
        there / "replaced/2-train/adapter/a": "5678", there / "replaced/2-train/adapter/b": "same",
    }.items():  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, (1, 1))
    follower, said = following(project)
    assert follower._home()
    assert (home / "adapter/a").read_text() == "1234" and not (home / "adapter/b").exists()
    assert (home / "replaced/2-train/adapter/a").read_text() == "5678"
    (line,) = said
    assert "adapter/a" in line and "adapter/b" not in line and "left as they are" in line


@needs_rsync
def test_what_is_under_way_comes_home_when_its_documents_are_gone_from_here(project: Path, machines: Path) -> None:
    home = project / "runs/two"
    stopper = when(lambda: len(steps(home)) == 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        start("runpod", confirm=lambda _: False)
    stopper.join()
    (machines / "hold").unlink()
    shutil.move(project / "data/docs", project / "elsewhere")
    (project / "data/docs").mkdir()
    found, said = start("runpod", "launch.secrets=[NOT_SET_HERE]")
    assert found.code == 5 and steps(home) == [*range(12)] and not (machines / "afina-two").exists()
    assert sum("what is under way is followed" in line for line in said) == 1


@needs_rsync
def test_a_machine_of_the_same_name_that_another_launch_has_is_not_taken(project: Path, machines: Path) -> None:
    (machines / "afina-two/sky_workdir").mkdir(parents=True)
    with pytest.raises(RecipeError, match="that this launch did not begin"):
        start("runpod")
    assert (machines / "afina-two").exists() and not (machines / "asked").exists()


@needs_rsync
def test_results_of_another_computers_launch_are_not_removed(project: Path, machines: Path) -> None:
    there = machines / "box/afina-launch/two"
    (there / "runs/two").mkdir(parents=True)
    (there / "job.sh").touch()
    (there / "job.exit").write_text("0")
    with pytest.raises(RecipeError, match="nothing says that its results are home"):
        start("ssh:box", python=str(STANDS_FOR / "python_there"))
    assert (there / "runs/two").exists()
    (there / "job.home").touch()
    (machines / "hold").unlink()
    assert start("ssh:box", "launch.keep=true", python=str(STANDS_FOR / "python_there"))[0].code == 5
    assert (there / "job.home").exists(), "kept, and free for the next"


def test_what_a_login_prints_is_no_answer(project: Path, machines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A greeting taken for an answer would say that there is nothing, and what is there would be given back."""
    (machines / "box").mkdir()
    (machines / "motd").touch()
    box = Remote("box")
    assert box.do("echo yes") == "yes\n" and box.holds("-d .") and not box.holds("-d nowhere")
    assert ask_state(SshEngine(box, "afina-launch/two")).standing == "nothing"
    (machines / "only-talks").write_text("#!/bin/sh\necho 'This account is currently not available.'\n")
    (machines / "only-talks").chmod(0o755)
    monkeypatch.setenv("AFINA_SSH", str(machines / "only-talks"))
    with pytest.raises(AfinaError, match="did no command, it said: This account"):
        ask_state(SshEngine(box, "afina-launch/two"))


@needs_rsync
def test_what_a_login_prints_before_rsync_answers_is_said(
    project: Path, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rsync's own words are "protocol version mismatch", and the same command again fails again."""
    (machines / "box").mkdir()
    loud = machines / "loud"
    loud.write_text(f"#!/bin/sh\necho 'Welcome to box, last login: yesterday'\nexec {STANDS_FOR}/ssh \"$@\"\n")
    loud.chmod(0o755)
    monkeypatch.setenv("AFINA_SSH", str(loud))
    with pytest.raises(AfinaError, match="prints something where rsync is to answer") as raised:
        Remote("box").send(project / "data", "there")
    assert "~/.bashrc" in raised.value.problems[0].fix


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("ada@box: Permission denied (publickey).", "`ssh-add`"),
        ("Host key verification failed.", "shows the machine's own key"),
        ("ssh: connect to host box port 22: Connection refused", "try `ssh box true`"),
    ],
)
def test_what_ssh_would_ask_a_person_is_said(
    project: Path, machines: Path, monkeypatch: pytest.MonkeyPatch, said: str, fix: str
) -> None:
    """A key with a passphrase: `ssh box true`, which was advised, asks for it, and works."""
    refuses = machines / "refuses"
    refuses.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 255\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("AFINA_SSH", str(refuses))
    with pytest.raises(AfinaError, match="cannot be reached") as raised:
        Remote("box").do("true")
    assert fix in raised.value.problems[0].fix


@pytest.mark.parametrize("host", ["box:2222", "[::1]", "-oProxyCommand=x", "a b", "ada@", "::1"])
def test_a_host_that_ssh_and_rsync_read_differently_is_refused(host: str) -> None:
    with pytest.raises(RecipeError, match="ssh and rsync both"):
        read_where(f"ssh:{host}")


@needs_rsync
def test_a_job_that_is_refused_there_ends_with_its_exit_code_here(project: Path, machines: Path) -> None:
    (machines / "hold").unlink()
    (machines / "no-budget").touch()
    with pytest.raises(DoesNotFit, match="ended there with code 4"):
        start("runpod")
    assert not (machines / "afina-two").exists() and steps(project / "runs/two") == [*range(12)]


@needs_rsync
def test_a_job_that_fails_says_why_and_its_machine_goes(project: Path, machines: Path) -> None:
    (machines / "box").mkdir()
    (machines / "box/no-afina").write_text("#!/bin/sh\necho 'No module named afina' >&2\nexit 1\n")
    (machines / "box/no-afina").chmod(0o755)
    with pytest.raises(AfinaError, match="ended there with code 1: No module named afina"):
        start("ssh:box", python=str(machines / "box/no-afina"))


@needs_rsync
def test_serving_keeps_the_machine_and_tells_a_client(project: Path, machines: Path, monkeypatch: Any) -> None:
    with pytest.raises(RecipeError, match="AFINA_API_KEY is not set"):
        start("runpod", serve=8000)
    monkeypatch.setenv("AFINA_API_KEY", "k")
    (machines / "hold").unlink()
    found, _ = start("runpod", serve=8000)
    assert "OPENAI_BASE_URL=http://203.0.113.7:40123/v1" in found.text
    assert (machines / "afina-two").exists() and "down" not in (machines / "asked").read_text()
    assert steps(project / "runs/two") == [*range(12)]
    again, _ = start("runpod")  # as the text says
    assert again.code == 5 and not (machines / "afina-two").exists()


@pytest.mark.parametrize(
    "change", ["[", "[]", {"spent_seconds": None}, {"on": 3}, {"machine_seconds": 1e300}, {"limit_seconds": "1 h"}]
)
def test_a_damaged_note_of_a_launch_says_to_look_for_its_machine(tmp_path: Path, change: str | dict[str, Any]) -> None:
    run = tmp_path / "two"
    state = LaunchState(launched_file(run), "runpod", "job", 60.0)
    state.write()
    assert read_state(state.file) == state and read_state(launched_file(tmp_path / "other")) is None
    assert launched_on(run) == "runpod" and launched_on(tmp_path / "other") == ""
    known = json.loads(state.file.read_text())
    state.file.write_text(change if isinstance(change, str) else json.dumps(known | change))
    with pytest.raises(AfinaError, match="`sky status`"):
        read_state(state.file)
    if isinstance(change, str):  # it is not even told where the run is: nothing is written into its folder
        with pytest.raises(AfinaError, match="`sky status`"):
            launched_on(run)


def test_read_where() -> None:
    assert read_where("ssh:ada@box").host == "ada@box" and read_where("vast").provider is providers()["vast"]


ZIG = ROOT / "recipes/zig-0.14.yaml"


@pytest.mark.parametrize("on", ["runpod", "vast", "slurm", "ssh:gpu-box"])
def test_the_zig_recipe_may_be_launched_anywhere(on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_SKY", "")
    monkeypatch.setenv("PATH", os.environ["PATH"].replace("venv-sky", "nowhere"))
    try:
        load_recipe(ZIG)
    except AfinaError as error:
        pytest.skip(f"the recipe's documents are not here: {error.problems[0].what}")
    shown = call_afina("launch", ZIG, "--on", on, "--dry-run", "--runs", tmp_path / "runs")
    words = {"slurm": "#SBATCH --requeue", "ssh:gpu-box": "rsync -a"}
    assert words.get(on, "accelerators:") in shown.stdout
