"""The words whose presence in a rewrite must be earned by the source: data of the attribute test. Our definition.

A concept is named by its first phrase; the other phrases of its entry mean the same. ``BROADER`` says what a concept
entails: whoever wears jeans wears trousers. What neither a table nor ``NEUTRAL`` holds is news unless the source says
it.
"""

from __future__ import annotations

import re
from typing import Final

COLOURS: Final = """
red|crimson|scarlet; orange; yellow|golden; green; blue; purple|violet; pink; brown; beige|tan; black; white
grey|gray; blond|blonde|fair; ginger; silver; turquoise|teal; navy; maroon|burgundy; dark; colourful|colorful
"""
SIZES: Final = """
small|little|tiny; big|large|huge; long; short|short-cropped; tall; wide; narrow
"""
MATERIALS: Final = """
leather; denim; woollen|wool|woolen; cotton; silk; wooden|wood; metal|metallic; plastic; knitted; fur|furry; velvet
"""
PATTERNS: Final = """
striped|stripe|stripy; checked|checkered|plaid; dotted|dot|polka dot|spot|spotted; floral
print|logo|graphic|printed; hooded; sleeveless; ripped
"""
AGES: Final = """
young|youthful; old|elderly|aged; middle-aged; teenage
"""
BUILDS: Final = """
slim|thin|slender|skinny; heavyset|stocky|chubby|fat; muscular
"""
PERSONS: Final = """
man|gentleman|guy|gent; woman|lady; boy; girl; child|kid; baby|infant|newborn; toddler
person|someone|somebody|people|pedestrian|individual|figure|human; male|he|his|him|himself
female|she|her|hers|herself; crowd|group; chef|cook; firefighter|fireman|firemen; policeman|police officer|policemen
bride; queen; king; soldier; player; worker; model; student; friend
"""
BODY: Final = """
hair; beard; ponytail; bun; bob|chin-length; curly|curl; bald|shaved head; moustache|mustache; tattoo
"""
GARMENTS: Final = """
t-shirt|tee|tshirt|tee shirt; shirt|button-up shirt; polo shirt|polo; sweater|jumper|pullover
hoodie|hooded sweatshirt|sweatshirt; tank top|sleeveless top; top; blouse; jacket; coat|overcoat|long coat; cardigan
blazer|suit jacket; vest|waistcoat; suit; uniform; dress|gown; trousers|pants|slacks; jeans; shorts; skirt
leggings|tights; sock; trainers|sneaker|trainer|sports shoe|running shoe; boots|boot
dress shoes|leather shoe|dress shoe; sandals|sandal; shoe|footwear; heels|high heel; slipper; backpack|rucksack
shoulder bag|crossbody bag|messenger bag; handbag|purse; briefcase; suitcase|trolley case; shopping bag; bag
cap|baseball cap; beanie|knitted beanie; hat|brimmed hat; headscarf|hijab; scarf; helmet; crown
glasses|spectacles|eyeglasses; sunglasses; umbrella; glove; belt; tie; watch; necklace; mask
clothes|clothing|outfit
"""
ANIMALS: Final = """
dog|puppy; cat|kitten; rooster|cockerel; hen|chicken; horse|pony; cow|cattle; pig; sheep|lamb; goat; rabbit|bunny
bear; lion; tiger; elephant; monkey; rhino|rhinoceros; dinosaur; frog; turtle|tortoise; fish; dolphin
whale|killer whale; seal; lobster|crayfish; spider; bee; butterfly; ladybug|ladybird; bird; owl; duck; swan
seagull|gull; flamingo; penguin; insect; mouse; wolf; fox; animal|creature; snake
"""
OBJECTS: Final = """
car|automobile; bus|coach; truck|lorry; fire truck|fire engine; ambulance; jeep; tractor; tram|streetcar
train|toy train; wagon|cart; bicycle|bike; motorcycle|motorbike; motorboat; sailboat|sailing boat; boat|ship
airplane|plane|aeroplane; rocket|spaceship; helicopter; hot-air balloon|hot air balloon; balloon; vehicle; wheel
tree; pine tree|pine|fir tree|fir; christmas tree; cactus; flower; rose; mushroom|toadstool; potted plant|flower pot
plant; leaf; bush; apple; banana; lemon; pear; pineapple; strawberry; watermelon; pumpkin; tomato; fruit
cake|birthday cake; cupcake|muffin; hamburger|burger; hot dog; sandwich
pizza|slice of pizza|slices of pizza|pizza slice; ice cream|ice cream cone; lollipop
fries|box of fries|boxes of fries|carton of fries|cartons of fries; food; bread; house; castle; igloo; tent
lighthouse; building; barn; church; tower; chair|armchair; throne; table|desk; lamp; bed; sofa|couch; bench
clock|wall clock; telephone; phone|mobile phone|smartphone|cell phone; camera; computer; laptop; television|tv|tvs
book|stack of books|stacks of books|pile of books|piles of books; pencil; padlock|lock; key; globe; hourglass
magnifying glass; teapot; coffee cup|paper cup|cup of coffee|cups of coffee|cup|mug; bottle; bucket|pail; barrel
box|cardboard box; gift box|gift|present; lantern; drum; drum set|drum kit; guitar; violin; harp; trumpet
french horn; xylophone; gramophone; piano; toy; teddy bear; rubber duck; ball; beach ball; soccer ball|football
robot; alien; snowman|snowmen; scarecrow; light bulb; vacuum cleaner; chainsaw|chain saw; car horn|horn; door; window
flag; fence; sword; gun; knife; stone|rock; cloud; star; moon
"""
PLACES: Final = """
street|road|city street; park|park path; station|station hall; shop|store|shop window
crossing|zebra crossing|crosswalk; wall; beach|shore|ashore|sandy beach; forest|woods; field|meadow|grassy field
grass; room; kitchen; city|town; mountain|hill|mountain valley; garden; lake|shore of a lake; river; farm
desert|desert sand|sand dune; bridge; valley; sidewalk|pavement; alley; hallway|corridor; market; square
stairs|staircase; sky; sea|ocean|open sea; house interior; restaurant; office; school; airport
"""
ACTIONS: Final = """
walk|stroll; stand|wait; run; sit; lean; kneel; ride; jump; dance; sleep; swim; fly|hover; talk|speak|chat; smile
eat; drink; drive; shout|yell|scream; sing; laugh; play; fight; read; look at|check
"""
SOUNDS: Final = """
bark; crow|cock-a-doodle-doo; sneeze; cough; rain|rainfall; rainstorm|storm|thunderstorm; thunder; wind; wave
cry|wail|weep; tick|tick-tock; whir|whirr; buzz|cut wood|cuts wood|cutting wood; crackle; fire|campfire|bonfire
siren; bell; chime; engine|motor; music; song; footstep; applause|clap; knock; meow; chirp|birdsong; snore; whistle
growl|roar; howl; beep; alarm; explosion; strike; flood; splash; hiss; drip; breathe
"""
LOUDNESSES: Final = """
loud|loudly|noisy|noisily; faint|faintly|quiet|quietly|soft|softly
"""
DURATIONS: Final = """
brief|briefly|for a moment|for a short time|for a short while|few moment
lasting|for a long time|for several seconds|for a long while|for a while
"""
POSITIONS: Final = """
on the left|on its left|to the left|to its left; on the right|on its right|to the right|to its right; in the corner
on the side|on the other side|on each side; in the middle|in the center|in the centre|in the foreground
in the background
"""
VIEWS: Final = """
from the front|facing the camera|faces the camera|facing forward; from behind|from the back|back to the camera
from the side|in profile; half front|at an angle from the front|halfway to the camera|halfway towards the camera
half back|at an angle from behind|halfway from the camera|halfway away from the camera
"""
LIGHTS: Final = """
night|moonlight|moonlit|starry night; dusk|evening|sunset|late afternoon; daylight|daytime|bright day; sunny
overcast|cloudy; foggy|fog; rainy; snowy|snow|snowy field|snowy winter day|winter; sunrise|dawn|morning
snowstorm|blizzard
"""
COUNTS: Final = """
two|pair|couple|twice|both|double; three|thrice|three time|trio; four|four time; five|five time; six; seven; eight
nine; ten; dozen; several; many; few
"""

CLASSES: Final[dict[str, str]] = {
    "colour": COLOURS,
    "size": SIZES,
    "material": MATERIALS,
    "pattern": PATTERNS,
    "age": AGES,
    "build": BUILDS,
    "person": PERSONS,
    "body": BODY,
    "garment": GARMENTS,
    "animal": ANIMALS,
    "object": OBJECTS,
    "place": PLACES,
    "action": ACTIONS,
    "sound": SOUNDS,
    "loudness": LOUDNESSES,
    "duration": DURATIONS,
    "view": VIEWS,
    "position": POSITIONS,
    "light": LIGHTS,
    "count": COUNTS,
}

MODIFIERS: Final = frozenset({"colour", "size", "material", "pattern", "age", "build", "count"})
"""Classes whose words belong to a thing; which one is compared too."""
THINGS: Final = frozenset({"person", "body", "garment", "animal", "object", "sound"})
"""Classes of what modifiers belong to."""
WORN: Final = frozenset({"garment", "body"})
"""Classes of what a person wears or has."""

VERBS: Final = frozenset({"action", "sound"})
"""Classes whose words are verbs too, with participles and past tenses."""

BROADER: Final[dict[str, tuple[str, ...]]] = {
    concept: tuple(broader.split("; "))
    for line in """
man; king; policeman > male; person
boy > male; child
woman; queen > female; person
girl > female; child
bride > female; person; woman
male; female; chef; firefighter; soldier; student; worker; sneeze; cough; talk > person
child > person; young
baby; toddler > child
crowd > person; many; several
crimson; ginger > red
navy > blue; dark
maroon > red; dark
turquoise > blue; green
black; brown > dark
ponytail; bun; bob; curly > hair
t-shirt; polo shirt > shirt
shirt; sweater > top
hoodie > sweater; hooded
tank top > top; sleeveless
blouse > top; shirt
cardigan > sweater
blazer > jacket
suit > jacket; trousers
jeans > trousers; denim
leggings > trousers
trainers; boots; sandals; heels; slipper > shoe
dress shoes > shoe; leather
backpack; shoulder bag; handbag; briefcase; suitcase; shopping bag > bag
cap > hat
beanie > hat; knitted
sunglasses > glasses
fire truck > truck
jeep > car
truck; car; bus; ambulance; tractor; tram; train; bicycle > vehicle
motorcycle > vehicle; bicycle
motorboat; sailboat > boat
hot-air balloon > balloon
airplane > vehicle; fly
helicopter > vehicle; fly; whir
rocket; balloon > fly
pine tree; christmas tree > tree
tree; cactus; potted plant; flower > plant
rose > flower
apple; banana; lemon; pear; pineapple; strawberry; watermelon > fruit
cupcake > cake
telephone > phone
laptop > computer
gift box > box
castle; house > building
lighthouse > building; tower
beach ball; soccer ball > ball
teddy bear > bear; toy
rubber duck > duck; toy
rooster; hen; owl; seagull; flamingo; penguin > bird
duck; swan > bird; swim
bee; butterfly > insect; fly
ladybug > insect
dog; cat; horse; cow; pig; sheep; goat; rabbit; bear; lion; tiger; elephant; monkey; rhino; dinosaur; frog > animal
turtle; seal; lobster; spider; bird; mouse; wolf; fox; insect; snake > animal
fish; dolphin; whale > animal; swim
street > city
crossing > street
field > grass
beach; wave > sea
mountain > valley
half front > from the front
half back > from behind
headscarf > scarf
rain > rainy
chainsaw > run; buzz
rainstorm > rain
sea > wave; beach
crackle > fire
fire > crackle
three; four > several; few
five > several
six > several; many
""".strip().splitlines()
    for concepts, broader in [line.split(" > ")]
    for concept in concepts.split("; ")
}
"""What a concept entails beside itself, "concepts > what each entails"; applied again to the result."""

PAIRED: Final = frozenset({"trousers", "shorts", "shoe", "sock", "glove", "glasses"})
"""Garments of which a pair is one: "a pair of" counts nothing before what entails them."""
POSTURES: Final = frozenset({"stand", "sit"})
"""Said of people; what things do to be somewhere says no more than "is" does."""
EVENT_OF: Final[dict[str, str]] = {
    "dog": "bark",
    "rooster": "crow",
    "sea": "wave",
    "beach": "wave",
    "baby": "cry",
    "clock": "tick",
    "helicopter": "whir",
    "fly": "whir",
    "chainsaw": "buzz",
    "crackle": "fire",
}
"""What makes a sound, and the sound: one event however it is named."""

NEGATIONS: Final = frozenset(
    {"no", "not", "without", "lacking", "neither", "nor", "never", "isn't", "doesn't"}
)
IRREGULAR: Final[dict[str, str]] = dict(
    pair.split()
    for pair in """
cacti cactus; men man; women woman; ladies lady; children child; babies baby; puppies puppy; feet foot; leaves leaf;
mice mouse; wolves wolf; ran run; sat sit; stood stand; spoke speak; flew fly; cries cry; flies fly; cried cry; blew
blow; sang sing; rang ring; rung ring
""".replace("\n", " ").split(";")
)
BREAKS: Final = frozenset(
    """
    with wearing wears carrying carries holding holds has having in on of at by to from over under near beside behind
    for into along through past across while then as whose who that which
    """.split()  # noqa: SIM905
)
"""Words over which an adjective does not reach forward."""
COPULAS: Final = frozenset({"is", "are", "was", "were", "in", "coloured", "colored"})
"""Words between a thing and the modifier that follows it: "hair that is blond", "a jacket in red"."""
COMPANY: Final = frozenset({"along", "with", "beside", "past", "behind", "by", "of", "to"})
"""Words before "a woman" that make her another one than the woman named before."""
RELATIONS: Final[dict[tuple[str, ...], tuple[str, bool]]] = {
    tuple(phrase.split()): (relation, reverse)
    for relation, phrases, reversed_phrases in (
        (
            "left of",
            "left of|to the left of|on the left of",
            "right of|to the right of|on the right of",
        ),
        ("above", "above|over|on|on top of|atop", "under|below|beneath|underneath"),
        ("in", "in|inside", ""),
        ("surrounded by", "surrounded by", ""),
        ("wearing", "wearing", ""),
        ("in front of", "in front of", "behind"),
    )
    for reverse, ways in ((False, phrases), (True, reversed_phrases))
    for phrase in ways.split("|")
    if phrase
}
"""Place of one thing against another: the words, the relation, whether it runs the other way round."""
LONGEST_RELATION: Final = max(map(len, RELATIONS))
SUPPORTS: Final = frozenset({"on", "over", "in", "inside", "atop", "wearing"})
"""Words that place one thing against the very next one: not "on the left of", nor who wears what or is where."""
NEUTRAL: Final = frozenset(
    """
    a an the this that these those its his her their our your my who whose which what where when there here it they them
    we you i one ones other others another each all both some any every same such own as so also too very just only even
    is are was were be been being am do does did has have had having can could may might will would seem seems
    and or but nor if then than because while with of at by to from for into onto out off up down away along through
    about around across past beside besides behind beyond near nearby next between among against toward towards upon
    within without together alongside along during until after before once again still now later first finally at
    wear wears wore wearing worn dress dressed clad sport sports sporting don donning put attire attired outfit
    carry carries carried carrying hold holds held holding bring brings bringing clutching clutches
    see sees saw seen seeing show shows shown showing view viewed visible appear appears appearing feature features
    featuring depict depicts depicted include includes including contain contains containing present
    picture photo photograph image scene background foreground recording clip footage audio video camera sound sounds
    hear hears heard hearing listen begin begins began beginning start starts started starting open opens opened opening
    end ends ended ending finish finishes finished finishing continue continues continued continuing follow follows
    followed following go goes going gone went come comes came coming move moves moving moved pass passes passing
    place placed places placing put lie lies lying lay rest rests resting position positioned locate located situated
    park parked grow grows growing pose poses posing float floats floating drift drifts drifting sail sails sailing
    set sets top side left right front back middle center centre half halfway part partly partially angle direction
    turn turned turns turning face faced faces facing look looks looking style colour color coloured colored shade tone
    pattern patterned chest head hand hands arm shoulder leg legs foot feet tied tie ties bound
    pair set couple group number time times count counts several burst series
    make makes making made produce produces emit emits create creates give gives given take takes taking get gets
    break breaks breaking roll rolls rolling wash washes washing burn burns burning fall falls falling patter patters
    pattering whiz whizzes rushes surge surges crash crashes crashing lap laps lapping drizzle drizzles
    inside outside above below under beneath over day light warm bright dim overhead throughout single once
    mixed blended accompanied accompanies accompanying joined joins joining surround surrounds surrounded surrounding
    """.split()  # noqa: SIM905
)
"""Words that state no attribute: grammar, and how captions tell of what they show. Others that neither the source nor
the tables hold are news."""


def _index() -> tuple[dict[tuple[str, ...], str], dict[str, str]]:
    concepts: dict[tuple[str, ...], str] = {}
    classes: dict[str, str] = {}
    for kind, table in CLASSES.items():
        for entry in re.split(r"[;\n]", table.strip()):
            phrases = [p.strip() for p in entry.split("|")]
            classes[phrases[0]] = kind
            for phrase in phrases:
                known = concepts.setdefault(tuple(phrase.split()), phrases[0])
                if known != phrases[0]:
                    raise ValueError(f"lexicon: {phrase!r} names both {known!r} and {phrases[0]!r}")
    return concepts, classes


CONCEPT_OF, CLASS_OF = _index()
"""The concept of each phrase, and the class of each concept."""


def class_of(concept: str) -> str:
    """The class of a concept, "" for what is none."""
    return CLASS_OF.get(concept, "")
