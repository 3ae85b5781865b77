"""``afina launch``: what would leave and cost is told, asked about once, and done; see :mod:`afina.launch.follow`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from afina.errors import DoesNotFit, Problem, RecipeError
from afina.launch import scripts, slurm
from afina.launch.engine import LaunchEngine, add_run, ask_state
from afina.launch.follow import Follower, LaunchState, read_state
from afina.launch.offers import HOUR, Offer, choose_offer, describe_offers, find_offers, plans_of
from afina.launch.parcel import Parcel, fingerprint, pack
from afina.launch.providers import Ability, Provider, Where, check_able, read_where
from afina.launch.remote import Remote, Unreachable
from afina.launch.sky_engine import VERSION, SkyEngine, check_credentials, find_sky, task_of, task_text
from afina.launch.ssh_engine import SshEngine, job_folder
from afina.recipe import Recipe, load_recipe
from afina.run import Run, remove, write_whole
from afina.units import show_bytes, show_money, show_seconds

WARN_SECONDS = 120
"""So long before Slurm's time limit a job is told to write its checkpoint."""
KEY = "AFINA_API_KEY"
"""What clients of a server that everybody can reach have to give."""
Confirm = Callable[[str], bool]


@dataclass(frozen=True)
class LaunchAsked:
    """The command line of ``afina launch``."""

    recipe: Path
    overrides: Sequence[str]
    on: str
    runs: Path
    dry_run: bool = False
    yes: bool = False
    device: str | None = None
    spot: bool = False
    python: str | None = None
    folder: str | None = None
    send_private: bool = False
    keep: bool = False
    secrets: Sequence[str] = ()
    sbatch: Sequence[str] = ()
    every: float = 15.0
    retries: int = 5
    serve: int | None = None
    """Port on which what was trained is served afterwards, over there."""


@dataclass
class Launched:
    """For machines and for people; the exit code of the run, 0 or 5."""

    values: dict[str, Any]
    text: str
    code: int = 0


@dataclass
class _Job:
    """A launch on a machine, before it begins."""

    asked: LaunchAsked
    recipe: Recipe
    target: Where
    parcel: Parcel
    say: Callable[[str], None]
    confirm: Confirm | None
    offers: list[Offer] = field(default_factory=list)
    offer: Offer | None = None

    @property
    def run(self) -> Path:
        return self.asked.runs / self.recipe.name

    @property
    def staged(self) -> Path:
        """Where the copies to send are put together."""
        return (self.asked.runs / "_launch" / self.recipe.name).resolve()

    @property
    def cluster(self) -> str:
        """As SkyPilot may call a machine."""
        return "afina-" + "".join(letter if letter.isalnum() else "-" for letter in self.recipe.name.lower())[:40]

    @property
    def limit_seconds(self) -> float | None:
        """For how long a rented machine may be had: the plan's high end and the set-up; the budget where it is less."""
        if self.offer is None:
            return None
        budget, price = self.recipe.budget, self.offer.price_per_hour
        bounds = [self.offer.most_seconds]
        bounds += [budget.hours * HOUR + self.offer.setup_seconds] if budget.hours else []
        bounds += [budget.money / price * HOUR] if budget.money and price else []
        return min(bounds)


def launch(
    asked: LaunchAsked, say: Callable[[str], None], confirm: Confirm | None, look: Callable[[Path], None]
) -> Launched:
    """Do what the command line says.

    Args:
        say: a remark for the person.
        confirm: asks the person at the terminal; None where nobody is there.
        look: shows a run's folder, as ``afina watch --once`` does.

    Raises:
        RecipeError: the recipe, the target, an option, a private source, a missing program or credentials, or nobody
            is there to ask.
        DoesNotFit: no device fits, the budget does not allow it, or the person said no.
        AfinaError: the job failed over there, or its machines were lost.
    """
    recipe, target = load_recipe(asked.recipe, asked.overrides), read_where(asked.on)
    _check_options(asked, target, recipe)
    if target.kind == "slurm":
        return _on_slurm(asked, recipe, say, confirm, look)
    own_python, run = asked.python is not None, asked.runs / recipe.name
    secrets = [*asked.secrets, *([KEY] if asked.serve and target.kind == "sky" else [])]
    parcel = pack(recipe, run, send_private=asked.send_private, own_python=own_python, secrets=secrets)
    job = _Job(asked, recipe, target, parcel, say, confirm)
    if target.provider is not None:
        _add_offers(job, target.provider)
    if asked.dry_run:
        return _shown(job)
    file = asked.runs / "_launch" / f"{recipe.name}.json"
    known = read_state(file)
    if known and known.on != asked.on:
        raise RecipeError(
            f"a launch of {recipe.name} on {known.on} is not home yet",
            f"bring it home first: --on {known.on}",
            str(file),
        )
    engine = _engine(job)
    if known is not None and isinstance(engine, SshEngine):
        engine.folder = known.folder
    begins = known is None or _nothing_there(engine)
    if begins:
        _ask(job)
    if known is None:
        engine.make_room()
    if known is None or begins:  # asked anew, and so is the money
        known = LaunchState(file, asked.on, engine.folder, job.limit_seconds)
    return _followed(job, engine, known, look, begins)


def _nothing_there(engine: LaunchEngine) -> bool:
    """Whether a launch that was begun has left no job, or its machine is gone."""
    try:
        return ask_state(engine).standing == "nothing"
    except Unreachable:
        if engine.gone():
            return True
        raise


def _check_options(asked: LaunchAsked, target: Where, recipe: Recipe) -> None:
    """Refuse options that mean nothing there, and recipes that would not use the machine."""
    kinds = {
        "--spot": (asked.spot, ("sky",)),
        "--python": (asked.python, ("ssh", "slurm")),
        "--dir": (asked.folder, ("ssh",)),
        "--keep": (asked.keep, ("ssh",)),
        "--sbatch": (asked.sbatch, ("slurm",)),
        "--serve": (asked.serve, ("sky", "ssh")),
    }
    problems = [
        Problem(f"means nothing on {asked.on}", "leave it out", option)
        for option, (given, kind) in kinds.items()
        if given and target.kind not in kind
    ]
    if target.kind == "sky" and recipe.device in ("cpu", "mps"):
        problems.append(
            Problem(f"a rented GPU would not be used: `device` is {recipe.device}", "device=auto", "device")
        )
    if target.kind == "sky" and recipe.backend == "mlx":
        problems.append(Problem("MLX computes on Apple chips", "backend=auto", "backend"))
    if problems:
        raise RecipeError(problems=problems)
    if target.provider is not None:
        wanted: dict[Ability, str] = {"spot": "--spot"} if asked.spot else {}
        check_able(target.provider, wanted | ({"ports": "--serve"} if asked.serve else {}))


def _add_offers(job: _Job, provider: Provider) -> None:
    from afina.plan.device import find_device

    named = [find_device(job.asked.device).name] if job.asked.device else []
    job.offers = find_offers(job.recipe, provider, job.asked.runs, sent_bytes=job.parcel.size, devices=named)
    if named and job.offers[0].fits == "no":
        raise DoesNotFit(f"the job does not fit the {named[0]}", "leave --device out", "--device")
    job.offer = choose_offer(job.offers, provider)
    budget, least = job.recipe.budget, job.offer.total("low") or 0.0
    if budget.money is not None and least > budget.money and not budget.anyway:
        raise DoesNotFit(
            f"costs at least {show_money(least, job.offer.currency)} with its set-up, more than `budget.money` allows",
            "a higher budget.money, or a shorter job: `afina plan RECIPE`",
            "budget.money",
        )
    priced = {"price_per_hour": job.offer.price_per_hour, "currency": job.offer.currency}
    over_there = job.parcel.recipe.model_copy(update={"budget": budget.model_copy(update=priced)})
    job.parcel = replace(job.parcel, recipe=over_there)


def _engine(job: _Job) -> LaunchEngine:
    if job.target.kind == "ssh":
        return SshEngine(Remote(job.target.host), job_folder(job.recipe.name, job.asked.folder), job.asked.keep)
    assert job.target.provider is not None
    sky = find_sky(job.target.provider.name)
    check_credentials(sky, job.target.provider)
    return SkyEngine(sky, job.cluster, job.staged.with_name(f"{job.recipe.name}.task.yaml"))


def _ask(job: _Job) -> None:
    """Show what leaves and what it costs, and ask once.

    Raises:
        RecipeError: nobody is there to be asked.
        DoesNotFit: the person said no.
    """
    job.say(_preview(job))
    ask_once(job.asked, _question(job), job.confirm)


def ask_once(asked: LaunchAsked, question: str, confirm: Confirm | None) -> None:
    """
    Raises:
        RecipeError: nobody is there to be asked.
        DoesNotFit: the person said no.
    """
    if asked.yes:
        return
    if confirm is None:
        raise RecipeError("nobody is there to be asked", "--yes says yes to what is shown", f"--on {asked.on}")
    if not confirm(question):
        raise DoesNotFit("not started, as you said", "the same command asks again; --yes does not ask")


def _question(job: _Job) -> str:
    sent = f"send {show_bytes(job.parcel.size)} to {job.target.host or job.asked.on}"
    if job.offer is None:
        return f"{sent[0].upper()}{sent[1:]} and train there?"
    most, price = job.limit_seconds or 0.0, job.offer.price_per_hour or 0.0
    cost = show_money(job.offer.total() or 0.0, job.offer.currency)
    highest = show_money(most / HOUR * price, job.offer.currency)
    serving = f", then {show_money(price, job.offer.currency)} an hour while it serves" if job.asked.serve else ""
    return f"Rent {job.offer.device} for {cost}, {highest} at most ({show_seconds(most)}){serving}, and {sent}?"


def _preview(job: _Job) -> str:
    provider = job.target.provider
    table = [describe_offers(job.offers, job.offer, provider)] if provider else []
    if provider is None and job.asked.device:
        (plan,) = plans_of(job.recipe, [job.asked.device], job.asked.runs)
        table = [f"{job.asked.device}: fits {plan['fits']}, {show_seconds(plan['time']['point'])}"]
    return "\n\n".join([job.parcel.describe(), *table])


def _scripts(job: _Job, seconds: float | None) -> dict[str, str]:
    """The scripts of the parcel, for the time that is left."""
    host = "0.0.0.0" if job.target.kind == "sky" else "127.0.0.1"
    words = ["serve", f"runs/{job.recipe.name}", "--host", host, "--port", str(job.asked.serve)]
    serve = words if job.asked.serve else []
    if job.asked.python is not None:
        return {"job.sh": scripts.job_script(job.asked.python, seconds, serve=serve)}
    extras = {
        "qlora": job.recipe.adapter.kind == "qlora" or job.recipe.train.optimizer.endswith("8bit"),
        "hub": any(source.path.startswith("hf://") for source in job.recipe.sources),
        "datatrove": job.recipe.dataset.engine == "datatrove",
        "serve": job.asked.serve is not None,
    }
    wanted = [extra for extra, is_wanted in extras.items() if is_wanted]
    name = _environment_of(job)
    return {
        "setup.sh": scripts.setup_script(job.parcel.wheel, job.parcel.packages, wanted, name),
        "job.sh": scripts.job_script(f"../{name}/bin/python", seconds, setup=True, serve=serve),
    }


def _environment_of(job: _Job) -> str:
    return f"afina-env-{fingerprint(job.parcel)}"


def _followed(
    job: _Job, engine: LaunchEngine, state: LaunchState, look: Callable[[Path], None], begins: bool
) -> Launched:
    with Run.open(job.run, job.recipe, job.say):
        follower = Follower(
            engine,
            job.run,
            state,
            partial(_begin, job, engine, state),
            partial(look, job.run),
            job.say,
            job.confirm,
            every=job.asked.every,
            retries=job.asked.retries,
            serves=job.asked.serve is not None,
        )
        code = follower.follow(begins=begins)
        # Root and base as they are here: what came home names those over there.
        write_whole(job.run / "recipe.yaml", job.recipe.to_yaml())
    remove(job.staged)
    cost = state.had_seconds / HOUR * (job.offer.price_per_hour or 0.0) if job.offer else None
    spent = f", {show_money(cost, job.offer.currency)}" if cost is not None and job.offer else ""
    text = f"{job.run}: home after {show_seconds(state.had_seconds)}{spent}"
    values = {"run": str(job.run), "code": code, "seconds": state.had_seconds, "money": cost}
    if job.asked.serve is not None:
        values["client"] = _client_settings(job, engine, job.asked.serve)
        text += f"\n\n{values['client']}"
    return Launched(values, text, code)


def _client_settings(job: _Job, engine: LaunchEngine, port: int) -> str:
    """What a client has to be told, as ``afina serve --config`` says it over there, with the address from here."""
    python = job.asked.python or f"../{_environment_of(job)}/bin/python"
    words = ["-m", "afina", "serve", f"runs/{job.recipe.name}", "--port", str(port), "--config", "openai"]
    begin = f"cd {shlex.quote(engine.folder)} && {scripts.python_line(python)}"
    printed = engine.remote.do(f'{begin} && "$python" {shlex.join(words)} 2>/dev/null')
    address, first = engine.address(port)
    host, folder = engine.remote.host, engine.folder
    lines = [printed.replace(f"http://127.0.0.1:{port}", address).strip()]
    lines += [f"# first, in another terminal: {first}"] if first else []
    lines += [f"# it answers once it is loaded; what it says: ssh {host} tail -f {folder}/job.log"]
    lines += [f"# to end it: afina launch {job.asked.recipe} --on {job.asked.on}"]
    return "\n".join(lines)


def _begin(job: _Job, engine: LaunchEngine, state: LaunchState) -> None:
    """Put the parcel together as things are now, and start. It is noted first: this process may die meanwhile."""
    parcel = replace(job.parcel, scripts=_scripts(job, state.left_seconds))
    add_run(parcel, job.run, job.staged)
    if isinstance(engine, SkyEngine):
        write_whole(engine.task, task_text(_task(job)))
    state.write()
    engine.start(job.staged, tuple(parcel.secrets))


def _task(job: _Job) -> dict[str, Any]:
    assert job.target.provider is not None and job.offer is not None
    return task_of(
        job.cluster,
        job.target.provider,
        job.offer,
        job.staged,
        sent_bytes=job.parcel.size,
        secrets=job.parcel.secrets,
        spot=job.asked.spot,
        port=job.asked.serve,
    )


def _shown(job: _Job) -> Launched:
    """What would be done, and the engine's own word on it."""
    values: dict[str, Any] = {
        "on": job.asked.on,
        "leaves": [item.as_json() for item in job.parcel.items],
        "secrets": list(job.parcel.secrets),
        "offers": [offer.as_json() for offer in job.offers],
        "chosen": job.offer.device if job.offer else None,
    }
    made = _scripts(job, job.limit_seconds)
    values["scripts"] = made
    if job.offer is None:
        folder = job_folder(job.recipe.name, job.asked.folder)
        steps = f"rsync -a {job.staged}/ {job.target.host}:{folder}/\nssh {job.target.host} 'cd {folder} && sh job.sh'"
        return Launched(values, f"{_preview(job)}\n\n{steps}\n\n# job.sh\n{made['job.sh']}")
    text = task_text(_task(job))
    values["task"], values["validated"] = text, _validated(job, text)
    return Launched(values, f"{_preview(job)}\n\n{text}\n# {values['validated']}")


def _validated(job: _Job, text: str) -> str:
    """What SkyPilot's own loader says of the task, where it is here."""
    assert job.target.provider is not None
    try:
        sky = find_sky(job.target.provider.name)
    except RecipeError:
        return f"not validated: SkyPilot {VERSION} is not here"
    file = job.staged.with_name(f"{job.recipe.name}.task.yaml")
    job.staged.mkdir(parents=True, exist_ok=True)  # SkyPilot wants the workdir to be there
    try:
        write_whole(file, text)
        answer = sky.ask("validate", str(file))
    finally:
        file.unlink(missing_ok=True)
        job.staged.rmdir()
    if not answer["ok"]:
        what = f"SkyPilot refuses the task: {answer['said']}"
        raise RecipeError(what, "this is a defect of afina; please report it", "task")
    return f"valid by SkyPilot's own loader: {answer['said']}"


def _on_slurm(
    asked: LaunchAsked,
    recipe: Recipe,
    say: Callable[[str], None],
    confirm: Confirm | None,
    look: Callable[[Path], None],
) -> Launched:
    run, launches = (asked.runs / recipe.name).resolve(), (asked.runs / "_launch").resolve()
    python = asked.python or sys.executable
    words = [python, "-m", "afina", "run", str(asked.recipe.resolve()), *asked.overrides]
    plans = plans_of(recipe, [asked.device], asked.runs) if asked.device else []
    seconds = [plan["time"]["high"] for plan in plans]
    seconds += [recipe.budget.hours * HOUR] if recipe.budget.hours else []
    text = scripts.batch_file(
        name=f"afina-{recipe.name}",
        command=[*words, "--runs", str(run.parent), "--yes"],
        folder=str(Path.cwd()),
        log=str(launches / f"{recipe.name}.log"),
        stop=str(launches / f"{recipe.name}.stop"),
        gpus=0 if recipe.device == "cpu" else 1,
        seconds=min(seconds) if seconds else None,
        warn_seconds=WARN_SECONDS,
        retries=asked.retries,
        options=asked.sbatch,
    )
    leaves = "nothing leaves: the run's folder and the files stay on the disk that the cluster shares"
    told = "\n".join(f"{asked.device}: fits {plan['fits']}, {show_seconds(plan['time']['point'])}" for plan in plans)
    values: dict[str, Any] = {"on": "slurm", "batch": text, "plans": plans, "leaves": []}
    if any(plan["fits"] == "no" for plan in plans):
        raise DoesNotFit(f"the job does not fit the {asked.device}", "name another --device", "--device")
    if asked.dry_run:
        return Launched(values, "\n\n".join(filter(None, [leaves, told, text])))
    say("\n".join(filter(None, [leaves, told])))
    ask_once(asked, f"Submit {recipe.name} to Slurm?", confirm)
    (launches / f"{recipe.name}.stop").unlink(missing_ok=True)
    job = slurm.submit(launches / f"{recipe.name}.sbatch", text, launches / f"{recipe.name}.stop")
    say(f"submitted: job {job.number}; `squeue -j {job.number}`")
    code = slurm.follow_job(job, partial(look, run), say, confirm, asked.every)
    return Launched({"run": str(run), "job": job.number, "code": code}, f"{run}: done by job {job.number}", code)
