"""``--on slurm``: ``sbatch`` on a machine of the cluster; the run's folder is on a disk that its machines share."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from afina.errors import AfinaError, RecipeError, ResultError, class_of
from afina.run import read_mapping
from afina.whole import write_json, write_whole

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
"""States after which Slurm does nothing more with a job by itself."""
PASSING = {"PREEMPTED", "REVOKED"}
"""States that end a job, or come before it is put back."""
UNKNOWN = "UNKNOWN"
"""Of a job that Slurm has forgotten: some minutes after its end."""


class SlurmSilent(AfinaError):
    """Slurm's controller does not answer."""


@dataclass
class SlurmJob:
    """A job in the queue."""

    number: str
    file: Path
    """What was submitted: numbers are given again, and another one's job is not ours."""
    stop: Path
    """A file that says that it is not to be put back into the queue."""
    ended: bool = False
    """Whether it was seen to have ended, or taken out of the queue."""

    def state(self) -> tuple[str, int | None]:
        """Its state in Slurm's words and, where it has ended, its exit code. :data:`UNKNOWN` where Slurm does not know
        it any more, or has given its number to another.

        Raises:
            SlurmSilent: the controller does not answer.
            AfinaError: Slurm does not say how it stands.
        """
        try:
            shown = _slurm("scontrol", "show", "job", "-o", self.number)
        except SlurmSilent:
            raise
        except AfinaError as error:
            if "Invalid job id" not in str(error):
                raise
            return UNKNOWN, None
        state = re.search(r"\bJobState=(\w+)", shown)
        code = re.search(r"\bExitCode=(\d+):(\d+)", shown)
        if state is None:
            raise AfinaError("Slurm does not say how the job stands", "look at `squeue` and `sacct`", self.number)
        if f"Command={self.file}" not in shown:
            return UNKNOWN, None
        return state[1], int(code[1]) if code and state[1] in ENDED else None

    def cancel(self) -> None:
        """Take it out of the queue; afina writes a checkpoint when SIGTERM comes."""
        self.stop.touch()
        _slurm("scancel", "--full", self.number)
        self.ended = True

    def write(self, file: Path) -> None:
        """Keep it, for the same command to follow it again."""
        write_json(file, {"on": "slurm", "job": self.number})


def known_job(file: Path, batch: Path, stop: Path) -> SlurmJob | None:
    """A job that was submitted and is not done with; None where there is none.

    Raises:
        RecipeError: the run is under way elsewhere.
    """
    if not file.is_file():
        return None
    if (on := read_mapping(file, "on")["on"]) != "slurm":
        raise RecipeError(f"a launch on {on} is not home yet", f"bring it home first: --on {on}", str(file))
    return SlurmJob(str(read_mapping(file, "job")["job"]), batch, stop)


def submit(file: Path, text: str, stop: Path) -> SlurmJob:
    """Write a batch file and give it to ``sbatch``.

    Raises:
        RecipeError: there is no such program here.
        AfinaError: Slurm refuses it, in its words.
    """
    write_whole(file, text)
    stop.unlink(missing_ok=True)
    said = _slurm("sbatch", "--parsable", str(file)).strip()
    return SlurmJob(said.partition(";")[0], file, stop)


def follow_job(
    job: SlurmJob,
    run: Path,
    look: Callable[[], None],
    say: Callable[[str], None],
    confirm: Callable[[str], bool] | None,
    every: float,
) -> int:
    """Until the job has ended; the exit code of afina (0 or 5).

    Raises:
        AfinaError: it failed, with the class of its exit code, or was taken out of the queue.
        KeyboardInterrupt: the person went away; they were asked whether the job goes too.
    """
    before, state = "", ""
    code: int | None = None
    try:
        while True:
            try:
                state, code = job.state()
            except SlurmSilent as error:
                say(f"{error.problems[0].what}; asked again")
                time.sleep(every)
                continue
            if state != before:
                say(f"job {job.number}: {state}")
            look()
            if state in ENDED or state == UNKNOWN or (state in PASSING and state == before):
                job.ended = True
                break
            before = state
            time.sleep(every)
    except KeyboardInterrupt:
        if confirm is not None and confirm(f"Take job {job.number} out of the queue?"):
            job.cancel()
        else:
            say(f"it goes on: job {job.number}; the same command follows it again")
        raise
    if state == UNKNOWN and (run / "finished.json").is_file():
        code = int(read_mapping(run / "finished.json", "exit_code")["exit_code"])
    if code is None or code not in (0, ResultError.exit_code):
        kind = class_of(code)
        raise kind(
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
    said = done.stderr.strip()
    if done.returncode and re.search(r"[Uu]nable to contact slurm controller|Socket timed out", said):
        raise SlurmSilent(f"Slurm's controller does not answer: {said}", "ask `sinfo`", "slurm")
    if done.returncode:
        raise AfinaError(f"`{words[0]}` failed ({done.returncode}): {said}", "ask `sinfo`", "slurm")
    return done.stdout
