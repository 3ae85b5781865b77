"""Pictures and tables of runs: they are there, whole, of the right figures, and nothing in them overlaps or is cut."""

from __future__ import annotations

import csv
import itertools
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from report_fixture import SCORES, probe, write_run
from watched import finished_files, held_out, overfitting, start, step, steps, write_watched

from afina.errors import AfinaError, RecipeError
from afina.plot.curves import draw_curves
from afina.plot.figures import drawing
from afina.plot.plot import plot_runs, read_plotted
from afina.plot.probes import draw_probes
from afina.run import read_metrics

BACK = {"event": "went_back", "step": 60, "to": 50, "reason": "at step 61 the loss is nan", "rate_factor": 0.5}


def pairs(n: int) -> dict[str, Any]:
    return {"event": "validation", "step": n, "loss": 0.6, "preference_accuracy": 0.9, "reward_margin": 0.3}


def two_stages() -> list[dict[str, Any]]:
    first = [{**each, "stage": "first"} for each in [*start(80)[1:], *steps(80, 6.0, 4.0), held_out(80, 4.4)]]
    return [*first, *start(40), *steps(40, 0.7, 0.5), pairs(20), pairs(40)]


RUNS: dict[str, list[dict[str, Any]]] = {
    "whole": overfitting(),
    "two stages": two_stages(),
    "went back": [*start(100), *steps(60), BACK, *steps(50, 1.3, 0.9, after=50), held_out(100, 1.2)],
    "without validation": [*start(100), *steps(100)],
    "a single step": [*start(1), step(1, 2.0), held_out(1, 2.1)],
    "resumed": [*start(90), *steps(60), {"event": "resumed", "step": 40}, *steps(50, 2.0, 1.0, after=40)],
    "without gauges": [{"event": "step", "step": n, "loss": 2.0 - n / 100} for n in range(1, 50)],
}


def make_runs(folder: Path, *names: str) -> list[Path]:
    """Runs, each called after what is odd in it; all but the first without scores."""
    made = []
    for name in names:
        files = finished_files() if not made else {}
        made.append(write_watched(folder / name, RUNS[name], recipe_yaml=f"name: {name}\nbase: b\n", **files))
    return made


def boxes_of(figure: Any) -> list[tuple[str, Any]]:
    """Every text that is shown, with its place in the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with drawing():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        texts = [figure._suptitle, figure._supxlabel]
        for axes in figure.axes:
            texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            texts += axes.get_legend().get_texts() if axes.get_legend() else []
            for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, sorted(axes.get_ylim()))):
                texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                texts.append(axis.get_offset_text())
        shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
        return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in shown]


def check_texts(figure: Any) -> None:
    """No text reaches out of the picture, and no two lie on each other."""
    boxes, whole = boxes_of(figure), figure.bbox
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1, f"cut: {text!r}"
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert wide <= 1 or high <= 1, f"{one!r} lies on {other!r}"


def figure_of(draw: Any, *folders: Path) -> Any:
    return draw(read_plotted(folders))


def test_files_of_one_run(tmp_path: Path) -> None:
    (run,) = make_runs(tmp_path, "whole")
    plots = plot_runs([run])
    names = ["curves.png", "curves.svg", "probes.png", "probes.svg", "metrics.csv", "metrics.json"]
    assert [file.name for file in plots.files] == names and plots.notes == ()
    assert {file.name for file in (run / "plots").iterdir()} == set(names), "nothing half-written is left"
    for name in ("curves", "probes"):
        png = (run / f"plots/{name}.png").read_bytes()
        wide, high = struct.unpack(">II", png[16:24])
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and wide >= 1600 and high >= 500
        root = etree.fromstring((run / f"plots/{name}.svg").read_bytes())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        said = " ".join(text.text for text in root.xpath("//comment()"))
        assert "whole" in said and "2026-11-28" in said
    rows = list(csv.DictReader((run / "plots/metrics.csv").open(encoding="utf-8")))
    steps_logged = [event for event in read_metrics(run) if event["event"] == "step"]
    assert [(row["step"], float(row["loss"])) for row in rows] == [(str(e["step"]), e["loss"]) for e in steps_logged]
    assert {row["step"]: row["held_out_loss"] for row in rows if row["held_out_loss"]}["125"] == "1.6"
    values = json.loads((run / "plots/metrics.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in values["runs"][0]["probes"]] == [each["name"] for each in SCORES["probes"]]


def test_texts_of_one_run_are_whole_and_apart(tmp_path: Path) -> None:
    (run,) = make_runs(tmp_path, "whole")
    check_texts(figure_of(draw_curves, run))
    check_texts(figure_of(draw_probes, run))


@pytest.mark.parametrize("name", ["a single step", *(pytest.param(name, marks=pytest.mark.long) for name in
    ("two stages", "went back", "without validation", "resumed", "without gauges"))])  # fmt: skip
def test_odd_runs_are_drawn(tmp_path: Path, name: str) -> None:
    (run,) = make_runs(tmp_path, name)
    check_texts(figure_of(draw_curves, run))


@pytest.mark.long
def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    (run,) = make_runs(tmp_path, "whole")
    before = {file: file.read_bytes() for file in plot_runs([run]).files}
    assert {file: file.read_bytes() for file in plot_runs([run]).files} == before


@pytest.mark.long
def test_several_runs_in_one_picture(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, "whole", "two stages", "without validation")
    plots = plot_runs(runs, tmp_path / "out")
    assert "two stages has no probes to draw: `afina eval" in plots.notes[0]
    figure = figure_of(draw_curves, *runs)
    check_texts(figure)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert {"whole", "two stages", "without validation", "held out", "second training begins"} <= set(legend)


def test_the_picture_of_several_runs_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="name one with --to FOLDER"):
        plot_runs(make_runs(tmp_path, "whole", "a single step"))


def test_the_bars_are_the_probes_figures(tmp_path: Path) -> None:
    (run,) = make_runs(tmp_path, "whole")
    axes = figure_of(draw_probes, run).axes[0]
    first = SCORES["probes"][0]
    before, after = axes.patches[:2]
    assert (before.get_width(), after.get_width()) == (first["before"]["verbatim"], first["after"]["verbatim"])
    assert before.get_hatch() and not after.get_hatch(), "told apart without colour"
    ends = [path.vertices[:, 0].tolist() for path in axes.collections[1].get_paths()]
    assert ends[0] == pytest.approx([first["after"]["low"], first["after"]["high"]])


@pytest.mark.long
def test_names_that_are_long_or_odd_are_drawn_as_they_are(tmp_path: Path) -> None:
    """``$`` begins a formula for matplotlib; a name may be longer than the picture is wide."""
    odd = "o custo é $1 e $2, uma pergunta muito longa que não cabe numa linha nem em duas, e <b>não</b> acaba aqui"
    scores = SCORES | {"probes": [probe(odd, "recall", 40, (0.1, 0.0, 0.2), (1.0, 0.9, 1.0))]}
    run = write_run(tmp_path / ("x" * 90), scores=scores, recipe=f"name: {'y' * 120}\nbase: /a/{'b' * 200}\n")
    check_texts(figure_of(draw_probes, run))
    check_texts(figure_of(draw_curves, run))
    plot_runs([run])


@pytest.mark.long
def test_many_runs_are_drawn(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run-{n}", recipe=f"name: run-{n}\n") for n in range(9)]
    check_texts(figure_of(draw_probes, *runs))
    figure = figure_of(draw_curves, *runs)
    looks = {
        (line.get_color(), str(line.get_linestyle())) for line in figure.axes[0].lines if line.get_linewidth() > 1.8
    }
    assert len(looks) == 9


def test_a_run_without_a_step_is_refused(tmp_path: Path) -> None:
    run = write_watched(tmp_path / "run", start())
    with pytest.raises(RecipeError, match="nothing was trained in this run yet"):
        plot_runs([run])
    assert not (run / "plots").exists()


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    run = write_watched(tmp_path / "run", overfitting(), scores_json="{")
    with pytest.raises(AfinaError, match=r"scores\.json"):
        plot_runs([run])


def test_without_matplotlib_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = make_runs(tmp_path, "whole")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RecipeError, match=r"pip install 'afina\[plot\]'"):
        plot_runs([run])
    assert not (run / "plots").exists()
