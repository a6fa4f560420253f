"""A whole load test: its steps, the search for the highest load that holds, the verdict."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import uvloop

from semlink.load.connection import Gateway
from semlink.load.figures import Figures, figures_of
from semlink.load.generator import Generator, Observer, announced, opened_links
from semlink.load.plan import Load, Plan, Rule
from semlink.load.queries import Queries
from semlink.load.resources import Resources

MAX_DOUBLINGS: Final = 16
HIGHEST_LOAD: Final = "highest_load"
"""Figure of a whole run: the highest load that held the objectives (calls a second, or users)."""
ANSWERED: Final = Rule("answered_share", ">=", 0.99)
"""Asked of a step besides the objectives: refusing everything else would keep any latency."""


@dataclass(slots=True)
class Measured:
    """What a load test measured. ``held``: the highest load that held the objectives, None where none did."""

    plan: Plan
    steps: list[Figures] = field(default_factory=list)
    objectives: tuple[Rule, ...] = ()
    held: Figures | None = None
    interrupted: bool = False

    def broken(self, rules: Sequence[Rule]) -> tuple[list[Rule], list[Rule]]:
        """Return the rules that are true of a step, and those whose figure was not measured.

        Where the highest load was looked for, its step alone counts, and ``highest_load`` is a figure: 0 where none
        held.
        """
        steps = self.steps if not self.objectives else [self.held] if self.held else []
        named = [one.by_name for one in steps] or [{}]
        if self.objectives:
            highest = self.held.step.load.size if self.held else 0.0
            named = [{**one, HIGHEST_LOAD: highest} for one in named]
        verdicts = {rule: [rule.holds(one) for one in named] for rule in rules}
        return (
            [rule for rule, found in verdicts.items() if True in found],
            [rule for rule, found in verdicts.items() if True not in found and None in found],
        )


@dataclass(frozen=True, slots=True)
class Course:
    """Which loads are tried: ``loads``, one after the other.

    With ``objectives`` the highest load that holds them is looked for: ``loads`` until one does not hold; else the last
    one is doubled until one does not; then the gap is halved until it is less than ``precision`` of the load.
    """

    loads: tuple[Load, ...]
    objectives: tuple[Rule, ...] = ()
    precision: float = 0.1

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The objectives, and that calls are answered where nothing else is asked of that."""
        named = {rule.figure for rule in self.objectives}
        if not self.objectives or named & {"answered_share", "refused_share", "failed_share"}:
            return self.objectives
        return (*self.objectives, ANSWERED)


def run(
    plan: Plan, course: Course, resources: Resources, observer: Observer | None = None
) -> Measured:
    """Load the gateway. Ctrl-C and SIGTERM end it; what was measured until then is returned.

    Raises Unavailable where a link cannot be opened or no call of the warm-up is answered.
    """
    allow_many_connections()
    return uvloop.run(measure(plan, course, resources, observer))


def allow_many_connections() -> None:
    """Let this process open as many files as the system allows: in an overload each call in flight is a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def measure(
    plan: Plan, course: Course, resources: Resources, observer: Observer | None = None
) -> Measured:
    """As :func:`run`, in the event loop that runs."""
    measured = Measured(plan, objectives=course.rules)
    async with Gateway(plan.url) as gateway, opened_links(plan, gateway) as opened:
        generator = Generator(plan, gateway, Queries(plan, opened), resources, observer)
        with _stopped_by_signals(generator):
            await generator.warm_up()
            async with announced(gateway) as announce:
                search = _Search(course)
                while not generator.stopped and (load := search.next_load()) is not None:
                    await announce(plan, load)
                    figures = figures_of(await generator.step(load), plan)
                    measured.steps.append(figures)
                    if not generator.stopped:
                        search.note(figures)
        measured.held = search.best
        measured.interrupted = generator.stopped
    return measured


class _Search:
    """Which load comes next."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._waiting = list(course.loads)
        self.best: Figures | None = None
        self._broken: float | None = None
        self._tried = 0

    def note(self, figures: Figures) -> None:
        """Take a measured step into account."""
        size = figures.step.load.size
        if all(rule.holds(figures.by_name) for rule in self._course.rules):
            if self.best is None or size > self.best.step.load.size:
                self.best = figures
        elif self._broken is None or size < self._broken:
            self._broken = size

    def next_load(self) -> Load | None:
        """The load to try; None where all is known."""
        course = self._course
        if self._waiting:
            if course.objectives and self._broken is not None:
                return None
            return self._waiting.pop(0)
        if not course.objectives or self._tried >= MAX_DOUBLINGS:
            return None
        self._tried += 1
        first = course.loads[0]
        held = self.best.step.load.size if self.best else 0.0
        if self._broken is None:
            return first.scaled_to(2 * held)
        apart = self._broken - held
        least = 1 if first.users else first.size / 64
        if apart <= max(course.precision * self._broken, least):
            return None
        return first.scaled_to((held + self._broken) / 2)


@contextmanager
def _stopped_by_signals(generator: Generator) -> Iterator[None]:
    """The first SIGINT or SIGTERM stops the generator; a second one interrupts as usual."""
    loop = asyncio.get_running_loop()
    caught: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        generator.stop()
        for one in caught:
            loop.remove_signal_handler(one)

    installed = []
    for one in caught:
        with suppress(NotImplementedError, ValueError, RuntimeError):  # not in the main thread
            loop.add_signal_handler(one, stop)
            installed.append(one)
    try:
        yield
    finally:
        for one in installed:
            loop.remove_signal_handler(one)
