"""Environments whose experts are good, bad, endless, stuck or broken."""

import threading

import gymnasium

import agentopd


class Errand(agentopd.TextEnv):
    """Its expert solves a share of the tasks; in another share of them ``start`` raises."""

    def __init__(self, solves: float = 1.0, breaks: float = 0.0) -> None:
        if solves > 1:
            raise RuntimeError("no expert is that good")
        self.solves, self.breaks = solves, breaks

    def start(self) -> str:
        self.solvable, broken = self.np_random.random() < self.solves, self.np_random.random() < self.breaks
        if broken:
            raise RuntimeError("the shop is closed")
        return "Please say yes"

    def respond(self, text: str) -> str:
        self.finish(reward=float(text == "yes"))
        return "Thank you"

    def expert(self) -> str:
        return "yes" if self.solvable else "no"


class Endless(agentopd.TextEnv):
    """Never ends."""

    def start(self) -> str:
        return "Go on"

    def respond(self, text: str) -> str:
        return "And then"

    def expert(self) -> str:
        return "more"


class Stuck(Endless):
    """Its expert thinks for ever."""

    def expert(self) -> str:
        threading.Event().wait(60)
        return "more"


gymnasium.register("tests/Errand-v0", entry_point="stage_envs:Errand")
gymnasium.register("tests/Endless-v0", entry_point="stage_envs:Endless")
gymnasium.register("tests/Stuck-v0", entry_point="stage_envs:Stuck")
