"""The doctor and a template that rewrites the past: each turn is a segment of its own, which is slow and right."""

from pathlib import Path
from typing import Any

import training_cases as cases

from agentopd.config import load_config
from agentopd.doctor import examine
from agentopd.models import load_tokenizer


def test_segments_of_several_lengths_are_compared_each_with_itself(tmp_path: Path) -> None:
    cases.model(0).save_pretrained(tmp_path)
    cases.tokenizer().save_pretrained(tmp_path)
    tokenizer: Any = load_tokenizer(str(tmp_path))
    tokenizer.chat_template += "{{- messages | length -}}"
    tokenizer.save_pretrained(tmp_path)
    raw = cases.raw(method={"target": {"name": "teacher"}})
    raw |= {"student": {"model": str(tmp_path)}, "teachers": {"teacher": {"kind": "self", "every": 1}}}
    raw["stages"] |= {"teacher": None}
    found, _ = examine(load_config(raw))
    told = {check.name: check for check in found}
    assert "it rewrote earlier turns" in told["chat template"].found
    assert told["temperature"].status == "pass", told["temperature"]
    assert told["same answer twice"].status == told["teacher = student"].status == "pass"
