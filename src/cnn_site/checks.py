"""The house rules for the rooms of one technique: the tests hold every technique to them, `cnn_site.check` one.

A check gets a technique, or a page or source file, and returns its faults: each says file, line and cure.
"""

import ast
import contextlib
import io
import os
import re
import sys
import tokenize
from pathlib import Path
from typing import Any

from . import CATEGORIES, ROOT, pages, snake
from .directives import copy_block, stamp
from .directives.technique import wrong_needs as wrong_needs
from .evidence import proof, stale_measurements
from .fences import CodeBlock, page_blocks, runnable, unlabelled
from .pages import Technique
from .runner import FenceError, run_block, run_commands, unlike

SECTIONS = [
    "What it solves",
    "Equation and code",
    "Copy and run",
    "Numbers",
    "Checked against",
    "Use it, skip it",
    "What goes wrong",
    "Exercises",
    "See also",
    "Corrections",
    "Cite",
]
ALWAYS = {
    "What it solves",
    "Copy and run",
    "Checked against",
    "See also",
    "Corrections",
    "Cite",
}
ONE_OF = ("What goes wrong", "Exercises")
SHORT = 40  # a technique of fewer code lines has a page in the short form

# What a technique must not be made of: the class or function of torch that is the technique (torchvision's are refused by
# the imports). Only techniques that have something to forbid stand here.
FORBIDDEN: dict[str, list[str]] = {
    "modern/vision-transformer": ["nn.MultiheadAttention", "nn.TransformerEncoder"],
    "attention/multi-head-attention": [
        "nn.MultiheadAttention",
        "F.scaled_dot_product_attention",
        "multi_head_attention_forward",
    ],
    "optimization/sgd-momentum": ["torch.optim.SGD", "optim.sgd", "_foreach_"],
    "optimization/adam": [
        "torch.optim.Adam",
        "optim.adam",
        "_fused_adam",
        "_foreach_",
    ],
    "optimization/radam": ["torch.optim.RAdam", "optim.radam", "_foreach_"],
    "optimization/adabelief": ["torch.optim.Adam", "timm", "_foreach_"],
    "optimization/adamw": [
        "torch.optim.Adam",
        "optim.adamw",
        "_fused_adam",
        "_foreach_",
    ],
    "optimization/muon": ["torch.optim.Muon", "optim._muon"],
    "compression/batchnorm-folding": ["fuse_conv_bn", "fuse_linear_bn"],
    "compression/int8-quantization": ["fake_quantize_per", "quantize_per_", "torch.ao"],
    "compression/quantization-aware-training": [
        "fake_quantize_per",
        "fused_moving_avg",
        "torch.ao",
    ],
    "compression/iterative-pruning": ["utils.prune", "import prune"],
    "compression/unstructured-pruning": ["utils.prune", "import prune"],
    "training/cosine-annealing": ["CosineAnnealingLR", "CosineAnnealingWarmRestarts"],
    "training/one-cycle": ["OneCycleLR"],
    "training/reduce-on-plateau": ["ReduceLROnPlateau"],
    "training/step-decay": ["StepLR", "MultiStepLR"],
    "training/warmup": ["LinearLR", "SequentialLR"],
    "training/label-smoothing": ["label_smoothing="],
    "training/satellite-augmentation": ["rot90"],
    "training/weight-ema": ["swa_utils", "AveragedModel"],
    "optimization/batch-normalization": [
        "nn.BatchNorm2d",
        "_BatchNorm(",
        "batch_norm(",
        "batch_norm_",
    ],
    "optimization/group-and-layer-normalization": [
        "nn.GroupNorm",
        "nn.LayerNorm",
        "nn.InstanceNorm",
        "group_norm(",
        "layer_norm(",
    ],
    "optimization/gradient-accumulation-and-clipping": [
        "clip_grad_norm",
        "clip_grads_with_norm",
        "get_total_norm",
        "_foreach_",
    ],
    "optimization/data-parallel": ["DistributedDataParallel", "nn.parallel"],
    "optimization/mixed-precision": ["GradScaler", "_amp_"],
    "compression/knowledge-distillation": ["kl_div", "KLDivLoss"],
    "evaluation/model-cost": ["flop_counter", "FlopCounterMode"],
}

# Techniques of more than 150 code lines, each with its reason.
MOST = 150
EXCEPTIONS: dict[str, tuple[int, str]] = {
    "evaluation/model-cost": (
        190,
        "the counter below autograd, the kernels it knows and the clock, which share nothing but the page",
    ),
    "modern/efficientnet": (
        170,
        "block, scaling rule and network, and nine variants of two lines each",
    ),
    "detection/retinanet": (
        210,
        "focal loss, anchors, coding, matching, heads and post-processing: none is of use without the others",
    ),
    "segmentation/segformer": (
        200,
        "encoder, decoder and six sizes, with each module that transformers' names stand for",
    ),
    "detection/fcos": (
        200,
        "points, matching, centre-ness, GIoU, heads and post-processing: none is of use without the others",
    ),
    "detection/yolov8": (
        220,
        "C2f, SPPF, network, CIoU, loss and post-processing, and five variants of two lines each",
    ),
    "detection/efficientdet": (
        240,
        "fusion, pyramid, heads and detector, and nine variants of two lines or three each",
    ),
    "detection/faster-rcnn": (
        310,
        "two stages, each with its sampling, loss and choice of boxes, and the pooling between them",
    ),
    "segmentation/solo-v2": (
        290,
        "two branches, assignment, loss, Matrix NMS and the choice of masks: none is of use without the others",
    ),
    "segmentation/yolact": (
        260,
        "prototypes, heads, four losses, Fast NMS and the masks: none is of use without the others",
    ),
    "detection/detr": (
        280,
        "assignment, positions, encoder, decoder, heads, loss and post-processing: none is of use without the others",
    ),
}
TORCHVISION = {"nms", "batched_nms", "roi_align", "deform_conv2d"}


def at(path: Path, line: int, message: str) -> str:
    return f"{place(path)}:{line}: {message}"


def place(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")


def source(t: Technique) -> Path:
    return ROOT / "src/cnn_techniques" / f"{snake(t.slug)}.py"


def use(t: Technique) -> Path:
    return ROOT / "snippets" / f"{snake(t.slug)}.py"


def figure(t: Technique) -> Path:
    category, name = snake(t.slug).split("/")
    return ROOT / "snippets" / category / "figures" / f"{name}.py"


def proof_file(t: Technique) -> Path:
    return ROOT / proof(t.slug)


def slug_of(path: Path) -> str:
    """Of a technique's source or use."""
    return f"{path.parent.name}/{path.stem.replace('_', '-')}"


# --- rooms -----------------------------------------------------------------------


def rooms(t: Technique) -> list[str]:
    wanted = [source(t), use(t), proof_file(t), ROOT / f"docs/evidence/{t.slug}.json"]
    return [
        f"{room.relative_to(ROOT)}: is missing; docs/{t.slug}.md has a page"
        for room in wanted
        if not room.exists()
    ]


def marks(t: Technique) -> list[str]:
    """What the templates of `cnn_site.new` leave to be filled in."""
    return [
        at(path, n, line.strip(" #<>!-"))
        for path in (source(t), use(t), proof_file(t), figure(t), t.path)
        if path.exists()
        for n, line in enumerate(lines_of(path), 1)
        if "TODO" in line
    ]


def api(t: Technique) -> list[str]:
    """The API reference shows the module and links the page."""
    path = ROOT / "docs/api" / f"{t.category}.md"
    text = path.read_text(encoding="utf-8")
    module = f"::: cnn_techniques.{snake(t.slug).replace('/', '.')}"
    return [
        at(path, 1, f"lacks {want!r}; python -m cnn_site.new {t.slug} writes it")
        for want in (module, f"(../{t.slug}.md)")
        if want not in text
    ]


# --- the code --------------------------------------------------------------------


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names += [(node.lineno, f"{module}.{a.name}") for a in node.names]
    return names


def floor_1(path: Path) -> list[str]:
    """Floor 1 imports torch and four operations of torchvision; a page's `needs` may be imported too."""
    allowed = {"torch", "cnn_techniques", ""} | sys.stdlib_module_names
    page = ROOT / "docs" / f"{slug_of(path)}.md"
    if page.exists():
        allowed |= {pages.module(p) for p in pages.needs(page)}
    faults = []
    for line, name in imports(path):
        vision = (
            name.startswith("torchvision.ops.") and name.split(".")[-1] in TORCHVISION
        )
        if name.split(".")[0] not in allowed and not vision:
            cure = "floor 1 has torch and torchvision.ops." + ", ".join(
                sorted(TORCHVISION)
            )
            faults.append(
                at(
                    path,
                    line,
                    f"imports {name}; {cure}; another package stands in the page's needs",
                )
            )
    return faults


def code_without_words(path: Path) -> str:
    """Source without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef
        ) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def forbidden(path: Path) -> list[str]:
    """A technique is not made of the thing it explains."""
    words = FORBIDDEN.get(slug_of(path), [])
    code = code_without_words(path) if words else ""
    return [
        at(
            path,
            1,
            f"uses {word}, which is the technique itself (FORBIDDEN in cnn_site/checks.py)",
        )
        for word in words
        if word in code
    ]


def code_lines(path: Path) -> int:
    """Lines that hold code: blank lines, comments, docstrings and tables of numbers do not count."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
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
        if isinstance(node, ast.expr | ast.stmt):
            last = node.end_lineno or node.lineno
            if doc or (table and last > node.lineno):
                left_out |= set(range(node.lineno, last + 1))
    kept = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return len({t.start[0] for t in tokens if t.type in kept} - left_out)


def length(path: Path) -> list[str]:
    most, _ = EXCEPTIONS.get(slug_of(path), (MOST, ""))
    count = code_lines(path)
    cure = "split, simplify, or give a reason in EXCEPTIONS of cnn_site/checks.py"
    return (
        [at(path, 1, f"{count} code lines, at most {most}; {cure}")]
        if count > most
        else []
    )


def wide(path: Path) -> list[str]:
    return [
        at(path, n, f"{len(line)} characters; 88 fit the page")
        for n, line in enumerate(lines_of(path), 1)
        if len(line) > 88
    ]


def sections(path: Path) -> list[str]:
    """Sections are opened and closed once, and those that pages include are there."""
    text = path.read_text(encoding="utf-8")
    opened = re.findall(r"--8<-- \[start:([\w-]+)\]", text)
    closed = re.findall(r"--8<-- \[end:([\w-]+)\]", text)
    wanted = {"usage"} if "snippets" in path.parts else {"imports", "module"}
    faults = [
        at(path, 1, f"the section {name!r} is not opened and closed once")
        for name in sorted({*opened, *closed})
        if opened.count(name) != 1 or closed.count(name) != 1
    ]
    return faults + [
        at(path, 1, f"lacks the section {name!r}: # --8<-- [start:{name}]")
        for name in sorted(wanted - set(opened))
    ]


def documented(path: Path) -> list[str]:
    """A module says its source and its letters; what is public has a docstring and stands in `__init__.py`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    doc = ast.get_docstring(tree) or ""
    faults = [
        at(path, 1, f"the docstring lacks {word!r}")
        for word in ("Source:", "Legend:")
        if word not in doc
    ]
    exported = (path.parent / "__init__.py").read_text(encoding="utf-8")
    exported = re.sub(r"[(),\s]+", " ", exported)  # a long import is wrapped
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name[0] == "_":
            continue
        if f"import {node.name} as {node.name}" not in exported:
            line = f"from .{path.stem} import {node.name} as {node.name}"
            faults.append(
                at(path, node.lineno, f"{node.name} is not in __init__.py: {line}")
            )
        # resnet18: its class says it
        variant = re.fullmatch(r"[a-z]+_?[a-z]*\d+\w*", node.name)
        if not ast.get_docstring(node) and not variant:
            faults.append(at(path, node.lineno, f"{node.name} has no docstring"))
    return faults


# --- the proof -------------------------------------------------------------------


def device_cases(path: Path) -> list[str]:
    """A proof has `DEVICE_CASES`, or says in `NO_DEVICE_CASES` why a device cannot make a difference."""
    assigned: dict[str, int] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            assigned |= {n.id: node.lineno for n in names if isinstance(n, ast.Name)}
    two = {"DEVICE_CASES", "NO_DEVICE_CASES"} & set(assigned)
    cure = 'DEVICE_CASES = {"name": lambda: (module, inputs)}, or NO_DEVICE_CASES = "why no device can differ"'
    if len(two) != 1:
        line = assigned.get("NO_DEVICE_CASES", 1)
        return [at(path, line, f"has {' and '.join(sorted(two)) or 'neither'}; {cure}")]
    return []


# --- the page --------------------------------------------------------------------


def headings(path: Path) -> list[tuple[int, str]]:
    inside, titles = False, []
    for n, line in enumerate(lines_of(path), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif line.startswith("## ") and not inside:
            title = re.sub(r"\s*\{ #[\w-]+ \}$", "", line[3:])  # an id of its own
            titles.append((n, title.strip()))
    return titles


def parts(t: Technique) -> list[str]:
    """The parts of a page stand in one order under one set of names; some are on every page."""
    sections = headings(t.path)
    faults = [
        at(t.path, n, f"section {title!r} is not one of {SECTIONS}")
        for n, title in sections
        if title not in SECTIONS
    ]
    titles = [title for _, title in sections]
    faults += [
        at(t.path, 1, f"section {title!r} is missing")
        for title in SECTIONS
        if title in ALWAYS - set(titles)
    ]
    if not set(ONE_OF) & set(titles):
        faults.append(
            at(t.path, 1, f"has neither {' nor '.join(map(repr, ONE_OF))}; write one")
        )
    if not faults and titles != [s for s in SECTIONS if s in titles]:
        faults.append(at(t.path, 1, f"sections stand in the order {titles}"))
    return faults


def directives(t: Technique) -> list[str]:
    """A page names itself and shows its record, and its figure unless it is in the short form."""
    text = t.path.read_text(encoding="utf-8")
    wanted = [
        f"[[technique {t.slug}]]",
        "[[needs]]",
        "[[ran]]",
        "[[corrections]]",
        "[[cite]]",
    ]
    if not source(t).exists() or code_lines(source(t)) >= SHORT:
        wanted.append(f"](../figures/{t.slug}")
    return [at(t.path, 1, f"lacks {want}") for want in wanted if want not in text]


def known(t: Technique) -> list[str]:
    """Papers and prerequisites are known."""
    faults = []
    for key in t.keys:
        try:
            pages.paper(key)
        except pages.SiteError as error:
            faults.append(at(t.path, pages.line_of(t.path, "papers"), str(error)))
    for slug in t.builds_on:
        try:
            pages.technique(slug)
        except pages.SiteError as error:
            faults.append(at(t.path, pages.line_of(t.path, "builds_on"), str(error)))
    if not t.keys:
        faults.append(at(t.path, 1, "names no paper: papers: [key of references.bib]"))
    return faults


def findable(t: Technique) -> list[str]:
    """A page has the names that people type, and says how hard it is."""
    facts = t.facts or {}
    faults = [
        at(t.path, 1, f"front matter lacks {key}; {cure}")
        for key, cure in (
            ("aliases", "names that people type: aliases: [SE block, SENet]"),
            ("level", f"one of {', '.join(pages.LEVELS)}"),
        )
        if not facts.get(key)
    ]
    own = {t.title.casefold(), t.short.casefold()}
    return faults + [
        at(t.path, pages.line_of(t.path, "aliases"), f"{alias!r} is the title")
        for alias in facts.get("aliases", [])
        if str(alias).casefold() in own
    ]


def see_also(t: Technique) -> list[str]:
    """A technique with a page that is named under See also is linked there."""
    text = t.path.read_text(encoding="utf-8")
    section = re.search(r"^## See also\n(.*?)(?=^## )", text, re.M | re.S)
    if not section:  # `parts` tells it
        return []
    line = text.count("\n", 0, section.start(1)) + 1
    linked = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")
    to = {
        (t.path.parent / target.partition("#")[0]).resolve()
        for _, target in linked.findall(section[1])
    }
    rest = linked.sub("", section[1])
    faults = []
    for other in sorted(
        pages.techniques(), key=lambda u: len(u.short), reverse=True
    ):  # "Pre-activation ResNet" before "ResNet"
        for name in {other.short, other.planned_title.split(" (")[0]}:
            named = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.I)
            if named.search(rest):
                rest = named.sub("", rest)
                if other.facts and other != t and other.path.resolve() not in to:
                    link = os.path.relpath(other.path, t.path.parent)
                    faults.append(
                        at(t.path, line, f"See also names {name}: [{name}]({link})")
                    )
    return faults


def _starts(block: CodeBlock, file: CodeBlock) -> bool:
    """A command that names the file, or a program that does, or its module (`service:app`)."""
    if block.is_command:
        return _names(file, block.code)
    stem = re.escape(file.title.removesuffix(".py"))
    named = re.search(rf"\b{stem}(\.py|:)", block.code)
    return (
        block.language in ("py", "python") and not block.is_file and named is not None
    )


def _names(file: CodeBlock, command: str) -> bool:
    """Whether a command starts a file, or names what is in it as `module:function`."""
    title = file.title
    return title in command or f" {title.removesuffix('.py')}:" in command


def fences(page: Path) -> list[str]:
    """Every fence has a language; Python and commands are run or have a reason."""
    lines = lines_of(page)
    faults = [
        at(page, n, "a fence without a language") for n in unlabelled("\n".join(lines))
    ]
    for block in page_blocks(page):
        above = lines[block.line - 2].strip() if block.line > 1 else ""
        reason = above.startswith("<!--") and above.endswith("-->")
        if block.language == "pycon":
            faults.append(
                at(page, block.line, "pycon is not run; write py and an .output fence")
            )
        if "notest" in block.classes and page.parent.name in CATEGORIES:
            faults.append(at(page, block.line, ".notest on the page of a technique"))
        if (
            "notest" in block.classes
            or (block.language in ("console", "sh") and not block.is_command)
        ) and not reason:
            faults.append(
                at(
                    page,
                    block.line,
                    "not run; say why in an HTML comment on the line above",
                )
            )
        if block.is_file and not any(
            b.line > block.line and _starts(b, block) for b in page_blocks(page)
        ):
            cure = f"```{{.console .run .continuation}} with $ python {block.title}"
            faults.append(at(page, block.line, f"a .file no command starts; {cure}"))
    inside = False
    for n, line in enumerate(lines, 1):
        inside = (inside or "<!--" in line) and "-->" not in line
        if inside and line.strip().startswith("```"):
            faults.append(
                at(page, n, "a fence in an HTML comment is run and not shown")
            )
    return faults


def excerpts(page: Path) -> list[str]:
    """An excerpt stands unchanged in a block that is run."""
    blocks = page_blocks(page)
    return [
        at(
            page,
            b.line,
            f"this excerpt is in no block of the page that is run:\n{b.code}",
        )
        for b in blocks
        if b.is_excerpt and not any(r.contains(b.code) for r in runnable(blocks))
    ]


UNWANTED = re.compile(
    r"\b(simply|obviously|of course|state-of-the-art|cutting-edge|we|our|us)\b",
    re.IGNORECASE,
)


def prose(page: Path) -> list[str]:
    """Free of praise and of "we"."""
    faults, inside = [], False
    for n, line in enumerate(lines_of(page), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and (m := UNWANTED.search(line)):
            faults.append(at(page, n, f"{m[0]!r} in: {line.strip()}"))
    return faults


# --- the block that is copied ----------------------------------------------------


def includes_only(t: Technique) -> list[str]:
    """The copied block is made of includes only, and an output follows it."""
    block = copy_block(t)
    lines = lines_of(t.path)
    faults = [
        at(t.path, n, f"typed into the block: {lines[n - 1]!r}")
        for name, n in block.origins
        if name is None
        and lines[n - 1].strip()
        and not lines[n - 1].strip().startswith("--8<--")
    ]
    if not block.output and not block.is_file:  # that of a file follows its command
        faults.append(
            at(
                t.path,
                block.line,
                "no .output fence follows the block, or it is empty; "
                f"python -m pytest --update-evidence docs/{t.slug}.md fills it in",
            )
        )
    return faults


def twice(t: Technique) -> list[str]:
    """No name is defined twice in a composed block."""
    block = copy_block(t)
    seen: set[str] = set()
    faults = []
    for node in ast.parse(block.code).body:
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.asname or a.name for a in node.names]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        for name in names:
            if name in seen:
                file, n = block.origins[node.lineno - 1]
                spot = (
                    f"{Path(file).relative_to(ROOT)}:{n}"
                    if file
                    else f"docs/{t.slug}.md:{n}"
                )
                faults.append(
                    f"{spot}: {name!r} is defined twice in the block of docs/{t.slug}.md"
                )
            seen.add(name)
    return faults


def unused_imports(t: Technique) -> list[str]:
    """A composed block imports nothing that it does not use."""
    block = copy_block(t)
    tree = ast.parse(block.code)
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    nodes = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {(a.asname or a.name).split(".")[0] for n in nodes for a in n.names}
    return [
        at(t.path, block.line, f"the block imports {name} for nothing")
        for name in sorted(names - used)
    ]


def wide_blocks(t: Technique) -> list[str]:
    return [
        at(
            t.path,
            b.line,
            f"a line of {len(line)} characters scrolls; 88 fit: {line}",
        )
        for b in page_blocks(t.path)
        if b.is_python
        for line in b.code.split("\n")
        if len(line) > 88
    ]


def stamped(t: Technique) -> list[str]:
    """The blocks of the record are those of the page."""
    now = stamp(t)
    if now.state == "ok":
        return []
    message = f"{now.ran} of {now.blocks} blocks are as they ran; run: pytest --update-evidence docs/{t.slug}.md"
    return [at(t.path, 1, message)]


def measured(t: Technique) -> list[str]:
    """Measured results were made by the code there is."""
    return list(stale_measurements(t.slug))


def depends(t: Technique) -> list[str]:
    """What the copied block prints changes when the technique has no effect (see null.py)."""
    block = copy_block(t)
    tree = ast.parse(source(t).read_text(encoding="utf-8"))
    public = [
        n.name
        for n in tree.body
        if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")
    ]
    lines = block.code.split("\n")
    usage = max(n for n, (f, _) in enumerate(block.origins) if f and "/src/" in f) + 1
    definitions, example = (
        CodeBlock("py", (), "", "\n".join(lines[half]), block.origins[half], block.line)
        for half in (slice(0, usage), slice(usage, None))
    )
    if block.is_file:
        commands = [b for b in page_blocks(t.path) if b.is_command]
        command = next(b for b in commands if block.title in b.code)
        shown = command.output or ""
        printed = _started_without_effect(
            block.title, definitions, example, public, command
        )
    else:
        shown = block.output or ""
        printed = printed_without_effect(definitions, example, public, t.path)
    if printed is None or unlike(printed, shown):
        return []
    return [
        at(
            t.path,
            block.line,
            "prints the same when the technique has no effect; print a value that depends on it",
        )
    ]


def printed_without_effect(
    definitions: CodeBlock, example: CodeBlock, names: list[str], page: Path
) -> str | None:
    """What an example prints when the things named have no effect; None where it then cannot run at all.

    Where sizes that a function would tell are missing, modules, optimizers and schedules alone are without effect.
    """
    import inspect

    import torch
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from .null import without_effect

    for classes_alone in (False, True):
        torch.manual_seed(0)
        space: dict[str, Any] = {}
        run_block(definitions, page, space)
        kinds = (nn.Module, Optimizer, LRScheduler)
        computing = [
            name
            for name in names
            if inspect.isclass(space[name]) and issubclass(space[name], kinds)
        ]
        if classes_alone and not computing:
            break
        for name in computing if classes_alone else names:
            space[name] = without_effect(space[name])
        with contextlib.suppress(Exception):
            return run_block(example, page, space)
    return None


def _started_without_effect(
    title: str,
    definitions: CodeBlock,
    example: CodeBlock,
    names: list[str],
    command: CodeBlock,
) -> str | None:
    """The same of a program that a command starts, in the folder that is the current one."""
    emptied = "".join(f"{name} = without_effect({name})\n" for name in names)
    between = f"\nfrom cnn_site.null import without_effect\n{emptied}\n"
    Path(title).write_text(definitions.code + between + example.code, encoding="utf-8")
    try:
        return run_commands(command)
    except FenceError:
        return None


# --- figure and lists ------------------------------------------------------------


def drawn(t: Technique) -> list[str]:
    """The figure is drawn and is what its source draws."""
    from .figures import Figure
    from .figures.__main__ import drawings, target, text

    if not figure(t).exists():
        return (
            [f"{figure(t).relative_to(ROOT)}: is missing; every figure has a source"]
            if f"../figures/{t.slug}" in t.path.read_text(encoding="utf-8")
            else []
        )
    cure = f"python -m cnn_site.figures {t.slug.split('/')[1]}"
    faults = []
    for name, drawing in drawings(figure(t)).items():
        path = target(figure(t), name)
        if not path.exists():
            faults.append(f"{path.relative_to(ROOT)}: is missing; {cure}")
        elif isinstance(drawing, Figure) and text(drawing) != path.read_text("utf-8"):
            faults.append(f"{path.relative_to(ROOT)}: is stale; {cure}")
    return faults


def listed(t: Technique) -> list[str]:
    """The page stands in the navigation."""
    config = ROOT / "mkdocs.yml"
    if f"- {t.slug}.md\n" in config.read_text(encoding="utf-8"):
        return []
    return [
        at(config, 1, f"nav lacks {t.slug}.md; python -m cnn_site.new {t.slug} adds it")
    ]


def in_changelog(t: Technique) -> list[str]:
    path = ROOT / "CHANGELOG.md"
    if f"- `{t.slug}`: " in path.read_text(encoding="utf-8"):
        return []
    return [at(path, 1, f"lacks a line under Added: - `{t.slug}`: {t.short}.")]
