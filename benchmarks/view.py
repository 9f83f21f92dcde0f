"""The viewer with five thousand trajectories in a headless Chromium: how long until the list stands, and what each thing takes after that.

    pip install -e ".[dev]"                           # and a Chromium or Chrome of the system
    python -m benchmarks.view --records runs/quickstart-1      # a run of at least 4,800 episodes, such as make quickstart leaves
    python -m benchmarks.view --table                 # the table from the stored result

The page is opened from its file in a fresh browser window each time; times are the browser's own, from the start of the navigation until the
frame with the list is on the screen, or from a key until the frame with what it asks for. Results: ``benchmarks/results/view.json``.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopd.viewer import write_view
from agentopd.viewer.sources import opened
from benchmarks.measured import keep, kept, made_by

RESULTS = Path(__file__).parent / "results" / "view.json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOWN = {
    "painted": "the list is on the screen",
    "opened": "a trajectory is opened, its block unpacked",
    "next": "the next trajectory (j)",
    "searched": "a search over all of them",
    "sorted": "the list sorted by mean KL",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, unless only the table is asked for, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, help="a run folder")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    if not arguments.table:
        keep(RESULTS, measured(arguments.records, arguments.repeats))
    print(table(kept(RESULTS)))


def measured(records: Path, repeats: int) -> dict[str, Any]:
    """Writing the page, then looking at it, several times."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        sources = opened([records])
        page = write_view(sources, Path(folder) / "view.html")
        written = time.perf_counter() - begin
        executable = next(path for name in BROWSERS if (path := shutil.which(name)))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
            looks = [look(browser, page) for _ in range(repeats)]
            version = browser.version
            browser.close()
        return {
            **made_by(),
            "browser": version,
            "trajectories": len(sources[0].records),
            "megabytes": round(page.stat().st_size / 1e6, 2),
            "write_seconds": round(written, 2),
            "milliseconds": {name: [one[name] for one in looks] for name in SHOWN},
        }


def look(browser: Any, page: Path) -> dict[str, float]:
    """One look: milliseconds of each of :data:`SHOWN`."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]")
    found = {"painted": tab.evaluate("performance.getEntriesByName('painted')[0].startTime")}
    tab.wait_for_load_state("load")
    found["opened"] = after(
        tab, "document.querySelector('.space .row').click()", "document.querySelector('section.turn')"
    )
    press = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'j', bubbles: true }))"
    turn = "document.querySelector('section.turn')"
    found["next"] = after(tab, f"window.old = {turn}; {press}", f"{turn} && {turn} !== window.old")
    typed = (
        "const box = document.getElementById('search'); box.value = '3 pears'; box.dispatchEvent(new Event('input'))"
    )
    found["searched"] = after(tab, typed, "document.querySelector('.found').textContent !== ''")
    tab.evaluate("location.hash = ''")
    sort = "window.old = document.querySelector('.space .row'); document.querySelector('.head .f-kl').click()"
    found["sorted"] = after(tab, sort, "document.querySelector('.space .row') !== window.old")
    context.close()
    return {name: round(value, 1) for name, value in found.items()}


def after(tab: Any, act: str, condition: str) -> float:
    """Milliseconds from an act until the frame in which a condition holds."""
    script = f"""() => new Promise((done) => {{
        const begin = performance.now();
        const look = () => ({condition}) ? requestAnimationFrame(() => done(performance.now() - begin)) : requestAnimationFrame(look);
        {act};
        look();
    }})"""
    return float(tab.evaluate(script))


def table(result: dict[str, Any]) -> str:
    """The stored result as Markdown."""
    head = f"{result['trajectories']:,} trajectories, {result['megabytes']} MB, written in {result['write_seconds']} s; Chromium {result['browser']}"
    rows = [f"{head}\n", "| milliseconds | median | least | most |", "|---|---|---|---|"]
    for name, what in SHOWN.items():
        values = result["milliseconds"][name]
        rows.append(f"| {what} | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
