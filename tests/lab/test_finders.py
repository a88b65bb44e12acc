"""What the narrow detectors and segmenters of the scenes cost, side by side."""

import runpy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cnn_lab.scene_trial import normalized, trial_scenes
from cnn_site import ROOT, pages
from cnn_site.evidence import Evidence
from cnn_site.speed import side_by_side
from cnn_techniques import detection, segmentation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import BasicBlock, ResNet


def retinanet() -> nn.Module:
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16)
    pyramid = detection.FeaturePyramidNetwork([32, 64, 128], 32)
    backbone = detection.RetinaNetBackbone(body, pyramid)
    return detection.RetinaNet(backbone, 32, 10, (20, 28, 36), (8, 16, 32))


def of_proof(slug: str, **arguments: Any) -> Callable[[], nn.Module]:
    """What `narrow` of a page's proof makes: what its trial trains."""
    category, name = slug.split("/")
    proof = ROOT / "tests" / category / f"test_{name.replace('-', '_')}.py"
    return lambda: runpy.run_path(str(proof))["narrow"](**arguments)  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "detection/retinanet": retinanet,
    "detection/fcos": of_proof("detection/fcos", channels=3),
    "detection/faster-rcnn": of_proof("detection/faster-rcnn"),
    "detection/yolov8": of_proof("detection/yolov8", channels=3),
    "detection/efficientdet": of_proof("detection/efficientdet"),
    "detection/detr": of_proof("detection/detr"),
    "segmentation/u-net": lambda: segmentation.UNet(3, 11, width=8, padding=1),
    "segmentation/fcn": of_proof("segmentation/fcn"),
    "segmentation/pspnet": of_proof("segmentation/pspnet"),
    "segmentation/deeplab-v3-plus": of_proof("segmentation/deeplab-v3-plus"),
    "segmentation/segformer": of_proof("segmentation/segformer"),
    "segmentation/mask-rcnn": of_proof("segmentation/mask-rcnn"),
    "segmentation/yolact": of_proof("segmentation/yolact"),
    "segmentation/solo-v2": of_proof("segmentation/solo-v2"),
}
# From a network's output to boxes or masks.
FIND: dict[str, Callable[[Any], object]] = {
    "detection/retinanet": detection.retinanet_detections,
    "detection/fcos": detection.fcos_detections,
    "detection/faster-rcnn": detection.faster_rcnn_detections,
    "detection/yolov8": lambda out: detection.yolov8_detections(
        out, score_threshold=0.05
    ),
    "detection/efficientdet": detection.retinanet_detections,
    "detection/detr": lambda out: detection.detr_detections(out, [(96, 96)] * 8),
    "segmentation/mask-rcnn": segmentation.mask_rcnn_detections,
    "segmentation/yolact": segmentation.yolact_detections,
    "segmentation/solo-v2": lambda out: segmentation.solo_v2_detections(
        out, strides=(8, 8, 16)
    ),
}


def network(slug: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[slug]().eval()


def build(slugs: list[str]) -> dict[str, Callable[[], Callable[[], object]]]:
    """For each network what finds everything in eight scenes."""
    images = normalized(trial_scenes(8, 0, "test").images)

    def runs(slug: str) -> Callable[[], object]:
        net, find = network(slug), FIND.get(slug, lambda out: out)

        @torch.no_grad()
        def run() -> object:
            return find(net(images))

        return run

    return {row(slug): lambda slug=slug: runs(slug) for slug in slugs}


def row(slug: str) -> str:
    return slug.partition("/")[2].replace("-", "_")


def timed(slugs: list[str]) -> dict[str, Any]:
    return side_by_side(build, against=row(slugs[0]), arguments={"slugs": slugs})


def test_every_network_that_learns_the_scenes_of_all_stands_here() -> None:
    learnt = {
        t.slug
        for category in ("detection", "segmentation")
        for t in pages.in_category(category)
        if t.facts and "trial" in t.record.get("measured", {})
    }
    assert learnt == set(NETWORKS)
    assert set(FIND) <= set(NETWORKS)


def test_cost_of_every_network_for_one_scene(evidence: Evidence) -> None:
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    rows = {}
    for slug in NETWORKS:
        cost = model_cost(network(slug), image)
        name = pages.technique(slug).short
        rows[row(slug)] = {"name": name, "params": cost.params, "macs": cost.macs}
    evidence.computed("cost", rows)


@pytest.mark.record
def test_record_the_time_of_every_network(evidence: Evidence) -> None:
    evidence.measured("time", arguments={"slugs": list(NETWORKS)}, run=timed)
