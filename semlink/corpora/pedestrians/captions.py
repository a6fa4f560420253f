"""Sentences about a picture: each names some of the attributes that the picture shows, in varied words.

The word tables map every attribute value to the words a caption may use for it; they also serve to label what a
rewritten caption claims. Our definition.
"""

from __future__ import annotations

from dataclasses import dataclass

from semlink.corpora.pedestrians.attributes import (
    COLOURS,
    Garment,
    Person,
    Shot,
    pattern_is_visible,
    visible_attributes,
)
from semlink.corpora.pedestrians.draws import Draws

MIN_WORDS, MAX_WORDS = 12, 40

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in COLOURS},
    "grey": ("grey", "gray"),
    "red": ("red", "red", "crimson"),
    "purple": ("purple", "purple", "violet"),
    "beige": ("beige", "beige", "tan"),
}
HAIR_COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black", "black", "dark"),
    "brown": ("brown",),
    "blond": ("blond", "fair"),
    "red": ("red", "ginger"),
    "grey": ("grey", "gray"),
}
_PLAIN_NAMES = (
    *("blouse", "jacket", "cardigan", "dress", "jeans", "shorts", "skirt", "boots", "sandals"),
    *("briefcase", "scarf", "umbrella", "shopping bag"),
)
GARMENT_WORDS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in _PLAIN_NAMES},
    "t-shirt": ("t-shirt", "t-shirt", "tee"),
    "shirt": ("shirt", "shirt", "button-up shirt"),
    "polo shirt": ("polo shirt", "polo"),
    "sweater": ("sweater", "jumper", "pullover"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "tank top": ("tank top", "sleeveless top"),
    "coat": ("coat", "long coat", "overcoat"),
    "blazer": ("blazer", "suit jacket"),
    "trousers": ("trousers", "pants", "slacks"),
    "leggings": ("leggings", "tights"),
    "trainers": ("trainers", "sneakers", "sports shoes"),
    "leather shoes": ("leather shoes", "dress shoes"),
    "backpack": ("backpack", "rucksack"),
    "shoulder bag": ("shoulder bag", "crossbody bag", "messenger bag"),
    "handbag": ("handbag", "purse"),
    "suitcase": ("suitcase", "trolley case"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knitted beanie"),
    "hat": ("hat", "brimmed hat"),
    "headscarf": ("headscarf", "hijab"),
    "cup": ("paper cup", "cup of coffee"),
    "phone": ("phone", "mobile phone", "smartphone"),
}
PATTERN_WORDS: dict[str, tuple[str, ...]] = {
    "striped": ("striped",),
    "checked": ("checked", "plaid", "checkered"),
    "dotted": ("dots", "polka dots", "spots"),
    "print": ("print", "logo", "graphic"),
}
_PLURAL = frozenset(
    {"trousers", "jeans", "shorts", "leggings", "trainers", "boots", "leather shoes", "sandals"}
)

_PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # while standing, while walking
    "street": (("on the street", "at the side of a road"), ("along the street", "down the road")),
    "wall": (("in front of a wall", "next to a wall"), ("past a wall", "along a wall")),
    "park": (("in a park", "on a park path"), ("through a park", "along a park path")),
    "crossing": (
        ("on a zebra crossing", "on a crosswalk"),
        ("over a zebra crossing", "across a crosswalk"),
    ),
    "shop": (("in front of a shop", "by a shop window"), ("past a shop", "past a shop window")),
    "station": (
        ("in a station hall", "inside a station"),
        ("through a station", "through a station hall"),
    ),
}

_LIGHTS = {
    "day": ("in daylight", "on a bright day"),
    "overcast": ("under an overcast sky", "on a cloudy day"),
    "dusk": ("at dusk", "in the dim light of dusk"),
    "warm": ("in warm evening light", "in the late afternoon"),
}
_VIEWS = {
    "front": ("facing the camera", "seen from the front"),
    "three-quarter front": ("turned halfway to the camera", "seen at an angle from the front"),
    "side": ("seen from the side", "in profile"),
    "three-quarter back": ("turned halfway from the camera", "seen at an angle from behind"),
    "back": ("seen from behind", "with the back to the camera"),
}


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and the names of the attributes that it mentions (``upper``, ``upper.pattern``, ``bag`` …)."""

    text: str
    mentioned: tuple[str, ...]


def _article(phrase: str) -> str:
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


def _listed(parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


class _Writer:
    """Writes one caption of one picture."""

    def __init__(self, draws: Draws, person: Person, shot: Shot, seen: frozenset[str]) -> None:
        self.draws, self.person, self.shot, self.seen = draws, person, shot, seen
        self.used: list[str] = []
        man = person.gender == "man"
        self.he, self.his = ("he", "his") if man else ("she", "her")

    # ------------------------------------------------------------------ noun phrases

    def garment(self, name: str, garment: Garment) -> str:
        """ "a red and white striped t-shirt", "black trousers", …"""
        draws = self.draws
        self.used.append(name)
        noun = draws.choice(GARMENT_WORDS[garment.kind])
        colour = draws.choice(COLOUR_WORDS[garment.colour])
        tail, adjectives, other = "", colour, garment.pattern_colour
        if other is not None and pattern_is_visible(garment, self.shot) and draws.chance(0.72):
            self.used.append(f"{name}.pattern")
            second = draws.choice(COLOUR_WORDS[other])
            word = draws.choice(PATTERN_WORDS[garment.pattern])
            if garment.pattern in ("striped", "checked"):
                both = draws.chance(0.7)
                adjectives = f"{colour} and {second} {word}" if both else f"{word} {colour}"
            elif garment.pattern == "dotted":
                tail = f" with {second} {word}"
            else:
                tail = f" with {_article(second)} {word} on the chest"
        phrase = f"{adjectives} {noun}{tail}"
        if garment.kind in _PLURAL:
            return f"a pair of {phrase}" if draws.chance(0.12) else phrase
        return _article(phrase)

    def hair(self) -> str:
        """ "short brown hair", "a blond ponytail", …"""
        draws, person = self.draws, self.person
        self.used.append("hair")
        colour = draws.choice(HAIR_COLOUR_WORDS[person.hair_colour])
        short = f"short {colour} hair"
        options = {
            "short": (short, short, f"short-cropped {colour} hair"),
            "long": (f"long {colour} hair",),
            "ponytail": (f"a {colour} ponytail", f"{colour} hair tied in a ponytail"),
            "bun": (f"{colour} hair in a bun", f"{colour} hair tied up in a bun"),
            "bob": (f"chin-length {colour} hair", f"a {colour} bob"),
            "curly": (f"curly {colour} hair",),
            "bald": ("a bald head", "a shaved head"),
        }
        return draws.choice(options[person.hair_style])

    def subject(self, wanted: set[str]) -> str:
        """ "slim young woman": adjectives and noun, without an article."""
        draws, person = self.draws, self.person
        self.used.append("gender")
        words: list[str] = []
        if "build" in wanted and person.build != "average":
            self.used.append("build")
            slim = person.build == "slim"
            words.append(draws.choice(("slim", "thin") if slim else ("heavyset", "stocky")))
        elderly = False
        if "age" in wanted:
            self.used.append("age")
            elderly = person.age == "elderly"
            words.append(draws.choice(("elderly", "old")) if elderly else person.age)
        gentleman, guy = (1.2, 0.0) if elderly else (0.2, 0.7)
        men = (("man", 6.0), ("gentleman", gentleman), ("guy", guy))
        women = (("woman", 6.0), ("lady", 1.2))
        return " ".join([*words, draws.weighted(men if person.gender == "man" else women)])

    def features(self, wanted: set[str]) -> list[str]:
        """Hair, beard, glasses: what follows "with" or "has"."""
        parts: list[str] = []
        if "hair" in wanted:
            parts.append(self.hair())
        if "beard" in wanted:
            self.used.append("beard")
            parts.append("a beard")
        if "glasses" in wanted:
            self.used.append("glasses")
            parts.append(self.person.glasses)
        return parts

    def clothes(self, wanted: set[str]) -> list[str]:
        """Garments in the order in which one dresses a sentence: top, bottom, shoes, accessories."""
        draws, person = self.draws, self.person
        parts: list[str] = []
        if "outer" in wanted and person.outer is not None:
            outer = self.garment("outer", person.outer)
            if "upper" in wanted:
                parts.append(f"{outer} over {self.garment('upper', person.upper)}")
            else:
                parts.append(outer)
        elif "upper" in wanted:
            parts.append(self.garment("upper", person.upper))
        for name, garment in (("lower", person.lower), ("shoes", person.shoes)):
            if name in wanted and garment is not None:
                parts.append(self.garment(name, garment))
        extras = [
            self.garment(name, garment)
            for name, garment in (("headwear", person.headwear), ("scarf", person.scarf))
            if name in wanted and garment is not None
        ]
        return parts + draws.shuffled(extras)

    def deed(self, wanted: set[str]) -> str:
        """ "is walking through a park"; empty if neither action nor place is wanted."""
        draws, shot = self.draws, self.shot
        place = "background" in wanted
        if place:
            self.used.append("background")
        standing, walking = _PLACES[shot.background]
        if "action" not in wanted:
            return f"is {draws.choice(standing)}" if place else ""
        self.used.append("action")
        if shot.action == "walking":
            verb = draws.choice(("is walking", "walks", "strolls", "is strolling"))
            return f"{verb} {draws.choice(walking if place else ('along', 'by', 'past'))}"
        if shot.action == "standing":
            verb = draws.choice(("is standing", "stands", "is waiting"))
            alone = verb if verb == "is waiting" else f"{verb} still"
            return f"{verb} {draws.choice(standing)}" if place else alone
        self.used.append("carried")
        phone = draws.choice(GARMENT_WORDS["phone"])
        looks = ("is looking at", "is checking", "looks at")
        talks = ("is talking on", "talks on", "is speaking on")
        verb = f"{draws.choice(looks if shot.action == 'phone' else talks)} {self.his} {phone}"
        return f"{verb} {draws.choice(standing)}" if place else verb

    def circumstance(self, wanted: set[str]) -> str:
        """Light and view as a tail of the first sentence."""
        tail = ""
        if "light" in wanted:
            self.used.append("light")
            tail += f" {self.draws.choice(_LIGHTS[self.shot.light])}"
        if "view" in wanted:
            self.used.append("view")
            words = self.draws.choice(_VIEWS[self.shot.view])
            tail += ", " + words.replace("with the back", f"with {self.his} back")
        return tail

    def burdens(self, wanted: set[str]) -> list[str]:
        """What is carried, as "carrying …" without the verb."""
        parts: list[str] = []
        if "bag" in wanted and self.person.bag is not None:
            parts.append(self.garment("bag", self.person.bag))
        thing = self.shot.carried
        if "carried" in wanted and thing is not None and thing.kind != "phone":
            if thing.kind == "cup":
                self.used.append("carried")
                parts.append(f"a {self.draws.choice(GARMENT_WORDS['cup'])}")
            else:
                parts.append(self.garment("carried", thing))
        return parts

    # ------------------------------------------------------------------ sentences

    def write(self, wanted: set[str], *, wordy: bool) -> str:
        """One or two sentences that mention ``wanted``; ``wordy`` opens with the camera, where little is seen."""
        draws = self.draws
        early_features = draws.chance(0.6)
        early_burdens = draws.chance(0.4)
        subject = _article(self.subject(wanted))
        if draws.chance(0.12):
            subject = "this " + subject.split(" ", 1)[1]
        features = self.features(wanted)
        clothes = self.clothes(wanted)
        burdens = self.burdens(wanted)
        deed = self.deed(wanted)
        late: list[str] = []
        if features and early_features:
            subject += f" with {_listed(features)}"
        elif features:
            late.append(f"has {_listed(features)}")
        carrying = ""
        if burdens and early_burdens:
            carrying = f", {draws.choice(('carrying', 'holding'))} {_listed(burdens)}"
            if any("backpack" in b or "rucksack" in b for b in burdens):
                carrying = carrying.replace("holding", "carrying")
        elif burdens:
            late.append(f"{draws.choice(('carries', 'is carrying'))} {_listed(burdens)}")
        first = self._first(subject, clothes, deed, carrying + self.circumstance(wanted))
        if wordy:
            openings = ("In this picture from a street camera", "On the footage of a street camera")
            first = f"{draws.choice(openings)}, {first}"
        return first[0].upper() + first[1:] + self._rest(late)

    def _first(self, subject: str, clothes: list[str], deed: str, carrying: str) -> str:
        dress = _listed(clothes)
        if not deed:
            verbs = ("is wearing", "wears", "is dressed in", "has on", "is wearing")
            return f"{subject} {self.draws.choice(verbs)} {dress}{carrying}"
        shapes = (
            f"{subject} in {dress} {deed}",
            f"{subject}, dressed in {dress}, {deed}",
            f"wearing {dress}, {subject} {deed}",
            f"{subject} wearing {dress} {deed}",
        )
        return self.draws.choice(shapes) + carrying

    def _rest(self, late: list[str]) -> str:
        if not late:
            return "."
        he = self.he
        if self.draws.chance(0.45):
            return f"; {he} {' and '.join(late)}."
        return f". {he.capitalize()} {' and '.join(late)}."


_WEIGHTS = {
    **{"lower": 3.2, "shoes": 1.5, "bag": 1.9, "hair": 1.6, "headwear": 1.8, "glasses": 1.0},
    **{"beard": 0.9, "scarf": 1.3, "carried": 1.3, "upper": 1.2, "age": 0.7, "build": 0.5},
    **{"action": 0.8, "background": 0.7, "light": 0.25, "view": 0.35},
}


def _select(draws: Draws, person: Person, seen: frozenset[str], fewer: frozenset[str]) -> set[str]:
    """Choose 4…7 attributes; those in ``fewer`` (named by the other caption) are half as likely."""
    count = draws.weighted(((4, 1.0), (5, 3.0), (6, 3.0), (7, 2.0)))
    wanted = {"gender"}
    if person.outer is not None and "outer" in seen:
        wanted.add("outer")
    elif "upper" in seen:
        wanted.add("upper")
    pool = {
        name: weight * (0.5 if name in fewer else 1.0)
        for name, weight in _WEIGHTS.items()
        if name in seen and name not in wanted
    }
    if person.build == "average":
        pool.pop("build", None)
    # One is always left out, so that two captions can differ even of somebody in a plain dress.
    count = min(count, len(wanted) + len(pool) - 1)
    while len(wanted) < count:
        name = draws.weighted(tuple(pool.items()))
        del pool[name]
        wanted.add(name)
    return wanted


def write_captions(draws: Draws, person: Person, shot: Shot) -> tuple[Caption, Caption]:
    """Two captions of one picture, 12…40 words each, that differ in the attributes they name."""
    seen = visible_attributes(person, shot)
    written: list[Caption] = []
    tries = 0
    while len(written) < 2:
        tries += 1
        fewer = frozenset(written[0].mentioned) if written else frozenset[str]()
        writer = _Writer(draws, person, shot, seen)
        text = writer.write(_select(draws, person, seen, fewer), wordy=tries > 4)
        caption = Caption(text, tuple(dict.fromkeys(writer.used)))
        if not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            continue
        if written and set(caption.mentioned) == set(written[0].mentioned):
            continue
        written.append(caption)
    return written[0], written[1]
