"""Search: questions over one to three pages about an invented world, with search and open."""

import json
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs.answers import words
from agentopd.envs.search_world import LINKS, VALUES, World
from agentopd.errors import ConfigError
from agentopd.tooling import ToolSet, call, tool
from agentopd.tools.search import Library

MAX_HOPS = 3
SIZES = (4, 100)


class Search(TextEnv):
    """Asks "What is the river of the birthplace of Dafin Trokel?". Each page tells of one person, company or town; all are drawn.

    Reward 1 for the right answer, which ends the episode, else 0. It takes a search and a page for each hop, then ``answer``.

    Args:
        hops: How many pages lead to the answer, 1 to 3. Default: drawn for each question, which is then a family of its own.
        size: How many people, companies and towns there are, each 4 to 100.
        results: How many pages a search shows at most, 1 to 20.
    """

    instructions = "Search for each name, open its page, go on from what it says. Then answer."

    def __init__(self, hops: int | None = None, size: int = 12, results: int = 3):
        if hops is not None and not 1 <= hops <= MAX_HOPS:
            raise ConfigError(f"hops={hops} must be from 1 to {MAX_HOPS}; leave it out for all of them")
        if not SIZES[0] <= size <= SIZES[1]:
            raise ConfigError(f"size={size} must be from {SIZES[0]} to {SIZES[1]}")
        if not 1 <= results <= 20:
            raise ConfigError(f"results={results} must be from 1 to 20")
        self.hops, self.size = hops, size
        self.library = Library(results=results, snippet=50, shown=1000)
        self.extra_tools = tuple(ToolSet.of(self.library))

    def start(self) -> str:
        """Draws a world, and a question about it."""
        world = World.drawn(self.np_random, self.size)
        hops = self.hops or int(self.np_random.integers(1, MAX_HOPS + 1))
        self.family = f"{hops} hops" if hops > 1 else "1 hop"
        question = self._question(world, hops)
        self._sought: set[str] = set()
        self.library.fill(world.pages(self.np_random))
        return question

    @tool
    def answer(self, answer: str) -> str:
        """Answer the question."""
        right = _plain(answer) == _plain(self._answer)
        self.finish(reward=float(right))
        return "Right." if right else "Wrong."

    def expert(self) -> str:
        """Searches for the first entity on the way whose page was not opened, opens it, goes on, answers."""
        for name in self._way:
            if name not in self.library.opened:
                return call("open", title=name) if name in self.library.asked else call("search", query=name)
        return call("answer", answer=self._answer)

    def privileged(self) -> dict[str, Any]:
        """The worked steps, each as the call to write, one a line; and the answer."""
        steps = [step for name in self._way for step in (("search", {"query": name}), ("open", {"title": name}))]
        steps.append(("answer", {"answer": self._answer}))
        lines = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in steps]
        return {"steps": "\n".join(lines), "answer": self._answer}

    def _question(self, world: World, hops: int) -> str:
        """A question whose answer stands on the last page of a way of different entities."""
        names = list(world.kinds)
        self._way, links = [names[int(self.np_random.integers(len(names)))]], []
        while len(self._way) < hops:
            here = self._way[-1]
            onward = [link for link in LINKS[world.kinds[here]] if world.facts[here][link] not in self._way]
            links.append(onward[int(self.np_random.integers(len(onward)))])
            self._way.append(world.facts[here][links[-1]])
        last = world.kinds[self._way[-1]]
        asked = [*VALUES[last], *(link for link in LINKS[last] if world.facts[self._way[-1]][link] not in self._way)]
        links.append(asked[int(self.np_random.integers(len(asked)))])
        self._answer = world.facts[self._way[-1]][links[-1]]
        return f"What is the {' of the '.join(reversed(links))} of {self._way[0]}?"


def _plain(text: str) -> str:
    return words(text).removeprefix("the ").removesuffix(".")
