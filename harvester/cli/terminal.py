"""What a person at a terminal sees of long work: a line for each step that ended, a bar for the one that is running.

It shows log records as they come (run/progress.py says what they carry); nothing is told for its sake alone.
"""

import logging
from typing import Final, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from harvester.errors import without_secrets
from harvester.run import progress
from harvester.run.progress import Reached, StepSaid, step_words
from harvester.text import duration

SHORT_S: Final = 1.0
"""Steps that took less have no line: tables, and what was done before."""


class Terminal(logging.Handler):
    """Lines above, one bar below. `close` takes the bar away."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.DEBUG)
        logging.getLogger(progress.__name__).setLevel(logging.DEBUG)
        self.console = Console(file=stream, highlight=False)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            redirect_stderr=False,
        )
        self.task: TaskID | None = None
        self.shown = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        try:
            reached, step = getattr(record, "progress", None), getattr(record, "step", None)
            if isinstance(reached, Reached):
                self._move(reached)
            elif isinstance(step, StepSaid):
                self._step(step)
            elif record.levelno >= logging.INFO:
                style = "yellow" if record.levelno >= logging.WARNING else ""
                self.console.print(escape(without_secrets(record.getMessage())), style=style, soft_wrap=True)
        except Exception:  # noqa: BLE001  what cannot be shown is no reason to stop
            self.handleError(record)

    def close(self) -> None:
        """No bar any more, and nothing is told every second."""
        self._end()
        logging.getLogger(progress.__name__).setLevel(logging.NOTSET)
        super().close()

    def _step(self, step: StepSaid) -> None:
        name = f"round {step.round}  {step_words(step.step)}"
        if step.seconds is None:
            self._begin(name)
        else:
            self._end()
            if step.seconds >= SHORT_S:
                self._said(name, duration(step.seconds))

    def _move(self, reached: Reached) -> None:
        own = self.task is None
        if own:
            self._begin(reached.name)
        assert self.task is not None  # noqa: S101  it was begun
        self.bar.update(self.task, completed=reached.done, total=reached.total, told=reached.told)
        if reached.done == reached.total and self.shown == reached.name:
            took = self.bar.tasks[-1].elapsed
            self._end()
            self._said(reached.name, f"{reached.total:,} {reached.unit}, {duration(took)}")

    def _begin(self, name: str) -> None:
        self._end()
        self.task, self.shown = self.bar.add_task(escape(name), total=None, told=""), name
        self.bar.start()

    def _end(self) -> None:
        if self.task is not None:
            self.bar.stop()
            self.bar.remove_task(self.task)
            self.task, self.shown = None, ""

    def _said(self, what: str, more: str) -> None:
        self.console.print(f"[green]✓[/] {escape(what):42} {escape(more)}", soft_wrap=True)
