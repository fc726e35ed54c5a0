"""A web server on this machine for tests of fetching: whole, cut off or slow answers."""

import io
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def tarball(content: dict[str, bytes]) -> bytes:
    """A gzip-compressed tar archive of named files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class Site:
    """What the server answers: path → body; how much of it, how slowly; and what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.share = 1.0
        self.pause = 0.0
        self.requests: list[str] = []
        self.address = ""


@contextmanager
def serving() -> Iterator[Site]:
    """Run the server; its address is in ``site.address``."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            site.requests.append(path)
            if path not in site.pages:
                self.send_error(404)
                return
            data = site.pages[path]
            self.send_response(200)
            for name, value in {"Content-Length": str(len(data)), **site.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                half = len(data) // 2
                self.wfile.write(data[: int(half * site.share)])
                time.sleep(site.pause)
                if site.share == 1.0:
                    self.wfile.write(data[half:])

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
