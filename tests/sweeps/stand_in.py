"""Stands for ``agentopd train``: leaves at once what a finished run leaves, or does what its learning rate says; imports nothing of ours."""

import json
import os
import sys
import time
from pathlib import Path

arguments = sys.argv[1:]
if "--resume" in arguments:
    folder, given = Path(arguments[1]), Path(arguments[1]) / "config.yaml"
else:
    folder, given = Path(arguments[arguments.index("--output") + 1]), Path(arguments[1])
text = given.read_text(encoding="utf-8")
rate = float(
    next(
        line.split(":")[1]
        for line in text.partition("\ntrain:")[2].splitlines()
        if line.strip().startswith("learning_rate:")
    )
)
folder.mkdir(exist_ok=True)
(folder / "config.yaml").write_text(text, encoding="utf-8")
if rate == 13.0:
    sys.exit("agentopd: TrainingError: the loss is nan at step 3; lower train.learning_rate, or look at its rows")
if rate == 99.0:
    (folder / "pid").write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)
episode = {"env": "e", "reward": 0.0, "turns": 1, "errors": [[]], "stop": "finished"}
episodes = [{"task": str(n), "success": n < 10 * rate, **episode} for n in range(10)]
row = {"step": 4, "spent/student_tokens": 70.0, "seconds/step": float(os.environ["OMP_NUM_THREADS"])}
(folder / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
(folder / "panels.json").write_text(json.dumps({"student_after": {"episodes": episodes}}), encoding="utf-8")
with (folder / "starts").open("a", encoding="utf-8") as starts:
    starts.write(f"{' '.join(arguments)}\n")
