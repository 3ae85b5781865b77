"""The shell scripts of a launch: what makes a machine ready, the job, and a batch file for Slurm.

They ask for a POSIX shell and coreutils alone. ``job.sh`` leaves what tells its state beside itself: ``job.pid`` while
it runs, ``job.exit`` with its exit code when it has ended, ``job.log`` with what it said.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

KILL_SECONDS = 300
"""What is left to a run after SIGTERM to write its checkpoint, before it is killed."""


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
    (``env/bin/python``), or a name on the PATH."""
    where = 'case "$python" in /*) ;; ./*|../*) python="$(pwd)/$python" ;; */*) python="$HOME/$python" ;; esac'
    return f"python={shlex.quote(python)}; {where}"


def job_script(python: str, most_seconds: float | None, *, setup: bool = False, serve: Sequence[str] = ()) -> str:
    """Run the recipe beside it; end it with a checkpoint when its time is up.

    Args:
        python: the interpreter over there, see :func:`python_line`.
        most_seconds: None for no limit.
        setup: whether ``setup.sh`` makes the environment first.
        serve: command line of what is started when the run is done.
    """
    limit = _LIMIT.format(seconds=max(1, round(most_seconds)), kill=KILL_SECONDS) if most_seconds is not None else ""
    before = _SETUP if setup else ""
    then = _THEN.format(serve=shlex.join(serve)) if serve else ""
    return f"""\
#!/bin/sh
# The job: the whole walk of recipe.yaml. Started again, it goes on where it stopped.
cd "$(dirname "$0")" || exit 1
exec >> job.log 2>&1
{python_line(python)}
rm -f job.exit job.late
date +%s > job.began
echo $$ > job.pid
{before}trap 'kill -TERM "$job" 2>/dev/null' TERM INT
"$python" -m afina run recipe.yaml --runs runs --yes < /dev/null &
job=$!
{limit}wait "$job"
code=$?
while kill -0 "$job" 2>/dev/null; do wait "$job"; code=$?; done
[ -n "$watch" ] && kill "$watch" 2>/dev/null
echo "$code" > job.exit.new && mv job.exit.new job.exit
rm -f job.pid{then}
exit "$code"
"""


_SETUP = """\
sh setup.sh || { echo setup > job.exit; rm -f job.pid; exit 1; }
"""
_LIMIT = """\
( trap 'kill "$nap"; exit' TERM
  sleep {seconds} & nap=$!
  wait "$nap" || exit
  echo "afina launch: its time of {seconds} s is up" >&2
  : > job.late
  kill -TERM "$job"
  sleep {kill} & nap=$!
  wait "$nap" && kill -KILL "$job" ) &
watch=$!
"""
_THEN = """
if [ "$code" = 0 ] || [ "$code" = 5 ]; then
  "$python" -m afina {serve} < /dev/null &
  echo $! > serve.pid
  wait
fi"""


def batch_file(
    *,
    name: str,
    command: Sequence[str],
    folder: str,
    log: str,
    stop: str,
    gpus: int,
    seconds: float | None,
    warn_seconds: int,
    retries: int,
    options: Sequence[str] = (),
) -> str:
    """A job for ``sbatch``: warned before its time is up and put back into the queue, where `afina run` goes on.

    Args:
        command: what it does.
        folder: where from; on a disk that the cluster's machines share.
        stop: a file; where it is there the job is not put back.
        seconds: time limit; None: the partition's.
        warn_seconds: so long before the limit SIGTERM is sent, that a checkpoint can be written.
        retries: how often it is put back before it is left alone.
        options: further lines, each an option of sbatch.
    """
    lines = [f"--job-name={name}", f"--output={log}", "--open-mode=append", "--requeue"]
    lines += [f"--signal=B:TERM@{warn_seconds}", "--ntasks=1", *([f"--gpus={gpus}"] if gpus else [])]
    lines += [f"--time={max(1, round(seconds / 60 + 0.5))}"] if seconds else []
    wanted = "\n".join(f"#SBATCH {line}" for line in [*lines, *(f"--{each.lstrip('-')}" for each in options)])
    return f"""\
#!/bin/sh
{wanted}
# SIGTERM comes before the time limit and before a preemption: afina writes a checkpoint, the job goes back into the
# queue, and the next start goes on from there.
cd {shlex.quote(folder)} || exit 1
again() {{
  kill -TERM "$job" 2>/dev/null
  wait "$job"
  [ -e {shlex.quote(stop)} ] && exit 143
  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {retries} ]; then
    echo "afina launch: put back {retries} times; start it again by hand"
    exit 143
  fi
  scontrol requeue "$SLURM_JOB_ID"
  exit 143
}}
trap again TERM
{shlex.join(command)} < /dev/null &
job=$!
wait "$job"
"""
