"""The quickstart taught by a model of another family: its own tokenizer, special tokens, chat template and call format.

    python -m benchmarks.cross_tokenizer --seeds 43 44     # resumable: finished runs are kept, and one that was cut off goes on
    python -m benchmarks.cross_tokenizer --table           # what the stored results say

The teacher has the size of the quickstart's, and is fitted twice as long on the experts' traces, in its own tokens, which
are shorter. The student is the quickstart's after its cold start, the same for all arms of a seed: ``gold-forward`` is the quickstart's method with the divergence
``gold``, by the forward Kullback-Leibler divergence; ``gold-bytes`` is that where only what both write in the same bytes is taught;
``gold`` and ``uld`` are those recipes; ``same`` is the quickstart itself with a teacher of the student's own tokenizer. All but the
last take a third of its learning rate.
Each seed has a panel of 200 held-out tasks. Results: ``benchmarks/results/cross_tokenizer.json``, every panel task by task.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentopd.config import Config, load_config
from benchmarks.measured import add, arms_parser, kept, made_by, missing, stopwatch

RESULTS = Path(__file__).parent / "results" / "cross_tokenizer.json"
SPECIAL = PAD, START, STOP = "[pad]", "[turn]", "[/turn]"
VOCABULARY, POSITIONS = 640, 2048
TEMPLATE = """\
{%- for message in messages -%}
  {%- if message.role == "assistant" -%}
    {{- "[turn]agent\\n" ~ (message.content or "") -}}
    {%- for call in message.tool_calls or [] -%}
      {{- "<tool_call>" ~ call.function.name ~ "\\n" -}}
      {%- for name, value in call.function.arguments.items() -%}
        {{- "<arg_key>" ~ name ~ "</arg_key>\\n<arg_value>" ~ (value if value is string else value | tojson) ~ "</arg_value>\\n" -}}
      {%- endfor -%}
      {{- "</tool_call>" -}}
    {%- endfor -%}
  {%- else -%}
    {{- "[turn]" ~ message.role ~ "\\n" -}}
    {%- if loop.first -%}
      {%- for tool in tools or [] -%}
        {{- tool.function.name ~ " " ~ tool.function.parameters.properties | list | join(" ") ~ "\\n" -}}
      {%- endfor -%}
    {%- endif -%}
    {{- message.content -}}
  {%- endif -%}
  {{- "[/turn]" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "[turn]agent\\n" -}}{%- endif -%}
"""
"""Calls in tags, one an argument, as GLM writes them."""
SLOWER = "train.learning_rate=1e-3"
FORWARD = (SLOWER, "objective.divergence={kind: gold, by: forward_kl}")
ARMS: dict[str, tuple[str, ...]] = {
    "gold-forward": FORWARD,
    "gold-bytes": (*FORWARD, "teachers.teacher.forms=false", "teachers.teacher.end_of_turn=false"),
    "gold": (SLOWER, "method=gold"),
    "uld": (SLOWER, "method=uld"),
    "same": (),
}
"""What each changes in the quickstart, beside the teacher."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    arguments = arms_parser(__doc__, [43, 44, 45], ARMS, RESULTS).parse_args(argv)
    for arm, seed in missing(arguments):
        add(arguments.results, f"{arm}/{seed}", measured(arm, seed, arguments.output, arguments.set))
    print(table(kept(arguments.results)))


def quickstart(seed: int, output: Path, more: Sequence[str]) -> Config:
    """The quickstart with a seed."""
    return load_config("quickstart", [f"seed={seed}", f"evaluation.seed={seed}", f"stages.cache={output}/cache", *more])


def measured(arm: str, seed: int, output: Path, more: Sequence[str]) -> dict[str, Any]:
    """Trains one arm: success by task of every panel, of the teacher's too, and how much of the actions was aligned."""
    import agentopd

    watch, whole = stopwatch(), quickstart(seed, output, more)
    foreign = None if arm == "same" else foreign_teacher(whole, output / f"teacher-{seed}")
    teacher = [] if foreign is None else [f"teachers.teacher={{kind: cross_tokenizer, model: '{foreign}'}}"]
    folder = output / f"{arm}-{seed}"
    result = agentopd.train(quickstart(seed, output, [*teacher, *ARMS[arm], *more]), folder, resume=folder.exists())
    success = {name: panel.success_B.astype(int).tolist() for name, panel in result.panels.items()}
    if foreign is not None:
        success["teacher"] = teacher_panel(whole, foreign)
    return {
        **made_by(),
        **watch(),
        "updates": whole.train.steps,
        "success": success,
        "aligned": None if foreign is None else aligned(folder),
    }


def foreign_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """A byte-level BPE that cuts words as GPT-2 does, digits one by one, learned from what the environments say."""
    bpe = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    added = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        [*texts, "<tool_call>look\n<arg_key>a</arg_key>\n<arg_value>b</arg_value>\n</tool_call>\n" * len(texts)],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=added, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, pad_token=PAD, bos_token=START, eos_token=STOP, chat_template=TEMPLATE
    )


def roomier(config: Config) -> Config:
    """``config`` for a tokenizer that takes more tokens for the same episode."""
    return config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"max_length": POSITIONS, "max_new_tokens": 128})}
    )


def foreign_teacher(config: Config, folder: Path) -> Path:
    """The folder of a teacher that was fitted in its own tokens; made where it is not there."""
    from agentopd.models import NewModel, new_model
    from agentopd.training.run.stages import fit
    from agentopd.training.run.traces import corpus

    stage = config.stages.teacher
    assert stage is not None
    if not folder.exists():
        tokenizer = foreign_tokenizer(corpus(config, print))
        new = NewModel(hidden_size=96, layers=2, heads=4, intermediate_size=256, max_positions=POSITIONS)
        model: PreTrainedModel = new_model(new, tokenizer, config.seed + 1)
        stage = stage.model_copy(update={"steps": 2 * stage.steps})
        fit(roomier(config), stage, model, tokenizer, print, "teacher of another family")
        aside = folder.with_name(f"{folder.name}-making")
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        aside.rename(folder)
    return folder


def teacher_panel(config: Config, folder: Path) -> list[int]:
    """What the teacher itself does on the panel, in its own tokens."""
    from agentopd.chat import Chat
    from agentopd.models import ModelConfig, load_model, load_tokenizer
    from agentopd.training.loop.build import build_panel

    model = load_model(ModelConfig(model=str(folder)))
    panel = build_panel(roomier(config), model, Chat(load_tokenizer(str(folder))), config.evaluation.tasks)
    return panel.success_B.astype(int).tolist()  # type: ignore[no-any-return]


def aligned(folder: Path) -> float:
    """The share of the student's tokens in a run that had a teacher's word."""
    import agentopd

    taught = written = 0
    for record in agentopd.records.open(folder):
        written += sum(int((segment.turn_T >= 0).sum()) for segment in record.trajectory.segments)
        taught += sum(len(said.index_N) for said in record.annotations if said.teacher == "teacher")
    return taught / max(written, 1)


def table(results: dict[str, Any]) -> str:
    """Success by arm, pooled over its seeds, as Markdown."""
    from agentopd.evaluation import Rate, paired_difference

    lines = [
        "| arm | seeds | teacher | before | after | gain, paired | tokens taught |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        seeds = sorted(int(key.split("/")[1]) for key in results if key.split("/")[0] == arm)
        runs = [results[f"{arm}/{seed}"] for seed in seeds]
        pooled = {
            name: [one for run in runs for one in run["success"].get(name, [])]
            for name in ("teacher", "student_before", "student_after")
        }
        if runs:
            teacher, before, after = (Rate(sum(panel), len(panel)).text() for panel in pooled.values())
            gain = paired_difference(pooled["student_before"], pooled["student_after"]).text()
            shares = [run["aligned"] for run in runs if run["aligned"] is not None]
            share = f"{sum(shares) / len(shares):.2f}" if shares else "all"
            lines.append(
                f"| {arm} | {', '.join(map(str, seeds))} | {teacher} | {before} | {after} | {gain} | {share} |"
            )
    return "\n".join(lines) if len(lines) > 2 else "no seed is finished"


if __name__ == "__main__":
    main()
