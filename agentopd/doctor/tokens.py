"""Whether student and teachers mean the same by a token, and end their turns alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from agentopd.chat.token_bytes import TokenBytes
from agentopd.chat.tokenizer import special_ids
from agentopd.doctor.check import Check
from agentopd.doctor.patient import Patient
from agentopd.models import load_tokenizer
from agentopd.teachers import traits_of
from agentopd.training.checks.preflight import check_vocabulary
from agentopd.training.checks.roles import model_of

TOKENIZERS, ENDS = "tokenizers", "ends of turn"


def tokenizers(patient: Patient) -> Iterator[Check]:
    """Vocabulary, special tokens and chat template of each teacher that brings its own."""
    tokenizer, own = patient.tokenizer, 0
    for name, choice in patient.choices.items():
        model = model_of(name, choice) if traits_of(choice).model else None
        if model is not None and traits_of(choice).own_tokenizer:
            own += 1
            yield _beside(f"teachers.{name}", str(choice.settings.get("tokenizer") or model.model), tokenizer)
            continue
        if model is None or model.model is None or not _has_tokenizer(model.model):
            continue
        own += 1
        check_vocabulary(f"teachers.{name}", model.model, tokenizer, f"teachers.{name}.model")
        yield compared(f"teachers.{name}", load_tokenizer(model.model), tokenizer)
    if not own:
        count = len(special_ids(tokenizer))
        yield Check(TOKENIZERS, "pass", f"one for all in this process: {len(tokenizer)} ids, {count} of them special")


def _has_tokenizer(name: str) -> bool:
    """A folder need not hold one: it then has the student's."""
    folder = Path(name).expanduser()
    return not folder.is_dir() or (folder / "tokenizer_config.json").exists()


def _beside(key: str, name: str, tokenizer: PreTrainedTokenizerBase) -> Check:
    """How many tokens of the student's the teacher ``key``, whose tokenizer is another, has too."""
    ours, theirs = (TokenBytes(one).by_bytes() for one in (tokenizer, load_tokenizer(name)))
    both = len(ours.keys() & theirs.keys())
    return Check(
        TOKENIZERS,
        "pass",
        f"{key}: a tokenizer of its own; {both} of the student's {len(ours)} tokens of text are tokens of its too",
    )


def compared(key: str, theirs: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> Check:
    """Special tokens and template of the teacher ``key`` beside the student's, whose ids it shares."""
    other = set(special_ids(theirs)) ^ set(special_ids(tokenizer))
    if other:
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(one)) for one in sorted(other)[:3])
        return Check(
            TOKENIZERS,
            "warn",
            f"{key}: {names} are special to one of teacher and student alone",
            "give the student the tokenizer that the teacher was trained with, or see that no text holds these tokens",
        )
    if theirs.chat_template != tokenizer.chat_template:
        return Check(
            TOKENIZERS,
            "warn",
            f"{key}: its chat template is another than the student's, in which it reads every episode, tools and calls included",
            "train it on conversations in the student's template, or set the student's tokenizer.chat_template to the teacher's",
        )
    return Check(TOKENIZERS, "pass", f"{key}: ids, special tokens and chat template are the student's")


def ends(patient: Patient) -> Iterator[Check]:
    """The tokens that end a turn, by the template, the tokenizer and what each model says of itself."""
    chat = patient.chat
    known = {"student": ends_of(patient.student)}
    for name, teacher in patient.teachers.items():
        known[f"teachers.{name}"] = ends_of(teacher.model)
    yield agreed(chat.ends_of_turn, chat.tokenizer, known)


def ends_of(model: Any) -> frozenset[int]:
    """The ids at which a model says that it ends; none where it says nothing."""
    for settings in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        found = getattr(settings, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, list | tuple) else [found])
    return frozenset()


def agreed(of_turn: frozenset[int], tokenizer: PreTrainedTokenizerBase, known: dict[str, frozenset[int]]) -> Check:
    """Whether the ends that the models know are those ``of_turn``, at which turns are cut."""

    def named(ids: frozenset[int]) -> str:
        return ", ".join(str(tokenizer.convert_ids_to_tokens(one)) for one in sorted(ids))

    for key, ids in known.items():
        if ids and ids.isdisjoint(of_turn):
            return Check(
                ENDS,
                "fail",
                f"{key} ends at {named(ids)}, and a turn of the chat template at {named(of_turn)}: it would seldom end a turn, or find every "
                "end improbable",
                "set tokenizer.chat_template to the one that the model was trained with, or choose the model's instruction-tuned version",
            )
    own = tokenizer.eos_token_id
    if own is not None and own not in of_turn:
        return Check(
            ENDS,
            "warn",
            f"turns end at {named(of_turn)}, and the tokenizer's end of a sequence is {named(frozenset([own]))}: a turn that ends so is cut "
            "by rollout.max_new_tokens alone",
            "where rollout/cut is high, train the student on traces in this template first (stages.cold_start)",
        )
    more = frozenset().union(*known.values()) - of_turn
    further = f"; {named(more)} ends a sequence too, and no turn here" if more else ""
    return Check(ENDS, "pass", f"turns end at {named(of_turn)}, as the models know{further}")
