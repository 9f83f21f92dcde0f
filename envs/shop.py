"""Shop: find a product that meets all wishes in a catalogue made from the seed, and buy it."""

from collections.abc import Mapping
from typing import Any, Literal

from agentopd.env import TextEnv
from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import call, tool

VALUES: Mapping[str, tuple[str, ...]] = {
    "kind": ("bag", "belt", "cap", "coat", "dress", "hat", "scarf", "shirt"),
    "colour": ("black", "blue", "brown", "green", "grey", "red", "white"),
    "material": ("cotton", "leather", "linen", "silk", "wool"),
    "size": ("XS", "S", "M", "L", "XL"),
}
WISHES = ("colour", "material", "size", "price")
CHEAPEST, DEAREST = 10, 99
SHOWN = 5
"""How many products a search shows."""

Product = dict[str, Any]


class Shop(TextEnv):
    """Asks "Buy: coat, colour red, size M, price at most 60.". At least one product meets all wishes.

    Buying ends the episode. The reward is the share of wishes that the product meets, the kind among them, and 0 where the kind is
    wrong; success is to meet all. It takes a search, at most a turn for each wish (``filter``), and the purchase.

    Args:
        wishes: How many are told beside the kind, 1 to 4.
        products: How many products there are, 1 to 200.
        distractors: How many of them miss exactly one wish.
    """

    instructions = "Search the shop, filter what you find, and buy a product that meets all wishes."

    def __init__(self, wishes: int = 3, products: int = 30, distractors: int = 4):
        if not 1 <= wishes <= len(WISHES):
            raise ConfigError(f"wishes={wishes} must be from 1 to {len(WISHES)}")
        if not 1 <= products <= 200:
            raise ConfigError(f"products={products} must be from 1 to 200")
        if not 0 <= distractors < products:
            raise ConfigError(f"distractors={distractors} must be at least 0 and below products={products}")
        self.count, self.products, self.distractors = wishes, products, distractors

    def start(self) -> str:
        """Draws a product, wishes that it meets, products that miss one of them, and others."""
        wanted = self._product()
        wishes = [WISHES[index] for index in sorted(self.np_random.choice(len(WISHES), self.count, replace=False))]
        self._wishes: dict[str, Any] = {name: wanted[name] for name in ("kind", *wishes)}
        if "price" in self._wishes:
            self._wishes["price"] = min(wanted["price"] + int(self.np_random.integers(10)), DEAREST - 1)
            wanted["price"] = min(wanted["price"], self._wishes["price"])
        others = [self._near(wanted) for _ in range(self.distractors)]
        others += [self._product() for _ in range(self.products - self.distractors - 1)]
        catalogue = [wanted, *others]
        self._catalogue = {n: catalogue[index] for n, index in enumerate(self.np_random.permutation(len(catalogue)), 1)}
        self._found: list[int] = []
        self._filters: dict[str, Any] = {}
        told = (f"{name} {'at most ' if name == 'price' else ''}{value}" for name, value in self._wishes.items())
        return f"Buy: {', '.join(told).removeprefix('kind ')}."

    @tool
    def search(self, words: str) -> str:
        """Search for products.

        Args:
            words: A kind of product, perhaps with colour and material.
        """
        wanted = set(words.lower().split())
        if not wanted:
            raise ToolError(f"write a kind of product: {', '.join(VALUES['kind'])}")
        self._filters = {}
        self._found = [n for n, product in self._catalogue.items() if wanted <= set(_told(product).split())]
        return self._shown()

    @tool
    def filter(self, attribute: Literal["colour", "material", "size", "price"], value: str) -> str:
        """Keep the products found that have a value.

        Args:
            attribute: What to look at.
            value: For price the highest, for instance 60.
        """
        if not self._found:
            raise ToolError("nothing is found yet; search first")
        if attribute == "price" and not (value.isascii() and value.isdigit() and len(value) < 10):
            raise ToolError("price: write a whole number, for instance 60")
        wish = (
            int(value)
            if attribute == "price"
            else next((v for v in VALUES[attribute] if v.lower() == value.lower()), value)
        )
        self._filters[attribute] = wish
        self._found = [n for n in self._found if _meets(self._catalogue[n], attribute, wish)]
        return self._shown()

    @tool
    def open(self, number: int) -> str:
        """Look at a product.

        Args:
            number: Its number.
        """
        product = self._at(number)
        return f"{_told(product)}, size {product['size']}, price {product['price']}"

    @tool
    def buy(self, number: int) -> str:
        """Buy a product.

        Args:
            number: Its number.
        """
        met = [_meets(self._at(number), name, value) for name, value in self._wishes.items()]
        self.finish(reward=sum(met) / len(met) if met[0] else 0.0, success=all(met))
        return "It meets all wishes." if all(met) else f"It meets {sum(met)} of {len(met)} wishes."

    def expert(self) -> str:
        """Searches the kind, filters by one wish after the other while several products are left, and buys the first."""
        good = [n for n in self._found if self._meets_all(n)]
        open_wishes = [
            name for name in self._wishes if name != "kind" and self._filters.get(name) != self._wishes[name]
        ]
        if not good or (not open_wishes and len(good) < len(self._found)):  # lost, or of several kinds
            return call("search", words=self._wishes["kind"])
        if len(self._found) > 1 and open_wishes:
            return call("filter", attribute=open_wishes[0], value=str(self._wishes[open_wishes[0]]))
        return call("buy", number=self._found[0])

    def privileged(self) -> dict[str, Any]:
        """The numbers of the products that meet all wishes."""
        return {"products": [n for n in self._catalogue if self._meets_all(n)]}

    def _product(self) -> Product:
        product: Product = {name: values[int(self.np_random.integers(len(values)))] for name, values in VALUES.items()}
        product["price"] = int(self.np_random.integers(CHEAPEST, DEAREST + 1))
        return product

    def _near(self, wanted: Product) -> Product:
        """A product that misses one wish."""
        name = list(self._wishes)[int(self.np_random.integers(len(self._wishes)))]
        if name == "price":
            return wanted | {name: int(self.np_random.integers(self._wishes[name] + 1, DEAREST + 1))}
        others = [value for value in VALUES[name] if value != wanted[name]]
        return wanted | {name: others[int(self.np_random.integers(len(others)))]}

    def _at(self, number: int) -> Product:
        if number not in self._catalogue:
            raise ToolError(f"no such product; numbers: 1 to {len(self._catalogue)}")
        product: Product = self._catalogue[number]
        return product

    def _meets_all(self, number: int) -> bool:
        return all(_meets(self._catalogue[number], name, value) for name, value in self._wishes.items())

    def _shown(self) -> str:
        shown = [f"{n} {self._catalogue[n]['kind']}" for n in self._found[:SHOWN]]
        more = ", ..." if len(self._found) > SHOWN else ""
        return f"{len(self._found)} found: {', '.join(shown)}{more}".removesuffix(": ")


def _told(product: Product) -> str:
    return f"{product['colour']} {product['material']} {product['kind']}"


def _meets(product: Product, name: str, value: Any) -> bool:
    return bool(product[name] <= value if name == "price" else product[name] == value)
