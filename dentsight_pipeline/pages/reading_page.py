"""The reader study's page: its addresses, and nothing that `reading.py` decides."""

from __future__ import annotations

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from dentsight_pipeline.documents.teeth import Box
from dentsight_pipeline.pages.reading import FDI, Reading
from dentsight_pipeline.pages.server import Door, answer, application, body_of, render


class _Mark(msgspec.Struct, forbid_unknown_fields=True):
    position: int
    tooth: str
    condition: str
    present: bool
    bbox: Box | None = None


class _Finish(msgspec.Struct, forbid_unknown_fields=True):
    position: int
    readable: bool


def reading_page(reading: Reading, door: Door) -> Starlette:
    """The application for all readers of a study."""

    async def page(request: Request, reader: str) -> Response:
        token = door.token("post", reader)
        return render("read.html.j2", title=reading.study.title, reader=reader, token=token, fdi=FDI)

    async def state(request: Request, reader: str) -> Response:
        return answer(reading.view(reader))

    async def image(request: Request, reader: str) -> Response:
        return FileResponse(reading.image(reader, request.path_params["position"]))

    async def mark(request: Request, reader: str) -> Response:
        said = await body_of(request, _Mark)
        reading.mark(reader, said.position, said.tooth, said.condition, said.present, said.bbox)
        return answer(reading.view(reader))

    async def finish(request: Request, reader: str) -> Response:
        said = await body_of(request, _Finish)
        reading.finish(reader, said.position, said.readable)
        return answer(reading.view(reader))

    gets = {"/": page, "/state": state, "/image/{position:int}": image}
    return application(door, gets, {"/mark": mark, "/finish": finish})
