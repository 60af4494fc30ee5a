"""Parameter groups, schedules and the moving average."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from dentsight_pipeline.training import model as models
from dentsight_pipeline.training import optim
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import Recipe

CLASSES = ["a", "b", "c"]


@pytest.fixture
def grouped() -> Recipe:
    """Different rates for backbone, head and the rest."""
    return recipes.named("smoke").override(
        {"learning_rate": 0.01, "backbone_lr_multiplier": 0.1, "head_lr_multiplier": 5, "weight_decay": 0.1}
    )


def test_every_trainable_parameter_is_in_exactly_one_group(grouped: Recipe):
    """A forgotten parameter stays random; a doubled one moves twice."""
    model = models.build(grouped, CLASSES)

    listed = [id(p) for group in optim.parameter_groups(model, grouped) for p in group["params"]]

    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_groups_have_the_rates_of_their_multipliers(grouped: Recipe):
    """v2's plan is a faster class head: the head group must hold exactly the layers that a new class count replaces."""
    model = models.build(grouped, CLASSES)
    rate = {id(p): group["lr"] for group in optim.parameter_groups(model, grouped) for p in group["params"]}

    by_name = {name: rate[id(p)] for name, p in model.named_parameters() if p.requires_grad}

    for name, value in by_name.items():
        head = any(part in name for part in ("class_embed", "enc_score_head"))
        assert value == pytest.approx(0.001 if "backbone" in name else 0.05 if head else 0.01), name


def test_norms_and_biases_do_not_decay(grouped: Recipe):
    """Decay pulls a norm's scale to zero; the original recipe excepts them as well."""
    model = models.build(grouped, CLASSES)

    for group in optim.parameter_groups(model, grouped):
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}


def test_a_backbone_multiplier_of_zero_freezes_the_backbone(grouped: Recipe):
    """Rate 0 alone would still let weight decay and gradients cost time and memory."""
    frozen = grouped.override({"backbone_lr_multiplier": 0})
    model = models.build(frozen, CLASSES)

    groups = optim.parameter_groups(model, frozen)

    assert not any("backbone" in group["name"] for group in groups)
    assert not any(p.requires_grad for name, p in model.named_parameters() if "backbone" in name)


def test_groups_are_described_with_counts_and_rates(grouped: Recipe):
    """The log line by which a person sees that the head multiplier took hold."""
    text = optim.describe_groups(optim.parameter_groups(models.build(grouped, CLASSES), grouped))

    assert "backbone: 127,424 parameters, rate 0.001, decay 0.1" in text
    assert "head (norms, biases): 12 parameters, rate 0.05, decay 0" in text


def test_the_cosine_is_transformers_cosine():
    """v1 was trained with transformers' schedule; another start or end would be another recipe."""
    recipe = recipes.named("v1").override({"epochs": "none", "max_steps": 100})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=100)

    for step in range(100):
        assert optim.rate_factor(recipe, step, 100) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_flat_cosine_is_flat_until_its_fraction_and_ends_at_its_floor():
    """Half the training at the full rate is what lets 500 steps learn."""
    recipe = recipes.named("smoke").override({"max_steps": 100, "warmup_steps": 10, "final_lr_fraction": 0.1})
    factors = [optim.rate_factor(recipe, step, 100) for step in range(101)]

    assert factors[0] == 0
    assert factors[10:51] == [1.0] * 41
    assert factors[75] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[50:]))


def test_the_average_follows_at_first_and_remembers_later():
    """A fixed decay would export mostly the random start of a short run."""
    recipe = recipes.named("smoke").override({"ema_decay": 0.99, "ema_warmup_steps": 50})

    assert optim.ema_decay(recipe, 1) < 0.02
    assert optim.ema_decay(recipe, 1000) == pytest.approx(0.99)


def test_the_average_is_the_weighted_mean_computed_by_hand():
    """Weights, statistics of batch norms and counters alike; the counter is copied."""
    recipe = recipes.named("smoke").override({"ema_decay": 0.5, "ema_warmup_steps": 1})
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = optim.MovingAverage(model, recipe)
    with torch.no_grad():
        model[0].weight.add_(1.0)
        model[1].running_mean.add_(2.0)
        model[1].num_batches_tracked.add_(7)
    start = {name: value.clone() for name, value in average.model.state_dict().items()}

    average.update(3)

    weight = 1 - optim.ema_decay(recipe, 3)
    after = average.model.state_dict()
    torch.testing.assert_close(after["0.weight"], start["0.weight"] + weight * 1.0)
    torch.testing.assert_close(after["1.running_mean"], start["1.running_mean"] + weight * 2.0)
    assert after["1.num_batches_tracked"] == 7
    assert not average.model.training


def test_tied_heads_are_averaged_once():
    """D-FINE lists its class heads under two names; moving them twice would double their speed."""
    recipe = recipes.named("smoke").override({"ema_decay": 0.5, "ema_warmup_steps": 1})
    model: Any = models.build(recipe, CLASSES)
    average: Any = optim.MovingAverage(model, recipe)
    before = average.model.class_embed[0].bias.clone()
    with torch.no_grad():
        model.class_embed[0].bias.add_(1.0)

    average.update(5)

    moved = average.model.class_embed[0].bias - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - optim.ema_decay(recipe, 5)))
