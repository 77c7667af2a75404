"""The server of `jaxgen app`: Python's own, on 127.0.0.1 alone.

Gradio 6.31 was tried and left: it is 50 packages and 300 MB, its import takes 2.6 s of CPU time, its page names other
hosts and it reports its use to one unless it is told not to, and it would decide what a browser may read. All that the
page needs is one file, JSON and pictures, which nothing has to be installed for.

A page of another site that a browser has open beside this one can send requests to 127.0.0.1, also under a name of its
own (DNS rebinding). They are refused by their Host, Origin and Sec-Fetch-Site, and for JSON they would need a leave
that is not given. Nothing that a request says is the name of a file: results are kept in memory under their numbers,
and pictures come as bytes.
"""

import json
import re
import threading
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from jaxgen.app.jobs import Jobs
from jaxgen.app.page import POLICY, page
from jaxgen.app.results import Result, media_type
from jaxgen.errors import UserError
from jaxgen.runtime.reading import parse_json

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""What the machine is called by itself."""
MOST_BYTES = 1 << 24
"""Of a request."""
PATIENCE = 30
"""Seconds in which a request is to come."""


class Site(Protocol):
    """What the page shows and does."""

    def cards(self) -> list[dict[str, Any]]:
        """Each run: `name`, `model`, `data`, its `tasks`, and whether it has a `picture`."""
        ...

    def picture(self, run: int) -> bytes:
        """A PNG of what a run draws. Raises UserError where there is none."""
        ...

    def forms(self, run: int) -> list[dict[str, Any]]:
        """What a run can do, each with its controls. Raises UserError for no run."""
        ...

    def work(self, asked: Any) -> Callable[[], Result]:
        """What does as JSON asks: {"run": its number, "task": name, "values": by name, "pictures": base64 by name}.
        Raises UserError for what is wrong with it."""
        ...


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: HTTPStatus, words: str):
        super().__init__(words)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves a site. port: any that is free when 0."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, site: Site, port: int = 0):
        super().__init__((HOST, port), Handler)
        self.site, self.jobs = site, Jobs()

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def start(self) -> None:
        """Serves in a thread until `close`."""
        threading.Thread(target=self.serve_forever, args=(0.1,), name="server", daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.jobs.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no fault."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "jaxgen", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the terminal shows where the page is, and faults."""

    def _answer(self, method: Callable[[], tuple[bytes, str]]) -> None:
        self.close_connection = True  # what a refused request would still send is not read as another
        try:
            self._check_sender()
            content, kind = method()
            status = HTTPStatus.OK
        except Refused as error:
            content, kind, status = _json({"error": str(error)}), "application/json", error.status
        except UserError as error:
            words = " ".join(str(error).split())
            content, kind, status = _json({"error": words}), "application/json", HTTPStatus.BAD_REQUEST
        except (ConnectionError, TimeoutError):
            raise  # no one waits for an answer
        except Exception as error:
            traceback.print_exc()
            words = f"{type(error).__name__}: {error}, see the terminal"
            content, kind, status = _json({"error": words}), "application/json", HTTPStatus.INTERNAL_SERVER_ERROR
        self.send_response(status)
        for name, value in {
            "Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin", "Content-Security-Policy": POLICY, "Connection": "close",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _check_sender(self) -> None:
        """Raises Refused for a request that the page itself, or a user's address line, would not send."""
        hosts = [f"{name}:{self.server.server_port}" for name in NAMES]
        host, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        if len(host) != 1 or host[0].lower() not in hosts:
            raise Refused(HTTPStatus.FORBIDDEN, f"the request is for another host: open {self.server.address}")
        if origin is not None and origin != f"http://{host[0].lower()}":
            raise Refused(HTTPStatus.FORBIDDEN, "the request comes from the page of another site")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused(HTTPStatus.FORBIDDEN, "the request comes from the page of another site")

    def _get(self) -> tuple[bytes, str]:
        path = urlsplit(self.path).path
        if path == "/":
            return page().encode(), "text/html; charset=utf-8"
        if path == "/runs":
            return _json(self.server.site.cards()), "application/json"
        if found := re.fullmatch(r"/runs/(\d{1,6})\.png", path):
            return self.server.site.picture(int(found[1])), "image/png"
        if found := re.fullmatch(r"/forms/(\d{1,6})", path):
            return _json(self.server.site.forms(int(found[1]))), "application/json"
        if found := re.fullmatch(r"/jobs/(\d{1,9})", path):
            job = self.server.jobs.get(int(found[1]))
            status = self.server.jobs.status(job)
            return _json({**status, "result": status["result"] and status["result"].shown}), "application/json"
        if found := re.fullmatch(r"/jobs/(\d{1,9})/(.+)", path):
            result, name = self.server.jobs.get(int(found[1])).result, unquote(found[2])
            if isinstance(result, Result) and name in result.files:
                return result.files[name], media_type(name)
        raise Refused(HTTPStatus.NOT_FOUND, "nothing is here")

    def _post(self) -> tuple[bytes, str]:
        if urlsplit(self.path).path != "/jobs":
            raise Refused(HTTPStatus.NOT_FOUND, "nothing is here")
        if self.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a request is JSON: Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,12}", length) or "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a request is to say how long it is: Content-Length")
        if int(length) > MOST_BYTES:
            words = f"the request has {length} bytes, at most {MOST_BYTES} are read: take a smaller picture"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
        body = self.rfile.read(int(length))
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise UserError("the request is no text in UTF-8") from None
        job = self.server.jobs.add(self.server.site.work(parse_json(text, "the request")))
        return _json({"job": job.number}), "application/json"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
