"""`/v1/uploads`: large files in pieces, much as the tus protocol does it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from serve.depends import ServiceDep, Submitter, problems
from serve.receiving import begin_upload, own_upload, receive_piece
from serve.schemas import UploadRequest, UploadView
from serve.views import upload_view

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

_PIECE = {"requestBody": {"required": True, "content": {
    "application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}},
}}}  # fmt: skip


@router.post("", status_code=201, response_model=UploadView, responses=problems(413), summary="Begin an upload")
def begin(body: UploadRequest, service: ServiceDep, who: Submitter) -> Response:
    """Begin an upload; send the pieces with PATCH to the Location, then name it in a job."""
    upload = begin_upload(service, who, body.size_bytes, body.source)
    return JSONResponse(
        upload_view(upload), 201, headers={"Location": f"/v1/uploads/{upload.id}", "Upload-Offset": "0"}
    )


@router.get("/{upload_id}", response_model=UploadView, responses=problems(404, 410), summary="See how far it is")
def look(upload_id: str, service: ServiceDep, who: Submitter) -> Any:
    """Say how many bytes have arrived: where the next piece begins."""
    with service.database.read() as session:
        upload = own_upload(session, who.tenant_id, upload_id)
    return JSONResponse(upload_view(upload), headers={"Upload-Offset": str(upload.offset_bytes)})


@router.patch(
    "/{upload_id}",
    status_code=200,
    response_model=UploadView,
    responses=problems(404, 409, 410, 413),
    openapi_extra=_PIECE,
    summary="Send a piece",
)
async def piece(
    upload_id: str,
    request: Request,
    service: ServiceDep,
    who: Submitter,
    upload_offset: Annotated[int, Header(alias="Upload-Offset", ge=0)],
) -> Response:
    """Append the body at `Upload-Offset`, which must be where the upload stands."""
    upload = await receive_piece(service, who, upload_id, upload_offset, request.stream())
    return JSONResponse(upload_view(upload), headers={"Upload-Offset": str(upload.offset_bytes)})
