"""The nine category marks: 5x5 kernels, one digit of ink a cell."""

from markupsafe import Markup

GLYPHS = {
    "foundations": "01210 13431 24942 13431 01210",  # Gaussian kernel
    "modern": "90666 90666 90000 90666 90666",  # layers, and the line that skips them
    "attention": "11111 11311 13931 11311 11111",  # one cell lit, the rest dimmed
    "training": "93000 39300 00000 00393 00039",  # a sample and its mirror image
    "optimization": "13579 13569 12457 11234 11112",  # descent
    "detection": "00000 09990 09190 09990 00000",  # a box
    "segmentation": "00000 00990 09993 09930 03300",  # a mask
    "compression": "90090 00000 09000 00009 90000",  # sparse
    "evaluation": "91000 19100 01930 00391 00019",  # confusion matrix
}


def svg(category: str) -> Markup:
    cells: dict[int, str] = {}
    for y, line in enumerate(GLYPHS[category].split()):
        for x, ink in enumerate(line):
            cells[int(ink)] = cells.get(int(ink), "") + f"M{x * 5} {y * 5}h4v4h-4z"
    paths = "".join(
        f'<path opacity="{0.1 + 0.9 * ink / 9:.2g}" d="{d}"/>'
        for ink, d in sorted(cells.items())
    )
    return Markup(
        f'<svg class="glyph" viewBox="0 0 24 24" aria-hidden="true"><g fill="currentColor">{paths}</g></svg>'
    )
