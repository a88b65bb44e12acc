# --8<-- [start:usage]
"""Classify photos over HTTP: `POST /classify` with files, `GET /health`.

Start: MODEL=model.onnx uvicorn service:app --port 8000
"""

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

BATCH = int(os.environ.get("BATCH", "8"))  # images that share one run
THREADS = int(os.environ.get("THREADS", "1"))  # of one run
WAITING = 256  # images in line; who comes then is told to come back
LARGEST = 10 * 2**20  # bytes of a request
IMAGES = 16  # of a request
PIXELS = 40_000_000  # of an image: a small file can hold a huge one
SECONDS = 10  # that a request may take to arrive
FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow reads many more, some by other programs
Image.MAX_IMAGE_PIXELS = None  # `decoded` asks before it decodes


class Model:
    """An ONNX file whose metadata say what its images and classes are."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(path, options, providers)
        known = self.session.get_modelmeta().custom_metadata_map
        needed = {"classes", "size", "channels", "cut", "mean", "std"}
        if missing := needed - known.keys():
            lacks = ", ".join(sorted(missing))
            raise ValueError(f"the metadata of {path} lack {lacks}")
        self.classes, self.size, self.channels, self.cut = (
            json.loads(known[name]) for name in ("classes", "size", "channels", "cut")
        )
        self.mean, self.std = (
            np.array(json.loads(known[name]), np.float32).reshape(-1, 1, 1)
            for name in ("mean", "std")
        )

    def decoded(self, data: bytes) -> np.ndarray:
        """A file's image as the network wants it; ValueError says what is wrong."""
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    size = f"{image.width} x {image.height}"
                    raise ValueError(f"{size} pixels, at most {PIXELS:,} are read")
                height, width = self.size
                image.draft("RGB", (4 * width, 4 * height))  # a JPEG is decoded smaller
                ImageOps.exif_transpose(image, in_place=True)  # phones turn by a note
                if image.mode.startswith("I"):  # of 16 bits `convert` would clip most
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        except UnidentifiedImageError:
            expected = ", ".join(FORMATS)
            raise ValueError(f"no image of a known form ({expected})") from None
        except (OSError, SyntaxError) as error:  # a file cut off or damaged
            raise ValueError(f"a broken image: {error}") from None
        bilinear, edge = Image.Resampling.BILINEAR, (1 - self.cut) / 2
        image = ImageOps.fit(image, (width, height), bilinear, edge).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB" if self.channels == 3 else "L")
        pixels = np.asarray(image, np.float32).reshape(height, width, -1) / 255
        return (pixels.transpose(2, 0, 1) - self.mean) / self.std

    def run(self, images: list[np.ndarray]) -> np.ndarray:
        """Probabilities (N, classes)."""
        (scores,) = self.session.run(None, {"images": np.stack(images)})
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


@dataclass
class Batches:
    """Images of several requests, which wait for each other while one run goes on."""

    model: Model
    line: asyncio.Queue = field(default_factory=lambda: asyncio.Queue(WAITING))

    async def work(self) -> None:
        while True:
            batch = [await self.line.get()]
            while len(batch) < BATCH and not self.line.empty():
                batch.append(self.line.get_nowait())
            images, answers = zip(*batch, strict=True)
            try:
                found = await asyncio.to_thread(self.model.run, list(images))
            except Exception as error:  # of the run, told to each of its requests
                found = [error] * len(batch)
            for answer, result in zip(answers, found, strict=True):
                if answer.cancelled():  # its client has gone
                    continue
                failed = isinstance(result, Exception)
                (answer.set_exception if failed else answer.set_result)(result)

    async def classify(self, images: list[np.ndarray]) -> list[np.ndarray]:
        if self.line.qsize() + len(images) > WAITING:
            raise HTTPException(503, "too many wait", {"Retry-After": "1"})
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in images]
        for entry in zip(images, answers, strict=True):
            self.line.put_nowait(entry)
        return await asyncio.gather(*answers)


async def received(request: Request) -> None:
    """Read the body, but no more of it than may be."""
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST:
                    raise HTTPException(413, f"more than {LARGEST:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"not here after {SECONDS} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "gone before all was sent") from None  # to nobody
    request._body = bytes(body)  # what `form` reads


async def classify(request: Request) -> JSONResponse:
    kind = request.headers.get("content-type", "").lower()
    if not kind.startswith("multipart/form-data"):
        raise HTTPException(415, "expected multipart/form-data with files")
    await received(request)
    async with request.form(max_files=IMAGES, max_fields=0) as form:
        files = [(file.filename, await file.read()) for _, file in form.multi_items()]
    if not files:
        raise HTTPException(400, "no file in the request")
    model, images = request.app.state.batches.model, []
    for name, data in files:
        try:
            images.append(await asyncio.to_thread(model.decoded, data))
        except ValueError as error:
            raise HTTPException(400, f"{name}: {error}") from None
    rows = await request.app.state.batches.classify(images)
    answers = []
    for (name, _), row in zip(files, rows, strict=True):
        best = np.argsort(-row)[:5]
        classes = [
            {"name": model.classes[i], "probability": float(row[i])} for i in best
        ]
        answers.append({"file": name, "classes": classes})
    return JSONResponse({"images": answers})


async def health(request: Request) -> JSONResponse:
    batches = request.app.state.batches
    state = {"classes": len(batches.model.classes), "waiting": batches.line.qsize()}
    return JSONResponse(state)


async def refused(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


@asynccontextmanager
async def started(app: Starlette) -> AsyncIterator[None]:
    app.state.batches = Batches(Model(os.environ.get("MODEL", "model.onnx")))
    worker = asyncio.create_task(app.state.batches.work())
    yield
    worker.cancel()


app = Starlette(
    routes=[
        Route("/classify", classify, methods=["POST"]),
        Route("/health", health),
    ],
    exception_handlers={HTTPException: refused},
    lifespan=started,
)
# --8<-- [end:usage]
