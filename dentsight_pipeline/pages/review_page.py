"""The review's page: its addresses, and nothing that `reviewing.py` decides."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from dentsight_pipeline.documents.review import Verb
from dentsight_pipeline.documents.teeth import Box
from dentsight_pipeline.pages.reviewing import Review
from dentsight_pipeline.pages.server import Door, Refused, answer, application, body_of, render


class _Decide(msgspec.Struct, forbid_unknown_fields=True):
    position: int
    verb: Verb
    class_name: str | None = None
    bbox: Box | None = None


def review_page(review: Review, door: Door, image_bytes: Callable[[str], bytes]) -> Starlette:
    """The application for one reviewer; `image_bytes` gives an image by its digest."""

    async def page(request: Request, who: str) -> Response:
        return render("review.html.j2", who=who, token=door.token("post", who))

    async def state(request: Request, who: str) -> Response:
        return answer(review.view())

    async def image(request: Request, who: str) -> Response:
        view = review.view()
        if view.suspect is None or request.path_params["position"] != view.position:
            raise Refused(409, "This suspect is not in turn.")
        data = image_bytes(view.suspect.image)
        return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")

    async def decide(request: Request, who: str) -> Response:
        said = await body_of(request, _Decide)
        review.decide(who, said.position, said.verb, said.class_name, said.bbox)
        return answer(review.view())

    return application(door, {"/": page, "/state": state, "/image/{position:int}": image}, {"/decide": decide})
