"""``--on slurm``: ``sbatch`` on a machine of the cluster; the run's folder is on a disk that its machines share."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from afina.errors import AfinaError, RecipeError, ResultError
from afina.run import write_whole

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
"""States after which Slurm does nothing more with a job by itself."""


@dataclass
class SlurmJob:
    """A job in the queue."""

    number: str
    stop: Path
    """A file that says that it is not to be put back into the queue."""

    def state(self) -> tuple[str, int | None]:
        """Its state in Slurm's words and, where it has ended, its exit code.

        Raises:
            AfinaError: Slurm does not know it (any more).
        """
        shown = _slurm("scontrol", "show", "job", "-o", self.number)
        state = re.search(r"\bJobState=(\w+)", shown)
        code = re.search(r"\bExitCode=(\d+):(\d+)", shown)
        if state is None:
            raise AfinaError("Slurm does not say how the job stands", "look at `squeue` and `sacct`", self.number)
        return state[1], int(code[1]) if code and state[1] in ENDED else None

    def cancel(self) -> None:
        """Take it out of the queue; afina writes a checkpoint when SIGTERM comes."""
        self.stop.touch()
        _slurm("scancel", "--full", self.number)


def submit(file: Path, text: str, stop: Path) -> SlurmJob:
    """Write a batch file and give it to ``sbatch``.

    Raises:
        RecipeError: there is no such program here.
        AfinaError: Slurm refuses it, in its words.
    """
    write_whole(file, text)
    said = _slurm("sbatch", "--parsable", str(file)).strip()
    return SlurmJob(said.partition(";")[0], stop)


def follow_job(
    job: SlurmJob,
    look: Callable[[], None],
    say: Callable[[str], None],
    confirm: Callable[[str], bool] | None,
    every: float,
) -> int:
    """Until the job has ended; the exit code of afina (0 or 5).

    Raises:
        AfinaError: it failed, or was taken out of the queue.
        KeyboardInterrupt: the person went away; they were asked whether the job goes too.
    """
    before = ""
    try:
        while True:
            state, code = job.state()
            if state != before:
                say(f"job {job.number}: {state}")
            before = state
            look()
            if state in ENDED:
                break
            time.sleep(every)
    except KeyboardInterrupt:
        if confirm is not None and confirm(f"Take job {job.number} out of the queue?"):
            job.cancel()
        else:
            say(f"it goes on: job {job.number}")
        raise
    if code not in (0, ResultError.exit_code):
        raise AfinaError(
            f"job {job.number} ended: {state}, exit code {code}", "its log says why; the same command goes on", "slurm"
        )
    return code


def _slurm(*words: str) -> str:
    program = shutil.which(words[0])
    if program is None:
        raise RecipeError(
            f"there is no program {words[0]}",
            "start it on a machine of the cluster; --dry-run prints the batch file",
            "--on slurm",
        )
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode:
        raise AfinaError(f"`{words[0]}` failed ({done.returncode}): {done.stderr.strip()}", "ask `sinfo`", "slurm")
    return done.stdout
