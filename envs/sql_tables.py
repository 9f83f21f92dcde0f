"""What the databases of Sql are made from."""

from typing import NamedTuple


class Table(NamedTuple):
    """What a table is made from. It has these columns, an id, a name, and the id of a row of the next table of its domain."""

    name: str
    one: str
    names: str
    numbers: dict[str, int]
    """Columns, each with the largest value."""


_PEOPLE = "Ada Bo Cleo Dan Eva Finn Gus Hana Ivo Jana Kim Lena Max Nora"
_TOWNS = Table(
    "towns", "town", "Aachen Bern Cork Delft Essen Faro Genoa Hull Izmir Jena Kiel Lyon", {"people": 900, "area": 99}
)
DOMAINS = (
    (
        Table("goods", "good", "apples beans carrots dates eggs figs grapes honey kale lemons melons nuts onions pears rice salt tea", {"price": 99, "stock": 500}),
        Table("makers", "maker", _PEOPLE, {"age": 90, "staff": 200}),
        _TOWNS,
    ),
    (
        Table("books", "book", "Amber Bridge Candle Desert Echo Forest Garden Harbour Island Journey Key Lantern Mirror Night Ocean Path River", {"pages": 900, "copies": 99}),
        Table("authors", "author", _PEOPLE, {"age": 90, "prizes": 40}),
        _TOWNS,
    ),
    (
        Table("animals", "animal", "ape bear camel deer eagle fox goat hare ibis jackal koala lion moose newt otter panda seal", {"weight": 900, "age": 50}),
        Table("keepers", "keeper", _PEOPLE, {"age": 90, "salary": 500}),
        Table("parks", "park", "Ash Birch Cedar Elm Fir Hazel Larch Maple Oak Pine Rowan Willow", {"visitors": 900, "area": 200}),
    ),
)  # fmt: skip
"""Each table's rows refer to rows of the next."""
