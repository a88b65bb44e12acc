"""Accuracy against bytes of the compression pages, from their records."""

from cnn_site import pages
from cnn_site.figures.scatter import Dot, Mark, scatter_svg

MARKS = {
    "float32": Mark("data", "square"),
    "16 bits": Mark("norm", "circle"),
    "INT8": Mark("gate", "diamond"),
    "INT4": Mark("loss", "diamond"),
    "single weights pruned, zlib": Mark("conv", "circle"),
    "filters removed": Mark("pool", "square"),
}


def arms(slug: str, name: str = "garments") -> dict[str, dict[str, object]]:
    record = pages.load(f"compression/{slug}")
    return record["measured"][name]["result"]["arms"]


def dot(key: str, name: str, size: float, accuracy: float) -> Dot:
    says = f"{name}: {size / 1000:,.0f} kB, accuracy {100 * accuracy:.1f} %"
    return Dot(size / 1000, 100 * accuracy, key, says)


def plot() -> str:
    half, int8 = arms("half-precision"), arms("int8-quantization")
    int4, filters = arms("int4-quantization"), arms("structured-pruning")
    pruned, files = arms("unstructured-pruning"), arms("unstructured-pruning", "files")
    lines = {
        "float32": [half["float32"]],
        "16 bits": [half["float16"]],
        "INT8": [int8["bits_8"]],
        "INT4": [int4[f"four_{group}"] for group in ("32", "128")],
        "filters removed": [
            filters[f"weakest_{share}"] for share in ("25", "50", "75")
        ],
    }
    dots = {
        name: [
            dot(f"{name} {n}", row["name"], row["bytes"], row["accuracy"]["mean"])
            for n, row in enumerate(rows)
        ]
        for name, rows in lines.items()
    }
    dots["single weights pruned, zlib"] = [
        dot(
            f"pruned_{share}",
            f"{share} % pruned, trained again, zlib",
            files[f"share_{share}"]["zipped"],
            pruned[f"again_{share}"]["accuracy"]["mean"],
        )
        for share in (50, 70, 80, 90, 95)
    ]
    return scatter_svg(
        "compressed",
        "Accuracy against bytes",
        "Accuracy on 10,000 garments against the bytes of the file on a logarithmic axis: "
        "float32, 16 bits, INT8, INT4, filters removed and trained again, and single weights "
        "pruned, trained again and compressed by zlib. "
        "Every value is in the tables below.",
        dots,
        MARKS,
        "kB",
        "accuracy, %",
    )


svg = plot()
