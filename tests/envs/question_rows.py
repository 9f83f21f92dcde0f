"""The rows of ``configs/envs/questions.jsonl``: ``python tests/envs/question_rows.py`` writes them."""

import json
import random
from pathlib import Path

FILE = Path(__file__).parents[2] / "configs" / "envs" / "questions.jsonl"
ROWS = 400
NAMES = [
    "Ada",
    "Bo",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gia",
    "Hugo",
    "Ivy",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
    "Oda",
    "Pia",
]
THINGS = ["book", "lamp", "ball", "cup", "coat", "kite", "drum", "sled"]
COLOURS = ["red", "blue", "green", "white", "black", "yellow", "brown", "pink"]
PLACES = ["kitchen", "garden", "attic", "cellar", "garage", "hall", "office", "porch"]
KINDS = {
    "colour": ("{name}'s {thing} is {value}.", "Which colour has {name}'s {thing}?", COLOURS),
    "place": ("{name} put the {thing} in the {value}.", "Where is the {thing} of {name}?", PLACES),
    "count": ("{name} has {value} {thing}s.", "How many {thing}s has {name}?", [str(n) for n in range(2, 10)]),
}


def rows() -> list[dict[str, str]]:
    """Each asks about one of three sentences."""
    draw, made = random.Random(0), dict[str, dict[str, str]]()
    while len(made) < ROWS:
        kind = draw.choice([*KINDS])
        told, asked, values = KINDS[kind]
        thing, names, chosen = draw.choice(THINGS), draw.sample(NAMES, 3), draw.sample(values, 3)
        said = [told.format(name=n, thing=thing, value=v) for n, v in zip(names, chosen, strict=True)]
        one = draw.randrange(3)
        text = f"{' '.join(said)} {asked.format(name=names[one], thing=thing)}"
        made[text] = {"problem": text, "solution": chosen[one], "kind": kind, "sentence": said[one]}
    return list(made.values())


def lines() -> str:
    return "".join(json.dumps(row) + "\n" for row in rows())


if __name__ == "__main__":
    FILE.write_text(lines(), encoding="utf-8")
