"""The floors hold, a technique is one readable file, and its sections are those that pages may name."""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

from cnn_site import CATEGORIES, ROOT

FLOOR_1 = sorted((ROOT / "src/cnn_techniques").rglob("*.py"))
MODULES = [p for p in FLOOR_1 if p.name != "__init__.py"]
SNIPPETS = sorted((ROOT / "snippets").glob("*/*.py"))
TORCHVISION = {"nms", "batched_nms", "roi_align", "deform_conv2d"}

# What a technique must not be made of: the class or function of torch that is the
# technique (torchvision's are refused by the imports). One line a slug.
FORBIDDEN: dict[str, list[str]] = {
    "foundations/lenet_5": [],
    "modern/resnet": [],
    "foundations/alexnet": [],
    "foundations/network_in_network": [],
    "foundations/vgg": [],
    "foundations/googlenet": [],
    "foundations/inception_v3": [],
    "foundations/inception_v4": [],
    "modern/preactivation_resnet": [],
    "modern/resnext": [],
    "modern/wide_resnet": [],
    "modern/densenet": [],
    "modern/squeezenet": [],
    "modern/xception": [],
    "modern/mobilenet_v1": [],
    "modern/mobilenet_v2": [],
    "modern/mobilenet_v3": [],
    "modern/mobilenet_v4": [],
    "modern/shufflenet_v2": [],
    "modern/ghostnet": [],
    "modern/efficientnet": [],
    "modern/efficientnet_v2": [],
    "modern/regnet": [],
    "modern/repvgg": [],
    "modern/convnext": [],
    "modern/convnext_v2": [],
    "modern/vision_transformer": ["nn.MultiheadAttention", "nn.TransformerEncoder"],
    "attention/squeeze_and_excitation": [],
    "attention/non_local": [],
    "attention/global_context": [],
    "attention/multi_head_attention": [
        "nn.MultiheadAttention",
        "F.scaled_dot_product_attention",
        "multi_head_attention_forward",
    ],
    "training/mixup": [],
    "optimization/adamw": [
        "torch.optim.Adam",
        "optim.adamw",
        "_fused_adam",
        "_foreach_",
    ],
    "detection/feature_pyramid_network": [],
    "detection/retinanet": [],
    "segmentation/u_net": [],
    "compression/knowledge_distillation": ["kl_div", "KLDivLoss"],
    "evaluation/classification_metrics": [],
    "evaluation/model_cost": ["flop_counter", "FlopCounterMode"],
}

# Files outside 30 to 150 code lines, each with its reason.
EXCEPTIONS: dict[str, tuple[int, int, str]] = {
    "src/cnn_techniques/modern/efficientnet.py": (
        30,
        170,
        "block, scaling rule and network, and nine variants of two lines each",
    ),
    "src/cnn_techniques/attention/squeeze_and_excitation.py": (
        20,
        150,
        "one small block is all there is",
    ),
    "src/cnn_techniques/compression/knowledge_distillation.py": (
        10,
        150,
        "one loss is all there is",
    ),
    "src/cnn_techniques/detection/retinanet.py": (
        30,
        210,
        "focal loss, anchors, coding, matching, heads and post-processing: none is of use without the others",
    ),
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_module = pytest.mark.parametrize("path", MODULES, ids=name)


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{module}.{a.name}") for a in node.names]
    return found


@pytest.mark.parametrize("path", FLOOR_1, ids=name)
def test_floor_1_imports_torch_and_four_operations_of_torchvision(path: Path) -> None:
    faults = []
    for line, what in imports(path):
        top = what.split(".")[0]
        vision = (
            what.startswith("torchvision.ops.") and what.split(".")[-1] in TORCHVISION
        )
        if (
            top not in {"torch", "cnn_techniques", ""} | sys.stdlib_module_names
            and not vision
        ):
            faults.append(f"{name(path)}:{line}: imports {what}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", sorted((ROOT / "src/cnn_lab").rglob("*.py")), ids=name)
def test_floor_2_does_not_know_the_site(path: Path) -> None:
    assert [
        f"{name(path)}:{n}: {w}" for n, w in imports(path) if w.startswith("cnn_site")
    ] == []


def code_without_words(path: Path) -> str:
    """Source without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef
        ) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@each_module
def test_a_technique_is_not_made_of_the_thing_it_explains(path: Path) -> None:
    slug = name(path).removeprefix("src/cnn_techniques/").removesuffix(".py")
    assert slug in FORBIDDEN, f"{name(path)}: add the slug to FORBIDDEN in this file"
    code = code_without_words(path)
    found = [word for word in FORBIDDEN[slug] if word in code]
    assert not found, f"{name(path)}: uses {', '.join(found)}"


def code_lines(path: Path) -> int:
    """Lines that hold code: blank lines, comments, docstrings and tables of numbers do not count."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        doc = (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        table = isinstance(node, ast.List | ast.Tuple | ast.Dict) and all(
            isinstance(
                c,
                ast.Constant
                | ast.List
                | ast.Tuple
                | ast.Dict
                | ast.expr_context
                | ast.UnaryOp
                | ast.USub,
            )
            for c in ast.walk(node)
        )
        if doc or (table and node.end_lineno > node.lineno):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
    kept = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({t.start[0] for t in tokens if t.type in kept} - left_out)


@each_module
def test_a_technique_has_30_to_150_lines_of_code(path: Path) -> None:
    least, most, _ = EXCEPTIONS.get(name(path), (30, 150, ""))
    count = code_lines(path)
    told = f"{name(path)}: {count} code lines; split, simplify, or give a reason here"
    assert least <= count <= most, told


@pytest.mark.parametrize("path", MODULES + SNIPPETS, ids=name)
def test_lines_fit_the_page(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    faults = [
        f"{name(path)}:{n}: {len(x)} characters"
        for n, x in enumerate(lines, 1)
        if len(x) > 88
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", MODULES + SNIPPETS, ids=name)
def test_sections_are_opened_and_closed_once(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    opened = re.findall(r"--8<-- \[start:([\w-]+)\]", text)
    closed = re.findall(r"--8<-- \[end:([\w-]+)\]", text)
    assert sorted(opened) == sorted(closed)
    assert len(set(opened)) == len(opened), (
        f"{name(path)}: a section name stands twice: {opened}"
    )
    wanted = {"usage"} if "snippets" in path.parts else {"imports", "module"}
    assert wanted <= set(opened), (
        f"{name(path)}: lacks the sections {wanted - set(opened)}"
    )


@each_module
def test_a_module_says_its_source_and_its_letters(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    for word in ("Source:", "Legend:"):
        assert word in doc, f"{name(path)}:1: the docstring lacks {word!r}"


@each_module
def test_public_things_are_documented_and_re_exported(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    exported = (path.parent / "__init__.py").read_text(encoding="utf-8")
    exported = re.sub(r"[(),\s]+", " ", exported)  # a long import is wrapped
    faults = []
    for node in tree.body:
        if isinstance(
            node, ast.FunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            if f"import {node.name} as {node.name}" not in exported:
                faults.append(
                    f"{name(path)}:{node.lineno}: {node.name} is not in __init__.py"
                )
            variant = re.fullmatch(
                r"[a-z]+_?[a-z]*\d+\w*", node.name
            )  # resnet18: its class says it
            if not ast.get_docstring(node) and not variant:
                faults.append(
                    f"{name(path)}:{node.lineno}: {node.name} has no docstring"
                )
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", SNIPPETS, ids=name)
def test_a_snippet_imports_what_there_is(path: Path) -> None:
    """The rest of it runs in the block of its page, and ruff finds a name that is not imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert tree.body, f"{name(path)}: imports nothing"
    exec(compile(tree, str(path), "exec"), {})


def test_the_categories_have_a_package_each() -> None:
    there = {p.parent.name for p in FLOOR_1 if p.name == "__init__.py"} - {
        "cnn_techniques"
    }
    assert there == set(CATEGORIES)
