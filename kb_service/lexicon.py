"""The words whose presence in a rewrite must be earned by the source: data of the attribute test. Our definition.

A concept is named by its first phrase; the other phrases of its entry mean the same. ``BROADER`` says what a concept
entails: whoever wears jeans wears trousers. A word that no table holds is never judged.
"""

from __future__ import annotations

from typing import Final

COLOURS: Final = """
red|crimson|scarlet; orange; yellow|golden; green; blue; purple|violet; pink; brown; beige|tan; black; white
grey|gray; blond|blonde; ginger; silver; turquoise|teal; navy; maroon|burgundy; dark; colourful|colorful
"""
SIZES: Final = """
small|little|tiny; big|large|huge; long; short; tall; wide; narrow
"""
MATERIALS: Final = """
leather; denim; woollen|wool|woolen; cotton; silk; wooden|wood; metal|metallic; plastic; knitted; fur|furry; velvet
"""
PATTERNS: Final = """
striped|stripe|stripy; checked|checkered|plaid; dotted|dot|polka dot|spot|spotted; floral; print|logo|graphic|printed
hooded; sleeveless; ripped
"""
AGES: Final = """
young|youthful; old|elderly|aged; teenage
"""
BUILDS: Final = """
slim|thin|slender|skinny; heavyset|stocky|chubby|fat; muscular
"""
PERSONS: Final = """
man|gentleman|guy|gent; woman|lady; boy; girl; child|kid; baby|infant|newborn; toddler
person|someone|somebody|people|pedestrian|individual|figure|human
male|he|his|him|himself; female|she|her|hers|herself; crowd|group
chef; firefighter; policeman|police officer; bride; queen; king; soldier; player; worker; model; student; friend
"""
BODY: Final = """
hair; beard; ponytail; bun; bob; curly|curl; bald|shaved head; moustache|mustache; tattoo
"""
GARMENTS: Final = """
t-shirt|tee|tshirt; shirt|button-up shirt; polo shirt|polo; sweater|jumper|pullover; hoodie|hooded sweatshirt|sweatshirt
tank top|sleeveless top; top; blouse; jacket; coat|overcoat; cardigan; blazer|suit jacket; vest|waistcoat; suit; uniform
dress|gown; trousers|pants|slacks; jeans; shorts; skirt; leggings|tights; sock
trainers|sneaker|trainer|sports shoe|running shoe; boots|boot; dress shoes|leather shoe|dress shoe; sandals|sandal
shoe|footwear; heels|high heel; slipper
backpack|rucksack; shoulder bag|crossbody bag|messenger bag; handbag|purse; briefcase; suitcase|trolley case
shopping bag; bag; cap|baseball cap; beanie|knitted beanie; hat|brimmed hat; headscarf|hijab; scarf; helmet; crown
glasses|spectacles|eyeglasses; sunglasses; umbrella; glove; belt; tie; watch; necklace; mask; clothes|clothing|outfit
"""
ANIMALS: Final = """
dog|puppy; cat|kitten; rooster|cockerel; hen|chicken; horse|pony; cow|cattle; pig; sheep|lamb; goat; rabbit|bunny
bear; lion; tiger; elephant; monkey; rhino|rhinoceros; dinosaur; frog; turtle|tortoise; fish; dolphin; whale; seal
lobster; spider; bee; butterfly; ladybug|ladybird; bird; owl; duck; swan; seagull|gull; flamingo; penguin; insect; mouse
wolf; fox; animal|creature; snake
"""
OBJECTS: Final = """
car|automobile; bus|coach; truck|lorry; fire truck|fire engine; ambulance; jeep; tractor; tram|streetcar
train|toy train; wagon; bicycle|bike; motorcycle|motorbike; motorboat; sailboat; boat|ship; airplane|plane|aeroplane
rocket; helicopter; hot-air balloon; balloon; vehicle; wheel
tree; pine tree|pine; christmas tree; cactus; flower; rose; mushroom; potted plant; plant; leaf; bush; grass
apple; banana; lemon; pear; pineapple; strawberry; watermelon; pumpkin; tomato; fruit; cake; cupcake; hamburger|burger
hot dog; sandwich; pizza|slice of pizza; ice cream|ice cream cone; lollipop; fries|box of fries; food; bread
house; castle; igloo; tent; lighthouse; building; barn; church; tower
chair; table; lamp; bed; sofa|couch; bench; clock|wall clock; telephone; phone|mobile phone|smartphone|cell phone
camera; computer; laptop; television|tv; book|stack of books; pencil; padlock; key; globe; hourglass
magnifying glass; teapot; coffee cup|paper cup|cup of coffee|cup|mug; bottle; bucket; barrel; box|cardboard box
gift box|gift|present; lantern; drum; drum set; guitar; violin; harp; trumpet; french horn; xylophone; gramophone
piano; toy; teddy bear; rubber duck; ball; beach ball; soccer ball; robot; alien; snowman; scarecrow; light bulb
vacuum cleaner; campfire; chainsaw; car horn|horn; door; window; flag; fence; sword; gun; knife; stone|rock; snow; cloud
star; moon
"""
PLACES: Final = """
street|road; park; station; shop|store; crossing|zebra crossing|crosswalk; wall; beach|shore|ashore; forest
field|meadow; room; kitchen; city|town; mountain|hill; garden; lake; river; farm; desert; bridge
sky; sea|ocean; house interior; restaurant; office; school; airport
"""
ACTIONS: Final = """
walk|stroll; stand|wait; run; sit; ride; jump; dance; sleep; swim; fly|hover; talk|speak|chat; smile; eat; drink; drive
shout|yell|scream; sing; laugh; play; fight; read
"""
SOUNDS: Final = """
bark; crow|cock-a-doodle-doo; sneeze; cough; rain|rainfall; rainstorm|storm|thunderstorm; thunder; wind; wave
cry|wail|weep; tick|tick-tock; whir|whirr; buzz; crackle; fire; siren; bell; chime; engine|motor; music; song
footstep; applause|clap; knock; meow; chirp|birdsong; snore; whistle; growl|roar; howl; beep; alarm; explosion
strike; flood; splash; hiss; drip; breathe
"""
LOUDNESSES: Final = """
loud|loudly|noisy|noisily; faint|faintly|quiet|quietly|soft|softly
"""
LIGHTS: Final = """
night; dusk|evening|sunset; daylight|daytime; sunny; overcast|cloudy; foggy|fog; rainy; snowy; sunrise|dawn|morning
"""
COUNTS: Final = """
two|pair|couple|twice|both|double; three|thrice|three time|trio; four|four time; five|five time; six; seven; eight; nine
ten; dozen; several; many; few
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
    "light": LIGHTS,
    "count": COUNTS,
}

MODIFIERS: Final = frozenset({"colour", "size", "material", "pattern", "age", "build", "count"})
"""Classes whose words belong to a thing; which one is compared too."""
THINGS: Final = frozenset({"person", "body", "garment", "animal", "object", "sound"})
"""Classes of what modifiers belong to."""

VERBS: Final = frozenset({"action", "sound"})
"""Classes whose words are verbs too, with participles and past tenses."""

BROADER: Final[dict[str, tuple[str, ...]]] = {
    "man": ("male", "person"),
    "boy": ("male", "child"),
    "king": ("male", "person"),
    "policeman": ("male", "person"),
    "woman": ("female", "person"),
    "girl": ("female", "child"),
    "queen": ("female", "person"),
    "bride": ("female", "person", "woman"),
    "male": ("person",),
    "female": ("person",),
    "child": ("person", "young"),
    "baby": ("child",),
    "toddler": ("child",),
    "crowd": ("person", "many", "several"),
    "chef": ("person",),
    "firefighter": ("person",),
    "soldier": ("person",),
    "student": ("person",),
    "worker": ("person",),
    "crimson": ("red",),
    "ginger": ("red",),
    "navy": ("blue", "dark"),
    "maroon": ("red", "dark"),
    "turquoise": ("blue", "green"),
    "black": ("dark",),
    "brown": ("dark",),
    "ponytail": ("hair",),
    "bun": ("hair",),
    "bob": ("hair",),
    "curly": ("hair",),
    "t-shirt": ("shirt",),
    "shirt": ("top",),
    "polo shirt": ("shirt",),
    "sweater": ("top",),
    "hoodie": ("sweater", "hooded"),
    "tank top": ("top", "sleeveless"),
    "blouse": ("top", "shirt"),
    "cardigan": ("sweater",),
    "blazer": ("jacket",),
    "suit": ("jacket", "trousers"),
    "jeans": ("trousers", "denim"),
    "leggings": ("trousers",),
    "trainers": ("shoe",),
    "boots": ("shoe",),
    "dress shoes": ("shoe", "leather"),
    "sandals": ("shoe",),
    "heels": ("shoe",),
    "slipper": ("shoe",),
    "backpack": ("bag",),
    "shoulder bag": ("bag",),
    "handbag": ("bag",),
    "briefcase": ("bag",),
    "suitcase": ("bag",),
    "shopping bag": ("bag",),
    "cap": ("hat",),
    "beanie": ("hat", "knitted"),
    "headscarf": ("scarf",),
    "sunglasses": ("glasses",),
    "fire truck": ("truck",),
    "jeep": ("car",),
    "truck": ("vehicle",),
    "car": ("vehicle",),
    "bus": ("vehicle",),
    "ambulance": ("vehicle",),
    "tractor": ("vehicle",),
    "tram": ("vehicle",),
    "train": ("vehicle",),
    "motorcycle": ("vehicle", "bicycle"),
    "bicycle": ("vehicle",),
    "motorboat": ("boat",),
    "sailboat": ("boat",),
    "hot-air balloon": ("balloon",),
    "airplane": ("vehicle",),
    "helicopter": ("vehicle",),
    "pine tree": ("tree",),
    "christmas tree": ("tree",),
    "tree": ("plant",),
    "cactus": ("plant",),
    "potted plant": ("plant",),
    "rose": ("flower",),
    "flower": ("plant",),
    "apple": ("fruit",),
    "banana": ("fruit",),
    "lemon": ("fruit",),
    "pear": ("fruit",),
    "pineapple": ("fruit",),
    "strawberry": ("fruit",),
    "watermelon": ("fruit",),
    "cupcake": ("cake",),
    "telephone": ("phone",),
    "laptop": ("computer",),
    "gift box": ("box",),
    "castle": ("building",),
    "house": ("building",),
    "lighthouse": ("building", "tower"),
    "beach ball": ("ball",),
    "soccer ball": ("ball",),
    "teddy bear": ("bear", "toy"),
    "rubber duck": ("duck", "toy"),
    "campfire": ("fire",),
    "rooster": ("bird",),
    "hen": ("bird",),
    "owl": ("bird",),
    "duck": ("bird",),
    "swan": ("bird",),
    "seagull": ("bird",),
    "flamingo": ("bird",),
    "penguin": ("bird",),
    "bee": ("insect",),
    "butterfly": ("insect",),
    "ladybug": ("insect",),
    **dict.fromkeys(
        (
            *(
                "dog",
                "cat",
                "horse",
                "cow",
                "pig",
                "sheep",
                "goat",
                "rabbit",
                "bear",
                "lion",
                "tiger",
            ),
            *(
                "elephant",
                "monkey",
                "rhino",
                "dinosaur",
                "frog",
                "turtle",
                "fish",
                "dolphin",
                "whale",
            ),
            *("seal", "lobster", "spider", "bird", "mouse", "wolf", "fox", "insect", "snake"),
        ),
        ("animal",),
    ),
    "crossing": ("street",),
    "rain": ("rainy",),
    "sneeze": ("person",),
    "cough": ("person",),
    "talk": ("person",),
    "chainsaw": ("run",),
    "rainstorm": ("rain",),
    "wave": ("sea",),
    "sea": ("wave", "beach"),
    "crackle": ("fire",),
    "three": ("several", "few"),
    "four": ("several", "few"),
    "five": ("several",),
    "six": ("several", "many"),
}
"""What a concept entails beside itself; applied again to the result."""

NEGATIONS: Final = frozenset(
    {"no", "not", "without", "lacking", "neither", "nor", "never", "isn't", "doesn't"}
)
IRREGULAR: Final[dict[str, str]] = {
    "men": "man",
    "women": "woman",
    "ladies": "lady",
    "children": "child",
    "babies": "baby",
    "puppies": "puppy",
    "feet": "foot",
    "leaves": "leaf",
    "mice": "mouse",
    "wolves": "wolf",
    "ran": "run",
    "sat": "sit",
    "stood": "stand",
    "spoke": "speak",
    "flew": "fly",
    "cries": "cry",
    "cried": "cry",
    "blew": "blow",
    "sang": "sing",
    "rang": "ring",
}
BREAKS: Final = frozenset(
    {
        *("with", "wearing", "wears", "carrying", "carries", "holding", "holds", "has", "having"),
        *(
            "in",
            "on",
            "of",
            "at",
            "by",
            "to",
            "from",
            "over",
            "under",
            "near",
            "beside",
            "behind",
            "for",
        ),
        *("into", "along", "through", "past", "across", "while", "then", "as"),
        *("whose", "who", "that", "which"),
    }
)
"""Words over which an adjective does not reach forward."""
COPULAS: Final = frozenset({"is", "are", "was", "were", "in", "coloured", "colored"})
"""Words between a thing and the modifier that follows it: "hair that is blond", "a jacket in red"."""
RELATIONS: Final[dict[tuple[str, ...], tuple[str, bool]]] = {
    ("left", "of"): ("left of", False),
    ("to", "the", "left", "of"): ("left of", False),
    ("on", "the", "left", "of"): ("left of", False),
    ("right", "of"): ("left of", True),
    ("to", "the", "right", "of"): ("left of", True),
    ("on", "the", "right", "of"): ("left of", True),
    ("above",): ("above", False),
    ("below",): ("above", True),
    ("beneath",): ("above", True),
    ("underneath",): ("above", True),
    ("in", "front", "of"): ("in front of", False),
    ("behind",): ("in front of", True),
}
"""Place of one thing against another: the words, the relation, whether it runs the other way round."""
