"""Recipes: complete, documented, digested, and impossible values refused by name."""

from __future__ import annotations

import re

import pytest

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import Recipe

CARD_V1 = {
    "learning_rate": 5e-5,
    "batch_size": 4,
    "eval_batch_size": 2,
    "seed": 42,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "schedule": "cosine",
    "warmup_fraction": 0.05,
    "epochs": 18,
    "focal_alpha": 0.75,
    "focal_gamma": 2.0,
    "sampler": "class-balanced",
    "image_width": 1280,
    "image_height": 704,
    "weights": "ustc-community/dfine-large-coco",
    "architecture": "large",
    "ema_decay": None,
    "early_stopping_evaluations": None,
    "augment_flip": 0.0,
}


def test_v1_is_the_model_card_field_by_field():
    """A comparison with v1 means nothing when "v1" is not what the card says."""
    recipe = recipes.named("v1")

    assert {field: getattr(recipe, field) for field in CARD_V1} == CARD_V1


def test_v1_trains_as_many_steps_as_the_card_implies():
    """18 epochs of 1549 images at batch 4 are 18 × 388 steps; the cosine and the warm-up depend on it."""
    recipe = recipes.named("v1")

    assert recipe.total_steps(1549) == 6984
    assert recipe.warmup(6984) == 350


def test_v2_differs_from_v1_in_the_cards_plan_alone():
    """The plan is more pixels, a faster class head and alpha 0.25; anything else would be another experiment."""
    v1, v2 = recipes.named("v1").model_dump(), recipes.named("v2").model_dump()

    changed = {field for field in v1 if v1[field] != v2[field]}

    assert changed == {"name", "image_width", "image_height", "head_lr_multiplier", "focal_alpha"}
    assert (v2["image_width"], v2["image_height"], v2["focal_alpha"]) == (1664, 928, 0.25)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_named_recipe_is_legal_and_survives_json(name: str):
    """A recipe travels as JSON in job files and manifests; what comes back must be the same recipe."""
    recipe = recipes.named(name)

    again = Recipe.model_validate_json(recipe.model_dump_json())

    assert again == recipe
    assert again.digest == recipe.digest
    assert recipe.name == name


def test_every_field_says_what_it_does():
    """The launch form, `dentsight` and docs show these texts; a field without one is a riddle."""
    undocumented = [name for name, field in Recipe.model_fields.items() if not field.description]

    assert undocumented == []


def test_fields_are_scalars_only():
    """Overrides come as strings and go into MLflow parameters one by one; nested values would break both."""
    values = recipes.named("v3").model_dump().values()

    assert all(isinstance(value, str | int | float | bool | None) for value in values)


@pytest.mark.parametrize(("name", "digest"), [("v1", "aae085ad"), ("v2", "18bc327c"), ("v3", "c0ca4726")])
def test_fields_that_came_later_leave_older_recipes_their_digest(name: str, digest: str):
    """Cells that were trained before a field existed are not trained again because of it."""
    recipe = recipes.named(name)

    assert recipe.digest.startswith(digest)
    assert not recipes.LATER_FIELDS & recipe.document.keys()
    assert recipe.override({"criterion": "published"}).digest != recipe.digest


def test_digests_tell_recipes_apart():
    """The digest is the recipe's identity in the memo key: two recipes with one digest would share a checkpoint."""
    digests = {recipes.named(name).digest for name in recipes.NAMES}

    assert len(digests) == len(recipes.NAMES)
    assert recipes.named("v1").override({"seed": 43}).digest not in digests


def test_an_override_given_as_text_is_the_same_recipe_as_one_given_as_a_number():
    """The command line gives text, Dagster's form numbers; the identity must not depend on who asked."""
    typed = recipes.named("v1").override({"learning_rate": 1e-4, "batch_size": 8, "ema_decay": None})
    text = recipes.named("v1").override({"learning_rate": "1e-4", "batch_size": "8", "ema_decay": "none"})

    assert text == typed
    assert text.digest == typed.digest


def test_overrides_are_listed_and_an_override_to_the_same_value_is_none():
    """A variant is marked as such in reports; restating a value does not make one."""
    recipe = recipes.named("v1")

    assert recipe.override({"batch_size": "4"}).overrides == {}
    assert recipe.override({"batch_size": "8"}).overrides == {"batch_size": 8}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_width", "1270", "image_width must be a multiple of 32.*1270 is not. The nearest legal value is 1280"),
        ("image_height", "720", "image_height must be a multiple of 32.*nearest legal value is 704"),
        ("image_width", "16", "image_width must be at least 32.*nearest legal value is 32"),
        ("batch_size", "0", "batch_size must be at least 1, given is 0. The nearest legal value is 1"),
        ("micro_batch_size", "3", "micro_batch_size must divide batch_size = 4, 3 does not.*nearest legal value is 2"),
        ("focal_alpha", "1.5", "focal_alpha must be at most 1.0, given is 1.5. The nearest legal value is 1.0"),
        ("learning_rate", "nan", "learning_rate: Input should be a finite number"),
        ("learning_rate", "fast", "learning_rate: Input should be a valid number.*given is 'fast'"),
        ("architecture", "larg", "one of tiny, nano, small, medium, large, xlarge.*nearest legal value is large"),
        ("stage", "3", "stage must be at most 2, given is 3. The nearest legal value is 2"),
        ("epochs", "none", "exactly one of epochs and max_steps must be set"),
        ("max_steps", "100", "exactly one of epochs and max_steps must be set"),
        ("learning_rat", "1", "There is no field 'learning_rat'. Did you mean learning_rate"),
        ("zzzz", "1", "There is no field 'zzzz'. There are name, stage"),
        ("class_loss", "matchability", "needs criterion = published, given is criterion = transformers"),
        ("weights", "none", "freeze_batch_norm = backbone freezes.*freeze_batch_norm = none"),
        ("name", "v9", "'name' cannot be overridden"),
    ],
)
def test_an_impossible_value_is_refused_with_the_nearest_legal_one(field: str, value: str, message: str):
    """Refusing before anything starts saves a GPU hour; naming the nearest value saves a look into the docs."""
    with pytest.raises(ConfigurationError, match=message):
        recipes.named("v1").override({field: value})


def test_more_queries_than_the_canvas_has_places_are_refused():
    """D-FINE picks its queries among the places of its feature maps; torch's own error names neither."""
    with pytest.raises(ConfigurationError, match=r"num_queries must be at most 126, .* 96×64 canvas, given is 127"):
        recipes.named("smoke").override({"image_width": 96, "image_height": 64, "num_queries": 127})


def test_every_impossible_field_is_named_at_once():
    """Fixing one field only to meet the next refusal is tedious."""
    with pytest.raises(ConfigurationError, match=r"seed must.*batch_size must"):
        recipes.named("v1").override({"batch_size": "0", "seed": "-1"})


def test_an_unknown_recipe_names_those_that_exist():
    """`v5` must not become a fresh recipe by accident."""
    with pytest.raises(ConfigurationError, match=re.escape("There are v1, v2, v3, v4, smoke")):
        recipes.named("v5")


def test_a_stage_is_one_field_away():
    """Both stages use the same recipes."""
    assert recipes.named("v3").override({"stage": "1"}).stage == 1


def test_a_training_from_weights_of_the_package_is_known_by_their_digest_too(monkeypatch: pytest.MonkeyPatch):
    """A version of the package that brings other weights under the name must not reuse what the old ones became."""
    packaged, own = recipes.named("smoke"), recipes.named("v3")
    monkeypatch.setattr(recipes, "PACKAGED", {"phantom-tiny": "a" * 64})
    before = packaged.identity
    monkeypatch.setattr(recipes, "PACKAGED", {"phantom-tiny": "b" * 64})

    assert before == {"recipe": packaged.digest, "weights_sha256": "a" * 64}
    assert packaged.identity == {"recipe": packaged.digest, "weights_sha256": "b" * 64}
    assert own.identity == {"recipe": own.digest}
