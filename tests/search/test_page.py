"""The page in a real Chromium, without a window: what people do on it, and what they see.

CLIP_JAX_SCREENSHOTS=FOLDER keeps a picture of the page at each stop.
"""

import base64
import importlib.util
import json
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from clip_jax.search.engine import Searcher, pick
from clip_jax.search.indexing import update
from tests.search.pictures import draw

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="needs Playwright: pip install 'clip_jax[browser]'"
    ),
]


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Page:
    """The page, the queries that it has sent, and whatever went wrong on it."""

    def __init__(self, context, address):
        self.context, self.address, self.queries, self.wrong = context, address, [], []
        self.tab = context.new_page()
        self.tab.set_default_timeout(10_000)
        self.tab.on("request", self._note)
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.tab.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))

    def _note(self, request):
        if request.method == "POST":
            self.queries.append(json.loads(request.post_data))
        if urlsplit(request.url).scheme == "http" and not request.url.startswith(self.address):
            self.wrong.append(f"asked {request.url}")

    def open(self, link=""):
        self.tab.goto(self.address + link)
        return self

    def type(self, text):
        self.tab.get_by_label("What to look for").fill(text)
        return self.found()

    def found(self):
        """Waits for the answer to what is asked now; names by model."""
        self.tab.wait_for_timeout(200)  # longer than the page waits for the next letter
        self.until("document.querySelector('#results').getAttribute('aria-busy') === 'false'")
        lists = self.tab.locator("#results ol").all()
        return [[image.get_attribute("alt") for image in one.locator("img").all()] for one in lists]

    def until(self, script):
        """Playwright's own wait_for_function evaluates text within the page, which its security policy forbids."""
        for _ in range(500):
            if self.tab.evaluate(script):
                return
            self.tab.wait_for_timeout(20)
        raise AssertionError(f"not within ten seconds: {script}")

    def keep(self, name):
        """A picture of the page, where one is wanted."""
        if folder := os.environ.get("CLIP_JAX_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.tab.screenshot(path=f"{folder}/{name}.png")

    @property
    def focused(self):
        return self.tab.evaluate("document.activeElement.id || document.activeElement.tagName")

    @property
    def status(self):
        return self.tab.get_by_role("status").inner_text()


@pytest.fixture
def page(chromium, server, request):
    context = chromium.new_context(**getattr(request, "param", {"viewport": {"width": 1200, "height": 760}}))
    page = Page(context, server.url)
    yield page
    context.close()
    assert page.wrong == []


def few(server, count=1):
    """The same server with so many models."""
    server.searchers = server.searchers[:count]


def test_typing_shows_the_top_twenty(page, server):
    few(server)
    page.open()
    assert page.focused == "text"
    assert page.found() == []
    page.tab.keyboard.type("red", delay=20)
    (names,) = page.found()
    assert len(names) == 20
    assert page.status == "20 pictures"
    assert page.queries == [{"text": "red"}]  # one for three letters
    loaded = "Array.from(document.images).filter((i) => i.naturalWidth > 1 && i.closest('li')).length"
    page.until(f"{loaded} === 20")
    page.keep("one")
    page.type("")
    assert page.found() == []
    assert page.status == ""


def test_two_models_side_by_side_with_their_overlap_marked(page, monkeypatch):
    monkeypatch.setattr("clip_jax.search.engine.TOP", 7)
    one, two = page.open().type("red")
    assert len(one) == len(two) == 7
    marked = [[name for name in names if name.endswith(", found by both")] for names in (one, two)]
    assert {*marked[0]} == {*marked[1]} == {name for name in one if name in two and name.endswith("both")}
    assert 0 < len(marked[0]) < 7
    assert page.tab.locator("li.both").count() == 2 * len(marked[0])
    share = round(100 * len(marked[0]) / 7)
    assert page.status == f"7 pictures by each model; {len(marked[0])} found by both (overlap@7 {share}%), marked ✓"
    titles = page.tab.get_by_role("heading", level=2).all_inner_texts()
    assert len(titles) == 2
    assert page.tab.get_by_role("region", name=titles[0]).count() == 1
    left, right = (page.tab.locator("#results ol").nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    page.keep("two")


def test_colors_words_and_without(page):
    page.open()
    red = page.tab.get_by_role("button", name="red", exact=True)
    red.click()
    page.found()
    assert red.get_attribute("aria-pressed") == "true"
    page.type("the house without windows")
    page.type("without windows")
    page.tab.get_by_role("button", name="blue", exact=True).click()
    page.found()
    assert red.get_attribute("aria-pressed") == "false"
    page.tab.get_by_role("button", name="blue", exact=True).click()
    page.found()
    wanted = ["red", "a red house without windows", "red without windows", "blue without windows", "without windows"]
    assert [query["text"] for query in page.queries] == wanted


DROP = """([data, name, kind]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name, { type: kind }));
  for (const event of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(event, { dataTransfer: given, bubbles: true, cancelable: true }));
}"""


def test_a_dropped_picture_and_words_with_it(page, server, folder):
    few(server)
    page.open()
    data = base64.b64encode((folder / "2" / "5.png").read_bytes()).decode()
    page.tab.evaluate(DROP, [data, "5.png", "image/png"])
    page.tab.wait_for_selector("li")
    (alone,) = page.found()
    assert alone[0] == "2/5.png"
    assert page.queries == [{"picture": data}]
    assert page.tab.get_by_alt_text("the picture searched by").is_visible()
    (both,) = page.type("red")
    assert page.queries[-1] == {"text": "red", "picture": data}
    assert len(both) == 20
    page.keep("picture")
    page.tab.get_by_role("button", name="Remove picture").click()
    page.found()
    assert page.queries[-1] == {"text": "red"}
    assert page.tab.get_by_alt_text("the picture searched by").is_hidden()
    sent = len(page.queries)
    page.tab.evaluate(DROP, [data, "notes.txt", "text/plain"])
    assert page.status == "notes.txt is not a picture."
    assert len(page.queries) == sent
    page.tab.get_by_label("Picture…").set_input_files(folder / "1" / "4.png")
    page.tab.wait_for_selector("li:first-child img[alt='1/4.png']")


def test_a_picture_that_cannot_be_read_says_so(page, server):
    page.open()
    page.tab.evaluate(DROP, ["AAAA", "x.png", "image/png"])
    page.until("document.querySelector('#status').textContent")
    assert page.status.startswith("the picture cannot be used")
    assert page.found() == []
    page.wrong = [said for said in page.wrong if "400" not in said]  # Chromium's own note of the reply


def test_keyboard(page, server):
    few(server)
    page.open().type("red")
    page.tab.keyboard.press("ArrowDown")
    at = "Array.from(document.querySelectorAll('li button')).indexOf(document.activeElement)"
    assert page.tab.evaluate(at) == 0
    page.tab.keyboard.press("ArrowRight")
    assert page.tab.evaluate(at) == 1
    page.tab.keyboard.press("ArrowDown")
    below = page.tab.evaluate(at)
    assert below > 2
    page.keep("keyboard")
    page.tab.keyboard.press("ArrowUp")
    page.tab.keyboard.press("ArrowLeft")
    assert page.tab.evaluate(at) == 0
    page.tab.keyboard.press("ArrowLeft")
    assert page.focused == "text"
    page.tab.keyboard.press("ArrowDown")
    page.tab.keyboard.press("/")
    assert page.focused == "text"
    page.tab.keyboard.press("ArrowDown")
    page.tab.keyboard.press("Escape")
    assert page.focused == "text"
    page.tab.keyboard.press("ArrowDown")
    first = page.tab.evaluate("document.activeElement.querySelector('img').alt")
    page.tab.keyboard.press("Enter")  # more like this
    page.tab.wait_for_selector("#like:not([hidden])")
    (names,) = page.found()
    assert names[0] == first
    order = ["text", "picture", *["BUTTON"] * 11, "clear", "BUTTON"]
    assert page.focused == "text"
    for wanted in order[1:]:
        page.tab.keyboard.press("Tab")
        assert page.focused == wanted


def test_links_lead_back(page, server):
    few(server)
    (names,) = page.open("?q=cat&c=red").found()
    assert page.queries == [{"text": "a red cat"}]
    assert page.tab.title() == "a red cat"
    assert page.tab.get_by_role("button", name="red", exact=True).get_attribute("aria-pressed") == "true"
    page.tab.locator("li button").nth(3).click()
    page.tab.wait_for_selector("#like:not([hidden])")
    (like,) = page.found()
    assert like[0] == names[3]
    number = page.queries[-1]["like"]
    assert page.tab.url.endswith(f"?like={number}")
    page.tab.go_back()
    page.until("document.title === 'a red cat'")
    assert page.found() == [names]
    page.tab.go_forward()
    page.tab.wait_for_selector("#like:not([hidden])")
    assert page.found() == [like]
    assert page.open(f"?like={number}").found() == [like]
    page.open("?q=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&c=__proto__&like=1e3").found()
    assert page.queries[-1] == {"text": "<img src=x onerror=alert(1)>"}
    assert page.tab.locator("img[src=x]").count() == 0


def test_hostile_names_are_only_text(page, server, folder, models, tmp_path):
    names = ["<img src=x onerror=alert(1)>.png", '"><script>alert(2)<', "a' onload='alert(3).png", "\u202egnp.exe.png"]
    for number, name in enumerate(names):
        draw(tmp_path / "outside.png", number)
        (folder / f"{name.replace('/', '')}.png").write_bytes((tmp_path / "outside.png").read_bytes())
    for path in folder.glob("[012]"):
        shutil.rmtree(path)
    source, model = models[0]
    update(server.store, model, source, folder)
    server.searchers = [Searcher(server.store, pick(server.store, source), model)]
    (found,) = page.open().type("x")
    assert {*found} == {f"{name}.png".replace("\u202e", "\ufffd") for name in names}
    assert page.tab.locator("main script, main img[src=x], main [onload], main [onerror]").count() == 0
    page.keep("hostile")


@pytest.mark.parametrize(
    "page", [{"color_scheme": "dark", "viewport": {"width": 1200, "height": 760}}], indirect=True, ids=["dark"]
)
def test_dark_mode(page, monkeypatch):
    monkeypatch.setattr("clip_jax.search.engine.TOP", 12)
    page.open("?c=blue&q=house").found()
    style = page.tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert [sum(map(int, color[4:-1].split(","))) < 200 for color in style] == [True, False]
    page.keep("dark")


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}], indirect=True
)
@pytest.mark.parametrize("count", [1, 2])
def test_phone_width(page, server, monkeypatch, count):
    monkeypatch.setattr("clip_jax.search.engine.TOP", 9)
    few(server, count)
    page.open("?q=house").found()
    assert page.tab.evaluate("document.documentElement.scrollWidth") == 360
    assert len({box.bounding_box()["y"] for box in page.tab.locator("ol").all()}) == 1
    first = page.tab.locator("li button").first.bounding_box()
    assert first["y"] + first["height"] < 740, "a result is to be seen without scrolling"
    assert first["width"] >= 70
    for button in page.tab.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 28
    page.keep(f"phone{count}")


def test_everything_has_a_name(page):
    page.open().type("red")
    tree = page.tab.locator("body").aria_snapshot()
    for said in ("search:", 'searchbox "What to look for"', 'group "Colour"', 'button "red"', "status:", "main"):
        assert said in tree, tree
    unnamed = """Array.from(document.querySelectorAll('button, input, img'))
      .filter((one) => !(one.innerText || one.alt || one.labels?.length || one.querySelector('img')?.alt)).length"""
    assert page.tab.evaluate(unnamed) == 0
    assert page.tab.evaluate("document.documentElement.lang") == "en"
    assert page.tab.get_by_role("status").get_attribute("aria-live") == "polite"
