"""A model in channels-last: same numbers, and torch's fast routines on one thread."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.d_fine import modeling_d_fine

from dentsight_pipeline.training import channels_last
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.recipe import Recipe

CONDITIONS = [f"condition {i}" for i in range(13)]
LABELS = [{"class_labels": torch.tensor([3]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}] * 4


@pytest.mark.parametrize("shape", [(4, 24, 12), (1, 7, 5), (3, 1, 9), (16, 6, 4), (2, 12, 20)])
def test_a_1x1_convolution_of_few_images_is_that_of_torch(shape: tuple[int, int, int]):
    """Output and all gradients, to rounding, for heights that divide well, prime ones and enough images."""
    torch.manual_seed(3)
    batch, height, width = shape
    plain = torch.nn.Conv2d(24, 10, 1, dtype=torch.float64)
    ours = copy.deepcopy(plain)
    channels_last.lay_out(ours)
    pixels = torch.randn(batch, 24, height, width, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    found = []
    for convolution in (plain, ours):
        given = pixels.clone().requires_grad_()
        answer = convolution(given)
        (answer * torch.linspace(-1, 1, answer.numel()).view_as(answer)).sum().backward()
        found.append([answer, given.grad, *(p.grad for p in convolution.parameters())])

    assert isinstance(ours, channels_last.PointwiseConv)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert found[1][0].is_contiguous(memory_format=torch.channels_last)


def test_on_one_thread_no_convolution_in_channels_last_is_torchs_slow_one(smoke: Recipe):
    """A sixth of a step was spent there; which layers go where is torch's to decide, so a new release may change it."""
    model = models.build(smoke, CONDITIONS).train()
    channels_last.lay_out(model)
    pixels = torch.rand(4, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            model(pixel_values=pixels, labels=LABELS).loss.backward()
    finally:
        torch.set_num_threads(threads)

    operations = {event.key for event in seen.key_averages()}
    assert "aten::mkldnn_convolution" in operations
    assert not {name for name in operations if "slow_conv" in name}


def test_weights_in_channels_last_are_saved_as_they_were(smoke: Recipe, tmp_path: Path):
    model = models.build(smoke, CONDITIONS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    channels_last.lay_out(model)
    model.save_pretrained(tmp_path)

    again = models.load(tmp_path)
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in again.state_dict().items())


@pytest.mark.parametrize("points", [[3, 6, 3], [4, 4], [1]])
def test_deformable_attention_is_that_of_transformers(points: list[int]):
    """Bit for bit forwards; gradients to rounding. Places outside the image are among them."""
    torch.manual_seed(4)
    shapes = [(8, 12), (4, 6), (2, 3)][: len(points)]
    places = sum(height * width for height, width in shapes)
    value = torch.randn(2, places, 3, 5, dtype=torch.float64, requires_grad=True)
    at = (torch.rand(2, 7, 3, sum(points), 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()
    weights = torch.rand(2, 7, 3, sum(points), dtype=torch.float64, requires_grad=True)
    found = []
    ways: list[Any] = [modeling_d_fine.multi_scale_deformable_attention_v2, channels_last.sampled]
    for attend in ways:
        answer = attend(value, shapes, at, weights, points, "default")
        found.append([answer, *torch.autograd.grad(answer.square().sum(), (value, at, weights))])

    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_laid_out_says_what_it_said_before(smoke: Recipe):
    """In double precision: in single, rounding chooses other queries among the nearly equal scores of a new model."""
    torch.manual_seed(5)
    plain = models.build(smoke, CONDITIONS).eval().double()
    ours = copy.deepcopy(plain)
    channels_last.lay_out(ours)
    pixels = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        before, after = (model(pixel_values=pixels) for model in (plain, ours))

    attentions = [m for m in ours.modules() if hasattr(m, "ms_deformable_attn_core")]
    assert len(attentions) == ours.config.decoder_layers
    assert {m.ms_deformable_attn_core for m in attentions} == {channels_last.sampled}
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(after.pred_boxes, before.pred_boxes)
