"""The ComfyUI editor in a browser page: what a user clicks and reads, for tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph.workflow import load
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as NotShown
from trouble import Troubles

# Other tiers may run beside this one.
OPEN_SECONDS = 120  # until the editor is there
SECONDS = 30  # for what it does by itself
FIRST_RUN_SECONDS = 60  # until a new user's editor opens the template browser
LOADED = "() => Boolean(window.app?.vueAppReady && window.app.graph)"
OPENED = """([name, count]) =>
    window.app.extensionManager.workflow.activeWorkflow?.filename?.startsWith(name) &&
    window.app.graph.nodes.length === count"""
NODES_OF = """kind => window.app.graph.nodes.filter(node => node.type === kind).map(node => ({
    text: node.widgets?.find(widget => widget.name === '$$node-text-preview')?.value ?? '',
    choices: Object.fromEntries(
        (node.widgets ?? []).filter(each => each.options?.values).map(each => [each.name, each.options.values])),
    pictures: (node.imgs ?? []).map(picture => picture.naturalWidth),
}))"""
SET_WIDGET = """([kind, name, value]) => {
    for (const node of window.app.graph.nodes.filter(node => node.type === kind)) {
        const widget = node.widgets.find(widget => widget.name === name)
        widget.value = value
        widget.callback?.(value)
    }
}"""
ADD_AND_SELECT = """kind => {
    window.app.graph.clear()
    const node = window.LiteGraph.createNode(kind)
    node.pos = [400, 300]
    window.app.graph.add(node)
    window.app.canvas.selectNode(node)
    window.app.canvas.setDirty(true, true)
}"""

SELECT = "kind => window.app.canvas.selectNode(window.app.graph.nodes.find(node => node.type === kind))"
BYPASSED = "kind => window.app.graph.nodes.find(node => node.type === kind).mode === 4"


@dataclass(frozen=True)
class ShownNode:
    """A node as it is shown. text: below its widgets; choices: of its lists, by widget; pictures: their widths."""

    text: str
    choices: dict[str, list[str]]
    pictures: list[int]


class Editor:
    """The editor in `page`, of the server at `url`; pack: the folder that the pack is installed in."""

    def __init__(self, page: Page, url: str, pack: str) -> None:
        self.page = page
        self.troubles = Troubles(page)
        self._pack = pack
        page.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        page.goto(url, timeout=OPEN_SECONDS * 1000)
        page.wait_for_function(LOADED, timeout=OPEN_SECONDS * 1000)
        self._leave_first_run()

    def open_templates(self) -> Locator:
        """Open the template browser on the pack's templates and return its dialog."""
        dialog = self.page.get_by_role("dialog")
        if not dialog.is_visible():
            self.page.get_by_test_id("side-toolbar").get_by_role("button", name="Templates").click()
        dialog.get_by_text(self._pack, exact=True).first.click()
        return dialog

    def template_cards(self, names: list[str]) -> dict[str, Locator]:
        """Return the cards of the templates by name, once those of `names` are among them."""
        prefix = "template-workflow-"
        dialog = self.open_templates()
        for name in names:
            dialog.get_by_test_id(prefix + name).wait_for()
        cards = dialog.locator(f"[data-testid^='{prefix}']").all()
        return {(card.get_attribute("data-testid") or "").removeprefix(prefix): card for card in cards}

    def close_dialog(self) -> None:
        """Close the open dialog."""
        dialog = self.page.get_by_role("dialog")
        self.page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")

    def open_template(self, file_name: str) -> None:
        """Open a shipped workflow as a user does: by a click on its picture in the template browser."""
        name = Path(file_name).stem
        self.open_templates().get_by_test_id(f"template-workflow-{name}").click()
        self.page.wait_for_function(OPENED, arg=[name, len(load(file_name)["nodes"])])
        self.page.get_by_role("dialog").wait_for(state="hidden")

    def open_blank(self) -> None:
        """Open a new, empty workflow."""
        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait_for_function("() => window.app.graph.nodes.length === 0")

    def run(self) -> dict[str, Any]:
        """Press Run and return the server's answer: the prompt's id, or why it was refused."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as answer:
            self.page.get_by_test_id("queue-button").click()
        return answer.value.json()

    def cancel(self) -> None:
        """Press the button that cancels the current run."""
        self.page.get_by_role("button", name="Cancel current run").click()

    def nodes(self, kind: str) -> list[ShownNode]:
        """Return what the nodes of a type show."""
        return [ShownNode(**shown) for shown in self.page.evaluate(NODES_OF, kind)]

    def node(self, kind: str) -> ShownNode:
        """Return what the only node of a type shows."""
        (only,) = self.nodes(kind)
        return only

    def wait_for_pictures(self, kind: str) -> None:
        """Wait until all nodes of a type show loaded pictures."""
        self.page.wait_for_function(f"kind => ({NODES_OF})(kind).every(each => each.pictures[0] > 0)", arg=kind)

    def wait_for_text(self, kind: str, pattern: str, seconds: float = SECONDS) -> str:
        """Wait until a text on a node of a type matches a pattern of JavaScript; return the text."""
        found = f"([kind, pattern]) => ({NODES_OF})(kind).find(each => new RegExp(pattern).test(each.text))?.text"
        return self.page.wait_for_function(found, arg=[kind, pattern], timeout=seconds * 1000).json_value()

    def wait_for_choices(self, kind: str, widget: str, more_than: int) -> list[str]:
        """Wait until a list of the nodes of a type has grown, and return its entries."""
        found = f"""([kind, widget, least]) =>
            ({NODES_OF})(kind).map(each => each.choices[widget]).find(each => each.length > least)"""
        return self.page.wait_for_function(found, arg=[kind, widget, more_than]).json_value()

    def set_widget(self, kind: str, name: str, value: Any) -> None:
        """Set a widget of all nodes of a type."""
        self.page.evaluate(SET_WIDGET, [kind, name, value])

    def bypass(self, kind: str) -> None:
        """Bypass a node by its key."""
        self.page.evaluate(SELECT, kind)
        self.page.locator("#graph-canvas").focus()
        self.page.keyboard.press("Control+b")
        self.page.wait_for_function(BYPASSED, arg=kind)

    def press(self, key: str) -> None:
        """Press a key of the graph's own."""
        self.page.keyboard.press(key)

    def open_help(self, kind: str) -> Locator:
        """Put a new node of a type into the graph, alone, and return its help page beside the graph."""
        self.page.evaluate(ADD_AND_SELECT, kind)
        self.page.get_by_test_id("info-button").click()
        return self.page.locator(".node-help-content")

    def open_errors(self) -> Locator:
        """Open the list of what is wrong with the workflow and return its panel."""
        panel = self.page.get_by_test_id("properties-panel")
        tab = panel.get_by_role("tab", name="Errors")
        see = self.page.get_by_role("button", name=re.compile("^(See Errors|View details)$", re.IGNORECASE))
        see.or_(tab).first.wait_for()
        if see.is_visible():
            see.click()
        else:
            tab.click()
        return panel

    def error_lines(self) -> list[str]:
        """Return the lines of the list of errors, with every explanation unfolded."""
        panel = self.open_errors()
        for unfold in panel.get_by_role("button", name=re.compile("^Info for ")).all():
            unfold.click()
        return panel.inner_text().splitlines()

    def screenshot(self, path: Path) -> None:
        """Save a picture of the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def _leave_first_run(self) -> None:
        """Close what greets a new user."""
        try:
            self.page.get_by_role("dialog").wait_for(timeout=FIRST_RUN_SECONDS * 1000)
        except NotShown:
            return
        self.close_dialog()
