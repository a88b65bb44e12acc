"""Accuracy against bytes and against time of one network in all forms, from their record."""

from cnn_site import pages
from cnn_site.figures.scatter import Dot, Mark, scatter_svg

MARKS = {
    "float32": Mark("data", "square"),
    "ONNX Runtime": Mark("data", "up"),
    "16 bits": Mark("norm", "circle"),
    "bfloat16": Mark("norm", "circle"),
    "float16": Mark("norm", "up"),
    "INT8": Mark("gate", "diamond"),
    "ONNX Runtime, INT8": Mark("gate", "diamond"),
    "INT8, simulated": Mark("gate", "circle"),
    "INT4 weights": Mark("loss", "diamond"),
    "filters removed": Mark("pool", "square"),
    "weights pruned": Mark("conv", "circle"),
}
TRADED = {
    "INT4 weights": ["int4_32", "int4_128"],
    "filters removed": ["filters_25", "filters_50", "filters_75"],
    "weights pruned": ["zeros_50", "zeros_80", "zeros_90", "zeros_95"],
}
# What has one size may have several speeds.
BY_BYTES = {
    "float32": ["float32", "folded", "onnx"],
    "16 bits": ["float16", "bfloat16"],
    "INT8": ["onnx_int8", "int8", "qat"],
    **TRADED,
}
BY_TIME = {
    "float32": ["folded", "float32"],
    "ONNX Runtime": ["onnx"],
    "bfloat16": ["bfloat16"],
    "float16": ["float16"],
    "ONNX Runtime, INT8": ["onnx_int8"],
    "INT8, simulated": ["int8", "qat"],
    **TRADED,
}
ROWS = pages.load("lab/compressed")["measured"]["forms"]["result"]["arms"]


def kilobytes(key: str) -> float:
    """Zipped, all of them: zeros are worth their place in no other file."""
    return float(ROWS[key]["zipped"]) / 1000


def milliseconds(key: str) -> float:
    return float(ROWS[key]["seconds"]) * 1000


AXES = {
    "bytes": (BY_BYTES, kilobytes, "the bytes of the zipped file", "kB, zipped"),
    "time": (BY_TIME, milliseconds, "the time of 64 images", "ms"),
}


def plot(axis: str) -> str:
    names, value, words, unit = AXES[axis]
    lines = {}
    for name, keys in names.items():
        dots = []
        for key in keys:
            row = ROWS[key]
            percent = 100 * row["accuracy"]["mean"]
            says = (
                f"{row['name']}: {percent:.2f} %, {kilobytes(key):,.0f} kB zipped, "
                f"{milliseconds(key):.2f} ms"
            )
            dots.append(Dot(value(key), percent, key, says))
        lines[name] = dots
    return scatter_svg(
        f"compressed-{axis}",
        f"Accuracy against {words}",
        f"Accuracy on 10,000 garments against {words} on a logarithmic axis, for one network in "
        f"{sum(map(len, names.values()))} forms. Every value is in the table below.",
        lines,
        MARKS,
        unit,
        "accuracy, %",
    )


figures = {axis: plot(axis) for axis in AXES}
