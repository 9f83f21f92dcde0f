"""A real vLLM server of a small model, whose whole vocabulary it can give: run by ``make test-vllm``."""

from pathlib import Path

import torch
from vllm_cases import MARKS, VLLM, free_port, of_server, played

from agentopd.chat import Chat
from agentopd.config import load_config
from agentopd.models import NewModel, new_model
from agentopd.objective import Objective, Rows, cut, prepare
from agentopd.settings.clock import Clock
from agentopd.teachers import TeacherContext, annotate
from agentopd.teachers.local import local
from agentopd.training.loop.learner import Learner
from agentopd.training.run.stages import tokenizer_of
from benchmarks.vllm_server import vllm_server

pytestmark = MARKS


def test_losses_and_gradients_agree_on_all_of_a_small_vocabulary(tmp_path: Path) -> None:
    """At the temperature 0.7, to which vLLM's own log-probabilities are put."""
    small = Chat(tokenizer_of(load_config("quickstart", [f"stages.cache={tmp_path}/cache"]), lambda _: None))
    shape = NewModel(hidden_size=128, layers=2, heads=4, intermediate_size=256, max_positions=1024, vocab_size=512)
    teacher, student = (new_model(shape, small.tokenizer, seed) for seed in (1, 2))
    teacher.save_pretrained(tmp_path / "teacher")
    trajectories = played(small, 4)
    here = local(TeacherContext("teacher", small, lambda _: teacher, 0.7), model="teacher")
    arguments = ["--max-logprobs", "-1", "--skip-tokenizer-init"]
    with vllm_server(VLLM, tmp_path / "teacher", free_port(), tmp_path / "vllm.log", arguments) as address:
        there = of_server(address, small, temperature=0.7, top_k=-1)
        records = [annotate({"teacher": one}, trajectories) for one in (here, there)]
    learner = Learner(load_config("quickstart", ["rollout.temperature=0.7"]), here.heads, special=())
    found = []
    for some in records:
        student.zero_grad()
        [batch] = cut(prepare(Objective.model_validate({"where": {}}), Rows.of(some), Clock(0, 1)), max_tokens=100_000)
        value = learner.loss(student, batch).loss
        torch.autograd.backward(value)
        found.append((value.detach(), [p.grad.clone() for p in student.parameters() if p.grad is not None]))
    (loss_here, grads_here), (loss_there, grads_there) = found
    torch.testing.assert_close(loss_there, loss_here, rtol=1e-3, atol=1e-3)
    for one, other in zip(grads_there, grads_here, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
