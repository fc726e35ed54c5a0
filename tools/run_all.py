"""Open each notebook in JupyterLab in a headless Chromium and press "Run All", as a reader would.

``python -m tools.run_all 01 05 06`` takes those notebooks, without numbers all. It works on copies
in a folder of its own, and prints for each how many cells ran, in how many seconds, and any error.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.run.runner import sources

LONGEST = 1800  # seconds that a notebook may take
# JupyterLab's own command; its promise is kept when the last cell has ended.
RUN_ALL = """
(async () => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = await app.commands.execute('docmanager:open', {path: NAME, factory: 'Notebook'});
  app.shell.activateById(panel.id);
  panel.node.focus();
  await panel.context.ready;
  await panel.sessionContext.ready;
  await app.commands.execute('notebook:run-all-cells');
  const cells = [...panel.content.model.cells].filter(c => c.type === 'code');
  const errors = cells.flatMap(c => c.sharedModel.getOutputs())
    .filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue);
  const ran = cells.filter(c => c.executionCount).length;
  return JSON.stringify({ran, of: cells.length, errors});
})()
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answer(url: str) -> Any:
    """The JSON at a local address, as soon as something answers."""
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url) as stream:
                return json.load(stream)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@contextmanager
def started(*command: str, **options: Any) -> Iterator[None]:
    """A program while the block runs."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **silent, **options) as process:
        try:
            yield
        finally:
            process.terminate()


class Page:
    """One page of a Chromium that listens on ``port``, driven by the DevTools protocol."""

    def __init__(self, port: int) -> None:
        pages = answer(f"http://127.0.0.1:{port}/json")
        url = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.socket = websocket.create_connection(url, timeout=LONGEST, suppress_origin=True)
        self.number = 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != self.number:
            pass
        return message["result"]

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, or of the promise that it is."""
        result = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise InputError(f"the page: {result['exceptionDetails']}", "look at it in a browser")
        return result["result"].get("value")


def run_all(page: Page, url: str, name: str) -> dict[str, Any]:
    """Open a notebook in JupyterLab and press "Run All": cells that ran, of how many, errors."""
    page.ask("Emulation.setFocusEmulationEnabled", enabled=True)
    page.ask("Page.navigate", url=url)
    end = time.monotonic() + 120
    while not page.evaluate("Boolean(window.jupyterapp)"):
        if time.monotonic() > end:
            raise InputError(f"{url} does not open", "look at it in a browser")
        time.sleep(1)
    return json.loads(page.evaluate(RUN_ALL.replace("NAME", json.dumps(name))))


def main(numbers: list[str]) -> int:
    """Run the notebooks of these numbers; 1 if one had an error."""
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None
    )
    if browser is None:
        raise InputError("there is no chromium on PATH", "install Debian's package chromium")
    books = [p for p in sources() if not numbers or p.name[:2] in numbers]
    lab, devtools, failed = free_port(), free_port(), False
    with tempfile.TemporaryDirectory() as folder:
        for book in sources():
            shutil.copy(book, folder)
        jupyter = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={lab}"]
        jupyter += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
        jupyter += ["--allow-root", f"--ServerApp.root_dir={folder}"]
        chromium = [browser, "--headless", "--no-sandbox", f"--remote-debugging-port={devtools}"]
        chromium += [f"--user-data-dir={Path(folder) / '.browser'}", "about:blank"]
        own = {**os.environ, "KAPPA_RESULTS": str(Path(folder) / "results")}
        with started(*jupyter, env=own), started(*chromium):
            answer(f"http://127.0.0.1:{lab}/api")
            page = Page(devtools)
            for book in books:
                begun = time.monotonic()
                found = run_all(page, f"http://127.0.0.1:{lab}/lab?reset", book.name)
                failed |= bool(found["errors"]) or found["ran"] < found["of"]
                took = time.monotonic() - begun
                print(
                    f"{book.name}: {found['ran']} of {found['of']} cells, {took:.0f} s", flush=True
                )
                for error in found["errors"]:
                    print(f"  {error}", flush=True)
    return int(failed)


if __name__ == "__main__":
    assert paths.in_clone(), "run it in a clone"
    sys.exit(main(sys.argv[1:]))
