import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab.data import digits
from cnn_lab.fit import accuracy, fit, predict, steps
from cnn_lab.record import interval, paired, repeat
from cnn_site.equivalence import difference
from cnn_techniques.compression import distillation_loss


def logits(n: int = 6, classes: int = 5, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(n, classes, dtype=dtype), 2 * torch.randn(
        n, classes, dtype=dtype
    )


LABELS = torch.tensor([0, 1, 2, 3, 4, 1])


def device_case() -> tuple[object, tuple[Tensor, ...]]:
    z, v = logits(dtype=torch.get_default_dtype())
    return lambda z, v, y: distillation_loss(z, v, y, 4.0, 0.9), (z, v, LABELS)


DEVICE_CASES = {"distillation_loss": device_case}


def gradient(z: Tensor, v: Tensor, temperature: float, alpha: float) -> Tensor:
    z = z.clone().requires_grad_()
    distillation_loss(z, v, LABELS, temperature, alpha).backward()
    assert z.grad is not None
    return z.grad


def by_the_paper(
    z: Tensor, v: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """Image by image: cross-entropies as in section 2, exponentials written out.

    The paper takes the cross-entropy with the soft targets, which is the divergence and
    the entropy of the teacher, a constant to the student.
    """
    total = torch.zeros((), dtype=z.dtype)
    for zn, vn, label in zip(z, v, labels, strict=True):
        q = (zn / temperature).exp() / (zn / temperature).exp().sum()
        p = (vn / temperature).exp() / (vn / temperature).exp().sum()
        soft = -(p * q.log()).sum() + (p * p.log()).sum()
        hard = -(zn.exp() / zn.exp().sum())[label].log()
        total = total + alpha * temperature**2 * soft + (1 - alpha) * hard
    return total / len(z)


def test_it_is_the_papers_objective_written_a_second_way(evidence) -> None:
    outputs, gradients = {}, {}
    for k, (temperature, alpha) in enumerate(
        [(1.0, 0.5), (4.0, 0.9), (20.0, 1.0), (0.5, 0.0)]
    ):
        torch.manual_seed(k)
        z, v = logits()
        sides = []
        for function in (distillation_loss, by_the_paper):
            leaf = z.clone().requires_grad_()
            loss = function(leaf, v, LABELS, temperature, alpha)
            loss.backward()
            sides.append((loss.detach(), leaf.grad))
        name = f"T = {temperature:g}, alpha = {alpha:g}"
        outputs[name] = (sides[0][0], sides[1][0])
        gradients[name] = (sides[0][1], sides[1][1])
    result = difference(
        outputs, gradients, shape=(6, 5), modes=["T 0.5 to 20, alpha 0 to 1"]
    )
    evidence.equivalent(
        "paper",
        result,
        reference="the paper's equation, written a second way",
        settings="cross-entropies of each image with exponentials written out",
    )


def test_the_soft_part_is_torchs_divergence_summed_over_classes(evidence) -> None:
    torch.manual_seed(0)
    z, v = logits()
    outputs, gradients = {}, {}
    for temperature in (1.0, 4.0, 20.0):
        mine, other = z.clone().requires_grad_(), z.clone().requires_grad_()
        ours = distillation_loss(mine, v, LABELS, temperature, 1.0)
        theirs = temperature**2 * F.kl_div(
            F.log_softmax(other / temperature, dim=1),
            F.log_softmax(v / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        ours.backward()
        theirs.backward()
        outputs[f"T = {temperature:g}"] = (ours.detach(), theirs.detach())
        gradients[f"T = {temperature:g}"] = (mine.grad, other.grad)
    result = difference(outputs, gradients, shape=(6, 5), modes=["T 1, 4 and 20"])
    evidence.equivalent(
        "torch",
        result,
        reference="torch.nn.functional.kl_div",
        settings="alpha = 1, times T squared, reduction batchmean",
    )


def test_a_class_that_the_teacher_excludes_adds_nothing() -> None:
    """0 * log 0 is 0: the loss is that with a logit so low that its probability is 0."""
    torch.manual_seed(0)
    z, v = logits()
    for low, masked in ((v, [1]), (v, [0, 3])):
        excluded, nearly = low.clone(), low.clone()
        excluded[:, masked], nearly[:, masked] = -math.inf, -1e5
        for alpha in (0.0, 0.5, 1.0):
            found = distillation_loss(z, excluded, LABELS, 2.0, alpha)
            expected = distillation_loss(z, nearly, LABELS, 2.0, alpha)
            assert found.isfinite()
            torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)
            slope = gradient(z, excluded, 2.0, alpha)
            torch.testing.assert_close(slope, gradient(z, nearly, 2.0, alpha))


def test_a_class_that_both_exclude_adds_nothing_and_one_that_only_the_student_does_is_infinite() -> (
    None
):
    torch.manual_seed(0)
    z, v = logits()
    kept = [0, 1, 2, 4]
    z[:, 3] = -math.inf
    labels = torch.tensor([0, 1, 2, 0, 2, 1])
    assert distillation_loss(z, v, labels, 2.0, 1.0) == math.inf
    v[:, 3] = -math.inf
    found = distillation_loss(z, v, labels, 2.0, 0.7)
    expected = distillation_loss(z[:, kept], v[:, kept], labels, 2.0, 0.7)
    torch.testing.assert_close(found, expected)
    leaf = z.clone().requires_grad_()
    distillation_loss(leaf, v, labels, 2.0, 0.7).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16]
)
def test_labels_are_integers_of_any_width(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    z, v = logits()
    found = distillation_loss(z, v, LABELS.to(dtype), 2.0, 0.5)
    assert torch.equal(found, distillation_loss(z, v, LABELS, 2.0, 0.5))


def test_the_gradient_is_equation_2_times_t_squared() -> None:
    torch.manual_seed(0)
    z, v = logits()
    for temperature in (1.0, 3.0):
        q = torch.softmax(z / temperature, dim=1)
        p = torch.softmax(v / temperature, dim=1)
        expected = temperature**2 * (q - p) / temperature / len(z)
        torch.testing.assert_close(gradient(z, v, temperature, 1.0), expected)


def test_at_high_temperature_the_gradient_is_that_of_matching_centred_logits() -> None:
    torch.manual_seed(0)  # paper, section 2.1, equations 3 and 4
    z, v = logits()
    centred = (z - z.mean(dim=1, keepdim=True)) - (v - v.mean(dim=1, keepdim=True))
    limit = centred / z.shape[1] / len(z)
    far = {
        temperature: float((gradient(z, v, temperature, 1.0) - limit).abs().max())
        for temperature in (10.0, 100.0, 1000.0)
    }
    assert far[1000.0] < 5e-3 * float(limit.abs().max())
    assert far[100.0] == pytest.approx(far[10.0] / 10, rel=0.3)  # falls as 1 / T
    assert far[1000.0] == pytest.approx(far[100.0] / 10, rel=0.1)


def test_t_squared_keeps_the_gradient_in_size_when_the_temperature_changes() -> None:
    torch.manual_seed(0)
    z, v = logits()
    sizes = [float(gradient(z, v, t, 1.0).norm()) for t in (5.0, 20.0, 80.0)]
    assert max(sizes) < 1.3 * min(sizes)


def test_a_student_equal_to_its_teacher_has_neither_loss_nor_gradient() -> None:
    torch.manual_seed(0)
    _, v = logits()
    shifted = v + torch.randn(6, 1, dtype=torch.float64)  # a constant for each image
    for z in (v, shifted):
        assert distillation_loss(z, v, LABELS, 4.0, 1.0).item() == pytest.approx(
            0, abs=1e-14
        )
        assert gradient(z, v, 4.0, 1.0).abs().max() < 1e-14


def test_the_loss_is_that_of_the_student_and_not_of_the_teacher_twice() -> None:
    torch.manual_seed(0)
    z, v = logits()
    first, second = (
        gradient(z, v, 4.0, 1.0),
        gradient(z + torch.randn_like(z), v, 4.0, 1.0),
    )
    assert first.abs().max() > 1e-3
    assert (first - second).abs().max() > 1e-3  # it depends on what the student says
    assert (gradient(z, v + torch.randn_like(v), 4.0, 1.0) - first).abs().max() > 1e-3
    along = z - 0.1 * first
    assert distillation_loss(along, v, LABELS, 4.0, 1.0) < distillation_loss(
        z, v, LABELS, 4.0, 1.0
    )


def test_only_the_student_gets_a_gradient() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Linear(7, 5), nn.Linear(7, 5)
    x = torch.randn(6, 7)
    distillation_loss(student(x), teacher(x), LABELS, 4.0, 0.9).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())


def test_following_the_gradient_makes_the_student_say_what_the_teacher_says() -> None:
    torch.manual_seed(0)
    teacher, student = nn.Linear(7, 5).double(), nn.Linear(7, 5).double()
    x = torch.randn(64, 7, dtype=torch.float64)
    labels = torch.randint(5, (64,))  # random: what it learns is not from here
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        distillation_loss(student(x), teacher(x), labels, 4.0, 1.0).backward()
        optimizer.step()
    same = student(x).softmax(dim=1) - teacher(x).softmax(dim=1)
    assert same.abs().max() < 1e-2


def test_at_its_ends_alpha_leaves_the_labels_alone_or_the_teacher_out() -> None:
    torch.manual_seed(0)
    z, v = logits()
    other = torch.randn_like(v)
    hard = distillation_loss(z, v, LABELS, 4.0, 0.0)
    torch.testing.assert_close(hard, F.cross_entropy(z, LABELS))
    assert torch.equal(hard, distillation_loss(z, other, LABELS, 4.0, 0.0))
    soft = distillation_loss(z, v, LABELS, 4.0, 1.0)
    assert torch.equal(soft, distillation_loss(z, v, LABELS.flip(0), 4.0, 1.0))
    between = distillation_loss(z, v, LABELS, 4.0, 0.25)
    torch.testing.assert_close(between, 0.25 * soft + 0.75 * hard)


def test_a_very_sure_teacher_is_a_label() -> None:
    z, _ = logits()
    v = 1000.0 * F.one_hot(LABELS, 5).double()
    torch.testing.assert_close(
        distillation_loss(z, v, LABELS, 1.0, 1.0), F.cross_entropy(z, LABELS)
    )


def test_the_loss_of_a_batch_is_the_mean_over_its_images() -> None:
    torch.manual_seed(0)
    z, v = logits()
    each = [
        distillation_loss(z[i : i + 1], v[i : i + 1], LABELS[i : i + 1], 4.0, 0.9)
        for i in range(6)
    ]
    whole = distillation_loss(z, v, LABELS, 4.0, 0.9)
    torch.testing.assert_close(whole, torch.stack(each).mean())
    order = torch.randperm(6)
    torch.testing.assert_close(
        whole, distillation_loss(z[order], v[order], LABELS[order], 4.0, 0.9)
    )


def test_two_classes_in_closed_form() -> None:
    z, v = (
        torch.tensor([[0.0, 0.0]]).double(),
        torch.tensor([[math.log(3.0), 0.0]]).double(),
    )
    # teacher 3/4 and 1/4, student 1/2 and 1/2
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    label = torch.tensor([0])
    assert distillation_loss(z, v, label, 1.0, 1.0).item() == pytest.approx(kl)
    # twice the logits at twice the temperature: the same probabilities, times 4
    twice = distillation_loss(2 * z, 2 * v, label, 2.0, 1.0)
    assert twice.item() == pytest.approx(4 * kl)


def test_huge_logits_stay_finite() -> None:
    z, v = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-1e4, 0.0, 1e4]])
    z.requires_grad_()
    loss = distillation_loss(z, v, torch.tensor([0]), 1.0, 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature above 0, got {temperature}"):
        distillation_loss(*logits(), LABELS, temperature, 0.9)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_a_weight_that_is_no_share_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha from 0 to 1, got {alpha}"):
        distillation_loss(*logits(), LABELS, 4.0, alpha)


def test_wrong_shapes_and_types_are_refused() -> None:
    z, v = logits()
    with pytest.raises(ValueError, match=r"\(6, 5\), \(6, 4\), \(6,\)"):
        distillation_loss(z, v[:, :4], LABELS, 4.0, 0.9)
    with pytest.raises(ValueError, match=r"\(5,\)"):
        distillation_loss(z, v, LABELS[:5], 4.0, 0.9)
    with pytest.raises(ValueError, match=r"\(6,\), \(6,\), \(6,\)"):
        distillation_loss(z[:, 0], v[:, 0], LABELS, 4.0, 0.9)
    with pytest.raises(TypeError, match=r"torch\.float64 and torch\.int64"):
        distillation_loss(z, v.long(), LABELS, 4.0, 0.9)
    with pytest.raises(TypeError, match=r"integers, got torch\.float64"):
        distillation_loss(z, v, LABELS.double(), 4.0, 0.9)


def block(i: int, o: int) -> list[nn.Module]:
    return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]


def large() -> nn.Module:
    return nn.Sequential(
        *block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def narrow() -> nn.Module:
    return nn.Sequential(
        *block(1, 4), nn.MaxPool2d(2), *block(4, 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def trained(
    model: nn.Module, data: tuple[Tensor, Tensor], loss, epochs: int, seed: int
) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    count = steps(len(data[0]), epochs=epochs, batch_size=64)
    test = digits("test")
    return fit(
        model,
        data,
        epochs=epochs,
        batch_size=64,
        optimizer=optimizer,
        loss=loss,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count),
        evaluate=lambda net: {"accuracy": accuracy(net, *test)},
        seed=seed,
    )


def on_threes(model: nn.Module) -> dict[str, float]:
    """How many threes are found, and how often a 3 looks more like a 3 than another digit does.

    The second is the area under the ROC curve of the odds of class 3: the bias of the
    class, which nothing holds when no 3 is shown, does not enter it.
    """
    images, labels = digits("test")
    scores = predict(model, images)
    others = scores[:, [k for k in range(10) if k != 3]].logsumexp(dim=1)
    odds = scores[:, 3] - others
    above = odds[labels == 3][:, None] > odds[labels != 3][None]
    found = scores[labels == 3].argmax(dim=1) == 3
    return {
        "threes": float(found.double().mean()),
        "ranked": float(above.double().mean()),
    }


def digits_distilled(
    temperature: float, weights: dict[str, float], epochs: int, seed: int
) -> dict[str, object]:
    """One teacher, and students that differ in what they are told: all digits, or none of the threes.

    Students whose name ends in without_threes are trained on the images of other digits.
    """
    images, labels = digits("train")
    torch.manual_seed(seed)
    teacher = large()
    history = trained(
        teacher,
        (images, labels),
        lambda net, x, y: F.cross_entropy(net(x), y),
        epochs,
        seed,
    )
    told = predict(teacher, images)  # the teacher is in evaluation mode
    found: dict[str, object] = {
        "teacher": {
            "accuracy": history[-1]["accuracy"],
            **on_threes(teacher),
        }
    }

    def loss(alpha: float):
        def of(net: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
            return distillation_loss(
                net(x), told[rows], labels[rows], temperature, alpha
            )

        return of

    for name, alpha in weights.items():
        rows = torch.arange(len(labels))
        if name.endswith("without_threes"):
            rows = rows[labels != 3]
        torch.manual_seed(seed + 1000)  # the students start from the same weights
        student = narrow()
        history = trained(student, (images[rows], rows), loss(alpha), epochs, seed)
        found[name] = {
            "accuracy": history[-1]["accuracy"],
            **on_threes(student),
            "curve": [row["accuracy"] for row in history],
        }
    return found


def student_alone_and_distilled(
    names: dict[str, str],
    weights: dict[str, float],
    pairs: dict[str, str],
    temperature: float,
    epochs: int,
    seeds: int,
) -> dict[str, object]:
    """The same student over the same seeds (weights, order, images), alone and with the teacher."""
    runs = repeat(
        digits_distilled,
        {"all": {"temperature": temperature, "weights": weights, "epochs": epochs}},
        range(seeds),
        Path(__file__).parents[2] / ".cache/record/knowledge_distillation.jsonl",
    )["all"]

    def values(arm: str, quantity: str) -> list[float]:
        return [run[arm][quantity] for run in runs]

    return {
        "temperature": temperature,
        "epochs": epochs,
        "arms": {
            arm: {
                "name": names[arm],
                "alpha": weights.get(arm),
                **{
                    q: {"values": values(arm, q), **interval(values(arm, q))}
                    for q in ("accuracy", "threes", "ranked")
                },
                **(
                    {"curve": [run[arm]["curve"] for run in runs]}
                    if arm != "teacher"
                    else {}
                ),
            }
            for arm in names
        },
        "paired": {
            f"{arm}_{q}": {
                "name": f"{names[arm]} − {names[other]}, {q}",
                **paired(values(arm, q), values(other, q)),
            }
            for arm, other in pairs.items()
            for q in ("accuracy", "threes", "ranked")
        },
    }


def test_the_cost_of_teacher_and_student(evidence) -> None:
    rows = {}
    for key, name, make in (
        ("teacher", "teacher", large),
        ("alone", "student", narrow),
    ):
        rows[key] = {
            "name": name,
            "params": sum(p.numel() for p in make().parameters()),
        }
    evidence.computed("cost", rows)
    assert rows["teacher"]["params"] > 100 * rows["alone"]["params"]


@pytest.mark.record
def test_a_student_distilled_paired_against_the_same_student_alone(evidence) -> None:
    evidence.measured(
        "digits",
        arguments={
            "names": {
                "teacher": "teacher",
                "alone": "student, labels alone",
                "distilled": "student, distilled",
                "alone_without_threes": "student, labels alone, no 3 shown",
                "distilled_without_threes": "student, soft targets alone, no 3 shown",
            },
            "weights": {
                "alone": 0.0,
                "distilled": 0.9,
                "alone_without_threes": 0.0,
                "distilled_without_threes": 1.0,
            },
            "pairs": {
                "distilled": "alone",
                "distilled_without_threes": "alone_without_threes",
            },
            "temperature": 4.0,
            "epochs": 30,
            "seeds": 6,
        },
        run=student_alone_and_distilled,
    )
