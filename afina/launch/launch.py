"""``afina launch``: what would leave and cost is told, asked about once, and done; see :mod:`afina.launch.follow`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, DoesNotFit, Problem, RecipeError
from afina.launch import scripts, slurm
from afina.launch.engine import LaunchEngine, add_run, ask_state
from afina.launch.follow import Follower, LaunchState, read_state
from afina.launch.offers import HOUR, Offer, choose_offer, describe_offers, find_offers, fits_one, plans_of
from afina.launch.parcel import Parcel, fingerprint, needed_secrets, pack
from afina.launch.providers import Ability, Where, check_able, read_where
from afina.launch.remote import Remote, Unreachable
from afina.launch.sky_engine import VERSION, SkyEngine, check_credentials, find_sky, task_of, task_text
from afina.launch.ssh_engine import SshEngine, job_folder
from afina.plan.device import Device, find_device
from afina.recipe import Recipe, load_recipe
from afina.run import Run, hash_value, launched_file
from afina.units import show_bytes, show_money, show_seconds
from afina.walk.plan_answers import check_rows, suited
from afina.whole import remove, write_whole

WARN_SECONDS = 120
"""So long before Slurm's time limit a job is told to write its checkpoint."""
KEY = "AFINA_API_KEY"
"""What clients of a server that everybody can reach have to give."""
Confirm = Callable[[str], bool]


@dataclass(frozen=True)
class LaunchAsked:
    """The command line of ``afina launch``; what belongs to the job stands in the recipe's `launch`."""

    recipe: Path
    overrides: Sequence[str]
    on: str
    runs: Path
    dry_run: bool = False
    yes: bool = False
    device: str | None = None
    python: str | None = None
    send_private: bool = False
    sbatch: Sequence[str] = ()
    serve: int | None = None
    """Port on which what was trained is served afterwards, over there."""


@dataclass
class Launched:
    """For machines and for people; the exit code of the run, 0 or 5."""

    values: dict[str, Any]
    text: str
    code: int = 0


def place_of(runs: Path, name: str) -> Path:
    """What is kept of a run's launch while it is under way, and its last log."""
    return launched_file(runs / name).parent.resolve()


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
    layout: scripts.RankLayout = scripts.ALONE
    unprepared: AfinaError | None = None
    """Why it could not be begun."""

    @property
    def run(self) -> Path:
        return self.asked.runs / self.recipe.name

    @property
    def place(self) -> Path:
        return place_of(self.asked.runs, self.recipe.name)

    @property
    def staged(self) -> Path:
        """Where the copies to send are put together."""
        return self.place / "parcel"

    @property
    def cluster(self) -> str:
        """As SkyPilot may call a machine; names that differ in letters that it does not take differ here too."""
        name = self.recipe.name
        plain = "".join(letter if letter.isalnum() else "-" for letter in name.lower())[:40].rstrip("-")
        return f"afina-{plain}" + (f"-{hash_value(name)[:6]}" if plain != name else "")

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
        DataError: rows that the training will refuse are known.
        RecipeError: the recipe, the target, an option, a private source, a missing program or credentials, or nobody
            is there to ask.
        DoesNotFit: no device fits, the budget does not allow it, or the person said no.
        AfinaError: the job failed over there, or its machines were lost.
    """
    recipe, target = _read(asked), read_where(asked.on)
    _check_options(asked, target, recipe)
    if target.kind == "slurm":
        return _on_slurm(asked, recipe, say, confirm, look)
    job = _Job(asked, recipe, target, Parcel(recipe, {}, ()), say, confirm)
    file = job.place / "state.json"
    known = None if asked.dry_run else read_state(file)
    if known and known.on != asked.on:
        raise RecipeError(
            f"a launch of {recipe.name} on {known.on} is not home yet",
            f"bring it home first: --on {known.on}",
            str(file),
        )
    _prepare(job, under_way=known is not None)
    if asked.dry_run:
        return _shown(job)
    engine = _engine(job)
    engine.remote.check_programs()
    if known is not None and isinstance(engine, SshEngine):
        engine.folder = known.folder
    begins = known is None or _nothing_there(engine)
    if begins:
        _check_prepared(job)
        _ask(job)
    with Run.open(job.run, job.recipe, say, launching=True):
        if read_state(file) != known:
            raise RecipeError("another launch of this run began meanwhile", "the same command follows it", str(file))
        if known is None:
            engine.make_room()
        if known is None or begins:  # asked anew, and so is the money
            known = LaunchState(file, asked.on, engine.folder, job.limit_seconds)
        return _followed(job, engine, known, look, begins)


def _read(asked: LaunchAsked, *settings: str, memory_bytes: int | None = None) -> Recipe:
    """The recipe with what stands behind it and further settings, for a device of so much memory."""
    return load_recipe(asked.recipe, [*asked.overrides, *settings], memory_bytes=memory_bytes)


def _prepare(job: _Job, *, under_way: bool) -> None:
    """What would be sent, and where to. What is under way comes home also where it could not be begun any more: its
    documents may be gone from here, and its machine still costs money."""
    asked, recipe = job.asked, job.recipe
    try:
        job.parcel = pack(
            recipe,
            job.run,
            send_private=asked.send_private,
            own_python=asked.python is not None,
            secrets=[KEY] if asked.serve and job.target.kind == "sky" else [],
        )
        _add_devices(job)
        check_rows(job.run, job.recipe)
    except AfinaError as error:
        if not under_way:
            raise
        job.unprepared = error
        job.say(f"{error}\nit could not be begun like this; what is under way is followed")


def _check_prepared(job: _Job) -> None:
    if job.unprepared is not None:
        raise job.unprepared


def _nothing_there(engine: LaunchEngine) -> bool:
    """Whether a launch that was begun has left no job, or its machine is gone."""
    try:
        return ask_state(engine).standing == "nothing"
    except Unreachable:
        if engine.gone():
            return True
        raise


def _check_options(asked: LaunchAsked, target: Where, recipe: Recipe) -> None:
    """Refuse options that mean nothing there, what nobody can do there, and recipes that would not use the machine."""
    wanted = recipe.launch
    if target.provider is not None:
        able: dict[Ability, str] = {"spot": "launch.spot"} if wanted.spot else {}
        able |= {"ports": "--serve"} if asked.serve else {}
        check_able(target.provider, able | ({"multi_node": "launch.nodes"} if wanted.nodes > 1 else {}))
    kinds = {
        "--python": (asked.python, ("ssh", "slurm")),
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
    if recipe.backend == "mlx" and target.kind == "sky":
        problems.append(Problem("MLX computes on Apple chips", "backend=auto", "backend"))
    if wanted.devices * wanted.nodes > 1:
        problems += _apart(recipe)
    if target.kind == "ssh" and wanted.nodes > 1:
        fix = "launch.nodes=1; several machines share a job in Slurm's queue, or rented ones with a disk of theirs"
        problems.append(Problem("ssh reaches one machine", fix, "launch.nodes"))
    if target.kind == "sky" and wanted.nodes > 1 and wanted.shared is None:
        problems.append(
            Problem(
                "machines that train together need a disk that all of them see, and rented ones have none",
                "launch.shared=/PATH on such a disk (with launch.volume=NAME SkyPilot mounts it); or launch.nodes=1 "
                "with more launch.devices",
                "launch.nodes",
            )
        )
    if problems:
        raise RecipeError(problems=problems)


def _apart(recipe: Recipe) -> list[Problem]:
    """What several processes cannot train together."""
    problems = []
    if recipe.backend == "mlx" or recipe.device == "mps":
        problems.append(Problem("an Apple chip is one device", "launch.devices=1 and launch.nodes=1", "launch.devices"))
    if recipe.reads_stream:
        problems.append(
            Problem(
                f"a recurrent model ({recipe.scratch.kind}) reads one stream in one process",
                "launch.devices=1 and launch.nodes=1",
                "launch.devices",
            )
        )
    return problems


def _add_devices(job: _Job) -> None:
    """Which devices fit, how several of them share the work, and the recipe as it suits the one that is taken.

    Raises:
        DoesNotFit: none does, or the budget does not allow the cheapest.
        RecipeError: the recipe's settings follow the memory of a device that nobody has named.
    """
    provider, wanted = job.target.provider, job.recipe.launch
    device = find_device(job.asked.device) if job.asked.device else None
    if provider is not None:
        size, only = job.parcel.size, [device.name] if device else []
        on = suited(job.recipe, lambda memory: _read(job.asked, memory_bytes=memory))
        job.offers = find_offers(job.recipe, provider, job.asked.runs, sent_bytes=size, devices=only, on=on)
        if device and job.offers[0].fits == "no":
            raise DoesNotFit(f"the job does not fit the {device.name}", "leave --device out", "--device")
        job.offer = choose_offer(job.offers, provider)
        device = find_device(job.offer.device)
    _suit(job, device)
    if provider is not None and job.offer is not None:
        _check_money(job.recipe, job.offer)
        if job.offer.parallel != "none":
            _set_train(job, {"parallel": job.offer.parallel})
        priced = {"price_per_hour": job.offer.price_per_hour, "currency": job.offer.currency}
        sent = job.parcel.recipe
        over_there = sent.model_copy(update={"budget": sent.budget.model_copy(update=priced)})
        job.parcel = replace(job.parcel, recipe=over_there)
    job.layout = layout_of(job.recipe, wanted.devices, wanted.nodes, device.name if device else None, job.asked.runs)


def layout_of(recipe: Recipe, devices: int, nodes: int, device: str | None, runs: Path) -> scripts.RankLayout:
    """How many processes train, and whether one device may hold what they have trained."""
    sharded = recipe.train.parallel == "fsdp" and device is not None and devices * nodes > 1
    return scripts.RankLayout(devices, nodes, measures=not sharded or fits_one(recipe, str(device), runs))


def _check_money(recipe: Recipe, offer: Offer) -> None:
    budget, least = recipe.budget, offer.total("low") or 0.0
    if budget.money is not None and least > budget.money and not budget.anyway:
        raise DoesNotFit(
            f"costs at least {show_money(least, offer.currency)} with its set-up, more than `budget.money` allows",
            "a higher budget.money, or a shorter job: `afina plan RECIPE`",
            "budget.money",
        )


def _suit(job: _Job, device: Device | None) -> None:
    """Train by the profile of the device over there, and not of this machine's memory.

    Raises:
        RecipeError: nobody says which device that is.
    """
    if job.recipe.train.profile is None:
        return
    if device is not None:
        _set_train(job, dict(_read(job.asked, memory_bytes=device.memory_bytes).train))
    elif len({_read(job.asked, memory_bytes=memory).train.profile for memory in (1, 2**60)}) > 1:
        raise RecipeError(
            f"`train.profile: auto` follows the memory of what trains, and nothing says what {job.target.host} has",
            f'--device names it, e.g. --device "Apple M2 16GB"; or train.profile={job.recipe.train.profile}',
            "train.profile",
        )


def _set_train(job: _Job, settings: Mapping[str, Any]) -> None:
    """The recipe trains so, here and there."""

    def with_it(recipe: Recipe) -> Recipe:
        return recipe.model_copy(update={"train": recipe.train.model_copy(update=dict(settings))})

    job.recipe, job.parcel = with_it(job.recipe), replace(job.parcel, recipe=with_it(job.parcel.recipe))


def _engine(job: _Job) -> LaunchEngine:
    wanted = job.recipe.launch
    if job.target.kind == "ssh":
        return SshEngine(Remote(job.target.host), job_folder(job.recipe.name, wanted.folder), wanted.keep)
    assert job.target.provider is not None
    sky = find_sky(job.target.provider.name)
    check_credentials(sky, job.target.provider)
    several = wanted.shared is not None and wanted.nodes > 1
    kept = f"{scripts.shared_runs(str(wanted.shared))}/{job.recipe.name}" if several else None
    return SkyEngine(sky, job.cluster, job.place / "task.yaml", kept)


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
    what = f"{job.offer.count} x {job.offer.device}" if job.offer.count > 1 else job.offer.device
    return f"Rent {what} for {cost}, {highest} at most ({show_seconds(most)}){serving}, and {sent}?"


def _preview(job: _Job) -> str:
    provider, wanted = job.target.provider, job.recipe.launch
    table = [describe_offers(job.offers, job.offer, provider, wanted.nodes)] if provider else []
    if provider is None and job.asked.device:
        (plan,) = plans_of(job.recipe, [job.asked.device], job.asked.runs)
        table = [_plan_in_words(plan)]
    if not job.layout.measures:
        table.append(
            "one of these devices cannot hold the model: it is trained there, and not measured; `afina run` measures "
            "it on a machine that holds it"
        )
    return "\n\n".join([job.parcel.describe(), *table])


def _plan_in_words(plan: Mapping[str, Any]) -> str:
    count = f"{plan['devices']} x " if plan["devices"] > 1 else ""
    shared = f", {plan['parallel']}" if plan["devices"] > 1 else ""
    return f"{count}{plan['device']['name']}{shared}: fits {plan['fits']}, {show_seconds(plan['time']['point'])}"


def _scripts(job: _Job, seconds: float | None) -> dict[str, str]:
    """The scripts of the parcel, for the time that is left."""
    host = "0.0.0.0" if job.target.kind == "sky" else "127.0.0.1"
    words = ["serve", f"runs/{job.recipe.name}", "--host", host, "--port", str(job.asked.serve)]
    made = partial(
        scripts.job_script,
        job.recipe.name,
        most_seconds=seconds,
        layout=job.layout,
        shared=job.recipe.launch.shared,
        serve=words if job.asked.serve else [],
    )
    if job.asked.python is not None:
        return {"job.sh": made(job.asked.python)}
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
        "job.sh": made(f"../{name}/bin/python", setup=True),
    }


def _environment_of(job: _Job) -> str:
    return f"afina-env-{fingerprint(job.parcel)}"


def _followed(
    job: _Job, engine: LaunchEngine, state: LaunchState, look: Callable[[Path], None], begins: bool
) -> Launched:
    wanted = job.recipe.launch
    follower = Follower(
        engine,
        job.run,
        job.recipe.to_yaml(),
        state,
        partial(_begin, job, engine, state),
        partial(look, job.run),
        job.say,
        job.confirm,
        every=wanted.look_seconds,
        retries=wanted.retries,
        serves=job.asked.serve is not None,
    )
    code = follower.follow(begins=begins)
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
    recipe = shlex.join([str(job.asked.recipe), *job.asked.overrides])
    lines += [f"# to end it: afina launch {recipe} --on {job.asked.on}"]
    return "\n".join(lines)


def _begin(job: _Job, engine: LaunchEngine, state: LaunchState) -> None:
    """Put the parcel together as things are now, and start. It is noted first: this process may die meanwhile."""
    _check_prepared(job)
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
        wanted=job.recipe.launch,
        sent_bytes=job.parcel.size,
        secrets=job.parcel.secrets,
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
        folder, host = job_folder(job.recipe.name, job.recipe.launch.folder), job.target.host
        steps = shlex.join(["rsync", "-a", f"{job.staged}/", f"{host}:{folder}/"])
        steps += f"\n{shlex.join(['ssh', host, f'cd {folder} && sh job.sh'])}"
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
    made = [each for each in (job.staged, *job.staged.parents) if not each.exists()]
    file = job.place / "task-shown.yaml"
    try:
        job.staged.mkdir(parents=True, exist_ok=True)  # SkyPilot wants the workdir to be there
        write_whole(file, text)
        answer = sky.ask("validate", str(file))
    finally:
        file.unlink(missing_ok=True)
        for each in made:  # a launch that is under way has more in them
            with contextlib.suppress(OSError):
                each.rmdir()
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
    run, place = (asked.runs / recipe.name).resolve(), place_of(asked.runs, recipe.name)
    memory = find_device(asked.device).memory_bytes if asked.device else None  # without one, the node's own decides
    recipe = _read(asked, memory_bytes=memory) if memory else recipe
    plans = plans_of(recipe, [asked.device], asked.runs) if asked.device else []
    if any(plan["fits"] == "no" for plan in plans):
        raise DoesNotFit(f"the job does not fit the {asked.device}", "name another --device", "--device")
    check_rows(run, recipe)
    needed_secrets(recipe)  # sbatch hands them over; what is not set is said now, not after hours in the queue
    text = _batch(asked, plans, run, memory)
    leaves = "nothing leaves: the run's folder and the files stay on the disk that the cluster shares"
    told = "\n".join(map(_plan_in_words, plans))
    values: dict[str, Any] = {"on": "slurm", "batch": text, "plans": plans, "leaves": []}
    if asked.dry_run:
        return Launched(values, "\n\n".join(filter(None, [leaves, told, text])))
    file, batch, stop = place / "state.json", place / "job.sbatch", place / "stop"
    job = slurm.known_job(file, batch, stop)
    if job is None:
        say("\n".join(filter(None, [leaves, told])))
        ask_once(asked, f"Submit {recipe.name} to Slurm?", confirm)
        job = slurm.submit(batch, text, stop)
        job.write(file)
        say(f"submitted: job {job.number}; `squeue -j {job.number}`")
    try:
        code = slurm.follow_job(job, run, partial(look, run), say, confirm, recipe.launch.look_seconds)
    finally:
        if job.ended:
            file.unlink(missing_ok=True)
    return Launched({"run": str(run), "job": job.number, "code": code}, f"{run}: done by job {job.number}", code)


def _batch(asked: LaunchAsked, plans: Sequence[Mapping[str, Any]], run: Path, memory: int | None) -> str:
    """The batch file of a recipe.

    Args:
        memory: of the device that was named, in bytes.
    """
    settings = [f"train.parallel={plan['parallel']}" for plan in plans if plan["parallel"] != "none"]
    device = plans[0]["device"]["name"] if plans else None
    recipe = _read(asked, *settings, memory_bytes=memory)
    wanted, place = recipe.launch, place_of(asked.runs, recipe.name)
    layout = layout_of(recipe, wanted.devices, wanted.nodes, device, asked.runs)
    rest = [str(asked.recipe.resolve()), *asked.overrides, *settings, "--runs", str(run.parent), "--yes"]
    seconds = [plan["time"]["high"] for plan in plans]
    seconds += [recipe.budget.hours * HOUR] if recipe.budget.hours else []
    return scripts.BatchFile(
        name=recipe.name,
        python=asked.python or sys.executable,
        train=["-m", "afina", "train", *rest],
        run=["-m", "afina", "run", *rest] if not layout.several or layout.measures else [],
        folder=str(Path.cwd()),
        log=str(place / "log"),
        stop=str(place / "stop"),
        layout=layout,
        gpus=0 if recipe.device == "cpu" else wanted.devices,
        seconds=min(seconds) if seconds else None,
        warn_seconds=WARN_SECONDS,
        retries=wanted.retries,
        options=asked.sbatch,
    ).text()
