"""BFCL's simulators are each episode's own, and nothing that they do stalls or reaches anything."""

import decimal
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mpmath
import pytest
from bfcl_cases import replay, started, with_kinds

from agentopd.env import tools_of
from agentopd.tooling import call

pytest.importorskip("bfcl_eval", reason="pip install --no-deps bfcl-eval")
from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils

from agentopd.envs.bfcl import DONE
from agentopd.envs.bfcl_rows import row_of, rows_of
from agentopd.envs.bfcl_world import Simulators, verdict

KINDS = sorted({kind for row in rows_of("base").values() for kind in row.classes})


def test_nothing_is_left_behind() -> None:
    names, precision, digits = set(vars(multi_turn_utils)), mpmath.mp.dps, decimal.getcontext().prec
    replay(row_of("multi_turn_long_context_173"))
    env = started(with_kinds("MathAPI").id)
    assert "logarithm" in tools_of(env).names
    answer = env.step(call("logarithm", value=7, base=3, precision=40))[0]
    with decimal.localcontext(decimal.Context(prec=50)):
        assert answer.startswith(f"{{'result': mpf('{decimal.Decimal(7).ln() / decimal.Decimal(3).ln()}"[:53])
    env.step(call("square_root", number=2, precision=50))
    env.step(DONE)
    env.close()
    assert set(vars(multi_turn_utils)) - names == set()
    assert (mpmath.mp.dps, decimal.getcontext().prec) == (precision, digits)


def test_episodes_share_no_state() -> None:
    """As they are, the simulators would: a default argument that grows, and constants that become part of a state."""
    row = with_kinds("TravelAPI", "TwitterAPI", category="long_context")
    before = json.dumps(Simulators(row).live["TravelAPI"].credit_card_list, sort_keys=True)
    first = Simulators(row)
    first.live["TwitterAPI"].authenticated = True
    posted = json.loads(first.run("TwitterAPI", "post_tweet", {"content": "x"}))["id"]
    first.run("TwitterAPI", "mention", {"tweet_id": posted, "mentioned_usernames": ["@me"]})
    for card in first.live["TravelAPI"].credit_card_list.values():
        card["balance"] = -1
    second = Simulators(row)
    second.live["TwitterAPI"].authenticated = True
    assert json.loads(second.run("TwitterAPI", "post_tweet", {"content": "x"}))["mentions"] == []
    assert json.dumps(second.live["TravelAPI"].credit_card_list, sort_keys=True) == before


def test_precisions_of_threads_do_not_meet() -> None:
    def log(precision: int) -> set[str]:
        env = started(with_kinds("MathAPI").id, steps=200)
        return {env.step(call("logarithm", value=7, base=3, precision=precision))[0] for _ in range(60)}

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(log, [5, 17, 30, 44]))
    assert [len(one) for one in answers] == [1, 1, 1, 1]
    assert len(set.union(*answers)) == 4


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("power", {"base": 9, "exponent": 10**9}),
        ("power", {"base": 10**200, "exponent": 2}),
        ("logarithm", {"value": 2, "base": 3, "precision": 10**9}),
        ("square_root", {"number": 2, "precision": 10**9}),
        ("round_number", {"number": 5, "decimal_places": -(10**9)}),
        ("sum_values", {"numbers": [1, [10**200]]}),
    ],
)
def test_no_calculation_stalls(name: str, arguments: dict[str, Any]) -> None:
    found = started(with_kinds("MathAPI").id).step(call(name, **arguments))
    assert found[4]["errors"] == ["tool_error"]
    assert re.search(r"must be from|digits", found[0])


def test_a_folder_in_itself_and_one_that_doubles_stall_nothing() -> None:
    env = started("multi_turn_base_0", steps=200)
    env.step(call("mkdir", dir_name="a"))
    for copy in range(40):  # each round would double what `find` looks through
        env.step(call("cp", source="a", destination=f"b{copy}"))
        said = env.step(call("mv", source=f"b{copy}", destination="a"))[0]
    assert "holds more than 10000 entries" in said
    env = started("multi_turn_base_0")
    env.step(call("mkdir", dir_name="a"))
    env.step(call("cp", source="a", destination="a"))
    env.step(call("find", path=".", name="x"))
    for _ in range(4):
        _, reward, over, _, _ = env.step(DONE)
    assert (reward, over) == (0.0, True)


def test_sets_are_told_in_one_order() -> None:
    row = with_kinds("TicketAPI")
    said = []
    for seed in ("1", "2", "3"):
        code = (
            "from agentopd.env import make; from agentopd.tooling import call; env = make('agentopd/Bfcl-v0');"
            f"env.reset(seed=0, options={{'id': {row.id!r}}}); u = env.unwrapped._simulators.live['TicketAPI'];"
            "u.current_user = 'x'; u.ticket_queue.append({'id': 1, 'created_by': 'x'});"
            "print(env.step(call('edit_ticket', ticket_id=1, updates={k: 1 for k in 'pqrstuv'}))[0])"
        )
        done = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                              capture_output=True, text=True, check=True)  # fmt: skip
        said.append(done.stdout)
    assert said == ['{"error": "Invalid fields for update: p, q, r, s, t, u, v"}\n'] * 3


WATCHED = """
import sys
from agentopd.env import expert_action, make
from agentopd.envs.bfcl_rows import functions_of, rows_of
from agentopd.testing import _likely
from agentopd.env import tools_of
from agentopd.tooling import call

def play(row, kwargs):
    env = make("agentopd/Bfcl-v0", steps=200, max_episode_steps=-1, **kwargs)
    env.reset(seed=0, options={"id": row.id})
    for tool in tools_of(env):
        env.step(call(tool.name, **_likely(tool)))
        env.step(call(tool.name, **dict.fromkeys(_likely(tool), "../../etc/passwd; rm -rf /")))
    over = False
    while not over:
        over = env.step(expert_action(env))[2]

rows = [row for row in list(rows_of("base").values())[::9]]
for row in rows:
    play(row, {})
seen = []
touching = ("open", "os.", "socket.", "subprocess.", "shutil.", "import", "ctypes.", "urllib.", "glob.", "tempfile.")
sys.addaudithook(lambda event, arguments: seen.append((event, repr(arguments)[:80])) if event.startswith(touching) else None)
for row in rows:
    play(row, {})
assert not [one for one in seen if one[0] != "import"], seen[:5]
print(len(rows), sorted({kind for row in rows for kind in row.classes}))
"""


def test_the_simulators_touch_neither_disk_nor_network(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, cwd=tmp_path,
                          env={"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("23 [")
    assert all(kind in done.stdout for kind in KINDS)
    assert not list(tmp_path.iterdir())


def test_the_checker_is_asked_about_the_first_turns() -> None:
    row = row_of("multi_turn_base_0")
    assert verdict(row, row.truth[:2]) == ""
    assert "does not match the state" in verdict(row, [row.truth[0][:2]])
    assert "empty" in verdict(row, [row.truth[0], []])
