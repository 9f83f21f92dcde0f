"""Train a grid or a list of arms, each with the same tasks, seeds and budget: lists of values are crossed. Run again, it goes on.

examples:
  agentopd sweep configs/quickstart.yaml objective.divergence.kind=[forward_kl,reverse_kl,jsd] --seeds 5
  agentopd sweep quickstart train.learning_rate=[1e-3,3e-3] train.tasks_per_step=[8,16] --budget episodes=4800 --seeds 3 --jobs 2
  agentopd sweep quickstart --arms arms.yaml train.steps=100 --output runs/arms --check
  agentopd sweep quickstart method=[gkd,dagger] --also teachers --budget seconds=600
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("config", help="a YAML file, or the name of a shipped one")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="a.b=value",
        help="settings of all arms; a.b=[v1,v2] gives each arm one of the values (a setting that is a list: a.b=[[v1,v2]])",
    )
    parser.add_argument("--arms", metavar="FILE", help="a YAML file of arms by name, each {a.b: value} or [a.b=value]")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm (default: 1, which tells little)")
    parser.add_argument("--budget", metavar="UNIT=N", help="what each run may take: episodes=N, tokens=N or seconds=N")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="KEY",
        help="a setting that may differ too, since it follows from what is asked; may be given again",
    )
    parser.add_argument("--output", help="the folder of the sweep (default: runs/NAME-sweep-N, the first that is free)")
    parser.add_argument(
        "--check", action="store_true", help="look for what can be found wrong with each arm, and train nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains what is missing, and prints arms against seeds; 1 where a run failed."""
    from pathlib import Path

    from agentopd.cli.table import show
    from agentopd.sweeps.arms import grid, listed
    from agentopd.sweeps.budget import read
    from agentopd.sweeps.plan import planned
    from agentopd.sweeps.showing import cells
    from agentopd.sweeps.whole import examine, sweep
    from agentopd.training.run.whole import free_folder
    from agentopd.training.show.display import say

    if arguments.arms is None:
        arms, fixed = grid(arguments.overrides)
    else:
        arms, fixed = listed(arguments.arms), arguments.overrides
    budget = None if arguments.budget is None else read(arguments.budget)
    plan = planned(arguments.config, fixed, arms, arguments.seeds, budget, arguments.also)
    output = Path(arguments.output or free_folder(Path("runs"), f"{Path(arguments.config).stem}-sweep"))
    if arguments.check:
        examine(plan, output)
        show(("arm", "settings"), [(arm.name, " ".join(arm.overrides)) for arm in arms], ruled=False)
        return 0
    try:
        runs = sweep(plan, output, arguments.jobs)
    except KeyboardInterrupt:
        say(f"the runs so far are kept; the same command with --output {output} goes on")
        raise
    show(*cells(runs, {name: config.train.steps for name, config in plan.configs.items()}), ruled=False)
    say(f"agentopd compare {output}")
    return int(any(job.state == "failed" for job in runs))
