"""Displays, progress bars and widgets that change while the server is away."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from support.browser import NotebookPage, open_lab
from support.gaps import Gap


def run_over_a_gap(
    gap: Gap, context: BrowserContext, source: str, *, widget: str | None = None
) -> NotebookPage:
    """Run a cell that tells when it has begun, and when it has done in the gap what it should.

    ``widget`` is a selector of what the page must show before the gap. The page loads the code of
    widgets from the server when it needs them for the first time.
    """
    notebook = open_lab(context, gap.server).open_notebook(gap.write(source))
    notebook.run(0)
    gap.wait_for("begun")
    if widget is not None:
        notebook.cell(0).locator(widget).wait_for()
    with gap.away(notebook):
        gap.wait_for("done")
    return notebook


def shown(notebook: NotebookPage, index: int) -> list[Any]:
    """Return the plain text of each of a cell's outputs."""
    return [output["data"]["text/plain"] for output in notebook.outputs(index)]


# Displays

DISPLAYS = """
from IPython.display import display, update_display
def show(text, **more):
    display({"text/plain": text}, raw=True, **more)
def update(text, **more):
    update_display({"text/plain": text}, raw=True, **more)
"""


def test_displays_that_change_in_the_gap_show_their_last_state(
    gap: Gap, context: BrowserContext
) -> None:
    source = (
        DISPLAYS
        + """
show("before 0", display_id="before")
tell("begun")
wait_for("gone")
update("before 1", display_id="before")
show("within 0", display_id="within")
show("beside")
update("within 1", display_id="within")
tell("done")
wait_for("back")
update("within 2", display_id="within")
"""
    )
    notebook = run_over_a_gap(gap, context, source)
    notebook.wait_for_end(0)
    assert shown(notebook, 0) == ["before 1", "within 2", "beside"]
    assert notebook.execution_count(0) == 1


def test_the_display_of_an_earlier_cell_changes_in_the_gap(
    gap: Gap, context: BrowserContext
) -> None:
    path = gap.write(
        DISPLAYS + "show('before', display_id='it')",
        "tell('begun')\nwait_for('gone')\nupdate('within', display_id='it')\ntell('done')",
    )
    notebook = open_lab(context, gap.server).open_notebook(path)
    for index in range(2):
        notebook.run(index)
    gap.wait_for("begun")
    with gap.away(notebook):
        gap.wait_for("done")
    notebook.wait_for_end(1)
    assert shown(notebook, 0) == ["within"]
    assert notebook.outputs(1) == []


MOVING = """
bar.update(2)
tell("begun")
wait_for("gone")
for _ in range(8):
    bar.update()
bar.close()
tell("done")
"""


def test_a_text_bar_that_ends_in_the_gap_is_shown_once(gap: Gap, context: BrowserContext) -> None:
    source = """
from tqdm import tqdm
bar = tqdm(total=10, bar_format="{n_fmt}/{total_fmt} |{bar:10}|", ascii=True, mininterval=0)
"""
    notebook = run_over_a_gap(gap, context, source + MOVING)
    notebook.wait_for_end(0)
    [output] = notebook.outputs(0)
    assert (output["name"], output["text"]) == ("stderr", "10/10 |##########|\n")
    assert notebook.cell(0).locator(".jp-OutputArea-output pre").inner_text() == output["text"]


def test_a_picture_made_in_the_gap_is_shown_once(gap: Gap, context: BrowserContext) -> None:
    source = """
import struct, zlib
from IPython.display import Image, display
def chunk(kind, data):
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))
def picture(width, height):
    pixels = zlib.compress((b"\\0" + b"\\x40" * width) * height)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return Image(b"\\x89PNG\\r\\n\\x1a\\n" + parts)
tell("begun")
wait_for("gone")
display(picture(30, 20))
tell("done")
"""
    notebook = run_over_a_gap(gap, context, source)
    notebook.wait_for_end(0)
    [output] = notebook.outputs(0)
    assert output["output_type"] == "display_data"
    images = notebook.cell(0).locator("img")
    assert images.count() == 1
    # The size that the browser has found in the picture.
    sizes = "images => images.map(each => [each.naturalWidth, each.naturalHeight])"
    assert images.evaluate_all(sizes) == [[30, 20]]


# Widgets

BAR = ".progress-bar"


def wait_for_bar(notebook: NotebookPage, percent: int) -> None:
    """Wait until the only progress bar is so far."""
    notebook.cell(0).locator(f"{BAR}[style*='width: {percent}%']").wait_for()
    assert notebook.cell(0).locator(BAR).count() == 1


def test_a_progress_bar_that_moves_in_the_gap_stands_right_after_it(
    gap: Gap, context: BrowserContext
) -> None:
    source = """
from ipywidgets import IntProgress
bar = IntProgress(value=2, max=10)
display(bar)
tell("begun")
wait_for("gone")
for bar.value in range(3, 10):
    pass
tell("done")
wait_for("seen")
bar.value = 10
"""
    notebook = run_over_a_gap(gap, context, source, widget=BAR)
    wait_for_bar(notebook, 90)
    gap.tell("seen")
    wait_for_bar(notebook, 100)
    notebook.wait_for_end(0)
    assert notebook.execute("bar.value") == "10"


def test_a_bar_of_tqdm_that_ends_in_the_gap_is_complete(gap: Gap, context: BrowserContext) -> None:
    source = """
from tqdm.notebook import tqdm
bar = tqdm(total=10, mininterval=0, bar_format="{l_bar}{bar}{n_fmt}/{total_fmt}")
"""
    notebook = run_over_a_gap(gap, context, source + MOVING, widget=BAR)
    notebook.wait_for_end(0)
    wait_for_bar(notebook, 100)
    notebook.cell(0).locator(".progress-bar-success").wait_for()
    assert "10/10" in notebook.cell(0).locator(".jp-OutputArea-output").inner_text()


@pytest.mark.parametrize("displayed", ["before the gap", "in the gap"])
def test_widgets_work_both_ways_after_the_gap(
    gap: Gap, context: BrowserContext, displayed: str
) -> None:
    show = """
from ipywidgets import Button, IntSlider, Label
button, slider, label = Button(description="Count"), IntSlider(value=3), Label("0 clicks")
clicks = 0
@button.on_click
def count(_):
    global clicks
    clicks += 1
    label.value = f"{clicks} clicks"
display(button, slider, label)
"""
    wait = "tell('begun')\nwait_for('gone')\n"
    if displayed == "before the gap":
        source, widget = show + wait, "div.widget-label"
    else:
        source, widget = wait + show, None
    notebook = run_over_a_gap(gap, context, source + "tell('done')", widget=widget)
    notebook.wait_for_end(0)
    cell = notebook.cell(0)
    cell.locator(".widget-label", has_text="0 clicks").wait_for()

    cell.locator("button", has_text="Count").click()
    cell.locator(".widget-label", has_text="1 clicks").wait_for()
    cell.locator(".noUi-handle").press("ArrowRight")
    cell.locator(".widget-readout", has_text="4").wait_for()
    assert notebook.execute("slider.value, clicks") == "(4, 1)"
    notebook.execute("slider.value = 7")
    cell.locator(".widget-readout", has_text="7").wait_for()
