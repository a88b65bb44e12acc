"""Predictions of any program, measured as those of a checkpoint are.

A CSV file with a head: the column `true` has the class of each image. Either `predicted`
has the class that it was taken for; or there is a column for each class, with its score
or its probability. A column `file`, and one without a name, is left out.
"""

import csv
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .evaluate import measures
from .fit import BadData

Json = dict[str, Any]
TRUE, PREDICTED = "true", "predicted"
OTHER = ("file", "")  # pandas gives the numbers of rows no name


def measured(path: Path) -> Json:
    """The measures of a file of predictions.

    Without scores there are no AUC, calibration error, loss and top-5 accuracy. Rows
    from 0 to 1 whose sums are 1 to a thousandth are probabilities, of which those below
    2.2e-16 are raised to it, as scikit-learn does for the loss; others are scores, of
    which the softmax is taken.

    Raises: BadData that names the line and what was expected.
    """
    head, rows = _read(path)
    true = head.index(TRUE)
    truth = [row[true] for _, row in rows]
    if PREDICTED in head:
        guesses = [row[head.index(PREDICTED)] for _, row in rows]
        classes = sorted({*truth, *guesses})
        scores = torch.zeros(len(rows), len(classes), dtype=torch.float64)
        for n, guess in enumerate(guesses):
            scores[n, classes.index(guess)] = 1
    else:
        columns = [n for n, name in enumerate(head) if name not in (TRUE, *OTHER)]
        classes = [head[n] for n in columns]
        scores = torch.tensor(
            [[_number(path, line, row[n], head[n]) for n in columns]
             for line, row in rows],
            dtype=torch.float64,
        )  # fmt: skip
        scores = _logarithms(scores)
    if len(classes) < 2:
        raise BadData(f"{path} has the single class {classes[0]!r}; two are needed")
    for (line, _), name in zip(rows, truth, strict=True):
        if name not in classes:
            raise BadData(
                f"{path}, line {line}: {name!r} is none of {', '.join(classes)}"
            )
    labels = torch.tensor([classes.index(name) for name in truth])
    result = {
        "predictions": str(path),
        "changed": "",
        **measures(scores, labels, classes),
    }
    if PREDICTED in head:
        result.pop("top5", None)
        result |= {"auc": None, "calibration_error": None, "loss": None}
        for row in result["classes"]:
            row["auc"] = None
    return result


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and each row with the number of its line."""
    expected = (
        f"expected a column {TRUE!r}, and {PREDICTED!r} or a column for each class"
    )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            head = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise BadData(f"there is no file {path}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path} is no CSV file: {error}") from None
    if TRUE not in head or set(head) <= {TRUE, *OTHER}:
        raise BadData(f"{path} has the columns {', '.join(head) or 'none'}; {expected}")
    if twice := [name for name in head if head.count(name) > 1]:
        raise BadData(f"{path} has the column {twice[0]!r} twice; {expected}")
    if not rows:
        raise BadData(f"{path} has no predictions below its head")
    for line, row in rows:
        if len(row) != len(head):
            raise BadData(
                f"{path}, line {line}: {len(row)} values, expected {len(head)}"
            )
    return head, [(line, [value.strip() for value in row]) for line, row in rows]


def _number(path: Path, line: int, value: str, column: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadData(
            f"{path}, line {line}: {column} is {value!r}, expected a finite number"
        )
    return number


def _logarithms(scores: Tensor) -> Tensor:
    """Of probabilities; scores are given back as they are."""
    sums = (scores.sum(dim=1) - 1).abs()
    if scores.min() < 0 or scores.max() > 1 or sums.max() > 1e-3:
        return scores
    return scores.clamp(min=torch.finfo(torch.float64).eps).log()
