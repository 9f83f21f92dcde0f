"""A whole sweep: every arm is looked at, then every run is made or gone on with."""

from collections.abc import Sequence
from pathlib import Path

from agentopd.errors import ConfigError
from agentopd.run_files import SWEEP
from agentopd.sweeps.plan import Plan, joined, keep
from agentopd.sweeps.running import Job, run_all
from agentopd.sweeps.showing import shown
from agentopd.training.loop.folder import require_free
from agentopd.training.loop.lock import held
from agentopd.training.loop.spent import totals
from agentopd.training.run.whole import check
from agentopd.training.show.display import say


def examine(plan: Plan, folder: Path) -> None:
    """Looks at every arm as ``agentopd train --check`` does, before anything is trained.

    Raises:
        ConfigError: What is wrong with each arm that would not start; or the folder holds something else.
    """
    if not (folder / SWEEP).exists():
        require_free(folder, goes_on="")
    joined(plan, folder)
    wrong = []
    for job in (Job(folder, arm.name, plan.seeds[0]) for arm in plan.arms):
        if job.folder.config.exists():  # it has begun, so it was looked at
            continue
        try:
            check(plan.configs[job.arm], job.folder.path)
        except ConfigError as error:
            wrong.append(f"arm {job.arm}: {error}")
    if wrong:
        raise ConfigError("; ".join(wrong))


def sweep(plan: Plan, output: str | Path, jobs: int = 1) -> Sequence[Job]:
    """Makes every run of a plan that is not finished.

    Args:
        plan: From :func:`agentopd.sweeps.plan.planned`.
        output: The folder of the sweep. One that was begun is gone on with: finished runs stay, others are resumed.
        jobs: How many runs go on at a time.

    Returns:
        All runs, seed by seed. Of those that failed ``failure`` says why.

    Raises:
        ConfigError: An arm would not start, or the folder holds another sweep, or another process is at work in it.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: give 1 or more")
    folder = Path(output)
    examine(plan, folder)
    with held(folder):
        keep(plan, folder)
        runs = [Job(folder, arm.name, seed) for seed in plan.seeds for arm in plan.arms]
        steps = {name: config.train.steps for name, config in plan.configs.items()}
        with shown(runs, steps) as show:
            run_all(runs, jobs, show)
    for job in runs:
        if job.state == "failed":
            say(f"{job.arm}, seed {job.seed} failed:\n{job.failure}")
        elif (short := _short(plan, job)) is not None:
            say(short)
    return runs


def _short(plan: Plan, job: Job) -> str | None:
    """Says of a run that ended with its last step before its budget was spent."""
    if plan.budget is None or plan.budget.unit == "episodes":
        return None
    steps = plan.configs[job.arm].train.steps
    spent = totals(job.folder.history())[plan.budget.cost]
    if job.step < steps or spent >= plan.budget.amount:
        return None
    return (
        f"{job.arm}, seed {job.seed} came to the end of train.steps={steps} with {spent:g} of {plan.budget.amount:g} {plan.budget.unit}: raise "
        "train.steps, or lower the budget"
    )
