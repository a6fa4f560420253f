"""What a person is and wears, how one picture shows them, and what of it can be seen there.

A :class:`Person` is fixed for an identity; a :class:`Shot` is one picture of that person. Both are drawn from
:class:`~semlink.corpora.pedestrians.draws.Draws` and serve as ground truth (our definition).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from semlink.corpora.pedestrians.draws import Draws

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (36, 36, 41),
    "white": (238, 238, 234),
    "grey": (130, 132, 136),
    "red": (200, 36, 44),
    "orange": (238, 122, 30),
    "yellow": (243, 206, 58),
    "green": (42, 134, 68),
    "blue": (38, 88, 188),
    "purple": (118, 58, 156),
    "pink": (241, 146, 180),
    "brown": (114, 72, 42),
    "beige": (216, 192, 154),
}
"""Garment colours, sRGB 0…255: clearly apart, also for a small encoder."""

HAIR_COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (30, 27, 29),
    "brown": (92, 58, 34),
    "blond": (222, 186, 110),
    "red": (168, 74, 30),
    "grey": (158, 158, 160),
}

SKIN_TONES: dict[str, tuple[int, int, int]] = {
    "light": (240, 202, 178),
    "tan": (216, 166, 128),
    "brown": (160, 108, 74),
    "dark": (98, 64, 46),
}

PATTERNS = ("plain", "striped", "checked", "dotted", "print")
BACKGROUNDS = ("street", "wall", "park", "crossing", "shop", "station")
LIGHTS = ("day", "overcast", "dusk", "warm")

SLEEVE_LENGTH = {"t-shirt": "short", "polo shirt": "short", "tank top": "none", "dress": "short"}
"""Upper garments without a long sleeve; all others have one."""


@dataclass(frozen=True, slots=True)
class Garment:
    """A coloured thing that is worn or carried; ``pattern_colour`` is None where the pattern is plain."""

    kind: str
    colour: str
    pattern: str = "plain"
    pattern_colour: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Everything that stays with an identity."""

    gender: str
    age: str
    build: str
    stature: float
    """Height relative to the mean, 0.93…1.06."""
    skin: str
    hair_style: str
    hair_colour: str
    beard: bool
    glasses: str
    headwear: Garment | None
    scarf: Garment | None
    outer: Garment | None
    """Open over ``upper``."""
    upper: Garment
    lower: Garment | None
    """None under a dress."""
    shoes: Garment
    bag: Garment | None
    bag_side: int
    """+1: at the person's left, −1: right."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a person."""

    view: str
    yaw_deg: float
    """0: faces the camera, 90: faces the picture's right edge, 180: seen from behind."""
    action: str
    carried: Garment | None
    phase: float
    """Of the walking cycle, radians."""
    background: str
    light: str
    occlusion: str


Shares = Mapping[str, float]
"""How often each choice is drawn, relative to the others."""

_PLAIN: Shares = {"plain": 1.0}
_ANY_COLOUR: Shares = dict.fromkeys(COLOURS, 1.0)
_LOWER_COLOUR: Shares = {
    **{"black": 2.2, "grey": 1.6, "beige": 1.5, "brown": 1.3, "white": 1.2, "green": 1.0},
    **{"red": 0.9, "blue": 1.0, "purple": 0.5, "pink": 0.4},
}
_SHOE_COLOUR: Shares = {
    **{"black": 2.4, "white": 2.2, "brown": 2.0, "red": 1.0, "grey": 1.0, "blue": 0.9},
    **{"green": 0.5, "yellow": 0.4, "pink": 0.4},
}
_BAG_COLOUR: Shares = {
    **{"black": 2.2, "brown": 1.6, "red": 1.4, "blue": 1.3, "green": 1.1, "grey": 1.1},
    **{"yellow": 1.0, "orange": 0.8, "pink": 0.7, "purple": 0.6, "white": 0.6},
}


def _one_of(draws: Draws, **shares: float) -> str:
    """One of the names, which are written with _ for a space."""
    return draws.weighted(tuple(shares.items())).replace("_", " ")


def _pattern(draws: Draws, colour: str, kinds: Shares) -> tuple[str, str | None]:
    pattern = draws.weighted(tuple(kinds.items()))
    if pattern == "plain":
        return pattern, None
    light = colour in ("white", "beige", "yellow", "pink")
    options = ("black", "red", "blue", "green") if light else ("white", "white", "yellow", "black")
    second = draws.choice([option for option in options if option != colour])
    return pattern, "white" if colour == "black" and second == "black" else second


def _garment(
    draws: Draws,
    kind: str,
    colours: Shares = _ANY_COLOUR,
    patterns: Shares = _PLAIN,
    avoid: tuple[str | None, ...] = (),
) -> Garment:
    colour = draws.weighted([pair for pair in colours.items() if pair[0] not in avoid])
    pattern, second = _pattern(draws, colour, patterns)
    return Garment(kind, colour, pattern, second)


_TOP_PATTERNS: dict[str, Shares] = {
    "t-shirt": {"plain": 5, "striped": 2.5, "print": 3, "dotted": 0.7},
    "shirt": {"plain": 5, "checked": 3.5, "striped": 2},
    "polo shirt": {"plain": 6, "striped": 3},
    "sweater": {"plain": 6, "striped": 3, "dotted": 0.5},
    "hoodie": {"plain": 6, "print": 3},
    "blouse": {"plain": 5, "dotted": 3, "striped": 1.5},
    "dress": {"plain": 5, "dotted": 3, "striped": 2, "checked": 1},
    "jacket": {"plain": 7, "checked": 1},
    "tank top": {"plain": 6, "striped": 2},
}


def _clothes(draws: Draws, woman: bool) -> tuple[Garment | None, Garment, Garment | None]:
    """``(outer, upper, lower)``."""
    dress = 1.5 if woman else 0.0
    style = _one_of(draws, light=3.2, layered=3.0, warm=2.2, coat=1.2, dress=dress)
    light_tops = (("t-shirt", 4.0), ("blouse" if woman else "polo shirt", 1.8), ("tank top", 0.9))
    outer: Garment | None = None
    if style == "dress":
        upper = _garment(draws, "dress", patterns=_TOP_PATTERNS["dress"])
        if draws.chance(0.3):
            kind = draws.choice(("jacket", "cardigan"))
            outer = _garment(draws, kind, avoid=(upper.colour,))
        return outer, upper, None
    if style == "light":
        kind = draws.weighted((*light_tops, ("shirt", 2.4)))
    elif style == "layered":
        kind = draws.weighted((("t-shirt", 3.0), ("shirt", 2.5), ("sweater", 1.2)))
        cardigan = 1.6 if woman else 0.5
        outer_kind = _one_of(draws, jacket=4.0, cardigan=cardigan, blazer=1.3, coat=1.0)
        outer = _garment(draws, outer_kind, patterns=_TOP_PATTERNS.get(outer_kind, _PLAIN))
    elif style == "warm":
        kind = _one_of(draws, hoodie=3.0, sweater=2.6, jacket=2.6)
    else:
        kind = "coat"
    avoid = (outer.colour,) if outer else ()
    upper = _garment(draws, kind, patterns=_TOP_PATTERNS.get(kind, _PLAIN), avoid=avoid)
    bare = style == "light"
    lower_kind = _one_of(
        draws,
        **{"trousers": 3.4, "jeans": 3.0, "shorts": 1.9 if bare else 0.25},
        **{"skirt": (2.0 if bare else 1.1) if woman else 0.0, "leggings": 1.2 if woman else 0.0},
    )
    if lower_kind == "jeans":
        return outer, upper, Garment("jeans", _one_of(draws, blue=5.0, black=1.4, grey=1.2))
    of_skirts = {"plain": 4.0, "checked": 1.0, "dotted": 0.6}
    patterns = of_skirts if lower_kind == "skirt" else _PLAIN
    return outer, upper, _garment(draws, lower_kind, _LOWER_COLOUR, patterns)


def draw_person(draws: Draws) -> Person:
    """A person with plausible combinations (no headscarf on men, no scarf over a tank top, …)."""
    woman = draws.chance(0.5)
    age = draws.weighted((("young", 4.0), ("middle-aged", 3.2), ("elderly", 1.3)))
    build = _one_of(draws, slim=2.2, average=5.0, heavy=1.6)
    skin = _one_of(draws, light=3.2, tan=2.4, brown=1.8, dark=1.8)
    if age == "elderly":
        hair_colour = "grey"
    elif skin in ("dark", "brown"):
        hair_colour = _one_of(draws, black=5.0, brown=1.6, blond=0.3)
    else:
        hair_colour = _one_of(draws, black=2.4, brown=2.8, blond=2.4, red=1.3)
    of_women = {"long": 3.6, "ponytail": 2.2, "bun": 1.5, "bob": 2.0, "short": 1.0, "curly": 1.2}
    of_men = {"short": 5.2, "bald": 1.3, "curly": 1.2, "bob": 0.5, "bun": 0.25}
    hair_style = _one_of(draws, **(of_women if woman else of_men))
    outer, upper, lower = _clothes(draws, woman)
    summery = outer is None and SLEEVE_LENGTH.get(upper.kind, "long") != "long"
    beanie, headscarf = 0.2 if summery else 1.2, 0.9 if woman else 0.0
    headwear_kind = _one_of(draws, none=7.0, cap=1.3, beanie=beanie, hat=0.7, headscarf=headscarf)
    headwear = None if headwear_kind == "none" else _garment(draws, headwear_kind)
    scarf = None
    if not summery and headwear_kind != "headscarf" and draws.chance(0.17):
        scarf = _garment(draws, "scarf", avoid=(upper.colour, outer.colour if outer else None))
    boots, sandals = (0.6, 1.1) if summery else (2.0, 0.0)
    shoe_kind = _one_of(draws, trainers=4.0, boots=boots, leather_shoes=1.6, sandals=sandals)
    leather = {"black": 3.0, "brown": 3.0, "beige": 0.6}
    shoes = _garment(draws, shoe_kind, _SHOE_COLOUR if shoe_kind == "trainers" else leather)
    bag_kind = _one_of(
        draws,
        **{"none": 3.4, "backpack": 2.4, "shoulder_bag": 2.0, "handbag": 1.8 if woman else 0.0},
        **{"briefcase": 0.3 if woman else 1.0, "suitcase": 0.7},
    )
    bag = None if bag_kind == "none" else _garment(draws, bag_kind, _BAG_COLOUR)
    return Person(
        gender="woman" if woman else "man",
        age=age,
        build=build,
        stature=draws.uniform(0.93, 1.0) if woman else draws.uniform(0.97, 1.06),
        skin=skin,
        hair_style=hair_style,
        hair_colour=hair_colour,
        beard=not woman and draws.chance(0.28),
        glasses=_one_of(draws, none=7.0, glasses=2.0, sunglasses=1.2),
        headwear=headwear,
        scarf=scarf,
        outer=outer,
        upper=upper,
        lower=lower,
        shoes=shoes,
        bag=bag,
        bag_side=1 if draws.chance(0.5) else -1,
    )


_VIEW_YAW = {
    "front": (-18.0, 18.0),
    "three-quarter front": (28.0, 58.0),
    "side": (75.0, 105.0),
    "three-quarter back": (122.0, 152.0),
    "back": (162.0, 198.0),
}


def draw_views(draws: Draws, count: int) -> list[str]:
    """``count`` views of one identity: every four hold a frontal, an oblique, a rear and a free one."""
    views: list[str] = []
    while len(views) < count:
        views += draws.shuffled(
            (
                draws.choice(("front", "front", "three-quarter front")),
                draws.choice(("side", "three-quarter front", "side")),
                draws.choice(("back", "back", "three-quarter back")),
                draws.choice(tuple(_VIEW_YAW)),
            )
        )
    return views[:count]


def draw_shot(draws: Draws, person: Person, view: str) -> Shot:
    """One picture of ``person`` in the named view."""
    low, high = _VIEW_YAW[view]
    yaw = draws.uniform(low, high) * (1 if draws.chance(0.5) else -1)
    action = _one_of(draws, walking=5.5, standing=2.6, phone=1.0, call=0.8)
    carried: Garment | None = None
    hands_full = person.bag is not None and person.bag.kind in ("handbag", "briefcase", "suitcase")
    if action in ("walking", "standing"):
        kind = _one_of(draws, none=7.5, umbrella=1.0, cup=0.8, shopping_bag=0.9)
        if kind == "umbrella":
            carried = _garment(draws, kind)
        elif kind == "cup":
            carried = Garment("cup", "white")
        elif kind == "shopping bag" and not hands_full:
            carried = _garment(draws, kind, {"white": 2.0, "beige": 2.0, "red": 1.0, "green": 1.0})
    else:
        carried = Garment("phone", "black")
    return Shot(
        view=view,
        yaw_deg=yaw,
        action=action,
        carried=carried,
        phase=draws.uniform(0.0, 2.0 * math.pi),
        background=draws.choice(BACKGROUNDS),
        light=_one_of(draws, day=4.0, overcast=2.6, warm=1.7, dusk=1.6),
        occlusion=_one_of(draws, none=7.0, pole=0.9, car=0.7, bush=0.8, **{"passer-by": 0.9}),
    )


def visible_attributes(person: Person, shot: Shot) -> frozenset[str]:
    """Names of the attributes that this picture shows (what a caption of it may mention)."""
    facing = math.cos(math.radians(shot.yaw_deg))
    seen = {"gender", "build", "upper", "background", "light", "view", "action"}
    # A lateral thing is hidden where the body stands between it and the camera.
    side_depth = -math.sin(math.radians(shot.yaw_deg))
    covered = person.headwear.kind if person.headwear else "none"
    hair_shows = covered in ("none", "cap") or (
        covered in ("hat", "beanie") and person.hair_style in ("long", "ponytail", "bob")
    )
    if hair_shows and not (covered != "none" and person.hair_style == "bald"):
        seen.add("hair")
    if facing > 0.2:
        seen.add("age")
        if person.beard:
            seen.add("beard")
        if person.glasses != "none":
            seen.add("glasses")
    if person.headwear is not None:
        seen.add("headwear")
    if person.scarf is not None and facing > -0.3:
        seen.add("scarf")
    if person.outer is not None:
        seen.add("outer")
        if facing < 0.45 and person.upper.kind != "dress":
            seen.discard("upper")
    if person.lower is not None:
        seen.add("lower")
    if shot.occlusion not in ("car", "bush"):
        seen.add("shoes")
    if person.bag is not None:
        held = person.bag.kind in ("handbag", "briefcase", "suitcase")
        if not held or person.bag_side * side_depth > -0.55:
            seen.add("bag")
    if shot.carried is not None and (
        shot.carried.kind == "umbrella" or (facing > 0.3 and shot.occlusion == "none")
    ):
        seen.add("carried")
    if shot.action in ("phone", "call") and "carried" not in seen:
        seen.discard("action")
    return frozenset(seen)


def pattern_is_visible(garment: Garment, shot: Shot) -> bool:
    """False for a chest print that is turned away; every other pattern goes round the body."""
    return garment.pattern != "print" or math.cos(math.radians(shot.yaw_deg)) > 0.45


def attributes_mapping(person: Person, shot: Shot) -> dict[str, Any]:
    """The complete ground truth of one picture as plain values, ready for JSON."""
    known = {**asdict(person), **asdict(shot)}
    for name in ("stature", "bag_side", "yaw_deg", "phase"):  # how it is drawn, not what is there
        del known[name]
    return {**known, "visible": tuple(sorted(visible_attributes(person, shot)))}
