"""Captions of a scene, as people would write them: each names some of what the picture shows.

Everything a caption says (kinds, counts, colours, relations, setting) is true of the scene. Our definition.
"""

from __future__ import annotations

from semlink.corpora.scenes.draws import Draws
from semlink.corpora.scenes.layout import Group, RelationName, Scene

MIN_WORDS, MAX_WORDS = 6, 25
CAPTIONS_PER_PICTURE = 5

_COUNT_WORDS = {
    1: (),
    2: (("two", 0.75), ("a pair of", 0.15), ("a couple of", 0.1)),
    3: (("three", 0.85), ("a group of three", 0.15)),
}
_RELATION_WORDS: dict[RelationName, tuple[str, ...]] = {
    "left_of": ("to the left of", "on the left of", "left of"),
    "next_to": ("next to", "beside", "near"),
    "above": ("above", "over"),
    "on": ("on", "on top of"),
    "in_front_of": ("in front of", "just in front of"),
}
_INVERSE_WORDS: dict[RelationName, tuple[str, ...]] = {
    "left_of": ("to the right of", "on the right of", "right of"),
    "next_to": ("next to", "beside", "near"),
    "above": ("below", "under", "beneath"),
    "on": ("under", "beneath"),
    "in_front_of": ("behind", "partly behind"),
}
# (singular, plural, participle)
_STAND = ("stands", "stand", "standing")
_SIT = ("sits", "sit", "sitting")
_VERBS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "animal": (_STAND, ("is seen", "are seen", "seen"), ("waits", "wait", "waiting")),
    "person": (_STAND, ("waits", "wait", "waiting"), ("poses", "pose", "posing")),
    "vehicle": (("is parked", "are parked", "parked"), _STAND),
    "building": (_STAND, ("is seen", "are seen", "seen")),
    "plant": (_STAND, ("grows", "grow", "growing")),
    "other": (("is placed", "are placed", "placed"), _SIT, ("lies", "lie", "lying")),
    "sky": (("flies", "fly", "flying"), ("hovers", "hover", "hovering")),
    "toy sky": (("floats", "float", "floating"), ("drifts", "drift", "drifting")),
    "water": (("swims", "swim", "swimming"),),
    "boat": (("sails", "sail", "sailing"), ("floats", "float", "floating")),
    "on": (_SIT, _STAND, ("rests", "rest", "resting")),
}
_SILENT_H = ("hourglass",)


def indefinite_article(phrase: str) -> str:
    """``a`` or ``an``, by the sound that ``phrase`` begins with."""
    word = phrase.split(maxsplit=1)[0]
    return "an" if word[0].lower() in "aeiou" or word in _SILENT_H else "a"


def _verbs_of(group: Group) -> tuple[tuple[str, str, str], ...]:
    label = group.label
    if label.zone == "sky":
        still = label.category == "toy" or label.name == "hot air balloon"
        return _VERBS["toy sky" if still else "sky"]
    if label.zone == "water":
        return _VERBS["boat" if label.category == "vehicle" else "water"]
    return _VERBS.get(label.category, _VERBS["other"])


def noun_phrase(draws: Draws, group: Group) -> str:
    """``a red car``, ``two dogs``, ``a pair of white sheep`` …"""
    names = group.label.names
    singular, plural = names[1] if len(names) > 1 and draws.chance(0.22) else names[0]
    colour = f"{group.colour} " if group.colour and draws.chance(0.75) else ""
    if group.count == 1:
        phrase = colour + singular
        return f"{indefinite_article(phrase)} {phrase}"
    return f"{draws.weighted(_COUNT_WORDS[group.count])} {colour}{plural}"


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:] + "."


def _related(draws: Draws, scene: Scene) -> tuple[int, str, int, RelationName]:
    """A relation to tell, from either side: subject, words, object."""
    relation = draws.choice(scene.relations)
    a, b, name = relation.subject, relation.object, relation.name
    if draws.chance(0.6) or name == "above":
        return a, draws.choice(_RELATION_WORDS[name]), b, name
    return b, draws.choice(_INVERSE_WORDS[name]), a, name


def _relation_sentence(draws: Draws, scene: Scene, place: str) -> str:
    subject_index, words, object_index, name = _related(draws, scene)
    subject = scene.groups[subject_index]
    verbs = _verbs_of(subject)
    if name == "on" and words in _RELATION_WORDS["on"]:
        verbs = _VERBS["on"]
    singular, plural, participle = draws.choice(verbs)
    verb = singular if subject.count == 1 else plural
    a = noun_phrase(draws, subject)
    b = noun_phrase(draws, scene.groups[object_index])
    rest = [g for i, g in enumerate(scene.groups) if i not in (subject_index, object_index)]
    third = noun_phrase(draws, draws.choice(rest)) if rest and draws.chance(0.4) else ""
    be = "is" if subject.count == 1 else "are"
    extra = f", and there is also {third}" if third.startswith(("a ", "an ")) else ""
    if (third and not extra) or third.startswith(("a pair", "a couple", "a group")):
        extra = f", along with {third}"
    form = int(draws.uniform() * 5)
    if form == 0:
        return f"{a} {verb} {words} {b} {place}".rstrip() + extra
    if form == 1 and place:
        return f"{place}, {a} {verb} {words} {b}" + extra
    if form == 2:
        return f"{a} {participle} {words} {b} {place}".rstrip() + extra
    if form == 3:
        return f"there {be} {a} {words} {b} {place}".rstrip() + extra
    return f"{a} {be} {words} {b} {place}".rstrip() + extra


def _list_sentence(draws: Draws, scene: Scene, place: str) -> str:
    order = draws.shuffled(scene.groups)
    chosen = order[: 3 if len(order) > 2 and draws.chance(0.6) else 2]
    phrases = [noun_phrase(draws, g) for g in chosen]
    listed = ", ".join(phrases[:-1]) + f" and {phrases[-1]}"
    form = int(draws.uniform() * 6)
    if form == 0:
        return f"a {scene.setting.scene} scene with {listed}"
    if form == 1 and place:
        return f"{place} there {'is' if chosen[0].count == 1 else 'are'} {listed}"
    if form == 2:
        return f"the picture shows {listed} {place}".rstrip()
    if form == 3:
        companions = " and ".join(phrases[1:])
        return f"{phrases[0]} with {companions} {place}".rstrip()
    if form == 4:
        return f"{listed} can be seen {place}".rstrip()
    return f"{listed} {place}".rstrip()


def describe(draws: Draws, scene: Scene) -> tuple[str, ...]:
    """Five different captions of ``scene``, 6 to 25 words each."""
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_PICTURE:
        place = draws.choice(scene.setting.phrases) if draws.chance(0.72) else ""
        relational = bool(scene.relations) and draws.chance(0.62)
        sentence = (_relation_sentence if relational else _list_sentence)(draws, scene, place)
        caption = _capitalised(sentence)
        if MIN_WORDS <= len(caption.split()) <= MAX_WORDS and caption not in captions:
            captions.append(caption)
    return tuple(captions)
