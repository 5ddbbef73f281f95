"""`review.html` in a real browser: by keyboard, with hostile names, as far as cleaned data; nothing leaves it."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from cleansed import NAMES, blobs, cleansed, write_images
from typer.testing import CliRunner

from sgdphases.cli import app
from sgdphases.faces.review import page as review
from sgdphases.sim.cleansing.folder import label_cell

HOSTILE = [
    "</script><script>window.hacked = 1</script>", '<img src=x onerror="window.hacked = 2">', "=HYPERLINK(1)", "'=x",
    'say "so", then\nbreak', "שלום עולם", "🐝🧪", "{{data}}\u2028&amp;", "long " * 150 + "end", "x",
]  # fmt: skip


def text(page, name):
    return page.locator(f"#{name}").text_content()


def written(path, items, *, classes=("ant", "bee"), **more):
    data = {
        "key": path.name,
        "place": None,
        "classes": list(classes),
        "cells": list(classes),
        "columns": ["a"],
        "hidden": 0,
    }
    path.write_text(review.review_page("Suspects", "A note.", {**data, "items": items, **more}), encoding="utf-8")
    return path


def item(number, given=0, suggested=1, **more):
    return {"i": number, "g": given, "s": suggested, "w": 0.9, "f": 1, "r": [str(number)], **more}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A cleansing of small images under hostile names."""
    place = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    y = np.arange(80) % len(HOSTILE)
    x = rng.integers(0, 90, (80, 1, 10, 10), np.uint8)
    x[np.arange(80), 0, y] += 150
    np.savez(place / "mine.npz", x=x, y=np.array(HOSTILE)[y])
    return cleansed(place / "mine.npz", place / "out")


def test_from_keys_to_cleaned_data(done, shown, tmp_path):
    page = shown(done.folder.review)
    order = np.lexsort((-done.found.score, done.found.keep))
    given = done.labelled.classes[done.labelled.data.y_train]
    suggested = done.labelled.classes[done.found.suggested]
    picked = next(name for name in HOSTILE if name not in (given[order[3]], suggested[order[3]]))
    assert text(page, "given") == given[order[0]] and text(page, "suggested") == suggested[order[0]]
    expected = {}

    def press(key, decision, label):
        sample = int(text(page, "where").split()[1])
        assert sample == order[len(expected)] and text(page, "given") == given[sample]
        page.keyboard.press(key)
        if decision == "other":
            page.keyboard.type(picked[:20].split("\n")[0])
            page.keyboard.press("Enter")
        expected[sample] = (decision, label)

    press("k", "keep", given[order[0]])
    same = suggested[order[1]] == given[order[1]]
    press("k" if same else "s", "keep" if same else "suggestion", suggested[order[1]])
    press("d", "drop", "")
    press("o", "other", picked)
    press("n", "skip", "")
    page.keyboard.press("d")
    page.keyboard.press("u")  # and that never was
    assert text(page, "counts").startswith("5 of 58")
    page.reload()
    assert text(page, "counts").startswith("5 of 58") and int(text(page, "where").split()[1]) == order[5]
    page.keyboard.press("U")
    page.keyboard.press("n")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save decisions.csv").click()
    assert download.value.suggested_filename == "decisions.csv"
    download.value.save_as(tmp_path / "decisions.csv")
    with open(tmp_path / "decisions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cells = {number: (kind, label and str(label_cell(label))) for number, (kind, label) in expected.items()}
    assert {int(row["index"]): (row["decision"], row["label"]) for row in rows} == cells
    given_to = ["apply", tmp_path / "decisions.csv", "--cleansing", done.folder.path, "--out", tmp_path / "new.npz"]
    applied = CliRunner().invoke(app, list(map(str, given_to)))
    assert applied.exit_code == 0, applied.exception
    with np.load(tmp_path / "new.npz") as new:
        assert order[2] not in new["index"] and len(new["index"]) == 79
        labels = dict(zip(new["index"].tolist(), new["y"].tolist(), strict=True))
    for sample in range(80):
        decision, label = expected.get(sample, ("keep", given[sample]))
        assert decision == "drop" or labels[sample] == (given[sample] if decision == "skip" else label)
    assert page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_names_are_shown_as_they_are(done, shown):
    page = shown(done.folder.review)
    page.keyboard.press("o")
    offered = page.locator("#classes li").all_text_contents()
    assert offered == [name if len(name) <= 200 else name[:200] + "…" for name in done.labelled.classes]
    page.keyboard.press("Escape")
    assert page.locator("#picker").is_hidden() and text(page, "counts").startswith("0 of")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#image").evaluate("image => image.naturalWidth") == 10


@pytest.mark.slow
def test_filter_browse_and_go_through_the_skipped(shown, tmp_path):
    path = written(tmp_path / "review.html", [item(7), item(3, 1, 0), item(5), item(9, 1, 1)])
    page = shown(path)
    options = page.locator("#filter option").all_text_contents()
    assert options == ["all (4)", "\u2068ant\u2069 → \u2068bee\u2069 (2)", "\u2068bee\u2069 → \u2068ant\u2069 (1)",
                       "\u2068bee\u2069 → \u2068bee\u2069 (1)"]  # fmt: skip
    page.locator("#filter").select_option("0,1")
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("ArrowRight")
    assert text(page, "where") == "sample 5" and text(page, "position") == "2 of 2"
    page.keyboard.press("n")
    assert text(page, "where") == "sample 7"
    page.keyboard.press("Control+k")  # the browser's, not ours
    page.get_by_role("button", name="Take the suggestion").click()
    assert page.locator("#done").is_visible() and page.locator("#card").is_hidden()
    page.get_by_role("button", name="Go through the skipped ones").click()
    assert text(page, "where") == "sample 5" and text(page, "counts").startswith("1 of 4")
    page.locator("#filter").select_option("")
    page.keyboard.press("u")
    assert text(page, "where") == "sample 7" and text(page, "counts") == "0 of 4"
    page.locator("#filter").select_option("1,1")
    page.keyboard.press("s")  # suggests the label it has
    assert text(page, "counts") == "0 of 4" and page.get_by_role("button", name="Take the suggestion").is_disabled()


@pytest.mark.slow
def test_two_cleansings_are_kept_apart_and_a_browser_that_keeps_nothing_says_so(shown, tmp_path):
    one, other = (written(tmp_path / f"{name}.html", [item(0), item(1)]) for name in ("one", "other"))
    page = shown(one)
    page.keyboard.press("k")
    page.goto(other.as_uri())
    assert text(page, "counts") == "0 of 2"
    page.goto(one.as_uri())
    assert text(page, "counts").startswith("1 of 2")
    page = shown(one, init="Storage.prototype.setItem = () => { throw new Error('full') }")
    assert page.locator("#trouble").is_visible()
    page.keyboard.press("k")
    assert text(page, "counts").startswith("1 of 2")


@pytest.mark.slow
def test_nothing_one_and_thousands(shown, tmp_path):
    page = shown(written(tmp_path / "none.html", []))
    assert page.get_by_text("There is nothing to review.").is_visible()
    for key in "ksodnu":
        page.keyboard.press(key)
    page = shown(written(tmp_path / "one.html", [item(0)]))
    page.keyboard.press("k")
    assert page.locator("#done").is_visible()
    many = [item(k, k % 900, (k + 1) % 1000) for k in range(review.MOST_SAMPLES)]
    page = shown(written(tmp_path / "many.html", many, classes=[f"class {k}" for k in range(1000)]))
    keys = "for (let k = 0; k < 1000; k++) document.dispatchEvent(new KeyboardEvent('keydown', {key: 'k'}))"
    spent = page.evaluate(f"() => {{ const begun = performance.now(); {keys}; return performance.now() - begun }}")
    assert text(page, "counts").startswith("1000 of 2000") and spent < 10_000  # milliseconds, for a thousand decisions
    page.keyboard.press("o")
    assert page.locator("#classes li").count() == 200 and "800 more" in text(page, "more")


RATIO = """([front, back]) => {
  const light = (name) => {
    const parts = name.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  return Math.max(light(front) / light(back), light(back) / light(front));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_everything_can_be_read_and_reached(shown, tmp_path, scheme):
    page = shown(written(tmp_path / "review.html", [item(0), item(1)]), color_scheme=scheme)
    page.keyboard.press("k")
    page.keyboard.press("ArrowLeft")
    style = "each => [getComputedStyle(each).color, getComputedStyle(each.closest('[aria-pressed=true]') || each)"
    for name in (
        "#given",
        "#suggested",
        "#decided",
        "#counts",
        "#where",
        "dt",
        "#about",
        "[aria-pressed=true]",
        "#undo",
    ):
        place = page.locator(name).first
        front, back = place.evaluate(f"{style}.backgroundColor]")
        if back == "rgba(0, 0, 0, 0)":
            back = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert page.evaluate(RATIO, [front, back]) >= 4.5, (name, front, back)
    names = [button.get_attribute("aria-label") or button.text_content() for button in page.get_by_role("button").all()]
    assert len(names) >= 9 and all(name.strip() for name in names)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "undo":
            break
    assert page.locator("#undo").evaluate("each => getComputedStyle(each).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert text(page, "counts") == "0 of 2"


@pytest.mark.slow
def test_a_phone_shows_picture_labels_and_buttons_at_once(done, shown):
    page = shown(done.folder.review, width=390, height=780)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("image", "given", "undo"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 780, name


def test_limits_are_kept_and_said(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", [*NAMES] * 20)
    done = cleansed(tmp_path / "photos", tmp_path / "out")
    order, n_flagged = np.argsort(done.found.keep, kind="stable"), int((~done.found.keep).sum())
    assert len(review.review_data("key", done.labelled, done.found, order)["items"]) == 60
    monkeypatch.setattr(review, "MOST_SAMPLES", n_flagged - 2)
    review.write_review(done.folder, done.labelled, done.found, order)
    whole = done.folder.review.read_text(encoding="utf-8")
    assert f"the {n_flagged - 2} most suspect of them. A page holds at most {n_flagged - 2} samples and 40 MB" in whole
    monkeypatch.setattr(review, "MOST_SAMPLES", 60)
    sizes = [len(each["x"]) for each in review.review_data("key", done.labelled, done.found, order)["items"]]
    monkeypatch.setattr(review, "MOST_BYTES", sum(sizes[:3]))
    assert len(review.review_data("key", done.labelled, done.found, order)["items"]) == 3
    x, y = blobs()
    wide = np.repeat(x, 50, axis=1)
    labelled = SimpleNamespace(**{**vars(done.labelled), "source": None, "given": wide})
    monkeypatch.setattr(review, "MOST_BYTES", 10**7)
    data = review.review_data("key", labelled, done.found, order)
    assert data["hidden"] == 50 and len(data["items"][0]["r"]) == len(data["columns"]) == 100 and len(y) == 60
