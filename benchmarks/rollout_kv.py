"""Caches kept between turns, beside TRL's tool loop: prompt tokens processed, and generated tokens per second.

    python -m benchmarks.rollout_kv              # resumable: what was measured is kept
    python -m benchmarks.rollout_kv --limit 1    # at most one more case
    python -m benchmarks.rollout_kv --table      # the tables from the stored results

Eight episodes at once, all with the same prompt of 200 tokens, which ours processes once for all of them (an eighth is each one's
share), actions of 32 tokens, observations of 60 tokens. Ours is ``collect`` with the transformers
engine, TRL's the generation of a training step of its ``DistillationTrainer`` (transformers' ``generate``, tools in its own loop).
Both have the same model object (a Llama with random weights), the same chat template, and a real tool.

Every action is forced: after each forward of the model, which runs in full, a hook puts all mass on the next token of one tool call.
The same hook counts, for both sides, the tokens of forwards over more than one column (prompts; padding does not count). Forwards of one
column are the decoding, of which both sides have the same number.

Results: ``benchmarks/results/rollout_kv.json``. A case ``speed/N`` holds one run of each side, in turns; which is first alternates.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.chat import Chat
from agentopd.env import TextEnv
from agentopd.models import NewModel, build_tokenizer, new_model
from agentopd.rollout import Assignment, Rollout, TransformersPolicy, collect
from agentopd.tooling import call, tool
from agentopd.types import Key, Task
from benchmarks.measured import keep, kept, made_by, spread, stopwatch

RESULTS = Path(__file__).parent / "results" / "rollout_kv.json"
SIDES = ("agentopd", "trl")
ENV = "agentopd-benchmarks/Notes-v0"
ROWS, PROMPT, ACTION, OBSERVATION, LENGTH = 8, 200, 32, 60, 2048
TOKEN_TURNS, SPEED_TURNS, REPEATS = 16, 8, 5
MODELS = {
    "tokens": NewModel(hidden_size=32, layers=1, heads=2, intermediate_size=32, max_positions=LENGTH, vocab_size=512),
    "speed": NewModel(hidden_size=256, layers=6, heads=4, intermediate_size=768, max_positions=LENGTH, vocab_size=512),
}
"""Counts do not depend on the model; a small one gives them soon."""
WORDS = (
    "one two three four five six seven eight nine ten eleven twelve "
    "red blue green white black brown grey pink gold plum tan teal rust"
)
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|end\|>\s*", "content": "text"},
    },
}
"""What TRL reads tool calls by, for the format of our tokenizer's chat template."""
CALLS: list[str] = []
"""Texts that a tool was called with, of either side."""


@dataclass
class Script:
    """A forward hook that forces the next token, and counts."""

    after_V: torch.Tensor
    """The token that follows each; no token occurs twice in an action."""
    pad: int
    prompts: list[int] = field(default_factory=list)
    """Prompt tokens of each forward over more than one column."""

    def __call__(self, module: Any, arguments: Any, options: dict[str, Any], output: Any) -> Any:
        """Of a model's forward. One that is learned from stays as it is."""
        if torch.is_grad_enabled():
            return output
        ids_B_Q = options["input_ids"]
        if ids_B_Q.shape[1] > 1:
            self.prompts.append(int((ids_B_Q != self.pad).sum()))
        output.logits[:, -1].scatter_(1, self.after_V[ids_B_Q[:, -1:]], 1e4)
        return output


@dataclass(frozen=True)
class Setup:
    """What both sides play with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    script: Script
    observation: str


class Notes(TextEnv):
    """Every note is answered in the same words; it never ends."""

    def __init__(self, task: str, observation: str) -> None:
        super().__init__()
        self.task, self.observation = task, observation

    def start(self) -> str:
        """The task."""
        return self.task

    @tool
    def note(self, text: str) -> str:
        """Notes something.

        Args:
            text: What to note.
        """
        CALLS.append(text)
        return self.observation


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="measure at most so many cases")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    cases = [*(f"tokens/{side}" for side in SIDES), *(f"speed/{i}" for i in range(REPEATS))]
    cases = [name for name in cases if name not in results]
    if cases and not arguments.table and arguments.limit:
        if ENV not in gymnasium.registry:
            gymnasium.register(ENV, entry_point=lambda **kwargs: Notes(**kwargs))
        with tempfile.TemporaryDirectory() as folder:
            for name in cases[: arguments.limit]:
                results[name] = made_by() | measured(name, folder)
                keep(RESULTS, results)
    print(table(results))


def measured(name: str, folder: str) -> dict[str, Any]:
    """One case: a side's prompt tokens, or a pair of runs after a warm-up."""
    kind, _, which = name.partition("/")
    setup = prepared(MODELS[kind])
    if kind == "tokens":
        side = ours(setup) if which == "agentopd" else theirs(setup, folder)
        return {"turns": TOKEN_TURNS} | played(setup, side, TOKEN_TURNS)
    sides = {"agentopd": ours(setup), "trl": theirs(setup, folder)}
    for side in sides.values():
        side(2)
    order = sorted(sides, reverse=int(which) % 2 == 1)
    return {"turns": SPEED_TURNS} | {name: played(setup, sides[name], SPEED_TURNS) for name in order}


def prepared(new: NewModel) -> Setup:
    """The model, its tokenizer and the action that is forced."""
    action = call("note", text=WORDS)
    tokenizer = build_tokenizer([action, "Notes something. note (text: string)", "yes " * 9] * 40, new.vocab_size)
    tokenizer.response_template = RESPONSE_TEMPLATE
    chat = Chat(tokenizer)
    action_T = chat.write([{"role": "user", "content": "yes"}], action, [])
    if len(set(action_T)) != ACTION or len(action_T) != ACTION:
        raise RuntimeError(f"the action must be {ACTION} different tokens: {tokenizer.convert_ids_to_tokens(action_T)}")
    model = new_model(new, tokenizer, seed=0)
    after_V = torch.full((len(tokenizer),), chat.end_of_turn)
    [begin] = tokenizer.encode("<|assistant|>")
    after_V[torch.tensor([begin, *action_T[:-1]])] = torch.tensor(action_T)
    script = Script(after_V, int(tokenizer.pad_token_id))
    model.register_forward_hook(script, with_kwargs=True)
    around = len(tokenizer.encode("<|tool|><|assistant|>"))
    observation = filled(lambda text: len(tokenizer.encode(text)) + around, OBSERVATION)
    return Setup(model, tokenizer, script, observation)


def filled(length: Callable[[str], int], wanted: int) -> str:
    """Words whose ``length`` is ``wanted``."""
    return next(text for text in (" ".join(["yes"] * n) for n in range(1, wanted)) if length(text) == wanted)


def ours(setup: Setup) -> Callable[[int], int]:
    """Plays so many turns; the number of generated tokens."""
    chat = Chat(setup.tokenizer)
    tools = Notes("", "").tools.schemas
    task = filled(lambda text: len(chat.prompt([{"role": "user", "content": text}], tools)), PROMPT)

    def play(turns: int) -> int:
        settings = Rollout(max_new_tokens=ACTION, max_length=LENGTH, max_turns=turns, concurrency=ROWS)
        policy = TransformersPolicy(setup.model, chat.end_of_turn, settings)
        given = {"task": task, "observation": setup.observation}
        assignments = [
            Assignment(Task(ENV, seed=i, kwargs=given), Key("benchmark", 0, i), "student", seed=i, source="fresh")
            for i in range(ROWS)
        ]
        played = collect(assignments, {"student": policy}, chat, settings)
        return sum(turn.stop - turn.start for trajectory in played for turn in trajectory.turns)

    return play


def theirs(setup: Setup, folder: str) -> Callable[[int], int]:
    """The same by TRL."""
    from datasets import Dataset
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer

    note = noting(setup.observation)

    def rendered(text: str) -> Any:
        conversation = [{"role": "user", "content": text}]
        tokens: Any = setup.tokenizer.apply_chat_template(conversation, tools=[note], add_generation_prompt=True)
        return tokens["input_ids"]

    prompt = [{"role": "user", "content": filled(lambda text: len(rendered(text)), PROMPT)}]
    args = DistillationConfig(
        folder,
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=ROWS,
        max_completion_length=LENGTH - PROMPT - 1,
    )
    trainer = DistillationTrainer(
        setup.model,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": prompt}] * ROWS),
        processing_class=setup.tokenizer,
        tools=[note],
    )

    def play(turns: int) -> int:
        trainer.max_tool_calling_iterations = turns - 1
        _, _, tool_mask, *_ = trainer._generate([prompt] * ROWS)
        return sum(map(sum, tool_mask))

    return play


def noting(observation: str) -> Callable[[str], str]:
    """The tool of :class:`Notes`, as TRL takes one."""

    def note(text: str) -> str:
        """Notes something.

        Args:
            text: What to note.
        """
        CALLS.append(text)
        return observation

    return note


def played(setup: Setup, side: Callable[[int], int], turns: int) -> dict[str, Any]:
    """One run of a side: its seconds, and prompt tokens an episode by turn."""
    setup.script.prompts.clear()
    CALLS.clear()
    timed = stopwatch()
    generated = side(turns)
    spent = timed()
    prompts = setup.script.prompts
    if generated != ROWS * turns * ACTION or len(prompts) != turns or len(CALLS) < ROWS * (turns - 1):
        raise RuntimeError(
            f"{turns} turns were not played: {generated} tokens, {len(prompts)} prompts, {len(CALLS)} calls"
        )
    return {**spent, "generated": generated, "prompt_tokens": [count / ROWS for count in prompts]}


def table(results: dict[str, Any]) -> str:
    """Prompt tokens by turn, and the speeds, as Markdown."""
    lines = ["| turns | prompt tokens an episode, agentopd | TRL |", "|---|---|---|"]
    counts = [results[f"tokens/{side}"]["prompt_tokens"] for side in SIDES if f"tokens/{side}" in results]
    for turns in (1, 2, 4, 8, 16) if len(counts) == len(SIDES) else ():
        lines.append(f"| {turns} | {' | '.join(f'{sum(each[:turns]):.0f}' for each in counts)} |")
    pairs = [result for name, result in results.items() if name.startswith("speed/")]
    for clock in ("seconds", "cpu_seconds") if pairs else ():
        speeds = {side: [p[side]["generated"] / p[side][clock] for p in pairs] for side in SIDES}
        ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
        lines += ["", f"| {SPEED_TURNS} turns, by {clock} | median | least | most |", "|---|---|---|---|"]
        lines += [f"| {side}, tokens per second | {spread(values)} |" for side, values in speeds.items()]
        lines.append(f"| ratio, pair by pair | {spread(ratios)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
