"""Which things a picture shows and where: the ground truth from which pixels and captions are made.

Coordinates are pixels of a 256×256 picture, origin at the top left; a box is (x, y, width, height).
Relations are defined on the boxes of groups (all instances of one kind), our definition:

- ``left_of``: A's box ends before B's box begins (an overlap of a fifth of the narrower one is allowed), and their
  centres are at least 28 px apart.
- ``next_to``: as ``left_of``, with a gap below 44 px, both in the same zone.
- ``above``: A is in the air, its box ends at most 8 px below the top of B's box, and the centres' horizontal
  distance is at most 35 % of the wider box.
- ``on``: A's foot is within 2 px of the surface of B, between a quarter and three quarters of its width.
- ``in_front_of``: A's box overlaps B's box by more than a fifth of the narrower one, A's foot is at least 6 px
  lower, and A is drawn later.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from semlink.corpora.corpus import Split
from semlink.corpora.scenes.cliparts import Clip, Cliparts, Label
from semlink.corpora.scenes.draws import Draws
from semlink.corpora.scenes.settings import SETTINGS, Setting

PICTURE_SIZE_PX = 256
MIN_LONGER_SIDE_PX = 52
"""No object is smaller than a fifth of the picture's width."""

RelationName = Literal["left_of", "next_to", "above", "on", "in_front_of"]

_MARGIN = 5
_GROUND_WIDTH = PICTURE_SIZE_PX - 2 * _MARGIN
_LONGER_SIDE_PX = {"small": (66, 84), "medium": (88, 110), "large": (110, 138)}
_GOLDEN_RATIO = (5.0**0.5 - 1.0) / 2.0
_SIZE_RANK = {"small": 0, "medium": 1, "large": 2}
_CLUSTER_WIDTH = {1: 1.0, 2: 1.84, 3: 2.45}


@dataclass(frozen=True, slots=True)
class Instance:
    """One drawn clipart and its box."""

    clip: Clip
    x: float
    y: float
    width: float
    height: float
    mirrored: bool


@dataclass(slots=True)
class Group:
    """All instances of one kind: same label, same colour."""

    label: Label
    colour: str | None
    paint: str | None
    clips: list[Clip]
    longer_side: float = 0.0
    instances: list[Instance] = field(default_factory=list)
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """(left, top, right, bottom) around all instances."""

    @property
    def count(self) -> int:
        """Number of instances, 1 to 3."""
        return len(self.clips)

    def size(self, clip: Clip) -> tuple[float, float]:
        """Drawn (width, height) of ``clip`` in this group."""
        scale = self.longer_side / max(clip.width, clip.height)
        return clip.width * scale, clip.height * scale

    @property
    def width(self) -> float:
        """Width that the group takes when its instances stand side by side, slightly overlapping."""
        return _CLUSTER_WIDTH[self.count] * max(self.size(clip)[0] for clip in self.clips)


@dataclass(frozen=True, slots=True)
class Relation:
    """``subject`` relation ``object``; both are indices into the scene's groups."""

    subject: int
    name: RelationName
    object: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's ground truth. ``groups`` are in drawing order, back to front."""

    setting: Setting
    groups: tuple[Group, ...]
    relations: tuple[Relation, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Labels by the settings they fit, prepared once for a corpus."""

    cliparts: Cliparts
    labels: list[Label]
    opening_weights: list[float]
    """Running sums of how often each label opens a picture."""
    by_setting: dict[str, list[Label]]
    settings_of: dict[str, list[tuple[Setting, float]]]
    small_things: dict[str, list[Label]]
    supports: frozenset[str]
    """Labels of things that others can stand on."""


def fits(label: Label, setting: Setting) -> bool:
    """True if things of this kind may appear in this setting."""
    if label.name in setting.excludes:
        return False
    if label.zone == "water":
        return setting.water != "none"
    if label.zone == "sky":
        return not setting.indoor or label.place == "any"
    if setting.water == "all":
        return False
    return label.place == "any" or not setting.indoor


# how often a kind opens a picture, to even out how often it appears in all
_OPENING_WEIGHT = {"water": 1.6, "sky": 0.5, "outdoor": 1.25, "any": 1.0}
# few kinds fly or swim: without this every second picture would show one of the same few
_COMPANION_CHANCE = {"ground": 1.0, "sky": 0.45, "water": 0.4}


def prepare(cliparts: Cliparts) -> Vocabulary:
    """Work out which kinds fit which setting."""
    labels = list(cliparts.labels.values())
    by_setting = {s.name: [label for label in labels if fits(label, s)] for s in SETTINGS}
    small = {
        name: [x for x in there if x.size == "small" and x.zone == "ground"]
        for name, there in by_setting.items()
    }
    return Vocabulary(
        cliparts=cliparts,
        labels=labels,
        opening_weights=list(accumulate(map(_opening_weight, labels))),
        by_setting=by_setting,
        settings_of={
            label.name: [(s, s.weight) for s in SETTINGS if fits(label, s)] for label in labels
        },
        small_things=small,
        supports=frozenset(
            c.label for clips in cliparts.clips.values() for c in clips if c.surface is not None
        ),
    )


def _opening_weight(label: Label) -> float:
    return _OPENING_WEIGHT[label.place if label.zone == "ground" else label.zone]


def _choose_labels(
    draws: Draws, vocabulary: Vocabulary, opening: float
) -> tuple[Setting, list[Label]]:
    weights = vocabulary.opening_weights
    first = vocabulary.labels[bisect(weights, opening * weights[-1])]
    setting = draws.weighted(vocabulary.settings_of[first.name])
    num_kinds = draws.weighted([(2, 0.34), (3, 0.46), (4, 0.2)])
    limit = {"sky": 1, "water": 3 if setting.water == "all" else 1, "ground": 3}
    labels = [first]
    pool = vocabulary.by_setting[setting.name]
    for _ in range(40):
        if len(labels) == num_kinds:
            break
        label = draws.choice(pool)
        if setting.water != "all" and not draws.chance(_COMPANION_CHANCE[label.zone]):
            continue
        same_zone = sum(other.zone == label.zone for other in labels)
        if label not in labels and same_zone < limit[label.zone]:
            labels.append(label)
    # a picture of nothing but flying things looks empty: give it something to stand
    if setting.water != "all" and all(label.zone != "ground" for label in labels):
        labels[-1] = draws.choice([label for label in pool if label.zone == "ground"])
    # tables are there to put things on
    spare = [i for i, label in enumerate(labels) if label.name not in vocabulary.supports]
    put_on = any(label.size == "small" and label.zone == "ground" for label in labels)
    if len(spare) < len(labels) and not put_on and draws.chance(0.75) and spare:
        labels[spare[-1]] = draws.choice(vocabulary.small_things[setting.name])
    return setting, labels


def _choose_group(
    draws: Draws, vocabulary: Vocabulary, label: Label, split: Split, count: int
) -> Group:
    clips = vocabulary.cliparts.clips[label.name]
    allowed = [c for c in clips if split == "test" or not c.held_out]
    first = draws.choice(allowed)
    kind = (first.recolourable, first.colour)
    alike = [c for c in allowed if (c.recolourable, c.colour) == kind]
    chosen = [first]
    for _ in range(count - 1):
        chosen.append(first if draws.chance(0.6) else draws.choice(alike))
    paint = draws.choice(label.paints) if first.recolourable else None
    side = draws.uniform(*_LONGER_SIDE_PX[label.size])
    return Group(label, paint or first.colour, paint, chosen, side)


def _stand(draws: Draws, group: Group, centre: float, foot: float) -> None:
    """Place the instances side by side around ``centre`` with their feet near ``foot``."""
    mirrored = draws.chance(0.5)
    width = max(group.size(clip)[0] for clip in group.clips)
    step = 0.84 * width if group.count == 2 else 0.725 * width
    group.instances.clear()
    for number, clip in enumerate(group.clips):
        w, h = group.size(clip)
        x = centre + (number - (group.count - 1) / 2.0) * step - w / 2.0
        depth = draws.uniform(-5.0, 5.0) if group.count > 1 else 0.0
        y = foot + depth - h
        x = min(max(x, 2.0), PICTURE_SIZE_PX - 2.0 - w)
        y = min(max(y, 3.0), PICTURE_SIZE_PX - 3.0 - h)
        group.instances.append(Instance(clip, x, y, w, h, mirrored))
    # the nearer one is drawn over the farther one
    group.instances.sort(key=lambda i: i.y + i.height)
    items = group.instances
    right, foot = max(i.x + i.width for i in items), items[-1].y + items[-1].height
    group.box = (min(i.x for i in items), min(i.y for i in items), right, foot)


@dataclass(slots=True)
class _Column:
    """What shares one stretch of the ground: a group, perhaps with one standing on it or in front of it."""

    base: Group
    rider: Group | None = None
    mode: Literal["alone", "on", "front"] = "alone"

    @property
    def width(self) -> float:
        if self.rider is None or self.mode == "on":
            return self.base.width
        return self.base.width + 0.55 * self.rider.width


def _make_columns(draws: Draws, ground: list[Group]) -> list[_Column]:
    """Pair some of the ground groups: one on another, or one in front of another."""
    supports = [g for g in ground if g.count == 1 and g.clips[0].surface is not None]
    small = [g for g in ground if g.count == 1 and g.label.size == "small"]
    rest = list(ground)
    columns: list[_Column] = []
    if supports and small and draws.chance(0.85):
        base, rider = draws.choice(supports), draws.choice(small)
        base.longer_side = max(base.longer_side, 106.0)
        columns.append(_Column(base, rider, "on"))
        rest = [g for g in rest if g is not base and g is not rider]
    elif len(ground) >= 2 and draws.chance(0.34):
        two = draws.shuffled(ground)[:2]
        base, rider = sorted(two, key=lambda g: _SIZE_RANK[g.label.size], reverse=True)
        if base.count == 1:
            rider.longer_side = min(rider.longer_side, 0.9 * base.longer_side)
            columns.append(_Column(base, rider, "front"))
            rest = [g for g in rest if g is not base and g is not rider]
    columns.extend(_Column(g) for g in rest)
    return draws.shuffled(columns)


def _place_ground(
    draws: Draws, ground: list[Group], low: float, high: float, max_height: float
) -> None:
    """Place the ground groups from left to right with their feet in [low, high]."""
    columns = _make_columns(draws, ground)
    for group in ground:
        tallest = max(group.size(clip)[1] for clip in group.clips)
        group.longer_side *= min(1.0, max_height / tallest)
    total = sum(column.width for column in columns)
    scale = min(1.0, _GROUND_WIDTH / total)
    for group in ground:
        group.longer_side = max(group.longer_side * scale, MIN_LONGER_SIDE_PX + 2.0)
    total = sum(column.width for column in columns)
    slack = _GROUND_WIDTH - total
    gaps = [draws.uniform(0.2, 1.0) for _ in range(len(columns) + 1)]
    x = float(_MARGIN)
    # negative slack (many things at their smallest size) makes columns overlap a little
    per_gap = slack / sum(gaps)
    if slack < 0:
        gaps = [0.0] + [1.0] * (len(columns) - 1) + [0.0]
        per_gap = slack / max(1, len(columns) - 1)
    for gap, column in zip(gaps[:-1], columns, strict=True):
        x += gap * per_gap
        foot = draws.uniform(low, high)
        if column.mode == "front" and column.rider is not None:
            _place_front(draws, column, x, foot, high)
        else:
            _stand(draws, column.base, x + column.width / 2.0, foot)
            if column.rider is not None:
                _place_on(draws, column.base, column.rider)
        x += column.width


def _place_front(draws: Draws, column: _Column, x: float, foot: float, high: float) -> None:
    base, rider = column.base, column.rider
    assert rider is not None
    foot = min(foot, high - 8.0)
    left_first = draws.chance(0.5)
    base_x = x + base.width / 2.0 + (0.0 if left_first else 0.55 * rider.width)
    _stand(draws, base, base_x, foot)
    left, _, right, bottom = base.box
    # enough overlap to be seen as in front, but what is behind stays recognisable
    hidden = min(0.5 * rider.width, max(0.36 * base.width, 0.25 * rider.width))
    centre = right - hidden + rider.width / 2.0 if left_first else left + hidden - rider.width / 2.0
    _stand(draws, rider, centre, min(bottom + draws.uniform(10.0, 16.0), PICTURE_SIZE_PX - 4.0))


def _place_on(draws: Draws, base: Group, rider: Group) -> None:
    support = base.instances[0]
    assert support.clip.surface is not None
    rider.longer_side = min(rider.longer_side, max(MIN_LONGER_SIDE_PX + 2.0, 0.7 * support.width))
    surface_y = support.y + support.clip.surface * support.height + 4.0
    centre = support.x + support.width * draws.uniform(0.42, 0.58)
    _stand(draws, rider, centre, surface_y)


def _place_sky(draws: Draws, group: Group, others: list[Group]) -> None:
    top_of_ground = min((g.box[1] for g in others), default=170.0)
    group.longer_side = min(group.longer_side, 96.0)
    tallest = max(group.size(clip)[1] for clip in group.clips)
    if tallest > 84.0:
        group.longer_side = max(MIN_LONGER_SIDE_PX + 2.0, group.longer_side * 84.0 / tallest)
        tallest = max(group.size(clip)[1] for clip in group.clips)
    if group.width > _GROUND_WIDTH:
        group.longer_side *= _GROUND_WIDTH / group.width
    half = group.width / 2.0
    if others and draws.chance(0.65):
        below = draws.choice(others)
        centre = (below.box[0] + below.box[2]) / 2.0
        limit = below.box[1] - 2.0
    else:
        centre = draws.uniform(_MARGIN + half, PICTURE_SIZE_PX - _MARGIN - half)
        limit = top_of_ground
    centre = min(max(centre, _MARGIN + half), PICTURE_SIZE_PX - _MARGIN - half)
    bottom = max(tallest + 8.0, min(limit - draws.uniform(0.0, 14.0), tallest + 40.0))
    _stand(draws, group, centre, bottom)


def _spatial_relations(groups: list[Group], placed: list[Relation]) -> list[Relation]:
    """Relations that the boxes themselves show; pairs that were placed on or before each other are left out."""
    boxes = [g.box for g in groups]
    taken = {frozenset((r.subject, r.object)) for r in placed}
    relations = list(placed)
    for a, (al, _, ar, ab) in enumerate(boxes):
        for b, (bl, bt, br, _) in enumerate(boxes):
            if a == b or frozenset((a, b)) in taken:
                continue
            aw, bw = ar - al, br - bl
            distance = (bl + br - al - ar) / 2.0
            a_flies, b_flies = groups[a].label.zone == "sky", groups[b].label.zone == "sky"
            if a_flies and not b_flies and ab <= bt + 8.0 and abs(distance) <= 0.35 * max(aw, bw):
                relations.append(Relation(a, "above", b))
                continue
            if distance < 28.0 or ar - bl > 0.2 * min(aw, bw):
                continue
            relations.append(Relation(a, "left_of", b))
            if groups[a].label.zone == groups[b].label.zone and bl - ar < 44.0:
                relations.append(Relation(a, "next_to", b))
    return relations


def _is_in_front(front: Group, back: Group) -> bool:
    fl, ft, fr, fb = front.box
    bl, bt, br, bb = back.box
    overlap = min(fr, br) - max(fl, bl)
    return overlap > 0.2 * min(fr - fl, br - bl) and ft < bb and bt < fb and fb >= bb + 6.0


def compose(draws: Draws, vocabulary: Vocabulary, split: Split, number: int) -> Scene:
    """Draw the ground truth of picture ``number`` of ``split``.

    The kind that opens a picture goes through all kinds evenly with the golden ratio's multiples, so that every
    kind is seen about equally often whatever the number of pictures.
    """
    opening = (number * _GOLDEN_RATIO) % 1.0
    setting, labels = _choose_labels(draws, vocabulary, opening)
    ground_labels = [label for label in labels if label.zone == "ground"]
    room = 5 - len(labels)
    has_support = any(label.name in vocabulary.supports for label in labels)
    is_table_scene = has_support and draws.chance(0.6)
    groups: list[Group] = []
    for label in labels:
        count = draws.weighted([(1, 0.66), (2, 0.22), (3, 0.12)])
        # large things in a crowd would shrink to nothing
        most = 2 if label.size == "large" or len(ground_labels) > 2 else 3
        count = 1 + min(count - 1, most - 1, room)
        if is_table_scene and label.zone == "ground":
            count = 1
        room -= count - 1
        groups.append(_choose_group(draws, vocabulary, label, split, count))
    return _arrange(draws, setting, groups)


def _arrange(draws: Draws, setting: Setting, groups: list[Group]) -> Scene:
    zones = ("ground", "water", "sky")
    ground, water, sky = ([g for g in groups if g.label.zone == zone] for zone in zones)
    max_height = 128.0 if sky else 150.0
    if setting.water == "all":
        _place_ground(draws, water, 176.0, 236.0, max_height)
    else:
        _place_ground(draws, ground, setting.foot_px, 246.0, max_height)
        for group in water:
            group.longer_side = max(MIN_LONGER_SIDE_PX + 4.0, 0.62 * group.longer_side)
            half = group.width / 2.0
            centre = draws.uniform(_MARGIN + half, max(_MARGIN + half + 1.0, 251.0 - half))
            _stand(draws, group, centre, setting.water_foot_px + draws.uniform(-4.0, 4.0))
    for group in sky:
        _place_sky(draws, group, ground or water)
    # back to front: sky, far water, then what stands nearer the viewer (lower) last
    ordered = sky + (water if setting.water != "all" else [])
    standing = water if setting.water == "all" else ground
    ordered += sorted(standing, key=lambda g: _depth(g, standing))
    placed = _placed_relations(ordered)
    return Scene(setting, tuple(ordered), tuple(_spatial_relations(ordered, placed)))


def _depth(group: Group, standing: list[Group]) -> float:
    for base in standing:
        if base is not group and _is_on(group, base):
            return base.box[3] + 0.01
    return group.box[3]


def _placed_relations(groups: list[Group]) -> list[Relation]:
    relations: list[Relation] = []
    for a, front in enumerate(groups):
        for b, back in enumerate(groups):
            if a == b or "sky" in (front.label.zone, back.label.zone):
                continue
            if _is_on(front, back):
                relations.append(Relation(a, "on", b))
            elif a > b and _is_in_front(front, back):
                relations.append(Relation(a, "in_front_of", b))
    return relations


def _is_on(rider: Group, base: Group) -> bool:
    if rider.count != 1 or base.count != 1 or rider.label.size != "small":
        return False
    support = base.instances[0]
    if support.clip.surface is None:
        return False
    left, _, right, foot = rider.box
    surface_y = support.y + support.clip.surface * support.height + 4.0
    centre = (left + right) / 2.0
    inside = support.x + 0.25 * support.width <= centre <= support.x + 0.75 * support.width
    return inside and abs(foot - surface_y) <= 2.0
