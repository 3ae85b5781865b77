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
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from called import call_afina
from ruamel.yaml import YAML

from afina.dataset.build.build import dataset_inputs
from afina.errors import AfinaError, DoesNotFit, RecipeError
from afina.launch.launch import LaunchAsked, launch
from afina.launch.own_wheel import own_wheel
from afina.launch.parcel import PATH_KEYS, pack
from afina.launch.providers import providers, read_where
from afina.launch.sky_engine import find_sky
from afina.recipe import load_recipe
from afina.recipe.keys import every_key

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
    return LaunchAsked(Path("recipe.yaml"), overrides, on, Path("runs"), **({"yes": True, "every": 0.1} | options))


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


def test_what_surely_fits_stands_before_what_costs_less(project: Path) -> None:
    found, _ = start("runpod", "train.max_length=4096", "train.batch_tokens=16384", dry_run=True)
    fits = [offer["fits"] for offer in found.values["offers"]]
    assert fits == sorted(fits, key=["yes", "maybe", "no"].index) and {"yes", "no"} <= {*fits}
    cheapest = min((each for each in found.values["offers"] if each["total"]), key=lambda each: each["total"])
    assert cheapest["fits"] == "no" and found.values["chosen"] != cheapest["device"]


def test_what_leaves_is_listed_and_is_all_that_leaves(project: Path, tmp_path: Path) -> None:
    recipe = load_recipe("recipe.yaml")
    parcel = pack(recipe, Path("runs/two"), send_private=False, own_python=True)
    staged = tmp_path / "runs/_launch/two"
    parcel.write(staged)
    sent = {file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()}
    assert sent == {"recipe.yaml", "files/asked.jsonl", *(f"files/data/docs/{number}.md" for number in range(4))}
    assert sum(item.files for item in parcel.items) == len(sent) - 1
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
    assert {item.what: item.files for item in parcel.items} == {"data": 1, "base": 1, "run so far": 1}
    parcel.write(tmp_path / "runs/_launch/two")
    there = load_recipe(tmp_path / "runs/_launch/two/recipe.yaml")
    assert there.base and (Path(there.base) / "config.json").is_file()
    assert Path(there.base).is_relative_to(tmp_path)


def test_every_key_that_names_files_is_sent() -> None:
    """A new key whose value is a path has to be sent too: whoever adds one meets this list."""
    keys = [key for key in every_key() if key.part is None]
    texts = {key.path for key in keys if "string" in json.dumps(key.schema.get("anyOf", key.schema))}
    paths = {path for path in texts if path.endswith((".path", ".solutions", ".template", ".prompts", ".strings"))}
    assert paths == {*PATH_KEYS}
    others = {path for path in texts if "file" in next(key.help.lower() for key in keys if key.path == path)}
    names_no_place = {"sources[].kind", "sources[].stem", "sources[].encoding", "sources[].exclude", "sources[].splits"}
    names_no_place |= {"name", "root", "dataset.split_by", "dataset.check_code", "dataset.on_unreadable"}
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
        start("runpod", dry_run=True, secrets=["A_SECRET"])
    monkeypatch.setenv("A_SECRET", "hunter2")
    monkeypatch.setenv("HF_TOKEN", "hunter3")
    found, _ = start("runpod", dry_run=True, secrets=["A_SECRET"])
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
    assert not Path("runs/_launch/two.json").exists()


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
        ("lambda", (), {"spot": True}, "Lambda cannot do this: spot"),
        ("ssh:box", (), {"spot": True}, "means nothing on ssh:box"),
        ("runpod", (), {"python": "python3", "keep": True}, "means nothing on runpod"),
        ("slurm", (), {"serve": 8000}, "means nothing on slurm"),
        ("runpod", ("device=cpu",), {}, "a rented GPU would not be used"),
        ("runpot", (), {}, "is nowhere to launch on"),
        ("ssh:", (), {}, "is nowhere to launch on"),
        ("ssh:-oProxyCommand=x", (), {}, "is nowhere to launch on"),
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


def task(on: str, **options: Any) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(start(on, dry_run=True, **options)[0].values["task"]))


@pytest.mark.parametrize("on", ["gcp", "vast"])
def test_tasks_are_what_skypilots_recorded_schema_takes(project: Path, on: str) -> None:
    """The record is of SkyPilot 0.14.1; `tests/launching/record_schema.py` makes it anew."""
    schema = json.loads((STANDS_FOR / "task_schema.json").read_text())
    jsonschema.validate(task(on), schema["schema"])
    wrong = task(on)
    wrong["resources"]["use_spots"] = wrong["resources"].pop("use_spot")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema["schema"])


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
    for on in ("runpod", "vast"):
        found, _ = start(on, dry_run=True, spot=True, secrets=["A_SECRET"])
        assert "valid by SkyPilot's own loader" in found.text
        assert on.lower() in found.values["validated"].lower() and "[spot]" in found.values["validated"].lower()
    assert not list(Path("runs/_launch").glob("*.yaml"))
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
    assert f"-m afina run {project / 'recipe.yaml'} train.epochs=2" in text
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
    """Do something as soon as something holds, beside the test."""

    def wait() -> None:
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.02)
        do()

    thread = threading.Thread(target=wait)
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
        (machines / "hold").unlink()
        kill_job(there)

    killer = when(lambda: len(steps(home)) == 6, kill)
    found, said = start("ssh:box", python=str(STANDS_FOR / "python_there"), secrets=["A_SECRET"])
    killer.join()
    assert found.code == 5, "the verdict's exit code is the launch's"
    assert steps(home) == [*range(12)], "no step twice, none left out"
    assert sum("begun again (1 of 5)" in line for line in said) == 1
    log = (project / "runs/_launch/two.log").read_text()
    assert "begins at step 0 with hunter2" in log and log.count("begins at step") == 2
    assert load_recipe(home / "recipe.yaml").root == str(project / "data"), "places are those of here again"
    assert not there.exists(), "what was sent is removed there"
    assert not (project / "runs/_launch/two.json").exists() and not (project / "runs/_launch/two").exists()


@needs_rsync
def test_a_machine_that_is_taken_back_is_followed_by_another(project: Path, machines: Path) -> None:
    home, rented = project / "runs/two", machines / "afina-two"

    def take_back() -> None:
        rented.rename(machines / "taken")
        (machines / "hold").unlink()
        kill_job(machines / "taken/sky_workdir")

    taker = when(lambda: len(steps(home)) == 6, take_back)
    found, said = start("runpod", spot=True)
    taker.join()
    assert found.code == 5 and steps(home) == [*range(12)]
    log = [line.split()[0] for line in (machines / "asked").read_text().splitlines()]
    assert log == ["launch", "launch", "down", "at"], "all was home when it was given back"
    assert any("gone" in line for line in said) and found.values["money"] > 0
    assert "begins at step 0" not in (project / "runs/_launch/two.log").read_text(), "the second machine went on"
    assert not rented.exists()


@needs_rsync
def test_a_job_whose_time_is_up_comes_home_with_its_checkpoint(project: Path, machines: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("afina.launch.launch._Job.limit_seconds", 4.0)
    with pytest.raises(AfinaError, match="its checkpoint is home"):
        start("runpod")
    done = steps(project / "runs/two")
    assert done == [*range(6)]
    (machines / "hold").unlink()
    assert (machines / "asked").read_text().splitlines()[-1].startswith("down")
    monkeypatch.setattr("afina.launch.launch._Job.limit_seconds", 60.0)
    assert start("runpod")[0].code == 5 and steps(project / "runs/two") == [*range(12)]


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
        assert not (project / "runs/_launch/two.json").exists()
        return
    assert (machines / "box/afina-launch/two/job.pid").exists()
    with pytest.raises(RecipeError, match="is not home yet"):
        start("runpod")
    questions: list[str] = []
    found, _ = start(on, yes=False, confirm=lambda question: bool(questions.append(question)), **options)
    assert found.code == 5 and steps(home) == [*range(12)] and not questions, "it had been asked before"
    assert (project / "runs/_launch/two.log").read_text().count("begins at step") == 1


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
