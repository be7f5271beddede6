"""Telling a person on stderr how the work goes: with a bar on a terminal, else in plain lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import typer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

NAME_WIDTH = 24  # Of 80: the bar has 40, the share 4 and the time left 7.
# By these somebody asks Rich for a terminal's output where there is none.
ASKED = ("FORCE_COLOR", "TTY_COMPATIBLE")


class Show(Protocol):
    """What ``Teller.bar`` gives."""

    def __call__(self, done: float, name: str | None, total: int | None = None) -> None:
        """How many steps are done, at what (None: the same), and of how many if that changed."""


def is_drawn_on(stream: TextIO | None) -> bool:
    """Whether there are boxes, bars and colours there: on a terminal, or if somebody asks.

    None: it was closed before Python began.
    """
    terminal = stream is not None and stream.isatty()
    return terminal or any(name in os.environ for name in ASKED)


class Teller:
    """Rich takes a tenth of a second to import: only a terminal gets it."""

    def __init__(self) -> None:
        self.console: Console | None = None
        if is_drawn_on(sys.stderr):
            from rich.console import Console

            self.console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

    def say(self, line: str) -> None:
        """One line, as it is."""
        if self.console is None:
            typer.echo(line, err=True)
        else:
            self.console.print(line, markup=False)

    def waiting(self, what: str) -> AbstractContextManager[Any]:
        """Show on a terminal what is waited for."""
        return nullcontext() if self.console is None else self.console.status(what)

    @contextmanager
    def bar(self, total: int | None, name: str = "") -> Iterator[Show]:
        """A bar of ``total`` steps (None: not known yet) on a terminal; call what it gives."""
        if self.console is None:
            yield lambda *_: None
            return

        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeLeft())
        visible = self.console.is_terminal
        with Progress(
            *columns, console=self.console, transient=True, disable=not visible
        ) as progress:
            task = progress.add_task(_short(name), total=total)

            def show(done: float, name: str | None, total: int | None = None) -> None:
                description = None if name is None else _short(name)
                progress.update(task, description=description, completed=done, total=total)

            yield show


@contextmanager
def named_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for steps that are counted afresh under each name: call with name, done, total."""
    with Teller().bar(None) as show:
        yield lambda name, done, total: show(done, name, total)


def _short(name: str) -> str:
    """``name`` as far as it leaves room on the line for the bar."""
    from rich.text import Text

    text = Text(name)
    text.truncate(NAME_WIDTH, overflow="ellipsis")
    return text.plain
