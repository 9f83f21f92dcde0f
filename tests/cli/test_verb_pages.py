"""The pages of `annotate` and `doctor` say what these verbs take and look at."""

import argparse
import re
import shlex
from pathlib import Path

from agentopd.cli import annotate
from agentopd.doctor.whole import CHECKS

DOCS = Path(__file__).parents[2] / "docs"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    annotate.configure(made)
    return made


def test_the_options_of_annotate_are_those_of_its_page() -> None:
    page = (
        (DOCS / "records.md")
        .read_text(encoding="utf-8")
        .partition("## Ask teachers afterwards")[2]
        .partition("\n## ")[0]
    )
    rows = re.findall(r"^\| (`--.*?`) \| (.*?) \|", page, re.MULTILINE)
    named = {option for cell, _ in rows for option in re.findall(r"--[a-z]+", cell)}
    actions = {one.option_strings[-1]: one for one in parser()._actions if one.option_strings}
    assert named | {"--teacher", "--help"} == actions.keys()
    assert ("`--block`, `--k`", f"`{actions['--block'].default}`, {actions['--k'].default}") in rows


def test_the_commands_of_the_page_are_understood() -> None:
    page = (
        (DOCS / "records.md")
        .read_text(encoding="utf-8")
        .partition("## Ask teachers afterwards")[2]
        .partition("\n## ")[0]
    )
    commands = re.findall(r"^agentopd annotate (.*?)(?: +#.*)?$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert parser().parse_args(shlex.split(command)).teacher


def test_the_checks_of_the_doctor_are_those_of_its_page() -> None:
    page = (
        (DOCS / "training.md")
        .read_text(encoding="utf-8")
        .partition("## Look before you train")[2]
        .partition("\n## ")[0]
    )
    cells = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(.*?)`", cell)} == {*CHECKS}
