"""The live monitor (extra ``watch``): the frame's panels on a terminal's whole screen, looked at again each second."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from afina.errors import AfinaError
from afina.watch.frame import CHARTS, chart, figures, headline, sample_lines, told
from afina.watch.reader import RunReader
from afina.watch.view import RunView

SHORT = ("loss", "rate", "speed", "memory")
"""Names of the charts at their keys."""

HELP = """\
 q     leave; the run is not touched
 1     loss: . each step's mean, o held out
 2     learning rate
 3     tokens per second
 4     memory
 w     every warning, and the last sample in full
 ?     this page

 Nothing is written into the run's folder, and no lock is
 taken: watch it from as many places as you like.
 `afina watch RUN --once` prints one picture as text.

 any of q, ?, w, Escape goes back"""


class FullText(ModalScreen[None]):
    """A page of text over the monitor; arrows scroll it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,w", "dismiss", "back", key_display="Esc")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        """The text, and what the keys do."""
        with VerticalScroll():
            yield Static(self.text, markup=False)
        yield Footer()


class Monitor(App[None]):
    """Shows a run until the person leaves.

    Args:
        reader: of the run.
        every_seconds: pause between two looks.
    """

    TITLE = "afina watch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #headline { height: auto; text-style: bold; }
    #figures { height: auto; margin-top: 1; }
    #chart { height: 1fr; min-height: 5; margin-top: 1; }
    #told { height: auto; max-height: 5; text-style: bold; }
    #sample { height: auto; max-height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit", key_display="q"),
        Binding("question_mark", "help", "help", key_display="?"),
        *(
            Binding(str(n), f"draw('{name}')", short)
            for n, (name, short) in enumerate(zip(CHARTS, SHORT, strict=True), 1)
        ),
        Binding("w", "in_full", "warnings"),
    ]

    def __init__(self, reader: RunReader, every_seconds: float = 1.0) -> None:
        super().__init__()
        self.theme = "ansi-dark"  # the terminal's own colours, light or dark
        self.reader, self.every_seconds = reader, every_seconds
        self.drawn: str = CHARTS[0]
        self.view: RunView | None = None
        self.ended_by: AfinaError | None = None
        """Why it cannot be shown any more."""

    def compose(self) -> ComposeResult:
        """The panels, from top to bottom."""
        for name in ("headline", "figures", "chart", "told", "sample"):
            yield Static(id=name, markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.run_worker(self._follow(), exclusive=True)

    async def _follow(self) -> None:
        """Look again and again; reading goes on in a thread, so that keys are answered meanwhile."""
        while True:
            try:
                self.view = await asyncio.to_thread(self.reader.look)
            except AfinaError as error:
                self.ended_by = error
                self.exit()
                return
            self.show_view()
            await asyncio.sleep(self.every_seconds)

    def on_resize(self) -> None:
        """The panels follow the terminal's size."""
        self.call_after_refresh(self.show_view)

    def show_view(self) -> None:
        """Write the panels' texts."""
        view, width = self.view, max(40, self.size.width)
        if view is None or len(self.screen_stack) > 1:
            return
        texts = {
            "headline": headline(view, width),
            "figures": figures(view, width),
            "told": told(view, width),
            "sample": sample_lines(view, width, most=1),
        }
        for name, lines in texts.items():
            panel = self.query_one(f"#{name}", Static)
            panel.update("\n".join(lines))
            panel.display = bool(lines)
        self.call_after_refresh(self._draw_chart)

    def _draw_chart(self) -> None:
        """The chart, into the room that the other panels leave."""
        if self.view is None or len(self.screen_stack) > 1:
            return
        panel = self.query_one("#chart", Static)
        height = panel.size.height
        panel.update("\n".join(chart(self.view, self.drawn, max(40, panel.size.width), max(5, height))))

    def action_draw(self, what: str) -> None:
        """Show another chart."""
        self.drawn = what
        self._draw_chart()

    def action_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(FullText(HELP), lambda _: self.show_view())

    def action_in_full(self) -> None:
        """Warnings and sample, uncut."""
        if self.view is not None:
            width = max(40, self.size.width - 2)
            lines = [*told(self.view, width), "", *sample_lines(self.view, width, most=100)]
            self.push_screen(FullText("\n".join(lines).strip() or "no warnings"), lambda _: self.show_view())
