"""Chromium without a window, driven by the DevTools protocol over two pipes: no port, and no library."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120
"""Seconds: it shares its cores."""


@contextmanager
def browser(downloads: Path):
    """A browser whose downloads go to a folder. Skips the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser: {', '.join(NAMES)}")
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # As root, and in containers, its sandbox does not start.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        words = [program, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        # It reads commands from descriptor 3 and writes answers to 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        process = subprocess.Popen(
            ["bash", "-c", shell, "sh", *words], pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in (to_browser, from_browser):
            os.close(descriptor)
        try:
            yield Browser(ours_in, ours_out, downloads)
        finally:
            for descriptor in (ours_in, ours_out):
                os.close(descriptor)
            try:
                process.wait(20)  # a closed pipe ends it
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Browser:
    """One tab."""

    def __init__(self, reads: int, writes: int, downloads: Path):
        self._reads, self._writes, self._rest, self._ids = reads, writes, b"", itertools.count(1)
        self._session = None
        self.problems: list[str] = []
        """What the page complained of: exceptions, and errors on its console."""
        pages = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        target = pages[0]["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.downloads = downloads
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def ask(self, method: str, **params):
        """The result of a command."""
        number = next(self._ids)
        said = {"id": number, "method": method, "params": params}
        if self._session and not method.startswith("Browser."):
            said["sessionId"] = self._session
        os.write(self._writes, json.dumps(said).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reads], [], [], max(0, end - time.monotonic()))
            assert ready, f"the browser said nothing for {PATIENCE} s"
            got = os.read(self._reads, 1 << 16)
            assert got, "the browser ended"
            self._rest += got
        line, self._rest = self._rest.split(b"\0", 1)
        event = json.loads(line)
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(event["params"]["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(event["params"]["entry"]["text"])
        return event

    def open(self, address: str) -> None:
        """Loads a page, and waits until its script has run."""
        self.run("window.old = true")
        self.ask("Page.navigate", url=address)
        self.until("!window.old && document.readyState === 'complete'")

    def run(self, script: str):
        """The value of JavaScript in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Presses and releases the mouse at the middle of an element, which must lie in the window and uncovered."""
        x, y, hit = self.run(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;"
            "return [x, y, e.contains(document.elementFromPoint(x, y))]; })()"
        )
        assert hit, f"{selector} is hidden"
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, repeat: bool = False) -> None:
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8, "Enter": 13, "Tab": 9, " ": 32}[key]
        named = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": code}
        typed = {"Enter": "\r", " ": " "}.get(key)
        kind = {"type": "rawKeyDown"} if typed is None else {"type": "keyDown", "text": typed}
        self.ask("Input.dispatchKeyEvent", autoRepeat=repeat, **kind, **named)
        if not repeat:
            self.ask("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, selector: str, text: str) -> None:
        """Writes into a field in place of what it has, as a keyboard does."""
        self.run(f"(() => {{ const e = document.querySelector({selector!r}); e.focus(); e.select(); }})()")
        self.ask("Input.insertText", text=text)

    def choose_file(self, selector: str, file: Path) -> None:
        """Gives a file to an input for files."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def wide(self, width: int, height: int = 900) -> None:
        """Gives the window another size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def downloaded(self) -> Path:
        """The file of the folder that is complete next; it is to be taken away."""
        end = time.monotonic() + PATIENCE
        while not (done := [f for f in self.downloads.iterdir() if f.suffix not in (".crdownload", ".tmp")]):
            assert time.monotonic() < end, "nothing was downloaded"
            self.run("0")
            time.sleep(0.05)
        return done[0]

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
