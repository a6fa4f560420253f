"""The channel side of a knowledge base that grows: ``semlink kb learn-channel --scenario umi-los``.

Links leave their reports in the store. What a later report says of the channel is what a generator should have
predicted from the earlier ones: self-supervision by quantised reports, since the true channel is never known. A
generator's last layers are trained on such pairs. Our definition.

It does not help. Later reports of users that were not trained on are predicted better (0.1 to 0.3 dB), the true channel
is not: NMSE grows by up to 0.35 dB at the site itself (:mod:`lab.experiments.site_adaptation`), because a
later report errs as the earlier ones do, and the generator learns these errors, too. A link has nothing that would
tell: what is learned is therefore kept only where it is asked for.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from rich.console import Console

from kb_service.channel_knowledge import keep, refined_weights
from kb_service.generators import Antennas, ChannelGenerator, context_of, load_generator
from kb_service.prediction import Generated, default_predictor
from lab.training.csi_predictors import phase_free_nmse, some_missing
from lab.training.trainer import TrainerConfig, train
from semlink.decibels import lin_to_db
from semlink.errors import InvalidField, NotFound
from semlink.links import Link
from semlink.scenarios import SCENARIOS
from semlink.settings import Settings
from semlink.signal.csi import content_of
from semlink.signal.feedback import HISTORY_REPORTS, ReportHistory, decode_histories
from semlink.store import Store, open_store
from semlink.v1 import channel_pb2

REFINED: Final = ("leave.", "norm.", "gains.", "dense.")
"""Beginnings of the names of the weights that are trained anew: the head and what it reads."""
AGES_SLOTS: Final = (2, 14)
"""How far ahead generators were trained to look; later reports are no targets."""
MAX_REPORTS: Final = 400
"""Newest of each link that are read."""
HELD_OUT: Final = 4
"""One user in so many is not trained on."""
WARNING: Final = (
    "better on later reports was worse on the true channel wherever that could be measured"
)
MIN_PAIRS: Final = 256
MIN_GAIN_DB: Final = 0.02
"""Of NMSE against held-out users' later reports: less is not kept."""


@dataclass(frozen=True, slots=True)
class RefineRecipe:
    """How a refinement is trained."""

    steps: int = 300
    batch: int = 64
    learning_rate: float = 3e-4
    stay: float = 1e-2
    """Weight of the squared distance from the shipped weights, relative to their own size."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Pairs:
    """Histories of reports and what a later report said.

    ``history`` complex64 ``[n, HISTORY_REPORTS, num_subbands, num_rows, num_tx_ant]``; ``present`` bool
    ``[n, HISTORY_REPORTS]``; ``age_slots`` int64 of the same shape; ``context`` float32 ``[n, CONTEXT_SIZE]``;
    ``later`` complex64 ``[n, num_subbands, num_rows, num_tx_ant]``; ``user`` int64 ``[n]``, running number over links.
    """

    history: torch.Tensor
    present: torch.Tensor
    age_slots: torch.Tensor
    context: torch.Tensor
    later: torch.Tensor
    user: torch.Tensor

    def __len__(self) -> int:
        return len(self.history)

    def rows(self, index: torch.Tensor) -> Pairs:
        """Some of the pairs."""
        return Pairs(*(getattr(self, name)[index] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """One behind the other, users numbered on."""
        users, first = [], 0
        for part in parts:
            users.append(part.user + first)
            first += int(part.user.max()) + 1 if len(part) else 0
        whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__}
        return cls(**{**whole, "user": torch.cat(users)})


def pairs_of(config: Link, csi: torch.Tensor, present: torch.Tensor) -> Pairs:
    """Every history of a link that a later report within ``AGES_SLOTS`` follows.

    ``csi``: complex64 ``[num_users, num_reports, num_subbands, num_rx_ant, num_tx_ant]``, one a report period, oldest
    first; ``present``: bool ``[num_users, num_reports]``.
    """
    rows = content_of(config).rows(csi)
    rows = torch.where(present[..., None, None, None], rows, torch.zeros_like(rows))
    count, period = csi.shape[1], config.feedback.report_period_slots
    ahead = [k for k in range(1, AGES_SLOTS[1] + 1) if AGES_SLOTS[0] <= k * period <= AGES_SLOTS[1]]
    empty = torch.zeros((len(csi), HISTORY_REPORTS - 1, *rows.shape[2:]), dtype=rows.dtype)
    padded = torch.cat([empty, rows], dim=1)
    here = torch.cat([torch.zeros(empty.shape[:2], dtype=torch.bool), present], dim=1)
    ages = torch.arange(HISTORY_REPORTS - 1, -1, -1) * period
    parts = []
    for newest in range(count):
        window = slice(newest, newest + HISTORY_REPORTS)
        for k in ahead:
            if newest + k >= count:
                continue
            usable = (here[:, window].any(1) & present[:, newest + k]).nonzero()[:, 0]
            parts.append(
                Pairs(
                    padded[usable, window],
                    here[usable, window],
                    (ages + k * period).expand(len(usable), -1),
                    context_of(config).expand(len(usable), -1),
                    rows[usable, newest + k],
                    usable,
                )
            )
    if not parts:
        raise NotFound(
            f"reports of period {period} slots have no later report within {AGES_SLOTS[1]} slots",
            field="scenario",
        )
    return Pairs(*(torch.cat([getattr(p, name) for p in parts]) for name in Pairs.__slots__))


async def experienced(store: Store, scenario: str) -> list[Pairs]:
    """Pairs of every open link of a scenario whose reports generators can read, from what the store still has."""
    links = [
        link for link in await store.links() if learnable(Link.from_proto(link.config), scenario)
    ]
    configs = [Link.from_proto(link.config) for link in links]
    wanted = [(link.link_id, _report_slots(link)) for link in links]
    found = await store.reports(wanted)
    histories = [
        ReportHistory(config, reports, slots, link.link_id)
        for link, config, reports, (_, slots) in zip(links, configs, found, wanted, strict=True)
    ]
    return [
        pairs_of(config, decoded.csi, decoded.present)
        for config, decoded in zip(
            configs, decode_histories(histories, Settings().weights), strict=True
        )
        if decoded.present.any()
    ]


def learnable(config: Link, scenario: str) -> bool:
    """Whether a link's reports are those that generators read: RVQ of the layers' rows, each for itself."""
    feedback, default = config.feedback, Link()
    return (
        config.scenario == scenario
        and (config.num_tx_ant, config.num_layers) == (default.num_tx_ant, default.num_layers)
        and feedback.quantizer == "rvq"
        and feedback.content != "channel"
        and feedback.memory != "predictive"
    )


def _report_slots(link: channel_pb2.Link) -> list[int]:
    period = link.config.feedback.report_period_slots
    newest = (link.slot - link.config.feedback.delay_slots) // period
    return [i * period for i in range(max(0, newest - MAX_REPORTS + 1), newest + 1)]


# --- training ----------------------------------------------------------------------------------


def nmse_db(generator: ChannelGenerator, pairs: Pairs) -> float:
    """NMSE of predicted against later reports, one ratio of sums, free phases turned away [dB]."""
    error = power = 0.0
    with torch.inference_mode():
        for first in range(0, len(pairs), 96):
            part = pairs.rows(torch.arange(first, min(first + 96, len(pairs))))
            rows = generator(part.history, part.present, part.age_slots, part.context)
            weight = part.later.abs().square().sum((1, 2, 3))
            error += float((phase_free_nmse(rows, part.later) * weight).sum())
            power += float(weight.sum())
    return float(lin_to_db(torch.tensor(error / power)))


def refine(
    shipped: ChannelGenerator, pairs: Pairs, recipe: RefineRecipe
) -> dict[str, torch.Tensor]:
    """The weights of the last layers after training on pairs, by name; ``shipped`` stays as it is."""
    generator = copy.deepcopy(shipped).requires_grad_(False)
    trained = {
        name: weight
        for name, weight in generator.named_parameters()
        if name.startswith(REFINED) and not name.startswith("trunk.")
    }
    for weight in trained.values():
        weight.requires_grad_(True)
    start = {name: weight.detach().clone() for name, weight in trained.items()}
    size = sum(float(weight.square().sum()) for weight in start.values())
    draws = torch.Generator().manual_seed(recipe.seed)

    def loss(_step: int) -> torch.Tensor:
        batch = pairs.rows(torch.randint(len(pairs), (recipe.batch,), generator=draws))
        lost = some_missing((recipe.batch, HISTORY_REPORTS), draws)
        # what is lost on top of what was lost, unless that leaves nothing
        present = batch.present & lost
        present = torch.where(present.any(1, keepdim=True), present, batch.present)
        rows = generator(batch.history, present, batch.age_slots, batch.context)
        moved = sum(
            ((weight - start[name]).square().sum() for name, weight in trained.items()),
            torch.zeros(()),
        )
        return phase_free_nmse(rows, batch.later).mean() + recipe.stay * moved / size

    config = TrainerConfig(
        title="",
        epochs=1,
        num_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        decay="linear",
        reseed="never",
        training_mode=False,
    )
    train(generator, lambda _: range(recipe.steps), loss, config)
    return {name: weight.detach().clone() for name, weight in trained.items()}


def with_weights(
    shipped: ChannelGenerator, weights: Mapping[str, torch.Tensor]
) -> ChannelGenerator:
    """A copy of a generator with some weights replaced."""
    generator = copy.deepcopy(shipped)
    generator.load_state_dict(dict(weights), strict=False)
    return generator


@dataclass(frozen=True, slots=True)
class Learned:
    """What learning came to: figures against later reports of held-out users, and the weights if they are better."""

    pairs: int
    users: int
    before_db: float
    after_db: float
    weights: Mapping[str, torch.Tensor]

    @property
    def better(self) -> bool:
        """Whether it is worth keeping."""
        return self.after_db <= self.before_db - MIN_GAIN_DB


def learn(shipped: ChannelGenerator, pairs: Pairs, recipe: RefineRecipe) -> Learned:
    """Train on three users in four and compare on the others. Raises NotFound for too few pairs."""
    held_out = pairs.user % HELD_OUT == HELD_OUT - 1
    if min(int(held_out.sum()), int((~held_out).sum())) < MIN_PAIRS:
        raise NotFound(
            f"{len(pairs)} histories with a later report of {int(pairs.user.max()) + 1} users are too few to learn "
            f"from: {MIN_PAIRS} each are needed to train and to compare",
            field="scenario",
        )
    weights = refine(shipped, pairs.rows((~held_out).nonzero()[:, 0]), recipe)
    check = pairs.rows(held_out.nonzero()[:, 0])
    return Learned(
        len(pairs),
        int(pairs.user.max()) + 1,
        nmse_db(shipped, check),
        nmse_db(with_weights(shipped, weights), check),
        weights,
    )


def chosen_generator(scenario: str) -> str:
    """The trained generator that the knowledge base would ask by itself; raises InvalidField if it is a linear one."""
    config = Link(scenario=scenario)
    predictor, _ = default_predictor(config, config.feedback.delay_slots, Settings().weights)
    if not isinstance(predictor, Generated):
        raise InvalidField(
            f"the default predictor is {predictor.name!r}, which learns nothing; name a generator",
            field="generator",
        )
    return predictor.name


def run(
    scenario: str,
    settings: Settings,
    *,
    generator: str = "",
    recipe: RefineRecipe | None = None,
    keep_it: bool = False,
    console: Console | None = None,
) -> Learned:
    """Learn from what links left in the store. What ``semlink kb learn-channel`` does.

    ``keep_it``: use it from now on where it predicts later reports better, which does not say that it predicts the
    channel better. Raises InvalidField for an unknown scenario or generator, NotFound for too little to learn from.
    """
    recipe, console = recipe or RefineRecipe(), console or Console()
    if scenario not in SCENARIOS:
        raise InvalidField(
            f"--scenario is {scenario!r}, allowed: {', '.join(SCENARIOS)}", field="scenario"
        )
    name = generator or chosen_generator(scenario)
    shipped = load_generator(name, Antennas(), weights=Settings().weights)

    async def read() -> list[Pairs]:
        store = open_store(settings)
        try:
            return await experienced(store, scenario)
        finally:
            await store.close()

    parts = asyncio.run(read())
    if not parts:
        raise NotFound(
            f"no open link of {scenario} has left RVQ reports of one layer at 16 ports in the store",
            field="scenario",
        )
    started = time.monotonic()
    learned = learn(shipped, Pairs.joined(parts), recipe)
    metadata: dict[str, Any] = {
        "command": f"semlink kb learn-channel --scenario {scenario} --generator {name}",
        "links": len(parts),
        "pairs": learned.pairs,
        "users": learned.users,
        "nmse_db_against_later_reports": {
            "before": round(learned.before_db, 4),
            "after": round(learned.after_db, 4),
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    verb = "not kept: later reports are predicted no better"
    if learned.better and not keep_it:
        verb = f"not kept: {WARNING}; --keep keeps it all the same"
    elif learned.better:
        again = bool(refined_weights(name, scenario))
        keep(name, scenario, learned.weights, metadata)
        verb = "kept, the earlier one can be had back" if again else "kept"
    console.print(
        f"{name}, {scenario}: {learned.pairs} histories of {learned.users} users on {len(parts)} links; NMSE of later "
        f"reports of held-out users {learned.before_db:.3f} -> {learned.after_db:.3f} dB: {verb}",
        soft_wrap=True,
    )
    return learned
