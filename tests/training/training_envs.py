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


class Paying(agentopd.TextEnv):
    """Two turns; whoever says nothing useful is paid by the length of what was said, so that episodes differ."""

    def start(self) -> str:
        self.word, self.turns = str(self.np_random.choice(["up", "down"])), 0
        return f"Say {self.word}"

    def respond(self, text: str) -> str:
        self.turns += 1
        if self.turns == 2:
            self.finish(reward=float(len(text) % 7), success=len(text) % 2 == 0)
        return "Go on"

    @agentopd.tool
    def say(self, word: str) -> str:
        """Say a word.

        Args:
            word: The word.
        """
        return self.respond(word * 2)

    def expert(self) -> str:
        return agentopd.call("say", word=self.word)

    def privileged(self) -> dict[str, str]:
        return {"word": self.word}


gymnasium.register("tests/Paying-v0", entry_point=Paying)
