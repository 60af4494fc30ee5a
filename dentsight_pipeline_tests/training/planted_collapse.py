"""The planted fault: the loss of transformers before 5.18, and a toy task small enough to show what it does.

Test-only. The product must not be able to train on this loss by accident, so it lives outside the package; the tests
and `benchmarks/head_collapse.py` are its only users.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config
from transformers.loss.loss_d_fine import DFineLoss, _set_aux_loss, _set_aux_loss2
from transformers.loss.loss_rt_detr import RTDetrLoss

from dentsight_pipeline.documents.health import Reading
from dentsight_pipeline.training.detector import Preprocessing
from dentsight_pipeline.training.health import HeadHealthMonitor, LabelledBatch

TOY_SHAPES, TOY_TEXTURES = ("square", "bar", "post", "frame"), ("bright", "dark", "striped")
TOY_CLASSES = tuple(f"{texture} {shape}" for shape in TOY_SHAPES for texture in TOY_TEXTURES)
TOY_FIELDS = (
    "backbone_config", "encoder_in_channels", "feat_strides", "encode_proj_layers", "num_feature_levels",
    "encoder_hidden_dim", "decoder_in_channels", "d_model", "encoder_ffn_dim", "decoder_ffn_dim",
    "encoder_attention_heads", "decoder_attention_heads", "decoder_layers", "decoder_n_points", "depth_mult",
    "hidden_expansion", "num_queries", "num_denoising", "label_noise_ratio", "box_noise_scale",
    "freeze_backbone_batch_norms",
)  # fmt: skip
TOY_PROCESSOR = Preprocessing((96, 64), (0.5, 0.5, 0.5), (0.157, 0.157, 0.157))


def pre_5_18_loss(
    logits: Tensor,
    labels: list[dict[str, Tensor]],
    device: torch.device,
    pred_boxes: Tensor,
    config: Any,
    outputs_class: Tensor,
    outputs_coord: Tensor,
    enc_topk_logits: Tensor,
    enc_topk_bboxes: Tensor,
    denoising_meta_values: dict[str, Any] | None = None,
    predicted_corners: Tensor | None = None,
    initial_reference_points: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]]]:
    """transformers 4.57.6's `DFineForObjectDetectionLoss`: the main loss sees the denoising queries too.

    The auxiliary losses were split even then; only `logits` and `pred_boxes` were not. Without denoising (a batch
    without boxes) there is nothing to plant, and that version's auxiliary losses were absent.
    """
    criterion = DFineLoss(config).to(device)
    outputs: dict[str, Any] = {"logits": logits, "pred_boxes": pred_boxes.clamp(min=0, max=1)}
    auxiliary: list[dict[str, Tensor]] = []
    if denoising_meta_values is not None:
        assert predicted_corners is not None and initial_reference_points is not None
        split = denoising_meta_values["dn_num_split"]
        dn_coord, coord = torch.split(outputs_coord.clamp(min=0, max=1), split, dim=2)
        dn_class, scores = torch.split(outputs_class, split, dim=2)
        dn_corners, corners = torch.split(predicted_corners, split, dim=2)
        dn_refs, refs = torch.split(initial_reference_points, split, dim=2)
        auxiliary = _set_aux_loss2(
            scores[:, :-1].transpose(0, 1),
            coord[:, :-1].transpose(0, 1),
            corners[:, :-1].transpose(0, 1),
            refs[:, :-1].transpose(0, 1),
            corners[:, -1],
            scores[:, -1],
        )
        auxiliary.extend(_set_aux_loss([enc_topk_logits], [enc_topk_bboxes.clamp(min=0, max=1)]))
        outputs["auxiliary_outputs"] = auxiliary
        outputs["dn_auxiliary_outputs"] = _set_aux_loss2(
            dn_class.transpose(0, 1),
            dn_coord.transpose(0, 1),
            dn_corners.transpose(0, 1),
            dn_refs.transpose(0, 1),
            dn_corners[:, -1],
            dn_class[:, -1],
        )
        outputs["denoising_meta_values"] = denoising_meta_values
    terms = criterion(outputs, labels)
    return sum(terms.values()), terms, auxiliary  # pyright: ignore[reportReturnType] # a sum of tensors


def plant(model: torch.nn.Module) -> None:
    """Make this one model train on the pre-5.18 loss."""
    model.loss_function = pre_5_18_loss  # pyright: ignore[reportArgumentType] # a property with a setter


def plant_main(model: Any, criterion: Callable[[Any], Any]) -> None:
    """The same fault in RT-DETR's kin: the main terms are computed over the denoising queries too."""
    inner: Any = model.loss_function

    def planted(logits: Tensor, labels: Any, device: Any, pred_boxes: Tensor, config: Any, *a: Any, **k: Any) -> Any:
        _, terms, auxiliary = inner(logits, labels, device, pred_boxes, config, *a, **k)
        outputs = {"logits": logits, "pred_boxes": pred_boxes.clamp(min=0, max=1)}
        terms = {**terms, **criterion(config).to(device)(outputs, labels)}
        return sum(terms.values()), terms, auxiliary

    model.loss_function = planted


KIN_LOSSES = {"rt_detr": RTDetrLoss, "rt_detr_v2": RTDetrLoss}
"""The loss of D-FINE's kin that had the fault."""


def tiny_kin(kind: str) -> Any:
    """`tiny_detector`'s like of another model type of `models.KIN`."""
    toy: Any = tiny_detector().config
    config_class, model_class = {
        "rt_detr": (transformers.RTDetrConfig, transformers.RTDetrForObjectDetection),
        "rt_detr_v2": (transformers.RTDetrV2Config, transformers.RTDetrV2ForObjectDetection),
        "deimv2": (transformers.Deimv2Config, transformers.Deimv2ForObjectDetection),
    }[kind]
    own = {name for name in config_class.__dataclass_fields__ if name in TOY_FIELDS}
    values: dict[str, Any] = {name: getattr(toy, name) for name in own} | {"num_labels": len(TOY_CLASSES)}
    if kind != "deimv2":
        resnet: Any = transformers.RTDetrResNetConfig
        values |= {"decoder_n_points": 4, "backbone_config": resnet(
            embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[2] * 4, layer_type="basic",
            out_features=["stage2", "stage3"],
        )}  # fmt: skip
    if kind == "rt_detr_v2":
        values["decoder_n_levels"] = 2
    torch.manual_seed(0)
    return model_class(config_class(**values))


def tiny_detector(
    seed: int = 0, *, num_labels: int = len(TOY_CLASSES), decoder_layers: int = 4, **overrides: Any
) -> DFineForObjectDetection:
    """A D-FINE of about 0.3 M parameters that learns the toy task in a few hundred steps.

    Its denoising queries are noised little, so that they win the planted loss's matching throughout; with the default
    noise the same collapse takes thousands of steps.
    """
    torch.manual_seed(seed)
    backbone: dict[str, Any] = {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 32, 48],
        "stage_mid_channels": [8, 12, 16, 16],
        "stage_out_channels": [16, 32, 48, 64],
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "embedding_size": 8,
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "stage_kernel_size": [3, 3, 3, 3],
        "stage_light_block": [False, False, False, False],
        "stage_downsample": [False, True, True, True],
        "use_learnable_affine_block": True,
        "out_indices": [2, 3],
    }
    config = DFineConfig(
        **{
            "backbone_config": HGNetV2Config(**backbone),
            "encoder_in_channels": [32, 48],
            "feat_strides": [8, 16],
            "encode_proj_layers": [1],
            "num_feature_levels": 2,
            "encoder_hidden_dim": 48,
            "decoder_in_channels": [48, 48],
            "d_model": 48,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "decoder_layers": decoder_layers,
            "decoder_n_points": [4, 4],
            "depth_mult": 0.34,
            "hidden_expansion": 0.5,
            "num_queries": 30,
            "num_denoising": 40,
            "label_noise_ratio": 0.2,
            "box_noise_scale": 0.4,
            "num_labels": num_labels,
            "freeze_backbone_batch_norms": False,
            **overrides,
        }
    )
    return DFineForObjectDetection(config)


def toy_images(
    generator: np.random.Generator, count: int
) -> tuple[NDArray[np.uint8], list[tuple[NDArray[np.float64], NDArray[np.int64]]]]:
    """Noise with one to six small lesions an image; shape and texture together are the class.

    Returns:
        [count, height, width] gray images, and for each its boxes [n, 4] (COCO form, pixels) and labels [n].
    """
    width, height = TOY_PROCESSOR.canvas
    images = generator.normal(0.0, 0.3, (count, height, width))
    truths = []
    for image in images:
        boxes, labels = [], []
        for _ in range(generator.integers(1, 7)):
            label = int(generator.integers(len(TOY_CLASSES)))
            shape, texture = divmod(label, len(TOY_TEXTURES))
            side = int(generator.integers(9, 15))
            w, h = {1: (side, side // 2), 2: (side // 2, side)}.get(shape, (side, side))
            x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
            patch = image[y : y + h, x : x + w]
            patch += (1.5, -1.5, 0.0)[texture]
            if TOY_TEXTURES[texture] == "striped":
                patch[::2] += 2.0
                patch[1::2] -= 2.0
            if TOY_SHAPES[shape] == "frame":
                patch[3:-3, 3:-3] = 0.0
            boxes.append([x, y, w, h])
            labels.append(label)
        truths.append((np.array(boxes, dtype=np.float64), np.array(labels, dtype=np.int64)))
    return (images * 40.0 + 127.5).clip(0, 255).astype(np.uint8), truths


def toy_batch(generator: np.random.Generator, batch_size: int = 4) -> LabelledBatch:
    """`toy_images` as the model reads them: `pixel_values` and `labels` with boxes cxcywh, relative."""
    images, truths = toy_images(generator, batch_size)
    canvas = np.array(TOY_PROCESSOR.canvas * 2, dtype=np.float64)
    targets = []
    for boxes, labels in truths:
        centred = np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1) / canvas
        targets.append({"class_labels": torch.from_numpy(labels), "boxes": torch.from_numpy(centred).float()})
    return {"pixel_values": TOY_PROCESSOR.pixels(torch.from_numpy(images)), "labels": targets}


@dataclass(frozen=True)
class ToyRun:
    """A finished toy training: the model, in eval mode, and what its monitor saw."""

    model: DFineForObjectDetection
    monitor: HeadHealthMonitor


def train_toy(
    model: DFineForObjectDetection,
    *,
    steps: int,
    evaluations: Collection[int],
    total_steps: int | None = None,
    allow: str | None = None,
    learning_rate: float = 5e-4,
    after_evaluation: Callable[[Reading], None] | None = None,
) -> ToyRun:
    """Train on endless toy batches, watched, and stopped by a collapse unless `allow` gives a reason to go on.

    Args:
        model: What to train.
        steps: Optimiser steps to take.
        evaluations: Steps after which the heads are assessed on held-out images.
        total_steps: What the monitor is told; `steps` by default.
        allow: Passed on to `raise_if_collapsed`.
        learning_rate: AdamW's, after 20 steps of warm-up.
        after_evaluation: Is given every reading.
    """
    generator, held_out = np.random.default_rng(1), np.random.default_rng(10_000)
    validation = [toy_batch(held_out, 8) for _ in range(3)]
    monitor = HeadHealthMonitor(model, total_steps=total_steps or steps, warmup_steps=20, num_labels=len(TOY_CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    model.train()
    with monitor.watch(model):
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            model(**toy_batch(generator)).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            schedule.step()
            if step in evaluations:
                reading = monitor.assess(step, model, validation)
                if after_evaluation is not None:
                    after_evaluation(reading)
                monitor.raise_if_collapsed(allow)
    return ToyRun(model.eval(), monitor)


@cache
def collapsed_run() -> ToyRun:
    """172 steps on the planted loss, allowed to collapse (about 20 s of CPU, once a process)."""
    model = tiny_detector()
    plant(model)
    return train_toy(model, steps=172, evaluations=(160, 172), allow="shows what the planted fault does")


@cache
def healthy_run() -> ToyRun:
    """The same 172 steps on the installed transformers' own loss (about 20 s of CPU, once a process)."""
    return train_toy(tiny_detector(), steps=172, evaluations=(160, 172))
