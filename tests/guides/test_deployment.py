"""The service of the guide answers what its model says, and what is wrong with a request; its load and the path are records."""

import asyncio
import contextlib
import copy
import hashlib
import http.client
import importlib.util
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from skimage.data import chelsea, coffee, rocket
from torch import Tensor, nn

from cnn_lab import networks, transfer
from cnn_lab.bench_trained import milliseconds
from cnn_lab.export import quantize
from cnn_lab.photos import InputFormat, Photos
from cnn_site import ROOT
from cnn_site.speed import side_by_side
from cnn_techniques import modern
from cnn_techniques.compression import export_onnx, fold_batch_norms

SERVICE = ROOT / "snippets/guides/deployment.py"
Json = dict[str, Any]
File = tuple[str, bytes]


def small_model(path: Path) -> None:
    """The means of three colours as scores of three classes."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["means"]),
            helper.make_node("Flatten", ["means"], ["scores"]),
        ],
        "means",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.FLOAT, ["batch", 3, 8, 8]
            )
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    facts = {
        "classes": ["red", "green", "blue"],
        "size": [8, 8],
        "channels": 3,
        "cut": 0.875,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.1, 0.1, 0.1],
    }
    helper.set_model_props(model, {key: json.dumps(v) for key, v in facts.items()})
    onnx.save(model, path)


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[int]:
    """The file of the page under uvicorn, on a port that is free."""
    shutil.copy(SERVICE, folder / "service.py")
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stderr is not None
        port, told = 0, []
        for line in process.stderr:
            told.append(line)
            if "running on" in line:
                port = int(line.split("127.0.0.1:")[1].split()[0])
                break
        assert port, "".join(told)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stderr.close()  # type: ignore[union-attr]


def form(*files: File) -> tuple[bytes, dict[str, str]]:
    """The body and header of a request with files."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    body = b"".join(parts) + f"--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}"}


def ask(
    port: int, method: str, path: str, body: bytes = b"", headers: Any = None
) -> tuple[int, Json]:
    there = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        there.request(method, path, body, headers or {})
        answer = there.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else {}
    finally:
        there.close()


def photo(colour: tuple[int, ...], form: str = "PNG", size=(20, 10), **more) -> bytes:
    file = io.BytesIO()
    Image.new("RGB" if len(colour) == 3 else "RGBA", size, colour).save(
        file, form, **more
    )
    return file.getvalue()


RED, GREEN = photo((255, 0, 0)), photo((0, 255, 0), "WEBP")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("service")
    small_model(folder / "model.onnx")
    with serving(folder) as port:
        yield port


def test_one_image_and_many_get_their_classes_in_order(service: int) -> None:
    for files in ([("a.png", RED)], [("a.png", RED), ("b.webp", GREEN)] * 5):
        code, answer = ask(service, "POST", "/classify", *form(*files))
        assert code == 200
        assert [image["file"] for image in answer["images"]] == [n for n, _ in files]
        first = [image["classes"][0]["name"] for image in answer["images"]]
        assert first == ["red" if n == "a.png" else "green" for n, _ in files]
    shares = [c["probability"] for c in answer["images"][0]["classes"]]
    expected = np.exp([5.0, -5.0, -5.0])  # (1 - 0.5) / 0.1 and (0 - 0.5) / 0.1
    np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-5)


BROKEN: dict[str, tuple[Callable[[], tuple[bytes, dict[str, str]]], int, str]] = {
    "text": (lambda: form(("notes.txt", b"hello")), 400, "notes.txt: no image"),
    "cut off": (
        lambda: form(("cut.jpg", photo((9, 9, 9), "JPEG", (500, 500))[:900])),
        400,
        "cut.jpg: a broken image",
    ),
    "empty file": (lambda: form(("empty.png", b"")), 400, "empty.png: no image"),
    "one of two": (
        lambda: form(("good.png", RED), ("bad.png", b"x")),
        400,
        "bad.png: no image",
    ),
    "no file": (lambda: form(), 400, "no file"),
    "a field": (lambda: field(), 400, "Too many fields"),
    "no form": (lambda: (RED, {"Content-Type": "image/png"}), 415, "multipart"),
    "no type": (lambda: (RED, {}), 415, "multipart"),
    "a form without end": (
        lambda: (b"--x", {"Content-Type": "multipart/form-data"}),
        400,
        "",
    ),
    "too many": (lambda: form(*[("a.png", RED)] * 17), 400, "Too many files"),
    "too large": (
        lambda: form(("large.png", b"\0" * (10 * 2**20 + 1))),
        413,
        "10,485,760 bytes",
    ),
    "too many pixels": (
        lambda: form(("bomb.png", bomb())),
        400,
        "bomb.png: 30000 x 30000 pixels",
    ),
}


@pytest.fixture
def module() -> ModuleType:
    """The service's file as a module, for what takes too long over HTTP."""
    spec = importlib.util.spec_from_file_location("service", SERVICE)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def turned(image: Image.Image, form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image, form, exif=exif)


def saved(image: Image.Image, form: str, **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def half_seen(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def of_16_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256 + 128)


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "colours": lambda cup: saved(cup, "JPEG"),
    "grey": lambda cup: saved(cup.convert("L"), "PNG"),
    "for print": lambda cup: saved(cup.convert("CMYK"), "JPEG"),
    "turned JPEG": lambda cup: turned(cup, "JPEG"),
    "turned PNG": lambda cup: turned(cup, "PNG"),
    "half transparent": lambda cup: saved(half_seen(cup), "PNG"),
    "16 bits": lambda cup: saved(of_16_bits(cup), "PNG"),
    "16 bits, turned": lambda cup: turned(of_16_bits(cup), "PNG"),
    "large": lambda cup: saved(
        cup.resize((4 * cup.width, 4 * cup.height)), "JPEG", quality=95
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [False, True])
def test_an_image_reaches_the_network_as_in_the_tests_of_cnn_lab(
    kind: str, whole: bool, module: ModuleType, tmp_path: Path
) -> None:
    cup = Image.fromarray(coffee())
    data = KINDS[kind](cup.crop((0, 0, 400, 400)) if whole else cup)
    (tmp_path / "photo").write_bytes(data)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    photos = Photos(
        [(str(tmp_path / "photo"), 0)], InputFormat(3, 224, mean, std, whole=whole)
    )
    expected = photos.take(torch.tensor([0]), torch.empty(1, 0))[0][0].numpy()

    model = object.__new__(module.Model)
    model.size, model.channels = [224, 224], 3
    model.mean = np.array(mean, np.float32).reshape(-1, 1, 1)
    model.std = np.array(std, np.float32).reshape(-1, 1, 1)
    model.cut = 1.0 if whole else 0.875
    levels = np.abs(model.decoded(data) - expected) * model.std * 255
    assert levels.mean() < 0.7  # of 255
    assert levels.max() < 8


def test_who_comes_when_the_line_is_full_is_told_to_come_back(
    module: ModuleType,
) -> None:
    async def come() -> None:
        batches = module.Batches(None)
        for _ in range(module.WAITING - 1):
            batches.line.put_nowait(None)
        await batches.classify([None, None])

    with pytest.raises(module.HTTPException) as refused:
        asyncio.run(come())
    assert refused.value.status_code == 503
    assert refused.value.headers == {"Retry-After": "1"}


def test_a_body_that_does_not_arrive_is_given_up(module: ModuleType) -> None:
    class Slow:
        async def stream(self) -> Any:
            yield b"begun"
            await asyncio.sleep(5)

    module.SECONDS = 0.01
    with pytest.raises(module.HTTPException) as refused:
        asyncio.run(module.received(Slow()))
    assert refused.value.status_code == 408


def test_a_client_that_is_gone_is_an_answer_to_nobody_not_an_error_in_the_log(
    module: ModuleType,
) -> None:
    class Gone:
        async def stream(self) -> Any:
            yield b"begun"
            raise module.ClientDisconnect

    with pytest.raises(module.HTTPException):
        asyncio.run(module.received(Gone()))


def test_a_file_that_does_not_say_its_classes_is_refused_with_what_it_lacks(
    module: ModuleType, tmp_path: Path
) -> None:
    small_model(tmp_path / "model.onnx")
    file = onnx.load(tmp_path / "model.onnx")
    del file.metadata_props[:]
    onnx.save(file, tmp_path / "model.onnx")
    with pytest.raises(
        ValueError, match=r"model\.onnx lack channels, classes, cut, mean, size, std"
    ):
        module.Model(str(tmp_path / "model.onnx"))


def field() -> tuple[bytes, dict[str, str]]:
    """A value instead of a file."""
    body, headers = form(("a.png", b"5"))
    return body.replace(b'; filename="a.png"', b""), headers


def bomb() -> bytes:
    """A file of some hundred bytes whose head promises 900 million pixels."""
    data = bytearray(photo((0, 0, 0)))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_request_is_said_and_harms_nothing(
    case: str, service: int
) -> None:
    make, expected, reason = BROKEN[case]
    code, answer = ask(service, "POST", "/classify", *make())
    assert code == expected, answer
    assert reason in answer["error"]
    assert ask(service, "POST", "/classify", *form(("a.png", RED)))[0] == 200


def test_health_and_other_addresses(service: int) -> None:
    assert ask(service, "GET", "/health") == (200, {"classes": 3, "waiting": 0})
    assert ask(service, "GET", "/classify")[0] == 405
    assert ask(service, "GET", "/nothing")[0] == 404


def test_a_client_that_goes_away_leaves_the_service_well(service: int) -> None:
    body, headers = form(("a.png", RED))
    there = http.client.HTTPConnection("127.0.0.1", service, timeout=30)
    there.request("POST", "/classify", body[:-30], {**headers, "Content-Length": str(len(body))})  # fmt: skip
    there.close()
    assert ask(service, "POST", "/classify", *form(("a.png", RED)))[0] == 200


def test_requests_at_one_time_get_their_own_answers(service: int) -> None:
    wrong = []

    def client(colour: str, data: bytes) -> None:
        for _ in range(10):
            code, answer = ask(service, "POST", "/classify", *form((colour, data)))
            if code != 200 or answer["images"][0]["classes"][0]["name"] != colour:
                wrong.append((code, answer))

    threads = [
        threading.Thread(target=client, args=one)
        for one in [("red", RED), ("green", GREEN)] * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------- load


def client(port: int, seconds: float, count: int, body: bytes, headers: Json) -> Json:
    """`count` clients that ask one after the other: how many answers, how late each, how many errors."""
    late: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    def ask_on() -> None:
        nonlocal errors
        there = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (start := time.perf_counter()) < end:
            there.request("POST", "/classify", body, headers)
            answer = there.getresponse()
            answer.read()
            errors += answer.status != 200
            late.append(time.perf_counter() - start)
        there.close()

    threads = [threading.Thread(target=ask_on) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    late.sort()
    return {
        "rate": len(late) / seconds,
        "p50": late[len(late) // 2],
        "p99": late[int(0.99 * len(late))],
        "errors": errors,
    }


def service_sum() -> str:
    return hashlib.sha256(SERVICE.read_bytes()).hexdigest()[:12]


def load_held(
    batches: list[int], clients: list[int], rounds: int, seconds: float, service: str
) -> Json:
    """EfficientNet-Lite0 with ImageNet weights behind the service, asked with one photo of 451 x 300 pixels.

    Args:
        service: the sum over its program, which is copied and not imported: another one
            makes another record.
    """
    assert service == service_sum()
    file = io.BytesIO()
    Image.fromarray(chelsea()).save(file, "JPEG", quality=90)
    body, headers = form(("chelsea.jpg", file.getvalue()))
    results: dict[str, list[Json]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as services:
        folder = Path(name)
        exported(network("efficientnet_lite0"), folder / "model.onnx")
        ports = {}
        for batch in batches:
            own = folder / str(batch)
            own.mkdir()
            shutil.copy(folder / "model.onnx", own)
            ports[batch] = services.enter_context(serving(own, BATCH=str(batch)))
        for port in ports.values():
            client(port, 1.0, 4, body, headers)  # warm
        for _ in range(rounds):
            for count in clients:
                for batch, port in ports.items():
                    result = client(port, seconds, count, body, headers)
                    results.setdefault(f"batch_{batch}_clients_{count}", []).append(
                        result
                    )
    arms = {}
    for name, runs in results.items():
        _, batch, _, count = name.split("_")
        title = f"{count} clients, " if count != "1" else "1 client, "
        arms[name] = {
            "name": title + (f"up to {batch} in a run" if batch != "1" else "one by one"),
            **{key: statistics.median(run[key] for run in runs) for key in ("rate", "p50", "p99")},
            "errors": sum(run["errors"] for run in runs),
            "rates": [run["rate"] for run in runs],
        }  # fmt: skip
    return {"arms": arms}


@pytest.mark.record
def test_record_the_load_that_the_service_holds(evidence) -> None:
    arguments = {"batches": [1, 8], "clients": [1, 8, 32], "rounds": 3, "seconds": 6.0}
    arguments["service"] = service_sum()
    evidence.measured("load", arguments=arguments, run=load_held)


def test_the_recorded_load_is_that_of_this_service() -> None:
    record = json.loads((ROOT / "docs/evidence/guides/deployment.json").read_text())
    assert record["measured"]["load"]["arguments"]["service"] == service_sum()


# ---------------------------------------------------------------- the path


NAMES = ["resnet50", "mobilenet_v2", "efficientnet_lite0"]
STEPS = {
    "eager": "PyTorch as it is",
    "folded": "batch norms folded",
    "channels_last": "and channels_last",
    "compiled": "and torch.compile",
    "onnx": "ONNX Runtime",
    "int8": "ONNX Runtime, INT8",
}


def network(name: str) -> nn.Module:
    """In evaluation mode: EfficientNet-Lite0 with ImageNet weights, the others with drawn ones."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        model = networks.build(name, 1000)
        model.load_state_dict(transfer._lite0().state)
        return model.eval()
    model = getattr(modern, name)()
    model.train()
    with torch.no_grad():  # statistics of its own: drawn weights need them
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1.0
        model(photographs(32))
    return model.eval()


def photographs(count: int) -> Tensor:
    """Pieces of scikit-image's photos of a cat, a cup and a rocket, 224 pixels, as the network wants them."""
    draw = np.random.default_rng(0)
    photos = [Image.fromarray(read()) for read in (chelsea, coffee, rocket)]
    pieces = []
    for number in range(count):
        photo = photos[number % 3]
        side = int(draw.uniform(0.6, 1.0) * min(photo.size))
        left, top = (int(draw.uniform(0, length - side + 1)) for length in photo.size)
        piece = photo.crop((left, top, left + side, top + side)).resize((224, 224))
        pieces.append(np.asarray(piece, np.float32).transpose(2, 0, 1))
    return (torch.from_numpy(np.stack(pieces)) - 127) / 128


def exported(model: nn.Module, path: Path) -> Path:
    metadata = {
        "classes": [str(i) for i in range(1000)],
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "size": [224, 224],
        "channels": 3,
        "cut": 0.875,
    }
    export_onnx(model, photographs(3), path, metadata=metadata)
    return path


def quantized(path: Path) -> Path:
    """Calibrated on 96 pieces that no test looks at."""
    out = path.with_suffix(".int8.onnx")
    shutil.copy(path, out)
    quantize(out, photographs(128)[32:].numpy(), {})
    return out


def session(path: Path, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    return lambda images: made.run(None, {"images": images})[0]


def runs(name: str, folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every step of the path, as a function of images."""
    model = network(name)
    folded = fold_batch_norms(model, photographs(1))
    last = copy.deepcopy(folded).to(memory_format=torch.channels_last)
    compiled = torch.compile(last)
    path = exported(model, folder / f"{name}.onnx")
    whole, small = session(path), session(quantized(path))

    def on(network: Any, order: Any = torch.contiguous_format) -> Any:
        @torch.no_grad()
        def run(images: Tensor) -> Tensor:
            return network(images.contiguous(memory_format=order))

        return run

    return {
        "eager": on(model),
        "folded": on(folded),
        "channels_last": on(last, torch.channels_last),
        "compiled": on(compiled, torch.channels_last),
        "onnx": lambda images: torch.from_numpy(whole(images.numpy())),
        "int8": lambda images: torch.from_numpy(small(images.numpy())),
    }


def build(name: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """One photograph through each, to be timed."""
    with tempfile.TemporaryDirectory() as folder:
        made = runs(name, Path(folder))
    image = photographs(1)
    return {step: lambda run=run: lambda: run(image) for step, run in made.items()}


def path_to_deploy(names: list[str]) -> Json:
    """Each step's time for one photograph on one thread, and how far its scores are from those of PyTorch."""
    arms: Json = {}
    for name in names:
        timed = side_by_side(build, against="eager", arguments={"name": name})
        tests = photographs(32)
        with tempfile.TemporaryDirectory() as folder:
            made = runs(name, Path(folder))
            scores = {
                s: torch.cat([run(x) for x in tests.split(1)])
                for s, run in made.items()
            }
        first = scores["eager"]
        for step, title in STEPS.items():
            arms[f"{name}_{step}"] = {
                "name": title,
                **{k: timed["arms"][step][k] for k in ("seconds", "ratio", "range")},
                "difference": float(
                    (scores[step] - first).abs().max() / first.abs().max()
                ),
                "same_class": float(
                    (scores[step].argmax(1) == first.argmax(1)).double().mean()
                ),
            }
    return {"arms": arms}


def more_at_once(names: list[str]) -> Json:
    """ONNX Runtime with two threads, and with eight images in a run: wall time for an image."""
    arms: Json = {}
    image, eight = photographs(1).numpy(), photographs(8).numpy()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = exported(network(name), Path(folder) / f"{name}.onnx")
            one, two = session(path), session(path, threads=2)
            taken = milliseconds(
                {
                    "one": lambda one=one: one(image),
                    "two": lambda two=two: two(image),
                    "eight": lambda one=one: one(eight),
                }
            )
            arms[name] = {"name": name, **taken, "eight": taken["eight"] / 8}
    return {"arms": arms}


@pytest.mark.record
def test_record_what_threads_and_batches_bring(evidence) -> None:
    evidence.measured("wide", arguments={"names": NAMES}, run=more_at_once)


@pytest.mark.record
def test_record_the_gain_of_each_step(evidence) -> None:
    result = evidence.measured("path", arguments={"names": NAMES}, run=path_to_deploy)
    for name in NAMES:
        best = result["arms"][f"{name}_onnx"]
        assert best["ratio"] > 2
        assert best["difference"] < 1e-4
