"""What every page on localhost has: a link for each person, who may post what, and a server that binds to localhost.

A link's token is made anew at every start, and becomes a cookie. Nobody gets two: who opens another's link in a browser
that reads as somebody else is refused, so that nothing is written under the wrong name. A post must come from the page
itself: its origin, and a token that only the page holds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from dentsight_pipeline.errors import ConfigurationError, DentsightError

LOCALHOST = "127.0.0.1"
"""The pages have no password, so they never listen on anything but this."""
_HERE = Path(__file__).parent
STATIC = {path.name: path for path in (_HERE / "static").iterdir()}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' "
    "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='; style-src-attr "
    "'unsafe-inline'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer: nothing from elsewhere, in no frame, kept by nobody."""
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
)

Handler = Callable[[Request, str], Awaitable[Response]]
Body = TypeVar("Body")


class Refused(Exception):
    """A request that is answered by a page or sentence instead of what it asked for."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Door:
    """Who may come in, and by which token.

    Attributes:
        people: By name.
        port: Where the server listens.
        secret: Of this start.
    """

    people: Sequence[str]
    port: int
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @property
    def origin(self) -> str:
        """The address of the pages."""
        return f"http://{LOCALHOST}:{self.port}"

    def link(self, name: str) -> str:
        """What a person opens."""
        return f"{self.origin}/in/{self.token('link', name)}"

    def token(self, purpose: str, name: str) -> str:
        """Of one person for one purpose, in this start."""
        return hmac.new(self.secret, f"{purpose}\n{name}".encode(), hashlib.sha256).hexdigest()

    def person(self, purpose: str, token: str) -> str | None:
        """Whose token it is; None when it is nobody's, or of another start."""
        return next((name for name in self.people if hmac.compare_digest(self.token(purpose, name), token)), None)

    @property
    def cookie(self) -> str:
        """Its name; browsers share the cookies of a host between its ports."""
        return f"dentsight_{self.port}"

    def visitor(self, request: Request) -> str | None:
        """Who asks."""
        return self.person("cookie", request.cookies.get(self.cookie, ""))

    def checked(self, request: Request) -> str:
        """Who asks.

        Raises:
            Refused: Nobody that is known, or a post that does not come from the page.
        """
        name = self.visitor(request)
        if name is None:
            raise Refused(403, "Open the link that the server printed when it was started; older links are void.")
        if request.method == "POST":
            posted = hmac.compare_digest(self.token("post", name), request.headers.get("x-dentsight", ""))
            if not posted or request.headers.get("origin") != self.origin:
                raise Refused(403, "This did not come from the page itself. Load the page again.")
        return name


def application(door: Door, gets: Mapping[str, Handler], posts: Mapping[str, Handler]) -> Starlette:
    """The pages: handlers by path, called with the request and the person who asks; refusals become sentences."""
    guarded = [(path, handler, "GET") for path, handler in gets.items()]
    guarded += [(path, handler, "POST") for path, handler in posts.items()]
    routes = [Route(path, _guarded(door, handler), methods=[method]) for path, handler, method in guarded]
    free = {"/in/{token}": _entering(door), "/static/{name}": _static}
    return Starlette(routes=routes + [Route(path, _answering(door, handler)) for path, handler in free.items()])


def render(template: str, **values: Any) -> HTMLResponse:
    """A page; every value is escaped."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values))


async def body_of(request: Request, kind: type[Body]) -> Body:
    """What was posted.

    Raises:
        Refused: It is of another form.
    """
    try:
        return msgspec.json.decode(await request.body(), type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"The page sent what nobody asked for: {error}.") from error


def answer(document: object) -> Response:
    """A document as JSON."""
    return Response(msgspec.json.encode(document), media_type="application/json")


def _guarded(door: Door, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def ask(request: Request) -> Response:
        return await handler(request, door.checked(request))

    return _answering(door, ask)


def _answering(door: Door, ask: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The handler behind the check of the address, with the headers, and with sentences for refusals."""

    async def answered(request: Request) -> Response:
        try:
            if request.headers.get("host") != f"{LOCALHOST}:{door.port}":
                raise Refused(400, f"This page is at {door.origin} alone.")
            response = await ask(request)
        except Refused as refused:
            response = _refusal(request, refused.status, str(refused))
        except DentsightError as error:
            response = _refusal(request, 409, str(error))
        response.headers.update(HEADERS)
        return response

    return answered


def _refusal(request: Request, status: int, sentence: str) -> Response:
    if request.method == "POST" or request.url.path == "/state":
        return JSONResponse({"error": sentence}, status)
    page = render("refused.html.j2", sentence=sentence)
    page.status_code = status
    return page


def _entering(door: Door) -> Callable[[Request], Awaitable[Response]]:
    async def enter(request: Request) -> Response:
        name, already = door.person("link", request.path_params["token"]), door.visitor(request)
        if name is None:
            raise Refused(403, "This link is not of this start of the server. Open the link that it printed.")
        if already not in (None, name):
            raise Refused(
                403,
                "This link is somebody else's, and this browser already reads under another name. Use your own link.",
            )
        response = RedirectResponse("/", 303)
        response.set_cookie(door.cookie, door.token("cookie", name), httponly=True, samesite="lax")
        return response

    return enter


async def _static(request: Request) -> Response:
    path = STATIC.get(request.path_params["name"])
    if path is None:
        raise Refused(404, "There is no such file.")
    return FileResponse(path)


def listening(port: int) -> socket.socket:
    """A socket on localhost; 0 takes a free port.

    Raises:
        ConfigurationError: The port is in use.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((LOCALHOST, port))
        opened.listen()  # whoever opens the link before the server answers waits, and is not refused
    except OSError as error:
        opened.close()
        raise ConfigurationError(f"Port {port} is in use: {error.strerror}. Give another one with --port.") from error
    return opened


def serve(app: Starlette, opened: socket.socket) -> None:
    """Answer until Ctrl-C."""
    import uvicorn

    uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[opened])
