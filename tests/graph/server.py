"""A real ComfyUI server with a copy of the pack, in temporary folders."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from hosts import Host
from shipped import copy_shipped

# Dashes and dots on purpose: a user's folder name need not be importable.
PACK_FOLDER = "ComfyUI-Astraea-0.1.test"
FLAGS = (
    "--cpu",
    "--use-pytorch-cross-attention",
    "--disable-auto-launch",
    "--disable-api-nodes",
    "--database-url",
    "sqlite:///:memory:",
)
COLOUR = re.compile("\x1b\\[[0-9;]*m")
INFO_PREFIX = re.compile(r"^\[INFO\] ", re.MULTILINE)  # other levels stay: they are problems on any host


class ServerError(RuntimeError):
    """The server refused a request or could not answer; the message has its answer."""


class PromptFailed(ServerError):
    """A queued prompt ended with an error in one of its nodes."""


class PromptInterrupted(ServerError):
    """A queued prompt was interrupted."""


class ComfyServer:
    """Runs main.py of `host` while the `with` block lasts.

    `install(folder)` fills custom_nodes/<pack>; by default with the files the pack ships. `base` is the temporary
    --base-directory: models/, input/, output/, temp/ and user/ of this server lie in it and vanish with it.
    """

    def __init__(self, host: Host, install: Callable[[Path], None] = copy_shipped, start_seconds: float = 120) -> None:
        self.host = host
        self.base = Path(tempfile.mkdtemp(prefix="comfyui-graph-tier-"))
        self.pack = self.base / "custom_nodes" / PACK_FOLDER
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._install = install
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ComfyServer:
        try:
            for name in ("models/diffusion_models", "input", "output", "temp", "user"):
                (self.base / name).mkdir(parents=True)
            self._install(self.pack)
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """The server's log so far, in one format: newer hosts add colours and levels."""
        file = self.base / "server.log"
        text = file.read_text("utf-8", errors="replace") if file.is_file() else ""
        return INFO_PREFIX.sub("", COLOUR.sub("", text))

    def object_info(self) -> dict[str, Any]:
        """Return the definition of every node, by id."""
        return self.get_json("/object_info")

    def queue(self, prompt: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
        """Run a prompt (API format) and return its history entry.

        Raises ServerError when it is refused, PromptFailed or PromptInterrupted when it fails or is interrupted, and
        TimeoutError after `seconds`.
        """
        return self.wait(self.submit(prompt), seconds)

    def submit(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt and return its id; raises ServerError when validation refuses it."""
        return json.loads(self._request("/prompt", {"prompt": prompt}))["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 300) -> dict[str, Any]:
        """Wait for a submitted prompt; returns and raises as `queue` does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if entry := self.get_json(f"/history/{prompt_id}").get(prompt_id):
                return _finished(entry)
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} still runs after {seconds} s; the log ends:\n{self.log[-3000:]}")

    def interrupt(self) -> None:
        """Interrupt the running prompt, as the user's cancel button does."""
        self._request("/interrupt", {})

    def view(self, filename: str, subfolder: str = "", folder: str = "output") -> bytes:
        """Return the content of a file in the output, temp or input folder, as the browser gets it."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": folder})
        return self._request(f"/view?{query}")

    def get_json(self, path: str) -> Any:
        """Return the JSON answer to a GET request."""
        return json.loads(self._request(path))

    def get(self, path: str) -> bytes:
        """Return the answer to a GET request, for example a help page."""
        return self._request(path)

    def stop(self) -> None:
        """Stop the server and remove its folders."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.base, ignore_errors=True)

    def crash(self) -> None:
        """Kill the server as a power cut does: it cannot write anything."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Start the server again on the folders that it left."""
        self.crash()
        self._start()

    def _start(self) -> None:
        port = self.url.rpartition(":")[2]
        where = ("--listen", "127.0.0.1", "--port", port, "--base-directory", str(self.base))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.base / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(self.host.python), "main.py", *FLAGS, *where],
                cwd=self.host.tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + self._start_seconds
        while time.monotonic() < end:
            try:
                self.get_json("/system_stats")
                return
            except ConnectionError:
                time.sleep(0.2)
        raise ServerError(f"ComfyUI does not listen after {self._start_seconds} s; its log ends:\n{self.log[-3000:]}")

    def _request(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Send GET, or POST with a JSON body. Raises ConnectionError while no server listens."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"ComfyUI is not running; its log ends:\n{self.log[-3000:]}")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise ServerError(f"{path}: {error.code} {error.read().decode(errors='replace')}") from error
        except urllib.error.URLError as error:
            raise ConnectionError(str(error.reason)) from error


def _finished(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the history entry of a prompt that succeeded. Raises PromptFailed or PromptInterrupted otherwise."""
    status = entry["status"]
    if status["status_str"] == "success":
        return entry
    messages = dict(status["messages"])
    if "execution_interrupted" in messages:
        raise PromptInterrupted("the prompt was interrupted")
    error = messages.get("execution_error", {})
    trace = "".join(error.get("traceback", []))
    raise PromptFailed(f"{error.get('node_type')}: {error.get('exception_message')}\n{trace}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
