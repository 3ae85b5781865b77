"""``afina temper``: at which strength does an adapter keep what it learned and break least?

    open once -> turn, and ask the steering half, for each setting -> choose -> write -> ask the judging half

Nothing is trained. The steering half chooses among the settings; the verdict is the judging half's alone, of the
written adapter as PEFT opens it, beside the one that was trained.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import RecipeError
from afina.model.base import IDENTITY_FILE, check_adapter_fits
from afina.outcome import outcome_kind
from afina.record import read_record
from afina.run import what_runs_left
from afina.temper.adapters import adopt, hash_adapter, other_adapter, trained_adapter
from afina.temper.answer import Tempered
from afina.temper.choose import Point, choose
from afina.temper.mixing import WHOLE, Mixing
from afina.temper.setting import read_settings
from afina.temper.sweep import Sweep, by_groups
from afina.temporary import temporary_folder
from afina.walk.base import identity
from afina.walk.context import Context
from afina.walk.models import open_untrained
from afina.walk.walk import TEMPER, TEMPERED
from afina.whole import remove, whole_folder, write_json, write_whole

if TYPE_CHECKING:
    from afina.temper.dial_torch import Dial

GROUPS = 3
"""Of layers, by depth: first, middle, last."""


@dataclass(frozen=True)
class Tempering:
    """What is wanted.

    Args:
        strengths: as they were given; None for tenths.
        by_layers: also each third of the layers by itself, from the best common strength on.
        mix: another adapter of the same base (a run, an adapter, a checkpoint); the dial is then the run's own share.
        method: how it is mixed, one of :data:`~afina.temper.mixing.METHODS`.
        density: of what the method prunes, the share that stays.
        to: a folder for the adapter.
        write: whether the run takes it for its own.
    """

    strengths: str | None = None
    by_layers: bool = False
    mix: Path | None = None
    method: str = "cat"
    density: float = 0.5
    to: Path | None = None
    write: bool = False


def temper(context: Context, request: Tempering) -> Tempered:
    """Find the setting, judge it, and write it into the run's folder and where it was asked for.

    Raises:
        RecipeError: the run has no adapter whose strength could be turned, or nothing to choose by.
        BaseError: the adapter, or the one that is mixed in, holds what no strength scales.
    """
    from afina.temper.asking import HalfAsker, read_sheet

    started, folder, limits = time.monotonic(), context.folder, context.recipe.evaluate.limits
    settings = read_settings(request.strengths, shares=request.mix is not None)
    adapter = trained_adapter(context)
    _check(request)
    sheet = read_sheet(context)
    with temporary_folder("temper") as beside, context.open_progress("temper") as progress:
        model = _open(context, adapter)
        dial = _dial(context, model, adapter, request, beside)
        for name in (TEMPERED, TEMPER):  # not before: what is refused leaves what was found earlier
            remove(folder / name)
        asker = HalfAsker(context, model, sheet, folder / TEMPER)
        most = len(settings) * (1 + (len(dial.groups) if request.by_layers else 0))
        sweep = Sweep(asker, dial, hash_adapter(adapter), progress, most)
        points = [sweep.ask(setting) for setting in settings]
        if request.by_layers:
            common, _ = choose(points, limits)
            points += by_groups(sweep, common, settings, limits)
        chosen, why = choose(points, limits)
        written = folder / TEMPER / "adapter"
        sweep.write(chosen.setting, written)
        trained, judged = sweep.judge(chosen.setting, written)
    notes = [*sheet.notes, *_draw(context, request, points, chosen)]
    as_trained = request.mix is None and chosen.setting.full and adapter == folder / outcome_kind(context.recipe)
    if request.write and as_trained:
        request = replace(request, write=False)
        notes.append("full strength is taken, and that is the run's own adapter: nothing was put in its place")
    found = Tempered(
        folder, _described(request), dial.groups, limits, tuple(points), chosen, why, trained, judged, written
    )
    found = replace(found, notes=tuple(notes), seconds=time.monotonic() - started, kept=asker.hits)
    found = replace(found, placed=tuple(_place(context, request, found, adapter)))
    write_json(folder / TEMPERED, found.as_json())
    return found


def _check(request: Tempering) -> None:
    """What would only be found after all has been asked.

    Raises:
        RecipeError: only what a tempering wrote and no run holds, or nothing, is written over; groups of layers have no
            share of a mix; there is no mix that a method or a density could be about.
    """
    to = request.to
    if to is not None and to.exists() and not (to / "adapter_config.json").is_file():
        raise RecipeError("it is there already, and is no adapter", "name a folder that is not there yet", str(to))
    if to is not None and any(what_runs_left(place) for place in to.resolve().parents):
        what = "it lies in a run's folder, whose files are that run's own"
        raise RecipeError(what, "name a folder elsewhere; --write puts the adapter into its own run", str(to))
    if to is not None and request.mix is not None and to.resolve() == request.mix.resolve():
        raise RecipeError("it is the adapter that is mixed in", "name another folder", str(to))
    if to is not None and (why := _somebodys(to)):
        raise RecipeError(f"{why}: it would be gone", "name a folder that is not there yet", str(to))
    plain = Tempering()
    if request.mix is None and (request.method, request.density) != (plain.method, plain.density):
        raise RecipeError("--method and --density say how to mix, and nothing is mixed", "give --mix", "--mix")
    if request.method in WHOLE and request.density != plain.density:
        what = f"--density is what pruning leaves, and --method {request.method} prunes nothing"
        raise RecipeError(what, "leave --density out, or use --method ties", "--density")
    if request.mix is not None and request.by_layers:
        raise RecipeError("the layers of a mix have one share, and no groups", "leave --by-layers out", "--by-layers")
    if not 0 < request.density <= 1:
        raise RecipeError(f"a density of {request.density:g} leaves nothing", "give one up to 1, e.g. 0.5", "--density")


def _somebodys(to: Path) -> str:
    """Why an adapter's folder is not one that a tempering may take the place of; empty where nothing lies there, or
    what a tempering has written and nobody has put anything into since."""
    if not to.exists():
        return ""
    here, place = Path.cwd().resolve(), to.resolve()
    if place == here or place in here.parents:
        return "it is the folder that you are in, or above it"
    made = read_record(to / IDENTITY_FILE)
    if made is None or "tempered" not in made:
        return "it is an adapter that no tempering wrote"
    hidden = sorted(each.name for each in to.iterdir() if each.name.startswith(".") and each.name != ".DS_Store")
    return f"somebody keeps other things in it ({', '.join(hidden[:3])})" if hidden else ""


def _open(context: Context, adapter: Path) -> Any:
    from afina.model.load_torch import open_adapter

    check_adapter_fits(adapter, identity(context))
    return open_adapter(open_untrained(context), adapter)


def _dial(context: Context, model: Any, adapter: Path, request: Tempering, beside: Path) -> Dial:
    from afina.temper.dial_torch import StrengthDial

    if request.mix is None:
        return StrengthDial(model, adapter, GROUPS if request.by_layers else 1)
    from afina.temper.mix_torch import MixDial

    other = other_adapter(request.mix, beside)
    check_adapter_fits(other, identity(context))
    return MixDial(model, adapter, other, Mixing(request.method, request.density, context.recipe.seed))


def _described(request: Tempering) -> str:
    """What was turned, in words."""
    if request.mix is not None:
        return f"the run's share of a mix with {request.mix} ({request.method})"
    return "strength, of all layers and by groups of them" if request.by_layers else "strength"


def _draw(context: Context, request: Tempering, points: Sequence[Point], chosen: Point) -> Iterator[str]:
    """Write the curve as pictures; a note where nothing can draw it."""
    if find_spec("matplotlib") is None:
        yield "no curve was drawn: pip install 'afina[plot]'"
        return
    from afina.plot.figures import picture_files
    from afina.plot.plot import PICTURES
    from afina.plot.strengths import Curve, draw_strengths

    limits, common = context.recipe.evaluate.limits, [each for each in points if len(each.setting.strengths) == 1]
    curves = [
        Curve(
            share.probe,
            learned,
            tuple(
                (point.setting.mean, *ends) for point in common for ends in point.ends_of(share.probe, learned=learned)
            ),
        )
        for learned, shares in ((True, common[0].learned), (False, common[0].broken))
        for share in shares
    ]
    figure = draw_strengths(
        f"Tempered: {context.recipe.name}",
        curves,
        axis="the run's own share" if request.mix else "strength of the adapter",
        chosen=chosen.setting.mean if len(chosen.setting.strengths) == 1 else None,
        limits=(limits.learned_min, limits.broke_max),
    )
    for form, content in picture_files(figure, PICTURES).items():
        write_whole(context.folder / TEMPER / f"curve.{form}", content)


def _place(context: Context, request: Tempering, found: Tempered, trained: Path) -> Iterator[Path]:
    """Put the adapter where it was asked for; the folders that hold it now."""
    if request.to is not None:
        with whole_folder(request.to, of_a_person=True) as beside:
            shutil.copytree(found.adapter, beside, dirs_exist_ok=True)
        yield request.to
    if request.write:
        yield adopt(context, found.adapter, trained, {"dial": found.dial, "at": list(found.chosen.setting.strengths)})
