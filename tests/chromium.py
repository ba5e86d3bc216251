"""A headless Chromium over the DevTools protocol, spoken through two pipes.

Nothing but the browser is needed: `sudo apt install chromium`, or its path in
`CHROMIUM`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--no-sandbox",  # A container's root user has no sandbox; the pages are ours.
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
_PATIENCE = 60.0


def find() -> str | None:
    """Return the browser's path, or None where there is none."""
    names = (os.environ.get("CHROMIUM", ""), *_NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


NEEDED = pytest.mark.skipif(
    find() is None,
    reason="needs a browser: sudo apt install chromium, or its path in CHROMIUM",
)
"""Marks tests, all of `make verify`, that look at a page in a browser."""


class Page:
    """One tab: `send` commands, and read what it reported meanwhile in `events`."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = to_browser, from_browser
        self._count, self._buffer = 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; raise what the browser says."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if not select.select([self._from], [], [], max(left, 0))[0]:
                raise TimeoutError(f"the browser was silent for {_PATIENCE:.0f} s")
            chunk = os.read(self._from, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser has gone")
            self._buffer += chunk
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)

    def wait_for(self, method: str) -> None:
        """Wait for an event that may have come already."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())

    def resize(self, width: int, height: int) -> None:
        """Become a screen of that many CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def open(self, path: pathlib.Path) -> None:
        """Load a file and wait for it; `events` are from then on."""
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Return the value of an expression, of plain data."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """Return the whole page as a PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def print(self) -> bytes:
        """Return the page as a PDF, on A4."""
        printed = self.send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(printed["data"])


@contextlib.contextmanager
def tab(profile: pathlib.Path) -> Iterator[Page]:
    """Yield a tab of a browser of our own, which ends with the block.

    Args:
      profile: an empty directory for it.

    Yields:
      The tab.
    """
    program = find()
    assert program is not None, "there is no Chromium here"
    read_end, to_browser = os.pipe()
    from_browser, write_end = os.pipe()
    # The protocol has its fixed file descriptors, 3 and 4.
    shell = f'exec "$@" 3<&{read_end} 4>&{write_end}'
    command = ["bash", "-c", shell, "bash", program, *_FLAGS]
    browser = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(read_end, write_end),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_end)
    os.close(write_end)
    try:
        page = Page(to_browser, from_browser)
        yield page
    finally:
        os.close(to_browser)
        os.close(from_browser)
        browser.terminate()
        browser.wait(timeout=_PATIENCE)
