"""Rewrites of embedded captions with labels: which of them say what their source does not entail.

Three sources of labels, none of which asks :mod:`kb_service.filtering`:

- *controlled*: the corpus' own generator writes a further caption of the source's attributes, restricted to those that
  the source names (faithful), or of the same attributes with one of them changed or added (a hallucination, and which).
  Exact by construction.
- *read*: rewrites by the LLM, read line by line by a person or agent who saw source and rewrite alone; the labels are
  a committed file.
- *vocabulary*: the same rewrites, labelled by the generator's word tables alone (:func:`claims`). It sees no word that
  no table holds, and no order; what it agrees on with *read* is reported.

A rewrite may leave things out. Val and test share no item (the corpora's splits). Our definition.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

from lab.evaluation.rewrite_cache import RewriteCache, Source, sources
from semlink.corpora.corpus import Split
from semlink.corpora.pedestrians import attributes as people
from semlink.corpora.pedestrians import captions as person_captions
from semlink.corpora.pedestrians.draws import Draws as PersonDraws
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.corpora.scenes import captions as scene_captions
from semlink.corpora.scenes.cliparts import cliparts
from semlink.corpora.scenes.corpus import Scenes
from semlink.corpora.scenes.draws import Draws as SceneDraws
from semlink.corpora.scenes.layout import Relation, RelationName, Scene
from semlink.corpora.scenes.settings import SETTINGS
from semlink.corpora.soundscapes import captions as sound_captions
from semlink.corpora.soundscapes.corpus import Soundscapes
from semlink.corpora.soundscapes.scene import BEDS, MAX_COUNT, SOUNDS, Event
from semlink.corpora.soundscapes.scene import Draws as SoundDraws
from semlink.corpora.soundscapes.scene import Scene as SoundScene

READ_LABELS: Final = Path(__file__).parent / "labels" / "rewrites.jsonl"
CONTROLLED_SOURCES: Final[Mapping[str, int]] = {"val": 100, "test": 100}
"""Sources a task; each gives one faithful caption and one hallucination where the generator finds one."""
_TRIES: Final = 200


@dataclass(frozen=True, slots=True)
class Labelled:
    """A rewrite of an embedded caption and whether it hallucinates.

    ``attribute``: what the source does not entail, "" for a faithful one. ``origin``: "controlled" or "llm".
    """

    task: str
    split: Split
    origin: str
    item_id: str
    source: str
    text: str
    hallucinated: bool
    attribute: str = ""


def read_labels(split: Split | None = None, path: Path = READ_LABELS) -> list[Labelled]:
    """The rewrites that were read line by line."""
    found = [Labelled(**json.loads(line)) for line in path.read_text().splitlines()]
    return [label for label in found if split in (None, label.split)]


def write_labels(labels: Sequence[Labelled], path: Path = READ_LABELS) -> None:
    """One JSON line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(label)) + "\n" for label in labels))


def to_read(
    task: str, split: Split, number: int, *, captions: int = 100, cache: RewriteCache | None = None
) -> list[Labelled]:
    """LLM rewrites for a reader, unlabelled: no duplicates, at most two of a caption, spread over the captions."""
    cache = cache or RewriteCache()
    rounds: tuple[list[Labelled], list[Labelled]] = ([], [])
    for source in sources(task, split, captions):
        fresh = [r for r in cache.rewrites(source.text).rewrites if not r.reason]
        for found, rewrite in zip(rounds, fresh, strict=False):
            found.append(_labelled(task, split, "llm", source, rewrite.text))
    # Sources with two or more different rewrites are those where the LLM is freer: both count.
    first, second = rounds
    half = number // 2
    return first[:half] + second[: number - half]


def _labelled(
    task: str, split: Split, origin: str, source: Source, text: str, attribute: str = ""
) -> Labelled:
    item_id = source.item.item_id
    return Labelled(task, split, origin, item_id, source.text, text, bool(attribute), attribute)


# --- controlled ---------------------------------------------------------------------------------


def controlled(task: str, split: Split, number: int | None = None) -> list[Labelled]:
    """For each source a faithful caption and a hallucination by the generator, labels exact."""
    number = number or CONTROLLED_SOURCES[split]
    make = {"person": _persons, "image": _scenes, "audio": _sounds}[task]
    pairs = ((source, make(source)) for source in sources(task, split, 4 * number))
    return [
        _labelled(task, split, "controlled", source, text, attribute)
        for source, pair in islice(((s, p) for s, p in pairs if p is not None), number)
        for text, attribute in pair
    ]


Pair = tuple[tuple[str, str], tuple[str, str]]
"""A faithful caption with "", and one that hallucinates with the attribute."""


def _garment(value: Mapping[str, Any] | None) -> people.Garment | None:
    return people.Garment(**value) if value else None


def _person_of(attributes: Mapping[str, Any]) -> tuple[people.Person, people.Shot]:
    """What captions are written from; what only pixels show is left at any value."""
    garments = ("headwear", "scarf", "outer", "upper", "lower", "shoes", "bag")
    plain = ("gender", "age", "build", "skin", "hair_style", "hair_colour", "beard", "glasses")
    person = people.Person(
        **{name: attributes[name] for name in plain},
        **{name: _garment(attributes[name]) for name in garments},  # type: ignore[arg-type]
        stature=1.0,
        bag_side=1,
    )
    shot = people.Shot(
        view=attributes["view"],
        # A print is named only where the front is seen: what may be named is decided by the caller.
        yaw_deg=0.0,
        action=attributes["action"],
        carried=_garment(attributes["carried"]),
        phase=0.0,
        background=attributes["background"],
        light=attributes["light"],
        occlusion=attributes["occlusion"],
    )
    return person, shot


_GENERAL: Final = {
    # Who wears the first wears the second: no hallucination.
    *(("t-shirt", "shirt"), ("polo shirt", "shirt"), ("blouse", "shirt"), ("blazer", "jacket")),
    *(("cardigan", "sweater"), ("hoodie", "sweater"), ("jeans", "trousers"), ("cap", "hat")),
    *(("leggings", "trousers"), ("beanie", "hat")),
}
_KINDS: Final = {
    "outer": ("jacket", "coat", "cardigan", "blazer"),
    "upper": ("t-shirt", "shirt", "polo shirt", "sweater", "hoodie", "tank top", "blouse"),
    "lower": ("trousers", "jeans", "shorts", "skirt", "leggings"),
    "shoes": ("trainers", "boots", "leather shoes", "sandals"),
    "bag": ("backpack", "shoulder bag", "handbag", "briefcase", "suitcase"),
    "headwear": ("cap", "beanie", "hat", "headscarf"),
}


def _written(
    person: people.Person,
    shot: people.Shot,
    wanted: set[str],
    allowed: set[str],
    draws: PersonDraws,
    needs: str = "",
) -> str | None:
    """A caption that names nothing outside ``allowed`` and, where asked for, the attribute ``needs``."""
    for _ in range(_TRIES):
        writer = person_captions._Writer(draws, person, shot, frozenset(allowed))
        text = writer.write(wanted, wordy=False)
        if set(writer.used) <= allowed and (not needs or needs in writer.used):
            return text
    return None


def _persons(source: Source) -> Pair | None:
    attributes = source.item.attributes
    person, shot = _person_of(attributes)
    mentioned = set(attributes["mentioned"][source.index])
    draws = PersonDraws("labels", source.item.item_id, source.index)
    top = {name for name in mentioned if "." not in name}
    # in one order, since each draws
    fewer = {n for n in sorted(top) if n in ("gender", "outer", "upper") or draws.chance(0.75)}
    faithful = _written(person, shot, fewer, mentioned, draws)
    if faithful is None or faithful == source.text:
        return None
    if _colour_words(faithful) - _colour_words(source.text) or _darkened(source.text, faithful):
        return None  # "black hair" for "dark hair": more than is said, though of one attribute
    for change in draws.shuffled(_PERSON_CHANGES):
        changed = _changed_person(change, person, shot, mentioned, draws)
        if changed is None:
            continue
        other_person, other_shot, name = changed
        bare = name.removesuffix(".colour").removesuffix(".kind")
        allowed = mentioned | {bare, bare.split(".")[0]}
        wanted = fewer | {bare.split(".")[0]}
        text = _written(other_person, other_shot, wanted, allowed, draws, needs=bare)
        if text is not None:
            return (faithful, ""), (text, name)
    return None


def _colour_words(text: str) -> set[str]:
    """Colours that a text names, one word for each."""
    same = {way: name for name, ways in person_captions.COLOUR_WORDS.items() for way in ways}
    same |= {"ginger": "red", "fair": "blond", "blond": "blond", "dark": "dark"}
    return {same[word] for word in re.findall(r"\w+", text.lower()) if word in same}


def _darkened(source: str, text: str) -> bool:
    dark, black = (rf"\b{word} (?:hair|ponytail|bob|bun)" for word in ("dark", "black"))
    return bool(re.search(dark, source) and re.search(black, text))


_PERSON_CHANGES: Final = ("colour", "swapped", "kind", "trait", "circumstance", "added garment")
_WORN: Final[tuple[str, ...]] = (
    *("outer", "upper", "lower", "shoes", "bag"),
    *("headwear", "scarf"),
)


def _changed_person(
    change: str, person: people.Person, shot: people.Shot, mentioned: set[str], draws: PersonDraws
) -> tuple[people.Person, people.Shot, str] | None:
    """Person and shot with one attribute changed, and its name; None where this change cannot be."""
    worn = [n for n in _WORN if n in mentioned and getattr(person, n) is not None]
    name = draws.choice(worn) if worn and change in ("colour", "kind") else ""
    garment: people.Garment | None = getattr(person, name) if name else None
    changed: dict[str, Any]
    match change:
        case "colour":
            if garment is None:
                return None
            taken = {garment.colour, garment.pattern_colour}
            colour = draws.choice([c for c in people.COLOURS if c not in taken])
            changed = {name: replace(garment, colour=colour)}
            name = f"{name}.colour"
        case "swapped":
            names = draws.shuffled([n for n in worn if n not in ("headwear", "scarf")])[:2]
            if len(names) < 2:
                return None
            one, two = (getattr(person, n) for n in names)
            if one.colour == two.colour or one.pattern_colour or two.pattern_colour:
                return None
            changed = {
                names[0]: replace(one, colour=two.colour),
                names[1]: replace(two, colour=one.colour),
            }
            name = f"{names[0]}.colour"
        case "kind":
            if garment is None or name == "scarf" or garment.kind == "dress":
                return None
            worn_kind = garment.kind
            kinds = [k for k in _KINDS[name] if k != worn_kind and (worn_kind, k) not in _GENERAL]
            changed = {name: replace(garment, kind=draws.choice(kinds))}
            name = f"{name}.kind"
        case "trait":
            options: list[tuple[str, dict[str, Any]]] = [
                ("gender", {"gender": "man" if person.gender == "woman" else "woman"})
            ]
            if "age" in mentioned:
                ages = [a for a in ("young", "middle-aged", "elderly") if a != person.age]
                options.append(("age", {"age": draws.choice(ages)}))
            if "build" in mentioned:
                options.append(("build", {"build": "heavy" if person.build == "slim" else "slim"}))
            if "hair" in mentioned and person.hair_style != "bald":
                colours = [c for c in people.HAIR_COLOURS if c != person.hair_colour]
                options.append(("hair", {"hair_colour": draws.choice(colours)}))
            if "glasses" not in mentioned:
                options.append(("glasses", {"glasses": draws.choice(("glasses", "sunglasses"))}))
            if "beard" not in mentioned and person.gender == "man":
                options.append(("beard", {"beard": True}))
            name, changed = draws.choice(options)
        case "circumstance":
            name = draws.choice(("background", "light", "view"))
            values: Sequence[str] = {
                "background": people.BACKGROUNDS,
                "light": people.LIGHTS,
                "view": ("front", "side", "back"),
            }[name]
            here = getattr(shot, name)
            if name == "view" and name in mentioned and here not in values:
                return None
            # Dusk and a warm evening are one to some readers.
            others = [v for v in values if v != here and {v, here} != {"dusk", "warm"}]
            changed = {name: draws.choice(others)}
            return person, replace(shot, **changed), name
        case _:
            names = [n for n in _WORN[2:] if n not in mentioned]
            if not names or (person.lower is None and "lower" in names):
                return None
            name = draws.choice(names)
            kind = "scarf" if name == "scarf" else draws.choice(_KINDS[name])
            changed = {name: people.Garment(kind, draws.choice(tuple(people.COLOURS)))}
    return replace(person, **changed), shot, name


_COUNTED = r"(?:an?|two|three|a pair of|a couple of|a group of three)"


@lru_cache(maxsize=1)
def _object_names() -> list[tuple[str, str]]:
    """(name in lower case, label), longest first."""
    names = {
        name.lower(): label.name
        for label in cliparts().labels.values()
        for forms in label.names
        for name in forms
    }
    return sorted(names.items(), key=lambda pair: -len(pair[0]))


@dataclass(frozen=True, slots=True)
class _Seen:
    """A kind of thing that a text names: where, how many, in which colour."""

    label: str
    start: int
    end: int
    count: int
    colour: str


def _objects(text: str) -> list[_Seen]:
    lower = text.lower()
    taken = [False] * len(lower)
    found: list[_Seen] = []
    colours = "|".join({*person_captions.COLOUR_WORDS, "gray", "golden", "silver"})
    for name, label in _object_names():
        for match in re.finditer(rf"\b{re.escape(name)}\b", lower):
            if any(taken[match.start() : match.end()]):
                continue
            taken[match.start() : match.end()] = [True] * len(name)
            before = re.search(
                rf"(?:\b({_COUNTED})\s+)?(?:of\s+)?(?:({colours})\s+)?$", lower[: match.start()]
            )
            words = (before[1] or "") if before else ""
            count = 3 if "three" in words else 2 if re.search("two|pair|couple", words) else 1
            colour = (before[2] or "") if before else ""
            found.append(_Seen(label, match.start(), match.end(), count, colour))
    return sorted(found, key=lambda seen: seen.start)


def _related(text: str, seen: Sequence[_Seen]) -> set[tuple[str, str, str]]:
    """(subject, relation, object) of labels that the text tells, from either side."""
    lower = text.lower()
    tellings: list[tuple[str, RelationName, bool]] = []
    for table, turned in (
        (scene_captions._RELATION_WORDS, False),
        (scene_captions._INVERSE_WORDS, True),
    ):
        for name, ways in table.items():
            tellings += [(way, name, turned) for way in ways]
    tellings.sort(key=lambda telling: -len(telling[0]))
    found: set[tuple[str, str, str]] = set()
    for first, second in pairwise(seen):
        between = lower[first.end : second.start]
        for words, relation, turned in tellings:
            if re.search(rf"\b{words}\s+{_COUNTED}\b[a-z ]*$", between) or re.search(
                rf"\b{words}\s+(?:the )?$", between
            ):
                pair = (second.label, first.label) if turned else (first.label, second.label)
                if relation == "next_to":
                    pair = (min(pair), max(pair))
                found.add((pair[0], relation, pair[1]))
                break
    return found


def _setting(text: str) -> str:
    """The setting that a scene's text names, "" for none."""
    lower = text.lower()
    for setting in SETTINGS:
        phrases = (*setting.phrases, f"a {setting.scene} scene", f"an {setting.scene} scene")
        if any(phrase in lower for phrase in phrases):
            return setting.name
    return ""


def _scenes(source: Source) -> Pair | None:
    corpus = corpus_named(default_corpus("image"))
    assert isinstance(corpus, Scenes)
    whole = corpus.scene(source.item.item_id)
    seen = {s.label: s for s in _objects(source.text)}
    kept = [g for g in whole.groups if g.label.name in seen]
    if len(kept) < 2 or len(kept) != len(seen):
        return None
    groups = [replace(g, colour=seen[g.label.name].colour or None) for g in kept]
    stated = _related(source.text, list(seen.values()))
    place = {g.label.name: n for n, g in enumerate(groups)}
    relations = tuple(
        Relation(place[a], name, place[b])  # type: ignore[arg-type]
        for a, name, b in sorted(stated)
    )
    said = Scene(whole.setting, tuple(groups), relations)
    setting = _setting(source.text)
    draws = SceneDraws(0, f"labels/{source.item.item_id}/{source.index}")

    def caption(scene: Scene, shows: Callable[[str], bool], named: str) -> str | None:
        for _ in range(_TRIES):
            for text in scene_captions.describe(draws, scene):
                fits = _setting(text) in {"", named} and text != source.text and shows(text)
                if fits and not _says_more(source.text, text):
                    return text
        return None

    faithful = caption(said, lambda _: True, setting)
    if faithful is None:
        return None
    changes = draws.shuffled(
        ["colour", "count", "object", "added object", "turned", "added relation", "setting"]
    )
    for change in changes:
        text = _changed_scene(change, said, stated, setting, draws, caption)
        if text is not None:
            return (faithful, ""), (text, change)
    return None


_MORE: Final = (
    *("dark forest", "snowy", "starry", "moonlight", "wooden floor"),
    *("window", "kitchen", "tiled", "room"),
)
"""Words of a setting that say more than its other phrases do."""


def _says_more(source: str, text: str) -> bool:
    """Whether a text describes the source's setting by more than the source says of it."""
    here = _setting(source)
    if not here or _setting(text) != here or here == "snow":
        return False
    return any(word in text and word not in source for word in _MORE)


def _changed_scene(
    change: str,
    said: Scene,
    stated: set[tuple[str, str, str]],
    setting: str,
    draws: SceneDraws,
    caption: Callable[[Scene, Callable[[str], bool], str], str | None],
) -> str | None:
    """A caption of the scene with one thing changed, None where this change cannot be."""
    groups = list(said.groups)
    number = int(draws.uniform() * len(groups))
    group = groups[number]
    labels = cliparts().labels

    def of(text: str, label: str) -> list[_Seen]:
        return [s for s in _objects(text) if s.label == label]

    match change:
        case "colour":
            options = [c for c in ("red", "green", "blue", "purple", "pink") if c != group.colour]
            colour = draws.choice(options)
            groups[number] = replace(group, colour=colour)
            shows = lambda text: any(s.colour == colour for s in of(text, group.label.name))  # noqa: E731
        case "count":
            count = draws.choice([c for c in (1, 2, 3) if c != group.count])
            groups[number] = replace(group, clips=[group.clips[0]] * count)
            shows = lambda text: any(s.count == count for s in of(text, group.label.name))  # noqa: E731
        case "object" | "added object":
            here = {g.label.name for g in groups}
            others = [
                label
                for label in labels.values()
                if label.name not in here
                and (change == "added object" or label.category == group.label.category)
            ]
            if not others:
                return None
            label = draws.choice(others)
            if change == "object":
                groups[number] = replace(group, label=label, colour=None)
            else:
                groups.append(replace(group, label=label, colour=None, clips=group.clips[:1]))
            shows = lambda text: bool(of(text, label.name))  # noqa: E731
        case "turned":
            turned = {(b, n, a) for a, n, b in stated if n != "next_to"}
            if not turned:
                return None
            relations = tuple(
                replace(r, subject=r.object, object=r.subject) for r in said.relations
            )
            said = Scene(said.setting, said.groups, relations)
            shows = lambda text: bool(_related(text, _objects(text)) & turned)  # noqa: E731
        case "added relation":
            if stated:
                return None
            name = draws.choice(("left_of", "above", "in_front_of"))
            said = Scene(said.setting, said.groups, (Relation(0, name, 1),))  # type: ignore[arg-type]
            shows = lambda text: bool(_related(text, _objects(text)))  # noqa: E731
        case _:
            other = draws.choice([s for s in SETTINGS if s.name != setting])
            # "in a dark forest" at night, "on the shore" of a sea: too near to call.
            near = ({"lake", "beach", "sea"}, {"snow", "mountains"}, {"living room", "kitchen"})
            if any({setting, other.name} <= pair for pair in near):
                return None
            scene = Scene(other, said.groups, said.relations)
            return caption(scene, lambda text: _setting(text) == other.name, other.name)
    return caption(Scene(said.setting, tuple(groups), said.relations), shows, setting)


def _attribute_words(text: str) -> Counter[str]:
    """How often a sound caption names each count, loudness and length."""
    ways = {
        # "three times" is no "three", and "two" no "twice".
        f"count {count}": [
            rf"{way}\b(?! times)"
            for way in {sound_captions.TIMES[count], sound_captions.NUMBERS[count]}
        ]
        for count in (1, 2, 3, 4)
    }
    for name, adverbs in sound_captions.LOUD_ADVERBS.items():
        ways[name] = [rf"{w}\b" for w in {*adverbs, *sound_captions.LOUD_ADJECTIVES[name]}]
    for name, adverbs in sound_captions.LENGTH_ADVERBS.items():
        ways[name] = [rf"{w}\b" for w in adverbs]
    return +Counter(
        {
            name: sum(len(re.findall(rf"\b{way}", text.lower())) for way in those)
            for name, those in ways.items()
        }
    )


def _attributes_of(scene: SoundScene) -> Counter[str]:
    return Counter(
        name
        for event in scene.events
        for name, is_named in (
            (f"count {event.count}", event.count is not None),
            (event.loudness, event.loudness in sound_captions.LOUD_ADVERBS),
            (str(event.length), event.length in sound_captions.LENGTH_ADVERBS),
        )
        if is_named
    )


def _sounds(source: Source) -> Pair | None:
    corpus = corpus_named(default_corpus("audio"))
    assert isinstance(corpus, Soundscapes)
    scene = corpus._scene(source.item.item_id)
    # Only sources that name all there is: then every caption of the scene is entailed.
    if _attribute_words(source.text) != _attributes_of(scene):
        return None
    draws = SoundDraws("labels", source.item.item_id, source.index)
    faithful = next(c for c in sound_captions.Writer(scene, draws).captions() if c != source.text)
    for change in draws.shuffled(["sound", "count", "loudness", "length", "order", "bed"]):
        changed = _changed_sounds(change, scene, draws)
        if changed is None:
            continue
        total = _attributes_of(changed)
        added = total - _attributes_of(scene)
        for _ in range(_TRIES):
            for text in sound_captions.Writer(changed, draws).captions():
                if all(_attribute_words(text)[name] == total[name] for name in added):
                    return (faithful, ""), (text, change)
    return None


def _changed_sounds(change: str, scene: SoundScene, draws: SoundDraws) -> SoundScene | None:
    """The scene with one attribute changed, None where this change cannot be."""
    groups = [list(group) for group in scene.groups]
    sounds = {e.sound for e in scene.events} | ({scene.bed.sound} if scene.bed else set())
    at = draws.below(len(groups))
    event: Event = groups[at][0]
    match change:
        case "sound":
            kind = [s for s in SOUNDS if (s in MAX_COUNT) == (event.sound in MAX_COUNT)]
            others = [s for s in kind if s not in sounds]
            if not others:
                return None
            groups[at][0] = replace(event, sound=draws.one_of(others))
        case "count":
            if event.count is None:
                return None
            counts = [c for c in (1, 2, 3, 4) if c != event.count]
            groups[at][0] = replace(event, count=draws.one_of(counts))
        case "loudness":
            values = [v for v in ("faint", "loud") if v != event.loudness]
            groups[at][0] = replace(event, loudness=draws.one_of(values))  # type: ignore[arg-type]
        case "length":
            if event.length is None:
                return None
            values = [v for v in ("short", "long") if v != event.length]
            groups[at][0] = replace(event, length=draws.one_of(values))  # type: ignore[arg-type]
        case "order":
            other = (at + 1) % len(groups)
            groups[at], groups[other] = groups[other], groups[at]
        case _:
            beds = [s for s in BEDS if s not in sounds]
            if not beds:
                return None
            template = scene.bed or scene.events[0]
            bed = replace(
                template, sound=draws.one_of(beds), count=None, loudness="faint", length=None
            )
            return SoundScene(scene.groups, bed)
    return SoundScene(tuple(tuple(group) for group in groups), scene.bed)


# --- by the generator's vocabulary ---------------------------------------------------------------


def hallucinates(task: str, source: str, rewrite: str) -> bool:
    """Whether the word tables of the task's generator read a claim in the rewrite that they do not in the source."""
    return bool(claims(task, rewrite) - claims(task, source))


def claims(task: str, text: str) -> set[tuple[str, ...]]:
    """What a text says, as attribute values of the task's generator."""
    return set(
        {"person": _person_claims, "image": _scene_claims, "audio": _sound_claims}[task](text)
    )


_PERSON_WORDS: Final[dict[str, dict[str, str]]] = {
    "gender": {"man": r"man|gentleman|guy|male|he|his", "woman": r"woman|lady|female|she|her"},
    "age": {"young": "young", "middle-aged": "middle-aged", "elderly": "elderly|old"},
    "build": {"slim": "slim|thin", "heavy": "heavyset|stocky"},
    "beard": {"beard": "beard"},
    "glasses": {"glasses": "glasses", "sunglasses": "sunglasses"},
    "action": {
        "walking": r"walk\w*|stroll\w*",
        "standing": r"stand\w*|wait\w*",
        "phone": r"look\w* at|checking",
        "call": r"talk\w*|speak\w*",
    },
    "background": {
        "street": "street|road",
        "wall": "wall",
        "park": "park",
        "crossing": "crossing|crosswalk",
        "shop": "shop(?! bag)",
        "station": "station",
    },
    "light": {
        "day": "daylight|bright day",
        "overcast": "overcast|cloudy",
        "dusk": "dusk",
        "warm": "evening|afternoon",
    },
    "view": {
        "front": "facing the camera|from the front",
        "half": "halfway|at an angle",
        "side": "from the side|profile",
        "back": r"from behind|back to the camera|from the camera",
    },
    "hair": {
        "long": r"long (?:\w+ )?hair",
        "short": r"short(?:-cropped)? (?:\w+ )?hair",
        "ponytail": "ponytail",
        "bun": "bun",
        "bob": "bob|chin-length",
        "curly": "curly",
        "bald": "bald|shaved",
    },
}


def _person_claims(text: str) -> Iterator[tuple[str, ...]]:
    lower = re.sub(r"[^\w\s'-]", " , ", text.lower())
    for name, values in _PERSON_WORDS.items():
        for value, pattern in values.items():
            if re.search(rf"\b(?:{pattern})\b", lower):
                yield name, value
    colour_of = {w: c for c, ways in person_captions.COLOUR_WORDS.items() for w in ways}
    pattern_of = {w: p for p, ways in person_captions.PATTERN_WORDS.items() for w in ways}
    kinds = {w: k for k, ways in person_captions.GARMENT_WORDS.items() for w in ways}
    taken = [False] * len(lower)
    for phrase in sorted(kinds, key=len, reverse=True):
        for match in re.finditer(rf"\b{re.escape(phrase)}\b", lower):
            if any(taken[match.start() : match.end()]):
                continue
            taken[match.start() : match.end()] = [True] * len(phrase)
            kind = kinds[phrase]
            yield "garment", kind
            for word in reversed(lower[: match.start()].split()):
                if word in colour_of:
                    yield "colour", kind, colour_of[word]
                elif word in pattern_of:
                    yield "pattern", kind, pattern_of[word]
                elif word != "and":
                    break
    for match in re.finditer(r"(\w+) (?:hair|ponytail|bun|bob)\b", lower):
        for colour, ways in person_captions.HAIR_COLOUR_WORDS.items():
            if match[1] in ways:
                yield "hair colour", colour


def _scene_claims(text: str) -> Iterator[tuple[str, ...]]:
    seen = _objects(text)
    for thing in seen:
        yield "object", thing.label
        if thing.count > 1:
            yield "count", thing.label, str(thing.count)
        if thing.colour:
            yield "colour", thing.label, thing.colour
    if setting := _setting(text):
        yield "setting", setting
    yield from _related(text, seen)


_SOUND_WORDS: Final = {
    "dog bark": "bark|dog",
    "rooster": "rooster|cockerel|crow",
    "person sneeze": "sneez",
    "rain": r"rain(?!storm)",
    "sea waves": "wave|sea|ocean|ashore",
    "baby cry": "baby|infant|cries|crying",
    "clock tick": "clock|tick",
    "helicopter": "helicopter",
    "chainsaw": "chainsaw",
    "fire crackling": "fire|crackl",
}


def _sound_claims(text: str) -> Iterator[tuple[str, ...]]:
    lower = text.lower()
    for sound, pattern in _SOUND_WORDS.items():
        if re.search(rf"\b(?:{pattern})", lower):
            yield "sound", sound
    for name, times in _attribute_words(text).items():
        for turn in range(times):
            yield "attribute", name, str(turn)
