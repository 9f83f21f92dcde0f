"""Environments without an expert, and one whose reward depends on every word."""

import gymnasium

import agentopd


class Lengthy(agentopd.TextEnv):
    """Pays for the number of letters written; it has no expert and no tools."""

    def start(self) -> str:
        return "Say something"

    def respond(self, text: str) -> str:
        self.finish(reward=float(len(text) % 7))
        return "Thank you"


class Chatty(agentopd.TextEnv):
    """Answers with the same words and never ends."""

    def start(self) -> str:
        return "Hello"

    def respond(self, text: str) -> str:
        return "I see, go on"


gymnasium.register("tests/Lengthy-v0", entry_point=Lengthy)
gymnasium.register("tests/Chatty-v0", entry_point=Chatty)


class Lost(Lengthy):
    """Its expert never knows what to do."""

    def expert(self) -> str:
        raise RuntimeError("no idea")


gymnasium.register("tests/Lost-v0", entry_point=Lost)
