"""The shell scripts of a launch: what makes a machine ready, the job, and a batch file for Slurm.

They ask for a POSIX shell and coreutils alone. ``job.sh`` leaves what tells its state beside itself: ``job.pid`` and
``run.pid`` (of what it has started) while it runs, ``job.exit`` with its exit code when it has ended, ``job.log`` with
what it said.

Several devices train under ``torchrun``, as docs/scaling.md has it; measuring takes one process afterwards.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from afina.errors import RecipeError

KILL_SECONDS = 300
"""What is left to a run after SIGTERM to write its checkpoint, before it is killed."""
CLOCK = "now() { cut -d. -f1 /proc/uptime 2>/dev/null || date +%s; }\n"
"""Seconds of a clock that nobody sets, where the system has one: a new machine's date may still jump."""
NOTE = """\
note() { echo "$2" > "$1.new" && mv "$1.new" "$1"; }
"""
"""Writes what tells a job's state. Whoever looks between the opening of a file and the writing of it would read no
number, take the job for lost, and begin another one beside it."""
OF_A_JOB = ("job.pid", "run.pid", "job.began", "job.exit", "job.late")
"""The files that tell a job's state."""
RESTARTS = 2
"""How often torchrun starts ranks again of which one died."""
PORT = 29500
"""Where the machines of one job meet."""


@dataclass(frozen=True)
class RankLayout:
    """Processes that train together."""

    devices: int = 1
    """Of each machine."""
    nodes: int = 1
    measures: bool = True
    """Whether one of them alone can hold the model afterwards, to measure it."""

    @property
    def several(self) -> bool:
        """Whether it takes torchrun."""
        return self.devices * self.nodes > 1

    def torchrun(self, name: str, port: str = str(PORT)) -> str:
        """Its words for a shell, behind the interpreter.

        Of several machines the shell has to set ``head`` (that hosts the meeting), ``own`` (how the others reach this
        one) and ``host`` (whether this is the head: true or false). They are said, not guessed of names: a machine
        whose name means 127.0.1.1 to itself would host nothing and send the others astray.
        """
        words = f"-m torch.distributed.run --nproc-per-node {self.devices} --max-restarts {RESTARTS}"
        if self.nodes == 1:
            return f"{words} --standalone"
        meet = f'--rdzv-backend c10d --rdzv-endpoint "$head:{port}" --rdzv-id {shlex.quote(name)}'
        return f'{words} --nnodes {self.nodes} {meet} --rdzv-conf "is_host=$host" --local-addr "$own"'


ALONE = RankLayout()
COMES_BACK = "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n"
"""Else a machine that comes back waits for the address of those that stayed, which only their first meeting told."""


def setup_script(wheel: str, packages: Sequence[str], extras: Sequence[str], name: str) -> str:
    """Make the virtual environment `name` beside the job's folder, where it is not there yet."""
    wanted = f"./{wheel}" + (f"[{','.join(extras)}]" if extras else "")
    alone = f'"$env/bin/python" -m pip install --quiet --no-deps {shlex.join(packages)}' if packages else ":"
    return f"""\
#!/bin/sh
# Makes the environment of the job, once: afina as it was sent, and what it needs.
set -e
cd "$(dirname "$0")"
env="$(cd .. && pwd)/{name}"
[ -f "$env/ready" ] && exit 0
rm -rf "$env"
for python in python3.13 python3.12 python3.11 python3; do
  if "$python" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    "$python" -m venv "$env"
    break
  fi
done
PATH="$PATH:$HOME/.local/bin"
if [ ! -x "$env/bin/python" ] && command -v uv >/dev/null 2>&1; then
  uv venv --quiet --seed --python 3.12 "$env"
fi
if [ ! -x "$env/bin/python" ]; then
  echo "afina needs Python 3.11 to 3.13 with its venv module, or uv, on this machine" >&2
  exit 3
fi
"$env/bin/python" -m pip install --quiet --disable-pip-version-check {shlex.quote(wanted)}
{alone}
: > "$env/ready"
"""


def python_line(python: str) -> str:
    """Sets ``$python``: absolute, counted from the job's folder (``../env/bin/python``), from the home
    (``env/bin/python`` or ``~/env/bin/python``), or a name on the PATH."""
    python = python.removeprefix("~/") if python.startswith("~/") else python
    where = 'case "$python" in /*) ;; ./*|../*) python="$(pwd)/$python" ;; */*) python="$HOME/$python" ;; esac'
    return f"python={shlex.quote(python)}; {where}"


def job_script(
    name: str,
    python: str,
    most_seconds: float | None,
    *,
    layout: RankLayout = ALONE,
    shared: str | None = None,
    setup: bool = False,
    serve: Sequence[str] = (),
) -> str:
    """Run the recipe beside it; end it with a checkpoint when its time is up.

    Args:
        name: of the run.
        python: the interpreter over there, see :func:`python_line`.
        most_seconds: None for no limit.
        layout: how many processes train.
        shared: folder on a disk that all of several machines see; the run is kept below it.
        setup: whether ``setup.sh`` makes the environment first.
        serve: command line of what is started when the run is done.
    """
    limit = _LIMIT.format(seconds=max(1, round(most_seconds)), kill=KILL_SECONDS) if most_seconds is not None else ""
    steps = ['work sh setup.sh\n[ "$code" = 0 ] || code=setup\n'] if setup else []
    if layout.several:
        steps.append(_train_of(name, layout, shared))
    if not layout.several or layout.measures:
        steps.append('[ "$code" = 0 ] && work "$python" -m afina run recipe.yaml --runs runs --yes\n')
    then = _THEN.format(serve=shlex.join(serve)) if serve else ""
    return f"""\
#!/bin/sh
# The job: the whole walk of recipe.yaml. Started again, it goes on where it stopped.
cd "$(dirname "$0")" || exit 1
exec >> job.log 2>&1
{python_line(python)}
{CLOCK}rm -f {" ".join(OF_A_JOB)} job.home
{NOTE}now > job.began
note job.pid $$
stopped= watch= code=0
trap 'stopped=1; kill -TERM "$!" 2>/dev/null' TERM INT
work() {{
  [ -z "$stopped" ] || {{ code=143; return; }}
  "$@" < /dev/null &
  job=$!
  note run.pid "$job"
  wait "$job"
  code=$?
  while kill -0 "$job" 2>/dev/null; do wait "$job"; code=$?; done
}}
{limit}{"".join(steps)}[ -n "$watch" ] && kill "$watch" 2>/dev/null
note job.exit "$code"
rm -f job.pid run.pid{then}
[ "$code" != setup ] || code=1
exit "$code"
"""


def _train_of(name: str, layout: RankLayout, shared: str | None) -> str:
    """The lines of a job that train in several processes."""
    words = layout.torchrun(name)
    if layout.nodes == 1:
        return f'[ "$code" = 0 ] && work "$python" {words} -m afina train recipe.yaml --runs runs --yes\n'
    assert shared is not None, "several machines without a disk that all of them see"
    return _NODES.format(
        shared=shlex.quote(shared_runs(shared)), restarts=COMES_BACK, words=words, rank="${SKYPILOT_NODE_RANK:-0}"
    )


def shared_runs(shared: str) -> str:
    """Where runs are kept on a disk that all machines see."""
    return f"{shared.rstrip('/')}/afina-launch"


_LIMIT = """\
( trap 'kill "$nap"; exit' TERM
  sleep {seconds} & nap=$!
  wait "$nap" || exit
  [ "$(cat job.pid 2>/dev/null)" = $$ ] || exit
  echo "afina launch: its time of {seconds} s is up" >&2
  : > job.late
  kill -TERM $$ 2>/dev/null || kill -TERM "$(cat run.pid)"
  sleep {kill} & nap=$!
  wait "$nap" && kill -KILL "$(cat run.pid)" ) &
watch=$!
"""
"""``$$`` is the job's shell in here too: it tells what it has started, and starts nothing more. Where that shell was
killed alone, and another job began since, this one's time means nothing."""
_NODES = """\
shared={shared}
mkdir -p "$shared"
if [ "{rank}" = 0 ] && [ ! -L runs ]; then
  [ -d runs ] && cp -R runs/. "$shared/" && rm -rf runs
  ln -s "$shared" runs
fi
{restarts}head=$(echo "$SKYPILOT_NODE_IPS" | sed -n 1p)
own=$(echo "$SKYPILOT_NODE_IPS" | sed -n "$(({rank} + 1))p")
[ "{rank}" = 0 ] && host=true || host=false
[ "$code" = 0 ] && work "$python" {words} -m afina train recipe.yaml --runs "$shared" --yes
if [ "{rank}" != 0 ]; then
  [ -n "$watch" ] && kill "$watch" 2>/dev/null
  rm -f job.pid run.pid
  [ "$code" != setup ] || code=1
  exit "$code"
fi
"""
_THEN = """
if [ "$code" = 0 ] || [ "$code" = 5 ]; then
  "$python" -m afina {serve} < /dev/null &
  note serve.pid "$!"
  wait
fi"""


@dataclass(frozen=True)
class BatchFile:
    """A job for ``sbatch``.

    Args:
        train: the command line behind the interpreter that trains in several processes, see :class:`RankLayout`.
        run: the one that does the whole walk in one; empty where training is all.
        folder: where from; on a disk that the cluster's machines share.
        stop: a file; where it is there the job is not put back.
        gpus: of each machine.
        seconds: time limit; None: the partition's.
        warn_seconds: so long before the limit SIGTERM is sent, that a checkpoint can be written.
        retries: how often it is put back before it is left alone.
        options: further lines, each an option of sbatch.
    """

    name: str
    python: str
    train: Sequence[str]
    run: Sequence[str]
    folder: str
    log: str
    stop: str
    layout: RankLayout
    gpus: int
    seconds: float | None
    warn_seconds: int
    retries: int
    options: Sequence[str] = ()

    def text(self) -> str:
        """The file: warned before its time is up and put back into the queue, where afina goes on.

        Raises:
            RecipeError: a path or an option that a line of ``#SBATCH`` cannot hold.
        """
        lines = [f"--job-name=afina-{self.name}", f"--output={_of_line(self.log, 'the path of its log')}"]
        lines += ["--open-mode=append", "--requeue", f"--signal=B:TERM@{self.warn_seconds}"]
        if self.layout.nodes > 1:
            lines += [f"--nodes={self.layout.nodes}", "--ntasks-per-node=1"]
            lines += [f"--gpus-per-node={self.gpus}"] if self.gpus else []
        else:
            lines += ["--ntasks=1", *([f"--gpus={self.gpus}"] if self.gpus else [])]
        lines += [f"--time={max(1, round(self.seconds / 60 + 0.5))}"] if self.seconds else []
        lines += [_option(each) for each in self.options]
        wanted = "\n".join(f"#SBATCH {line}" for line in lines)
        return _BATCH.format(
            wanted=wanted,
            folder=shlex.quote(self.folder),
            stop=shlex.quote(self.stop),
            retries=self.retries,
            steps="".join(self._steps()),
        )

    def _steps(self) -> list[str]:
        python, run = shlex.quote(self.python), shlex.join(self.run)
        steps = []
        if self.layout.nodes > 1:
            # Each machine learns here which one it is. The port is the job's: two of them may begin on one machine.
            steps.append(f"{COMES_BACK}port=$((20000 + SLURM_JOB_ID % 20000))\n")
            steps.append('head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)\nexport head port\n')
            each = 'own="$SLURMD_NODENAME"; [ "$SLURM_NODEID" = 0 ] && host=true || host=false\n'
            each += f"exec {python} {self.layout.torchrun(self.name, '$port')} {shlex.join(self.train)}"
            steps.append(f"work srun sh -c {shlex.quote(each)} || exit\n")
        elif self.layout.several:
            steps.append(f"work {python} {self.layout.torchrun(self.name)} {shlex.join(self.train)} || exit\n")
        return [*steps, *([f"work {python} {run}\n"] if run else [])]


def _of_line(path: str, what: str) -> str:
    """A path as a line of ``#SBATCH`` takes it.

    Raises:
        RecipeError: it cannot: Slurm puts in something else for ``%``, and a new line would be one of the script.
    """
    if found := re.search(r"[\x00-\x1f\x7f\"'\\%]", path):
        raise RecipeError(
            f"{what} holds {found[0]!r}, which Slurm does not take literally in a batch file",
            "name another folder with --runs",
            path,
        )
    return f'"{path}"' if " " in path else path


def _option(given: str) -> str:
    """
    >>> _option("partition=gpu"), _option("--mem=8G"), _option("-p gpu")
    ('--partition=gpu', '--mem=8G', '-p gpu')
    """
    if re.search(r"[\x00-\x1f\x7f]", given) or not given.strip("- "):
        fix = "one option each, as in --sbatch partition=gpu"
        raise RecipeError(f"{given!r} is no option of sbatch", fix, "--sbatch")
    return given if given.startswith("-") else f"--{given}"


_BATCH = """\
#!/bin/sh
{wanted}
# SIGTERM comes before the time limit and before a preemption: afina writes a checkpoint, the job goes back into the
# queue, and the next start goes on from there.
cd {folder} || exit 1
again() {{
  kill -TERM "$!" 2>/dev/null
  wait "$!"
  [ -e {stop} ] && exit 143
  # Whoever takes it out of the queue by hand wants it out.
  case "$(scontrol show job -o "$SLURM_JOB_ID")" in *JobState=CANCELLED*) exit 143 ;; esac
  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {retries} ]; then
    echo "afina launch: put back {retries} times; start it again by hand"
    exit 143
  fi
  scontrol requeue "$SLURM_JOB_ID"
  exit 143
}}
trap again TERM
work() {{
  "$@" < /dev/null &
  wait "$!"
}}
{steps}"""
