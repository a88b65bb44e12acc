"""The last releases of the tools that a guide names, from the package index.

    python -m cnn_site.tools

says what was released since the record of `docs/guides/tools.md` was made, and exits with 1 then. The index is that of
the environment variable `PIP_INDEX_URL`, else pip's own.
"""

import json
import os
import sys
import urllib.request
from typing import Any

from .evidence import load

Json = dict[str, Any]
SLUG = "guides/tools"
# The package of each row of the page.
PACKAGES = {
    "pytorch": ("PyTorch", "torch"),
    "tensorflow": ("TensorFlow", "tensorflow"),
    "keras": ("Keras", "keras"),
    "jax": ("JAX", "jax"),
    "onnx": ("ONNX", "onnx"),
    "onnxruntime": ("ONNX Runtime", "onnxruntime"),
    "executorch": ("ExecuTorch", "executorch"),
    "litert": ("LiteRT", "ai-edge-litert"),
    "wandb": ("Weights & Biases", "wandb"),
    "tensorboard": ("TensorBoard", "tensorboard"),
    "mlflow": ("MLflow", "mlflow"),
    "neptune": ("Neptune", "neptune"),
    "comet": ("Comet", "comet-ml"),
    "trackio": ("Trackio", "trackio"),
    "albumentations": ("Albumentations", "albumentations"),
    "albumentationsx": ("AlbumentationsX", "albumentationsx"),
    "imgaug": ("imgaug", "imgaug"),
    "torchvision": ("torchvision.transforms", "torchvision"),
    "kornia": ("Kornia", "kornia"),
    "dali": ("DALI", "nvidia-dali-cuda120"),
}


def release(package: str) -> Json:
    """Version and day of the newest final release: what the index says of it.

    Raises: OSError without a connection, or for a package that the index does not have.
    """
    index = os.environ.get("PIP_INDEX_URL") or _default_index()
    index = index.rstrip("/")
    address = f"{index.removesuffix('/simple')}/pypi/{package}/json"
    with urllib.request.urlopen(address, timeout=30) as answer:
        said = json.load(answer)
    version = said["info"]["version"]
    days = [file["upload_time"][:10] for file in said["urls"]]
    return {"version": version, "day": min(days) if days else "unknown"}


def _default_index() -> str:
    import importlib  # pip has no public name for it

    return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)


def releases(packages: dict[str, list[str]]) -> Json:
    """A row for each: key -> title and package."""
    return {
        "arms": {
            key: {"name": title, "package": package, **release(package)}
            for key, (title, package) in packages.items()
        }
    }


def main() -> int:
    entry = load(SLUG)["measured"]["releases"]
    known = entry["result"]["arms"]
    print(f"as of {entry['environment']['date']}")
    changed = 0
    for row in known.values():
        now = release(row["package"])
        if now["version"] != row["version"]:
            changed += 1
            print(
                f"{row['name']}: {row['version']} then, {now['version']} since {now['day']}"
            )
    print(f"{changed} of {len(known)} have a newer release")
    return min(changed, 1)


if __name__ == "__main__":
    sys.exit(main())
