"""Records what goes wrong in a page: errors of its console and scripts, and requests without an answer."""

from __future__ import annotations

import re

from playwright.sync_api import ConsoleMessage, Page, Request, Response

OF_THE_PACK = re.compile("astraea", re.IGNORECASE)
# The editor asks for a help page in the user's language first, and for the only one there is after that.
OTHER_LANGUAGE = re.compile(r"/docs/Astraea\w+/[\w-]+\.md")
# The test server forbids the page to ask other machines: the registry about each node, and about each model file.
FORBIDDEN = re.compile(r"https://(api\.comfy\.org|huggingface\.co)/")
# The editor's own words where a node with an output of an unusual type is bypassed.
BYPASSED = re.compile("No input types match type")
EXPECTED = (OTHER_LANGUAGE, FORBIDDEN, BYPASSED)

GIVEN_UP = "net::ERR_ABORTED"  # by the page itself; what the server refuses is recorded by its status


class Troubles:
    """Collects the troubles of a page from now on, each as one line."""

    def __init__(self, page: Page) -> None:
        self.lines: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.lines.append(f"script: {error}\n{error.stack or ''}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._refused)

    def of_the_pack(self) -> list[str]:
        """Return those that name the pack, its nodes or its files."""
        lines = [line for line in self.lines if OF_THE_PACK.search(line)]
        return [line for line in lines if not any(words.search(line) for words in EXPECTED)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.lines.append(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _failed(self, request: Request) -> None:
        if request.failure != GIVEN_UP:
            self.lines.append(f"no answer: {request.url} {request.failure}")

    def _refused(self, response: Response) -> None:
        if response.status >= 400:
            self.lines.append(f"status {response.status}: {response.url}")
