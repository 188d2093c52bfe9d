"""Pictures of the real editor for the docs: the templates, every node and workflow, the quick start after a run.

.venv/bin/python docs/pictures/take_from_editor.py [--comfyui TREE] [--only templates|nodes|workflows|quick_start]

Needs what the browser tier of the tests needs: a ComfyUI, Chromium and playwright. At 100 %, in the graph's own look.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PICTURES = Path(__file__).resolve().parent
ROOT = PICTURES.parents[1]
sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "graph"), str(ROOT / "tests")]

from editor import Editor  # noqa: E402
from graph.server import PACK_FOLDER, ComfyServer  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from templates import QUICKSTART, WORKFLOWS  # noqa: E402

from hosts import find_browser, find_hosts, host_at  # noqa: E402

SCREEN = {"width": 1920, "height": 1000}
MARGIN, TITLE = 12, 30  # around a node, and its title bar, in pixels
COLOURS = 256  # of a picture's palette: it is small, and looks the same
SHOW = """([kind, x, y]) => {
    const node = window.app.graph.nodes.find(node => node.type === kind)
    const ds = window.app.canvas.ds
    ds.scale = 1
    ds.offset = [x - node.pos[0], y - node.pos[1]]
    window.app.canvas.deselectAll?.()
    window.app.canvas.setDirty(true, true)
    return [node.size[0], node.size[1]]
}"""
HIDE_MINIMAP = "() => window.app.extensionManager.setting.set('Comfy.Minimap.Visible', false)"
ALONE = """kind => {
    const node = window.LiteGraph.createNode(kind)
    window.app.graph.add(node)
    node.setSize([Math.max(node.size[0], 340), node.size[1]])
}"""


@contextmanager
def opened(tree: Path | None) -> Iterator[tuple[Editor, ComfyServer]]:
    """The editor of a ComfyUI with the pack, in a browser."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the browser draws while the server computes
    host = host_at(tree.resolve()) if tree else max(find_hosts(), key=lambda host: host.version_tuple)
    with ComfyServer(host) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        editor = Editor(browser.new_page(viewport=SCREEN), server.url, PACK_FOLDER)
        editor.page.evaluate(HIDE_MINIMAP)
        yield editor, server
        browser.close()


def save(editor: Editor, path: Path, clip: dict[str, float] | None = None) -> None:
    """Save the page, or a part of it, with few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    editor.page.wait_for_timeout(700)  # until the canvas has been drawn
    picture = Image.open(io.BytesIO(editor.page.screenshot(clip=clip))).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(path.relative_to(ROOT), picture.size, f"{path.stat().st_size // 1000} kB", flush=True)


def save_node(editor: Editor, kind: str, path: Path) -> None:
    """Save a picture of a node of the open workflow, at 100 %."""
    x, y = 420, 120
    width, height = editor.page.evaluate(SHOW, [kind, x, y])
    box = editor.page.locator("#graph-canvas").bounding_box() or {"x": 0, "y": 0}
    clip = {
        "x": box["x"] + x - MARGIN,
        "y": box["y"] + y - TITLE - MARGIN,
        "width": width + 2 * MARGIN,
        "height": min(height + TITLE + 2 * MARGIN, SCREEN["height"] - box["y"] - y + TITLE),
    }
    save(editor, path, clip)


def take_templates(editor: Editor, _: ComfyServer) -> None:
    """Save the template browser with the pack's templates."""
    cards = editor.template_cards(sorted(path.stem for path in WORKFLOWS.glob("*.json")))
    for card in (*cards.values(), next(iter(cards.values()))):
        card.scroll_into_view_if_needed()  # pictures out of sight are not loaded
    editor.page.mouse.move(5, 5)
    save(editor, PICTURES / "templates.png")
    editor.close_dialog()


def take_nodes(editor: Editor, server: ComfyServer) -> None:
    """Save every node as it is when it is new."""
    for kind in sorted(kind for kind in server.object_info() if kind.startswith("Astraea")):
        editor.open_blank()  # anew: the editor keeps the values of widgets by the node's number
        editor.page.evaluate(ALONE, kind)
        save_node(editor, kind, PICTURES / "nodes" / f"{kind}.png")


def take_workflows(editor: Editor, _: ComfyServer) -> None:
    """Save every workflow as it is when it has been opened."""
    for path in sorted(WORKFLOWS.glob("*.json")):
        editor.open_template(path.name)
        editor.page.keyboard.press("Escape")
        save(editor, PICTURES / "workflows" / f"{path.stem}.png")


def take_quick_start(editor: Editor, server: ComfyServer) -> None:
    """Save the quick start after a run, and its report and comparison."""
    editor.open_template(QUICKSTART)
    server.wait(editor.run()["prompt_id"], 600)
    editor.wait_for_pictures("AstraeaReport")
    save(editor, PICTURES / "quick_start.png")
    for kind, name in (("AstraeaReport", "report"), ("AstraeaCompare", "compare"), ("AstraeaAccelerate", "accelerate")):
        save_node(editor, kind, PICTURES / f"{name}.png")


PARTS = {"templates": take_templates, "nodes": take_nodes, "workflows": take_workflows, "quick_start": take_quick_start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, metavar="TREE", help="ComfyUI folder (default: the newest found)")
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    with opened(args.comfyui) as (editor, server):
        for name, take in PARTS.items():
            if args.only in (None, name):
                take(editor, server)


if __name__ == "__main__":
    main()
