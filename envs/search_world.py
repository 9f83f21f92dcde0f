"""A small world of invented people, companies and towns, drawn anew each time, so that what is said of them stands nowhere else."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

STARTS = ("B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z", "Br", "Dr", "Gr", "Kr", "Tr")
MIDDLES = ("a", "e", "i", "o", "u")
ENDS = ("ban", "dek", "fin", "gor", "kel", "lam", "mir", "nok", "pas", "rin", "sol", "tev", "vik", "zul")
TRADES = ("Mills", "Press", "Works", "Labs", "Foods", "Lines")
PRODUCTS = (
    "bells",
    "boats",
    "bricks",
    "chairs",
    "clocks",
    "drums",
    "ladders",
    "lamps",
    "maps",
    "ropes",
    "soap",
    "tiles",
)

LINKS: Mapping[str, Mapping[str, str]] = {
    "person": {"employer": "company", "birthplace": "town", "teacher": "person"},
    "company": {"seat": "town", "founder": "person"},
    "town": {"mayor": "person", "twin town": "town"},
}
"""What leads from an entity of a kind to which kind."""
VALUES: Mapping[str, tuple[str, ...]] = {
    "person": ("year of birth",),
    "company": ("product", "year of foundation"),
    "town": ("river", "population"),
}
"""What else is said of a kind."""
SENTENCES: Mapping[str, str] = {
    "employer": "Works for {}.",
    "birthplace": "Was born in {}.",
    "teacher": "Was taught by {}.",
    "seat": "Has its seat in {}.",
    "founder": "Was founded by {}.",
    "mayor": "Its mayor is {}.",
    "twin town": "Its twin town is {}.",
    "year of birth": "Was born in the year {}.",
    "product": "Makes {}.",
    "year of foundation": "Was founded in the year {}.",
    "river": "Lies on the river {}.",
    "population": "Has {} inhabitants.",
}


@dataclass
class World:
    """What there is: the kind of each entity by its name, and what holds of it, by the names of ``LINKS`` and ``VALUES``."""

    kinds: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def drawn(cls, draw: np.random.Generator, size: int) -> "World":
        """A world with ``size`` entities of each kind."""
        world = cls()
        first, last = _names(draw, size), _names(draw, size)
        people = {f"{first[int(draw.integers(size))]} {name}" for name in last}  # first names may be shared
        places = _names(draw, 2 * size, taken={*first, *last})
        companies = [f"{name} {TRADES[int(draw.integers(len(TRADES)))]}" for name in places[:size]]
        world.kinds |= dict.fromkeys(sorted(people), "person") | dict.fromkeys(companies, "company")
        world.kinds |= dict.fromkeys(places[size:], "town")
        rivers = _names(draw, size, taken={*first, *last, *places})
        for name, kind in world.kinds.items():
            linked = {link: world.another(draw, name, to) for link, to in LINKS[kind].items()}
            world.facts[name] = linked | {value: _value(draw, value, rivers) for value in VALUES[kind]}
        return world

    def another(self, draw: np.random.Generator, name: str, kind: str) -> str:
        """An entity of a kind, other than that of the name."""
        others = [each for each, its in self.kinds.items() if its == kind and each != name]
        return others[int(draw.integers(len(others)))]

    def pages(self, draw: np.random.Generator) -> dict[str, str]:
        """A page on each entity by its name, the pages and what each says in a drawn order."""
        names = [str(name) for name in draw.permutation(list(self.kinds))]
        return {name: self._page(draw, name) for name in names}

    def _page(self, draw: np.random.Generator, name: str) -> str:
        facts = list(self.facts[name].items())
        told = [SENTENCES[facts[at][0]].format(facts[at][1]) for at in draw.permutation(len(facts))]
        return " ".join([f"{name} is a {self.kinds[name]}.", *told])


def _names(draw: np.random.Generator, count: int, taken: Collection[str] = ()) -> list[str]:
    """Different invented names, none of them ``taken``."""
    found: dict[str, None] = {}
    while len(found) < count:
        parts = (STARTS, MIDDLES, ENDS)
        name = "".join(part[int(draw.integers(len(part)))] for part in parts)
        if name not in taken:
            found[name] = None
    return list(found)


def _value(draw: np.random.Generator, name: str, rivers: list[str]) -> str:
    if name == "river":
        return rivers[int(draw.integers(len(rivers)))]
    if name == "product":
        return PRODUCTS[int(draw.integers(len(PRODUCTS)))]
    return str(draw.integers(1000, 10_000) if name == "population" else draw.integers(1700, 2000))
