"""English sentences of eight to twelve words, made from templates: varied in sounds, not in sense.

The words are chosen for their sounds: together they have every vowel and consonant of American
English, the rare sounds (as in measure, thousand, boy) several times.
"""

import re

import numpy as np

WORDS = {
    "the": "the this that my our your her his their another every some",
    "person": """
        baker teacher sailor farmer doctor painter neighbour captain daughter uncle stranger judge
        engineer shepherd boy girl mother brother king queen lawyer gardener pilot poet waiter
        nurse merchant traveller student visitor cousin toddler robber youth hunter weaver dancer
        singer author miller
    """,
    "animal": """
        fox horse donkey sparrow beetle heron whale tiger rabbit monkey lizard oyster bear mole
        llama zebra giraffe camel turtle eagle squirrel hedgehog dolphin cow pigeon kitten lamb
        leopard panther moth crow spider penguin swan badger otter hyena yak puppy thrush
    """,
    "thing": """
        basket treasure letter hammer bottle mirror violin candle blanket garment engine pocket
        umbrella ladder wheel feather button kettle jewel toy coin spoon saucer chair vase watch
        bridge picture garage shovel thimble fence orange pear cabbage cherry pudding sausage
        onion machine
    """,
    "place": """
        garden river mountain kitchen library harbour village forest market tower church museum
        station meadow valley castle island theatre bakery orchard corner beach shore cave house
        barn bridge cottage square lighthouse school canyon desert farmyard pier quarry ravine
        stable tavern workshop
    """,
    "quality": """
        quiet yellow ancient clever hungry cheerful narrow golden enormous gentle foolish curious
        purple wooden heavy fragile strange silver noisy patient broken shining bitter thirsty
        warm cold young joyful usual rough smooth thick thin poor pure azure sour loud lazy brave
    """,
    "carried": """
        carried found watched measured followed noticed painted lifted borrowed admired touched
        avoided ignored forgot remembered caught bought pushed pulled chose threw showed moved
        enjoyed destroyed hid praised heard saw loved feared guarded cleaned fetched washed
        brought shook joined treasured envied
    """,
    "walked": """
        walked slept danced waited laughed wandered vanished whispered shouted rested paused
        stumbled jumped swam played worked stayed arrived listened yawned hurried cried sneezed
        voyaged prayed grew smiled sang stood turned
    """,
    "how": """
        slowly quietly gladly suddenly bravely carefully loudly rarely usually always never
        together alone again twice outside nearby today smoothly poorly fairly eagerly
    """,
    "near": """
        near behind beside above under beyond across inside outside towards around below against
        past through
    """,
    "when": """
        yesterday tonight tomorrow later once lately meanwhile afterwards beforehand nowadays
    """,
    "number": "two three four five six seven eight nine ten eleven twelve thirty fifteen",
    "while": "while because although until whenever before after unless since and but so",
}

TEMPLATES = (
    "{the} {quality} {person} {carried} {the} {quality} {thing} {near} the {place}.",
    "{the} {animal} {walked} {how} {near} {the} {quality} {place} {when}.",
    "{the} {person} {walked} {how}, {while} {the} {animal} {carried} {the} {thing}.",
    "{near} the {place}, {number} {quality} {animals} {walked} {how} {when}.",
    "{when}, {the} {person} {how} {carried} {number} {quality} {things} {near} the {place}.",
    "{the} {thing} {near} {the} {place} was {quality}, {quality} and {how} {quality}.",
    "did {the} {quality} {animal} {near} the {place} see {the} {person}'s {thing}?",
    "{the} {person}'s {quality} {animal} {how} {carried} {number} {things} and {walked}.",
    "{number} {persons} {carried} {the} {thing} {while} {the} {quality} {animal} {walked} {how}.",
    "who {carried} {the} {quality} {thing} of {the} {person} {near} {the} {place}?",
    "{the} {person} and {the} {quality} {animal} {walked} {near} {number} {places} {when}.",
    "{how}, {the} {quality} {person} {walked} {near} {the} {place} with {number} {things}.",
)

_WORDS = {slot: words.split() for slot, words in WORDS.items()}


def sentences(count: int, *, draw: np.random.Generator) -> list[str]:
    """`count` different sentences."""
    made: dict[str, None] = {}
    while len(made) < count:
        made.setdefault(_sentence(draw))
    return list(made)


def _sentence(draw: np.random.Generator) -> str:
    template = TEMPLATES[draw.integers(len(TEMPLATES))]
    sentence = re.sub(r"{(\w+)}", lambda slot: _word(slot[1], draw=draw), template)
    return sentence[0].upper() + sentence[1:]


def _word(slot: str, *, draw: np.random.Generator) -> str:
    """A word for `slot`; for a slot such as "persons", a "person" in the plural."""
    words = _WORDS.get(slot) or [_plural(word) for word in _WORDS[slot.removesuffix("s")]]
    return words[draw.integers(len(words))]


def _plural(noun: str) -> str:
    """The regular plural, which all nouns in the lists have.

    >>> [_plural(noun) for noun in ("boy", "fox", "puppy")]
    ['boys', 'foxes', 'puppies']
    """
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"
