"""A D-FINE laid out in memory as `memory_format=channels-last` says, and what that layout lets a CPU compute faster.

The same numbers but for their rounding: a training of one layout has other last bits than one of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ENOUGH_FOR_ONEDNN = 16
"""Images from which torch gives a 1×1 convolution to oneDNN whatever the threads."""


def lay_out(model: nn.Module) -> None:
    """Weights of convolutions in channels-last; 1×1 convolutions and deformable attention as this module has them."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    for module in model.modules():
        if type(module) is nn.Conv2d and (module.kernel_size, module.stride, module.groups) == ((1, 1), (1, 1), 1):
            module.__class__ = PointwiseConv
        elif hasattr(module, "ms_deformable_attn_core") and module.decoder_method == "default":
            setattr(module, "ms_deformable_attn_core", sampled)  # noqa: B010


class PointwiseConv(nn.Conv2d):
    """A 1×1 convolution that shows torch a batch of fewer than 16 images as one of more and lower images.

    With one thread torch gives 1×1 convolutions of fewer to a routine of its own, which takes twice as long as oneDNN
    (`use_mkldnn` in torch's `Convolution.cpp`). No place has neighbours here, and in channels-last rows of an image lie
    one after the other: the lower images are a view.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to [batch, out_channels, height, width]."""
        batch, channels, height, width = input.shape
        if batch >= ENOUGH_FOR_ONEDNN or input.device.type != "cpu":
            return super().forward(input)
        enough = (n for n in range(1, height + 1) if height % n == 0 and batch * n >= ENOUGH_FOR_ONEDNN)
        parts = next(enough, None)
        lower = (batch * parts, height // parts, width) if parts else (batch * height * width, 1, 1)
        places = input.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        found = super().forward(places.view(*lower, channels).permute(0, 3, 1, 2))
        return found.permute(0, 2, 3, 1).reshape(batch, height, width, self.out_channels).permute(0, 3, 1, 2)


def sampled(
    value: Tensor, shapes: Sequence[tuple[int, int]], at: Tensor, weights: Tensor, points: list[int], _: Any = None
) -> Tensor:
    """Deformable attention as transformers' `multi_scale_deformable_attention_v2` has it, bit for bit.

    There each level's grid is a view with gaps, for which torch fills its vectors with the three or four points of one
    query alone; packed ones take two thirds of the time.

    Args:
        value: [batch, places of all levels, heads, channels].
        shapes: (Height, width) of each level.
        at: [batch, queries, heads, points of all levels, 2], x and y relative to the level, 0 to 1.
        weights: [batch, queries, heads, points of all levels].
        points: Of each level.

    Returns:
        [batch, queries, heads · channels].
    """
    batch, _, heads, channels = value.shape
    queries = at.shape[1]
    levels = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in shapes], dim=-1)
    grids = (2 * at - 1).transpose(1, 2).flatten(0, 1).split(points, dim=-2)
    found = [
        nn.functional.grid_sample(level.unflatten(-1, shape), grid.contiguous(), align_corners=False)
        for level, shape, grid in zip(levels, shapes, grids, strict=True)
    ]
    shares = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    summed = (torch.cat(found, dim=-1) * shares).sum(-1)
    return summed.view(batch, heads * channels, queries).transpose(1, 2).contiguous()
