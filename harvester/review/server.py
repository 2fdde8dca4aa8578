"""The review page's server: loopback, one reader, one deck. The only place that imports starlette.

Nobody else's page can use it: a request needs the address's own Host, the cookie that the token in the printed address
was changed for, and, to change anything, the address as its Origin. Finds go by their place in the deck; no id, name
or path of the archive is part of an address or an answer.
"""

import hmac
import json
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from harvester.certificate.audit import Verdict
from harvester.errors import HarvesterError, LabelError, SettingsError, one_line
from harvester.review.session import Judgement, Session

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
COOKIE: Final = "harvester_review"
PAGE: Final = Path(__file__).parent / "page"
FILES: Final = {"review.js": "text/javascript", "review.css": "text/css"}
MOST_BYTES: Final = 1 << 16
"""Of a request's body."""
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Address:
    """Where the page is: scheme, and host:port as browsers write it."""

    scheme: str
    host: str

    @property
    def origin(self) -> str:
        """As browsers send it."""
        return f"{self.scheme}://{self.host}"


class Guard:
    """Answers 403 to whatever does not come from the page itself."""

    def __init__(self, app: ASGIApp, address: Address, token: str, cookie: str) -> None:
        self.app, self.address, self.token, self.cookie = app, address, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # a websocket is none of ours
        request = Request(scope)
        await (self._refusal(request) or self.app)(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        """The answer to what is not let in; None for the page's own. A right token is changed for the cookie."""
        if request.headers.get("host") != self.address.host:
            return PlainTextResponse("this address is not mine", 403)
        if request.url.path == "/" and "token" in request.query_params:
            return self._let_in(request.query_params["token"])
        if not _same(request.cookies.get(COOKIE, ""), self.cookie):
            return PlainTextResponse("open the address that harvester review printed", 403)
        origin = request.headers.get("origin")
        if (request.method not in ("GET", "HEAD") or origin) and origin != self.address.origin:
            return PlainTextResponse("a page of another address asked", 403)
        return None

    def _let_in(self, token: str) -> Response:
        if not _same(token, self.token):
            return PlainTextResponse("the token is not of this start; open the address that was printed", 403)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE, self.cookie, httponly=True, samesite="strict", secure=self.address.scheme == "https", path="/"
        )
        return response


class Pages:
    """The page and what it asks. `certify` makes the certified list and says what it made, where there is one."""

    def __init__(self, session: Session, certify: Callable[[], str] | None) -> None:
        self.session, self.certify = session, certify

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return FileResponse(PAGE / "review.html", media_type="text/html")

    async def file(self, request: Request) -> Response:
        """Its script and style, and nothing else."""
        name = request.path_params["name"]
        return FileResponse(PAGE / name, media_type=FILES[name]) if name in FILES else Response(status_code=404)

    async def nothing(self, request: Request) -> Response:
        """A browser asks for an icon."""
        return Response(status_code=204)

    async def state(self, request: Request) -> Response:
        """How far the reader is."""
        told = await run_in_threadpool(self.session.state)
        return JSONResponse(told | {"can_certify": self.certify is not None})

    async def picture(self, request: Request) -> Response:
        """A find's surroundings."""
        packed = await run_in_threadpool(self.session.picture, request.path_params["screen"])
        return Response(packed, media_type="application/octet-stream")

    async def verdict(self, request: Request) -> Response:
        """Takes an answer."""
        return JSONResponse(await run_in_threadpool(self.session.judge, judgement(await _body(request))))

    async def undo(self, request: Request) -> Response:
        """Takes the last one back."""
        return JSONResponse(await run_in_threadpool(self.session.undo))

    async def certified(self, request: Request) -> Response:
        """Certifies, on a click."""
        said = await run_in_threadpool(self.certify) if self.certify else "nothing is certified here"
        return JSONResponse({"words": said})


def application(session: Session, address: Address, token: str, certify: Callable[[], str] | None = None) -> Starlette:
    """The server of a session at an address; who knows the token is let in."""
    pages = Pages(session, certify)
    return Starlette(
        routes=[
            Route("/", pages.page),
            Route("/page/{name}", pages.file),
            Route("/favicon.ico", pages.nothing),
            Route("/state", pages.state),
            Route("/picture/{screen:int}", pages.picture),
            Route("/verdict", pages.verdict, methods=["POST"]),
            Route("/undo", pages.undo, methods=["POST"]),
            Route("/certify", pages.certified, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, address=address, token=token, cookie=token_urlsafe(32))],
        exception_handlers={HarvesterError: _said},
    )


def judgement(tree: Any) -> Judgement:
    """What the page sent. Raises LabelError for anything else."""
    try:
        boxes = tuple((int(z), float(a), float(b), float(c), float(d)) for z, a, b, c, d in tree.get("boxes", []))
        note = tree.get("note", "")
        if not isinstance(tree["screen"], int) or not isinstance(note, str):
            raise TypeError
        return Judgement(tree["screen"], Verdict(tree["verdict"]), boxes, note)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise LabelError("want screen, verdict, and with a moved lesion its boxes") from None


async def _body(request: Request) -> Any:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise LabelError("too long")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise LabelError("no JSON") from None


async def _said(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": one_line(error)}, 400)


def serve(
    session: Session,
    host: str,
    port: int,
    tls: tuple[Path, Path] | None,
    opened: Callable[[str], None],
    certify: Callable[[], str] | None = None,
) -> None:
    """Serve the page until Ctrl-C. tls: certificate and key. `opened` is given the address as soon as it answers.

    Raises SettingsError for another host than this machine's own without a certificate: what goes over a network in
    the clear can be read there, voxels and verdicts alike.
    """
    if host not in LOOPBACK and tls is None:
        raise SettingsError(f"--host {host}: others could read along; give --tls-cert and --tls-key, or leave it out")
    cert, key = tls or (None, None)
    config = uvicorn.Config(_not_yet, log_level="warning", server_header=False, ssl_certfile=cert, ssl_keyfile=key)
    listening = _listening(host, port)  # who opens the address before the server is there waits
    shown = f"[{host}]" if ":" in host else host
    address = Address("https" if tls else "http", f"{shown}:{listening.getsockname()[1]}")
    token = token_urlsafe(24)
    config.app = application(session, address, token, certify)
    opened(f"{address.origin}/?token={token}")
    with closing(listening):
        uvicorn.Server(config).run([listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"--host {host}, --port {port}: cannot be listened at ({error.strerror or one_line(error)}); give another "
            "port, or none for a free one"
        ) from None


async def _not_yet(scope: Scope, receive: Receive, send: Send) -> None:
    """In place of the application, whose address is known only once its port is."""


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _with_headers(send: Send) -> Send:
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *headers]
        await send(message)

    return sent
