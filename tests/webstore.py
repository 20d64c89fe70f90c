"""Small web servers for tests: one that only reads, one that takes conditional PUT, one that misbehaves."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def served(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Plain(_Quiet, SimpleHTTPRequestHandler):
    pass


def plain(folder: Path) -> Callable[..., BaseHTTPRequestHandler]:
    """What any web server does with a folder: it reads."""
    return functools.partial(_Plain, directory=str(folder))


class Files(_Quiet):
    """Objects in memory, with entity tags; conditions are honoured unless ``honest`` is false."""

    objects: dict[str, bytes]
    honest = True
    lock: threading.Lock

    def do_GET(self) -> None:
        data = self.objects.get(self.path)
        if data is None:
            self.answer(404)
        else:
            self.answer(200, data, ETag=_tag(data))

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            there = self.objects.get(self.path)
            wanted = self.headers.get("If-Match")
            taken = self.headers.get("If-None-Match") == "*" and there is not None
            changed = wanted is not None and (there is None or _tag(there) != wanted)
            if self.honest and (taken or changed):
                self.answer(412)
                return
            self.objects[self.path] = body
        self.answer(201)


def files(*, honest: bool = True) -> type[Files]:
    """A fresh server of objects."""
    return type("FreshFiles", (Files,), {"objects": {}, "honest": honest, "lock": threading.Lock()})


def scripted(answers: list[Callable[[_Quiet], None]], asked: list[str]) -> type[_Quiet]:
    """Gives ``answers`` in turn, the last one for ever; ``asked`` collects the requests."""

    class Scripted(_Quiet):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            answers[min(len(asked), len(answers)) - 1](self)

        do_PUT = do_HEAD = do_GET

    return Scripted


def _tag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'
