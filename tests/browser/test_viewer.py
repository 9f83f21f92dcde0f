"""The viewer in a real browser: what a person does with it, and what it must never do."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from view_cases import HUGE, SCRIPT, TEMPLATE, hostile, many, record, toy, write_run

from agentopd.viewer import write_view
from agentopd.viewer.serve import server
from agentopd.viewer.sources import opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

pytestmark = pytest.mark.browser
Look = Callable[..., "Page"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """The browser, started once."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install 'agentopd[dev]'")
    if BROWSER is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)} is on the path")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Opens a file (or an address) at a place behind ``#``; afterwards no error may have been told and nothing asked for elsewhere."""
    contexts, problems = [], []

    def opened(page: Path | str, place: str = "", **options: object) -> "Page":
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(8000)
        home = page.as_uri() if isinstance(page, Path) else page

        def asked(request: "Request") -> None:
            if not request.url.startswith((home, "data:", "blob:")):
                problems.append(f"asked for {request.url}")

        shown.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("request", asked)
        shown.goto(home + (f"#{place}" if place else ""))
        shown.wait_for_selector("body[data-ready]")
        return shown

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_view(opened([toy(tmp_path_factory.mktemp("runs") / "first")]))


def keys(page: "Page") -> list[str]:
    """The keys of the rows that are listed, from above."""
    rows = page.locator(".space .row")
    found = [(row.evaluate("row => row.offsetTop"), row.locator("code").inner_text()) for row in rows.all()]
    return [key for _, key in sorted(found)]


def wait_until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    """Playwright's own waiting for a function needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def rows(page: "Page", count: int) -> None:
    """Waits for so many rows in the list."""
    wait_until(lambda: page.locator(".space .row").count() == count)


def test_the_list_is_searched_filtered_and_sorted(look: Look, page_file: Path) -> None:
    page = look(page_file)
    assert len(keys(page)) == 16
    page.fill("#search", '"step 1"')
    rows(page, 6)
    assert page.locator(".found").inner_text() == "6 of 16"
    page.fill("#search", "turns>=1 outcome:no")
    rows(page, 4)
    page.fill("#search", "bogus>1")
    page.wait_for_selector(".filters .problem:has-text('there is no field bogus')")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="failed").click()
    assert keys(page) == ["toy/0/6/0", "toy/1/6/0"]
    page.get_by_role("button", name="all").click()
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("least mean divergence").fill("0.5")
    rows(page, 14)
    page.get_by_label("least mean divergence").fill("")
    page.get_by_label("environment").select_option("toy/Bank-v0")
    rows(page, 8)
    page.get_by_role("button", name="Clear").click()
    page.locator(".head").get_by_role("button", name="turns").click()
    assert keys(page)[-2:] == ["toy/0/7/0", "toy/1/7/0"]
    page.locator(".head").get_by_role("button", name="turns").click()
    assert keys(page)[:2] == ["toy/0/7/0", "toy/1/7/0"]
    assert "sort=turns" in page.url


def test_nothing_fits_is_said(look: Look, page_file: Path) -> None:
    page = look(page_file, "q=nowhere")
    assert page.locator(".space .empty").inner_text() == "No trajectory fits these filters."


def test_a_token_tells_its_numbers_when_pointed_at_and_when_focused(look: Look, page_file: Path) -> None:
    page = look(page_file, "key=toy/0/1/0")
    token = page.locator(".t:not(.masked)").nth(4)
    token.hover()
    pop = page.locator("#pop")
    assert pop.is_visible()
    assert pop.locator("h5").all_inner_texts() == ["student", "teacher", "elder"]
    teacher = pop.locator("section").nth(1)
    assert teacher.locator(".p").all_inner_texts() == ["50.0%", "30.0%", "10.0%", "5.0%", "5.0%"]
    assert teacher.locator(".taken .p").inner_text() == "30.0%"
    assert pop.locator("tr.chosen th").inner_text() == "divergence"
    page.mouse.move(5, 5)
    assert pop.is_hidden()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert pop.is_visible()
    assert page.evaluate("document.activeElement.dataset.i") == "1"


def test_tokens_are_shaded_and_context_is_dimmed(look: Look, page_file: Path) -> None:
    page = look(page_file, "key=toy/0/1/0")
    shades = page.eval_on_selector_all(".t", "all => all.map(one => Number(one.style.getPropertyValue('--d')))")
    assert shades[1] < 0.1 < 0.9 < shades[-1]
    masked = page.locator(".t.masked")
    assert masked.count() == 3
    assert float(masked.first.evaluate("one => getComputedStyle(one).opacity")) < 0.6
    page.locator("select.signal").select_option("log_ratio/teacher")
    assert "signal=log_ratio/teacher" in page.url
    assert page.locator(".legend").get_attribute("aria-label") is not None
    assert page.locator(".strip .turn").count() == 3


def test_calls_results_and_the_margin(look: Look, page_file: Path) -> None:
    page = look(page_file, "key=toy/0/0/0")
    assert page.locator(".card.call").count() == 3
    assert page.locator(".card.result .prose").all_inner_texts() == ["4", "7", "right"]
    first = page.locator("section.turn").first
    notes = first.locator(".margin li").all_inner_texts()
    assert "malformed call" in notes
    assert "\N{MINUS SIGN}0.5 teacher" in notes
    assert "teacher corrects it" in notes
    assert "teacher skips it" in page.locator("section.turn").nth(1).locator(".margin li").all_inner_texts()
    assert first.locator(".card.better").count() == 3


def test_everything_goes_by_the_keyboard(look: Look, page_file: Path) -> None:
    page = look(page_file)
    for key in ("j", "j", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("section.turn")
    assert "key=toy/0/1/0" in page.url
    page.keyboard.press("j")
    assert "key=toy/0/2/0" in page.url
    page.keyboard.press("k")
    page.keyboard.press("n")
    page.keyboard.press("n")
    assert "key=toy/0/1/0" in page.url
    assert "turn=2" in page.url
    assert page.locator("section.turn.here").get_attribute("data-turn") == "1"
    page.keyboard.press("s")
    assert "signal=log_ratio/teacher" in page.url
    page.keyboard.press("?")
    assert page.locator("dialog[open]").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert "key=" not in page.url


def test_a_link_opens_what_it_was_copied_from(look: Look, page_file: Path) -> None:
    place = "key=toy/1/2/0&turn=3&signal=teacher_entropy/elder&outcome=success"
    page = look(page_file, place)
    page.wait_for_selector("section.turn.here")
    assert page.locator("select.signal").input_value() == "teacher_entropy/elder"
    assert page.locator("section.turn.here").get_attribute("data-turn") == "2"
    assert page.locator(".space .row.chosen code").inner_text() == "toy/1/2/0"
    assert page.locator(".found").inner_text() == "8 of 16"
    page.go_back()
    gone = look(page_file, "key=toy/9/9/9")
    assert gone.locator(".about .problem").inner_text() == "These records hold no trajectory toy/9/9/9."


def test_two_teachers_and_two_trajectories_stand_side_by_side(look: Look, page_file: Path) -> None:
    page = look(page_file, "key=toy/0/1/0&signal=log_ratio/elder")
    page.wait_for_selector("section.turn")
    page.keyboard.press("c")
    page.wait_for_selector("body.two .pane:nth-child(2) section.turn")
    selects = page.locator("select.signal")
    assert [selects.nth(i).input_value() for i in range(2)] == ["log_ratio/elder", "log_ratio/teacher"]
    left, right = (page.locator(".pane").nth(i) for i in range(2))
    shades = [
        pane.locator(".t").evaluate_all("all => all.map(one => one.style.getPropertyValue('--d'))")
        for pane in (left, right)
    ]
    assert shades[0] != shades[1]
    page.keyboard.press("Escape")
    assert page.locator("body.two").count() == 0
    page.locator(".menu summary").click()
    page.get_by_text("Choose from the list").click()
    page.locator(".space .row", has_text="toy/1/2/0").click()
    page.wait_for_selector("body.two")
    assert page.locator(".pane .key code").all_inner_texts() == ["toy/0/1/0", "toy/1/2/0"]


def test_two_runs_are_compared(look: Look, tmp_path: Path) -> None:
    sources = opened([toy(tmp_path / "first"), toy(tmp_path / "second")])
    page = look(write_view(sources, tmp_path / "both.html"), "key=toy/0/1/0&in=second")
    page.wait_for_selector("section.turn")
    assert page.locator(".pane .key .of").first.inner_text() == "second"
    page.locator(".menu summary").click()
    page.get_by_text("This one in first").click()
    page.wait_for_selector("body.two")
    assert page.locator(".pane .key .of").all_inner_texts() == ["second", "first"]


def test_dark_follows_the_system_and_the_button(look: Look, page_file: Path) -> None:
    def darkness(page: "Page") -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light, dark = look(page_file), look(page_file, color_scheme="dark")
    assert darkness(light) == "rgb(255, 255, 255)"
    assert darkness(dark) == "rgb(15, 18, 22)"
    dark.keyboard.press("t")
    assert darkness(dark) == "rgb(255, 255, 255)"
    light.keyboard.press("t")
    light.keyboard.press("t")
    assert darkness(light) == "rgb(15, 18, 22)"


def test_hostile_text_is_inert(look: Look, tmp_path: Path) -> None:
    page = look(write_view(opened([hostile(tmp_path / "run")])))
    page.locator(".space .row").first.click()
    page.wait_for_selector("section.turn")
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, #app script, iframe").count() == 0
    assert page.locator(".about h2").inner_text() == SCRIPT.strip()
    assert TEMPLATE.replace("\n", "") in page.locator(".tokens").nth(2).inner_text().replace("↵", "").replace("\n", "")
    marks = page.locator(".tokens").nth(1).locator(".mark").all_inner_texts()
    assert "U+202E" in marks
    folded = page.locator(".card.result .prose").first
    assert folded.inner_text().count("0123456789abcdef") < 200
    begin = time.perf_counter()
    folded.locator("button").click()
    wait_until(lambda: page.evaluate("document.querySelector('.card.result .prose').textContent.length") == len(HUGE))
    assert time.perf_counter() - begin < 5
    page.keyboard.press("j")
    page.wait_for_selector(".card.failure")
    assert SCRIPT.strip() in page.locator(".card.failure").inner_text()
    assert page.evaluate("window.harmed") is None


def test_the_server_shows_the_same(look: Look, tmp_path: Path) -> None:
    made, address = server(opened([toy(tmp_path / "run")]))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        page = look(address)
        assert len(keys(page)) == 16
        page.locator(".space .row").nth(1).click()
        page.wait_for_selector("section.turn")
        assert page.locator(".t").count() > 10
    finally:
        made.shutdown()
        made.server_close()


def test_without_tokenizer_and_signals_the_page_says_so(look: Look, tmp_path: Path) -> None:
    page = look(write_view(opened([write_run(tmp_path / "bare", [[record(teachers=())]], False, False)])))
    assert len(page.locator(".note").all_inner_texts()) == 2
    page.locator(".space .row").first.click()
    page.wait_for_selector(".tokens.ids .t")
    assert page.locator(".t").first.inner_text().isdecimal()


def test_a_file_that_was_cut_off_says_so(look: Look, page_file: Path, tmp_path: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    cut = tmp_path / "cut.html"
    cut.write_text(text[: text.index('id="block-0"') - 50])
    page = look(cut)
    page.locator(".space .row").nth(1).click()
    page.wait_for_selector("text=it is not whole")


def test_five_thousand_trajectories_are_there_at_once(look: Look, tmp_path: Path) -> None:
    page = look(write_view(opened([many(tmp_path / "run", 5000)])))
    assert (
        page.evaluate("performance.getEntriesByName('painted')[0].startTime") < 6000
    )  # of 2 s on a machine of its own
    assert page.locator(".masthead .of").inner_text().startswith("5,000 trajectories")
    assert page.locator(".space .row").count() < 60
    page.locator(".rows").evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
    page.wait_for_selector(".space .row:has-text('toy/99/49/0')")
    begin = time.perf_counter()
    page.fill("#search", "Task 77-3")
    rows(page, 11)
    assert time.perf_counter() - begin < 3
    page.keyboard.press("Enter")
    page.wait_for_selector("section.turn")


def test_names_that_every_object_has_are_no_fields(look: Look, page_file: Path) -> None:
    page = look(page_file, "sort=__proto__&signal=constructor&turn=99999999999&kl=zz..")
    page.fill("#search", "constructor:x")
    page.wait_for_selector(".space .empty")
    page.fill("#search", "__proto__>1")
    page.wait_for_selector(".filters .problem:has-text('there is no field __proto__')")
    page.fill("#search", "LOG_RATIO/Elder<0 divergence>=0")
    wait_until(lambda: page.locator(".filters .problem").inner_text() == "")
    assert page.locator(".space .row").count() == 14


def test_what_hides_in_a_text_is_named(look: Look, tmp_path: Path) -> None:
    text = "a\u2028b\U000e0041c\u206ad\u3164e\ufe0f\ufe0ff\ud800g\u0000h" + "\u200b" * 1000 + "❤\ufe0f 👩\u200d💻"
    page = look(write_view(opened([write_run(tmp_path / "run", [[record(0, 0, ("look",), (text,))]])])))
    page.locator(".space .row").first.click()
    page.wait_for_selector(".card.result .mark")
    marks = page.locator(".card.result .mark").all_inner_texts()
    assert marks == [
        "U+2028",
        "U+E0041",
        "U+206A",
        "U+3164",
        "U+FE0F",
        "U+FE0F",
        "U+D800",
        "U+0000",
        "U+200B \N{MULTIPLICATION SIGN}1,000",
    ]


def test_two_signals_of_one_kind_have_one_scale(look: Look, page_file: Path) -> None:
    page = look(page_file, "key=toy/0/1/0&signal=log_ratio/elder")
    page.wait_for_selector("section.turn")
    alone = page.locator(".legend").get_attribute("aria-label")
    page.keyboard.press("c")
    page.wait_for_selector("body.two .pane:nth-child(2) section.turn")
    legends = [page.locator(".pane .legend").nth(i).get_attribute("aria-label") for i in range(2)]
    assert legends[0] == legends[1] == alone  # the elder differs more
    page.keyboard.press("n")
    page.wait_for_selector(".pane:nth-child(2) section.turn.here[data-turn='0']")
    page.locator("select.signal").nth(1).select_option("teacher_entropy/elder")
    wait_until(lambda: page.locator(".legend").nth(1).get_attribute("aria-label") != legends[0])
    page.keyboard.press("j")  # the menu has let the keyboard go
    assert "key=toy/0/2/0" in page.url


def test_arrows_move_in_the_list_and_scroll_what_is_open(look: Look, page_file: Path) -> None:
    page = look(page_file)
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("section.turn")
    assert "key=toy/0/1/0" in page.url
    page.keyboard.press("ArrowDown")
    wait_until(lambda: page.locator(".pane").first.evaluate("pane => pane.scrollTop") > 0)
    assert "key=toy/0/1/0" in page.url


def test_a_very_long_turn_is_drawn_as_it_is_asked_for(look: Look, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[record(0, 0, ("0123456789" * 700,), ("\x01a\x02b" * 1000,))]])
    page = look(write_view(opened([run])), "key=toy/0/0/0")
    wait_until(lambda: page.locator(".t").count() == 4000)
    page.get_by_role("button", name="Show all 7,000 tokens").click()
    assert page.locator(".t").count() == 7000
    assert float(page.locator(".t").last.evaluate("one => one.style.getPropertyValue('--d')")) == 1.0
    page.get_by_role("button", name="Show all 4,000 characters").click()
    assert page.locator(".prose.whole").evaluate("all => all.childNodes.length") == 1  # 100,000 nodes take minutes


def test_a_narrow_screen_shows_all_of_it(look: Look, page_file: Path) -> None:
    for place in ("", "key=toy/0/0/0", "key=toy/0/0/0&with=toy/0/1/0"):
        page = look(page_file, place)
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_selector("section.turn" if place else ".space .row")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
