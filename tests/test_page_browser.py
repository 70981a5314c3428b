"""The page in a real browser: live, by keyboard, on a phone, in the dark, and with names that mean it no good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from tests.browsing import browser, why_no_browser
from tests.running import Runner, Service, free_port
from tests.writers import CrashedPair, crash, make_database, writing
from watcher.page.words import filters

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(why_no_browser() is not None, reason=str(why_no_browser())),
]

HOSTILE = (
    "<script>document.title='owned'</script>",
    "\"><img src=x onerror=document.title='owned'>",
    "'-alert(1)-'\n\u202egpj.exe",
    "{{7*7}}${7*7}",
    "&lt;b&gt;",
)
DEADLINE_MS = 15_000


class Shown:
    """A service with something of everything, and its page.

    Attributes:
        errors: what the browsers have complained of.
    """

    def __init__(self, runner: Runner, chromium: Browser, port: int, service: Service, pair: CrashedPair) -> None:
        self.runner = runner
        self.service = service
        self.pair = pair
        self.url = f"http://127.0.0.1:{port}/"
        self.errors: list[str] = []
        self._chromium = chromium
        self._pages: list[Page] = []

    def page(self, width: int = 1280, height: int = 900, **context: Any) -> Page:
        """The page, opened anew and live."""
        page = self._chromium.new_page(viewport={"width": width, "height": height}, **context)
        self._pages.append(page)
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", lambda message: self._complain(message.type, message.text))
        page.on("pageerror", lambda error: self._complain("error", str(error)))
        page.goto(self.url)
        page.wait_for_selector("body[data-drawn] #link[data-link=live]")
        return page

    def _complain(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.errors.append(text)

    def close_pages(self) -> None:
        for page in self._pages:
            page.close()
        self._pages.clear()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """120 sessions: one is held, one refused, one waits for its writer, three are recovered, five have evil names."""
    with ExitStack() as closing:
        runner = Runner(tmp_path_factory.mktemp("shown"))
        closing.callback(runner.close)
        port = free_port()
        runner.configure(
            instance="nanoclaw",
            tree={"layout": "{agent_group}/{session}"},
            owner={"pid_file": ".writer.pid"},
            metrics={"listen": f"127.0.0.1:{port}"},
        )
        for number in range(120):
            (runner.root / "support" / f"sess-{number:03}").mkdir(parents=True)
        pair = CrashedPair.make(runner.root.parent)
        held = pair.put(runner.root / "support" / "sess-040" / "outbound.db")
        held.with_name(".writer.pid").write_text("no pid")
        orphan = runner.root / "support" / "sess-050" / "outbound.db-journal"
        orphan.write_bytes(pair.journal)
        alive = runner.root / "support" / "sess-060" / "outbound.db"
        make_database(alive)
        closing.enter_context(writing(alive)).tell("begin")
        for number in range(3):
            pair.put(runner.root / "support" / f"sess-{number:03}" / "outbound.db")
        for name in HOSTILE:
            pair.put(runner.root / "evil" / name.replace("/", "\u2215") / f"{name.replace('/', '')}.db")
        service = runner.start()
        service.wait_for("recovered", count=3 + len(HOSTILE))
        chromium = closing.enter_context(browser())
        yield Shown(runner, chromium, port, service, pair)


@pytest.fixture
def shown(everything: Shown) -> Iterator[Shown]:
    """The same, with a look afterwards whether a browser has complained."""
    everything.errors.clear()
    yield everything
    everything.close_pages()
    assert everything.errors == []


def texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def axe(page: Page) -> list[str]:
    """Accessibility findings of axe-core that are serious or worse."""
    axe_core = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

    page.evaluate(axe_core)
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    return [
        f"{each['id']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
    ]


def test_what_wants_a_person_is_first_and_says_why(shown: Shown) -> None:
    page = shown.page()
    assert texts(page, "#headline") == ["1 held and 1 refused: these journals want a person."]
    assert texts(page, ".journal summary .badge") == ["held", "refused", "waiting"]
    assert texts(page, "#session-table tbody .badge")[:4] == ["held", "refused", "waiting", ""]
    page.locator(".journal summary").first.click()
    told = page.locator(".journal .body").first.inner_text()
    assert "pid_file" in told
    assert "holds no pid" in told
    assert "By hand." in told
    assert texts(page, "#counts [data-count=sessions] dd") == ["125"]


def test_a_crash_is_shown_without_a_reload(shown: Shown) -> None:
    page = shown.page()
    page.evaluate("window.same = true")
    database = shown.runner.root / "support" / "sess-077" / "outbound.db"
    make_database(database)
    crash(database)
    row = page.locator("#recovery-table tbody tr").filter(has_text="support/sess-077/outbound.db")
    row.wait_for()
    assert row.locator(".badge").inner_text() == "recovered"
    assert " ms" in row.inner_text()
    point = page.locator("#timeline .marks path").filter(has=page.locator("title", has_text="sess-077"))
    assert point.get_attribute("data-standing") == "recovered"
    assert page.evaluate("window.same") is True


def test_a_row_that_is_open_stays_open_while_others_come_and_go(shown: Shown) -> None:
    page = shown.page()
    page.locator(".journal summary").first.click()
    shown.pair.put(shown.runner.root / "support" / "sess-078" / "outbound.db")
    page.locator("#recovery-table tbody tr").filter(has_text="sess-078").wait_for()
    assert page.locator(".journal details[open]").count() == 1


def test_hostile_names_are_text(shown: Shown) -> None:
    page = shown.page()
    if page.locator("#more-recoveries").is_visible():  # where other tests have left some more
        page.click("#more-recoveries")
    told = "\n".join(texts(page, "#recovery-table tbody .name"))
    for name in HOSTILE:
        plain = name.replace("/", "").replace("\n", "\\n").replace("\u202e", "\\u202e")
        assert f"{plain}.db" in told
    assert page.title() == "(2) nanoclaw · journal-watcher"
    assert page.locator("main script, main img, main b").count() == 0
    page.fill("#search", "<script>")
    assert len(texts(page, "#session-table tbody .name")) == 1
    page.keyboard.press("Enter")
    assert texts(page, "#detail-title")[0].startswith("evil/<script>")


def test_it_is_worked_by_the_keyboard_alone(shown: Shown) -> None:
    page = shown.page()
    page.keyboard.press("/")
    page.keyboard.type("SESS-04")
    assert len(texts(page, "#session-table tbody .name")) == 10
    assert page.locator("#found").inner_text() == "10 sessions."
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.textContent") == "support/sess-040"
    page.keyboard.press("Enter")
    assert "holds no pid" in page.locator("#detail").inner_text()
    assert page.evaluate("document.activeElement.closest('#detail') !== null")
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    assert page.evaluate("document.activeElement.textContent") == "support/sess-040"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    assert page.input_value("#search") == ""


def test_sessions_are_filtered_by_how_they_stand(shown: Shown) -> None:
    page = shown.page()
    page.click("[data-filter=person]")
    assert texts(page, "#session-table tbody .name") == ["support/sess-040", "support/sess-050"]
    assert page.get_attribute("[data-filter=person]", "aria-pressed") == "true"
    page.click("[data-filter=waiting]")
    assert texts(page, "#session-table tbody .name") == ["support/sess-060"]
    page.click("[data-filter=recovered]")
    assert "support/sess-001" in texts(page, "#session-table tbody .name")
    page.click("[data-filter=all]")
    page.click("#more-sessions")
    assert len(texts(page, "#session-table tbody .name")) == 125


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_it_is_accessible_and_fits_the_screen(shown: Shown, width: int, scheme: str) -> None:
    page = shown.page(width=width, color_scheme=scheme)
    page.locator(".journal summary").first.click()
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, dark.removeprefix("rgb(").removesuffix(")").split(","))) < 200) is (scheme == "dark")
    page.locator("#session-table button.open").first.click()
    assert axe(page) == []
    assert page.evaluate("document.querySelector('#detail').getBoundingClientRect().width") <= width


def test_it_can_be_read_without_scripts(shown: Shown) -> None:
    page = shown._chromium.new_page(java_script_enabled=False)
    page.goto(shown.url)
    assert "1 held and 1 refused" in page.inner_text("main")
    assert "Without scripts" in page.inner_text("footer")
    page.locator(".journal summary").first.click()
    assert "holds no pid" in page.locator(".journal .body").first.inner_text()
    page.close()


def test_another_site_cannot_read_it_from_the_operators_browser(shown: Shown) -> None:
    context = shown._chromium.new_context()
    page = context.new_page()
    page.route("http://evil.example/", lambda route: route.fulfill(body="<h1>evil</h1>", content_type="text/html"))
    page.goto("http://evil.example/")
    for path in ("", "events", "metrics"):
        told = page.evaluate(
            "url => fetch(url).then(answer => answer.text(), error => `refused: ${error.name}`)", shown.url + path
        )
        assert told.startswith("refused")
    framed = page.evaluate(
        """url => new Promise(resolve => { const frame = document.createElement('iframe'); frame.src = url;
            frame.onload = () => { try { resolve(frame.contentDocument === null ? 'shut' : 'open') }
            catch { resolve('shut') } }; document.body.append(frame) })""",
        shown.url,
    )
    assert framed == "shut"
    context.close()


def test_it_says_when_it_has_lost_the_service_and_comes_back_by_itself(everything: Shown, runner: Runner) -> None:
    port = free_port()
    runner.configure(metrics={"listen": f"127.0.0.1:{port}"})
    service = runner.start()
    page = everything._chromium.new_page()
    page.set_default_timeout(DEADLINE_MS)
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#link[data-link=live]")
    service.kill()
    page.wait_for_selector("#link[data-link=lost]")
    assert page.inner_text("#link").startswith("The service does not answer; this is how it was at ")
    runner.start()
    page.wait_for_selector("#link[data-link=live]")
    assert page.inner_text("#headline").startswith("Nothing is hot.")
    page.close()


def test_figures_are_the_same_with_scripts_and_without(shown: Shown) -> None:
    page = shown.page()
    url = page.evaluate("document.querySelector('script').src.replace('page.js', 'figures.js')")
    figures = filters()
    for ms in (0.04, 1, 7.06, 99.94, 100, 999.4, 1000, 12_345, 59_949, 60_000, 4_000_000):
        assert page.evaluate(f"import('{url}').then(module => module.took({ms}))") == figures["took"](ms)
    for number in (0, 512, 1023, 1024, 4616, 10_240, 41_000, 2**20, 5 * 2**30, 2**40):
        assert page.evaluate(f"import('{url}').then(module => module.size({number}))") == figures["size"](number)


def test_thousands_of_sessions_stay_smooth(everything: Shown, runner: Runner) -> None:
    for number in range(5000):
        (runner.root / f"g{number // 1000}" / f"s{number}").mkdir(parents=True)
    port = free_port()
    runner.configure(metrics={"listen": f"127.0.0.1:{port}"}, tree={"layout": "{agent_group}/{session}"})
    runner.start()
    page = everything._chromium.new_page()
    page.set_default_timeout(DEADLINE_MS)
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("body[data-drawn]")
    assert page.inner_text("#found") == "100 of 5,000 sessions."
    took_ms = page.evaluate(
        """() => { const search = document.getElementById('search'); const began = performance.now();
            for (const word of ['s', 's4', 's49', 's499', 's4999', '']) {
                search.value = word; search.dispatchEvent(new Event('input')); document.body.offsetHeight; }
            return (performance.now() - began) / 6 }"""
    )
    assert took_ms < 500  # fifty times less, where nobody else works
    assert page.locator("#session-table tbody tr").count() == 100
    page.fill("#search", "s4999")
    assert page.locator("#session-table tbody tr").count() == 1
    page.close()
