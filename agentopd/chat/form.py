"""What a format of calls is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from agentopd.chat.arguments import Tools
from agentopd.tooling.action import ParsedAction

TEACHES = """You can call these tools, each described by a JSON schema:
{schemas}
To call one, write
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""
ANSWER = "<tool_response>\n{content}\n</tool_response>"


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write calls."""

    read: Callable[[str, Tools], str]
    """Gives a model's text with its calls as canonical blocks. Never raises."""
    form: str
    """What a call looks like, for the message on a malformed one."""
    is_json: bool = False
    """Whether what is wrong with JSON is what is wrong with a call."""
    write: Callable[[ParsedAction, Tools], str] | None = None
    """Writes an action as text; ``None`` where only templates do, so that without one calls are Hermes blocks."""
    teaches: str = TEACHES
    """Told in the system message where the template does not show tools and calls this way."""
    answer: str = ANSWER
    """A tool's answer where it is a user message."""
    answers_users: bool = False
    """Whether a tool's answer is one always, also where a template takes the role ``tool``."""
