"""Complete, named training configurations with a digest.

Add a recipe here when an experiment deserves a name of its own; override single fields at launch for everything
smaller. A recipe is flat, frozen and complete: whatever changes the weights that come out, or which of them are chosen,
is a field here; paths, threads, prices and where the store is are not (see `job.py`).

Rates are used exactly as written: nothing scales the learning rate with the batch or with the number of GPUs, because
`batch_size` counts the images of one optimiser step over *all* processes. Whoever overrides `batch_size` decides about
`learning_rate` too (AdamW: about the square root of the ratio of batches).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dentsight_pipeline.errors import ConfigurationError

Scalar = str | int | float | bool | None
Architecture = Literal["tiny", "nano", "small", "medium", "large", "xlarge"]
STRIDE = 32
"""D-FINE's coarsest stride: width and height must be multiples of it."""

PACKAGED: Mapping[str, str] = {"phantom-tiny": "0643ce5a7299b623bbb3ae5a2a187e26eccd7acc4ed1df33092d8e3e311d1f29"}
"""Weights that come with the package, with the sha256 of their file, by which a training from them is known."""
LATER_FIELDS = frozenset({"criterion", "class_loss", "dense_weight", "memory_format", "nms_iou"})
"""Fields that recipes did not have at first; their defaults do what was done before."""

Side = Annotated[int, Field(ge=STRIDE, le=4096)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Recipe(BaseModel):
    """One complete training configuration; every field is a scalar, a string or None.

    Raises:
        pydantic.ValidationError: From the constructor. `parse`, `named` and `override` raise `ConfigurationError`
            instead, whose message names the nearest legal value.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    name: str
    """The named recipe that this one is, or that it was overridden from."""
    stage: Annotated[int, Field(ge=1, le=2)] = 2
    """1 finds the 32 teeth (needs a tooth subset), 2 the 13 conditions."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    """Seeds the initialisation, the sampler, the augmentation and the denoising noise."""

    architecture: Architecture
    """D-FINE size: the published nano (3.7 M parameters), small, medium, large, xlarge (62 M), or tiny (1.19 M), which
    learns on two CPU cores."""
    weights: str | None = None
    """Where to start from: None = random; a local folder or a hub name such as ustc-community/dfine-large-coco;
    checkpoint:DIGEST, a checkpoint manifest of this store; or weights that come with the package. Heads of
    another class count are initialised anew."""
    image_width: Side
    """Width of the letterboxed canvas in pixels, a multiple of 32."""
    image_height: Side
    """Height of the letterboxed canvas in pixels, a multiple of 32."""
    pixel_mean: Fraction = 0.0
    """Subtracted from pixels in [0, 1]. 0 for the published weights; keep it 0, so that black padding stays 0, which is
    what transformers' own image processor pads with."""
    pixel_std: Annotated[float, Field(ge=0.01, le=10.0)] = 1.0
    """Pixels are divided by this after the mean. 1 for the published weights."""
    num_queries: Annotated[int, Field(ge=10, le=1000)] = 300
    """Object queries: the most findings one image can have."""
    num_denoising: Annotated[int, Field(ge=0, le=1000)] = 100
    """Denoising queries of training (contrastive denoising, DINO section 3.3); 0 switches it off."""
    freeze_batch_norm: Literal["none", "backbone", "all"] = "backbone"
    """Batch norms that keep their loaded statistics and weights. `backbone` as transformers does for published weights;
    `all` also fixes the statistics of the encoder's, for micro-batches below about 8; `none` for random weights."""
    class_prior: Annotated[float, Field(ge=0.0001, le=0.5)] | None = None
    """Score of an untrained class head; None is transformers' 1 / (classes + 1), the original code uses 0.01."""
    criterion: Literal["transformers", "published"] = "transformers"
    """transformers' loss, or D-FINE's as it was published: each layer's distributions taught with its own boxes, the
    last layer's too, one union of matchings for the boxes of all layers (`training/criterion.py`)."""
    class_loss: Literal["varifocal", "matchability"] = "varifocal"
    """varifocal as D-FINE; matchability as DEIM (overlap^gamma is the target, every positive weighs 1); DEIM has gamma
    1.5 and alpha 1. The latter needs criterion = published."""
    focal_alpha: Fraction = 0.75
    """Alpha of the class loss: the weight of negatives."""
    focal_gamma: Annotated[float, Field(ge=0.0, le=5.0)] = 2.0
    """Gamma of the class loss."""
    dense_weight: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """Weight of a second loss, which teaches the encoder's places as those of a dense detector, up to ten of them a box
    (`training/dense.py`); 0 = none. Lesions are found more than once with it: set nms_iou."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Length of training in passes; exactly one of epochs and max_steps is set."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Length of training in optimiser steps; exactly one of epochs and max_steps is set."""
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    """Images of one optimiser step, summed over all processes and accumulated micro-batches."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Most images of one forward pass of one process; None = as many as the batch gives. A divisor of batch_size.
    Gradients are accumulated over the rest."""
    eval_batch_size: Annotated[int, Field(ge=1, le=4096)] = 2
    """Images of one forward pass in validation. Changes nothing but speed and memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 = autocast of the forward pass; weights, optimiser and criterion stay in fp32."""
    memory_format: Literal["contiguous", "channels-last"] = "contiguous"
    """Of images and weights; channels-last is faster and rounds otherwise: the weights differ in their last bits."""

    learning_rate: Annotated[float, Field(ge=1e-8, le=1.0)]
    """AdamW's peak rate of everything that is neither backbone nor class head; used as written."""
    backbone_lr_multiplier: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """The backbone's rate over learning_rate; 0 freezes it."""
    head_lr_multiplier: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """The class heads' rate (decoder.class_embed, enc_score_head, denoising_class_embed) over learning_rate."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """AdamW's decoupled decay; never on norms, biases and other one-dimensional parameters."""
    beta1: Annotated[float, Field(ge=0.0, le=0.9999)] = 0.9
    """AdamW's first moment."""
    beta2: Annotated[float, Field(ge=0.0, le=0.99999)] = 0.999
    """AdamW's second moment."""
    epsilon: Annotated[float, Field(ge=1e-12, le=1e-3)] = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Annotated[float, Field(ge=0.001, le=1000.0)] | None = None
    """Gradients are clipped to this global norm; None = never."""
    schedule: Literal["constant", "cosine", "flat-cosine"] = "cosine"
    """Rate after the warm-up: constant; cosine to the end; or flat until flat_fraction, then cosine."""
    warmup_fraction: Fraction = 0.0
    """Linear warm-up as a share of all steps, rounded up; used when warmup_steps is None."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Linear warm-up in steps."""
    flat_fraction: Fraction = 0.5
    """Share of all steps after which `flat-cosine` begins to fall."""
    final_lr_fraction: Fraction = 0.0
    """Rate at the last step over the peak rate, for both cosines."""
    ema_decay: Annotated[float, Field(ge=0.0, le=0.99999)] | None = None
    """Exponential moving average of the weights, the ones evaluated and exported; None = the raw weights are."""
    ema_warmup_steps: Annotated[float, Field(ge=1.0, le=100_000.0)] = 1000.0
    """Time constant t of the EMA's own warm-up: decay(n) = ema_decay * (1 - exp(-n / t)), as in D-FINE."""

    sampler: Literal["uniform", "class-balanced", "repeat-factor"] = "uniform"
    """uniform = a permutation an epoch; class-balanced = with replacement, an image weighs the sum of 1 / class_count
    over the labels it has; repeat-factor = max(1, sqrt(threshold / frequency)) of its rarest class (LVIS, section 3),
    capped."""
    repeat_factor_threshold: Annotated[float, Field(ge=0.0001, le=1.0)] = 0.2
    """Share of images with a class below which repeat-factor repeats it."""
    repeat_factor_cap: Annotated[float, Field(ge=1.0, le=100.0)] = 4.0
    """No image is drawn more often than this many times an epoch by repeat-factor."""
    augment_brightness: Fraction = 0.0
    """Brightness shift, drawn evenly from plus or minus this share of full white."""
    augment_contrast: Fraction = 0.0
    """Contrast factor about the image's mean, drawn evenly from 1 plus or minus this."""
    augment_crop: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """A crop keeps at least 1 minus this share of each side (zoomed back to the canvas); 0 = none."""
    augment_flip: Fraction = 0.0
    """Probability of a horizontal flip; tooth labels swap FDI quadrants 1 with 2 and 3 with 4."""
    plain_end_fraction: Fraction = 0.0
    """Share of all steps, at the end, that see images without any augmentation."""

    nms_iou: Annotated[float, Field(ge=0.05, le=0.95)] | None = None
    """Of findings of one class that overlap by more than this the surest is kept, wherever the model is used; None =
    all are. D-FINE is meant to need no suppression; a shortly trained one still names many lesions twice."""

    evaluate_every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Validation interval in steps; None = after each epoch. The last step is always evaluated."""
    validation_images: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Images of the validation split used during training, evenly spread over it; None = all."""
    early_stopping_evaluations: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Training ends after this many evaluations without a better validation mAP@0.5; None = never."""

    @model_validator(mode="after")
    def _values_fit_together(self) -> Recipe:
        for side in ("image_width", "image_height"):
            given = getattr(self, side)
            if given % STRIDE:
                nearest = max(STRIDE, round(given / STRIDE) * STRIDE)
                raise ValueError(
                    f"{side} must be a multiple of {STRIDE} (D-FINE's coarsest stride), {given} is not. "
                    f"The nearest legal value is {nearest}."
                )
        strides = (16, 32) if self.architecture == "nano" else (8, 16, 32)
        places = sum((self.image_width // stride) * (self.image_height // stride) for stride in strides)
        if self.num_queries > places:
            raise ValueError(
                f"num_queries must be at most {places}, the feature-map places of a {self.image_width}×"
                f"{self.image_height} canvas, given is {self.num_queries}. The nearest legal value is {places}."
            )
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError(
                f"exactly one of epochs and max_steps must be set, given are epochs = {self.epochs} and "
                f"max_steps = {self.max_steps}. Set the other one to none."
            )
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            divisors = [d for d in range(1, self.batch_size + 1) if self.batch_size % d == 0]
            nearest = min(divisors, key=lambda d: abs(d - (self.micro_batch_size or 1)))
            raise ValueError(
                f"micro_batch_size must divide batch_size = {self.batch_size}, {self.micro_batch_size} does not. "
                f"The nearest legal value is {nearest}."
            )
        if self.class_loss == "matchability" and self.criterion != "published":
            raise ValueError(
                "class_loss = matchability needs criterion = published, given is criterion = transformers. "
                "Set criterion=published, or class_loss=varifocal."
            )
        if self.weights is None and self.freeze_batch_norm != "none":
            raise ValueError(
                f"freeze_batch_norm = {self.freeze_batch_norm} freezes the statistics of published weights, but weights"
                " is none. The nearest legal value is freeze_batch_norm = none, or set weights."
            )
        return self

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON (RFC 8785) of `document`, hex."""
        return hashlib.sha256(rfc8785.dumps(self.document)).hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """What a training is known by: the recipe's digest, and that of the weights which come with this version."""
        start = PACKAGED.get(self.weights or "")
        return {"recipe": self.digest} | ({"weights_sha256": start} if start else {})

    @property
    def document(self) -> dict[str, Scalar]:
        """All fields, except later ones that have their default: recipes from before them keep their digests."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump().items()
            if name not in LATER_FIELDS or value != fields[name].default
        }

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the canvas in pixels."""
        return self.image_width, self.image_height

    @property
    def overrides(self) -> dict[str, Scalar]:
        """Fields that differ from the named recipe of the same name, with this recipe's values; {} when none does."""
        if self.name not in NAMES:
            return {}
        base = named(self.name)
        return {f: getattr(self, f) for f in type(self).model_fields if getattr(self, f) != getattr(base, f)}

    def override(self, values: Mapping[str, Scalar]) -> Recipe:
        """A copy with some fields replaced, checked as a whole.

        Args:
            values: New values by field; strings are parsed by the field's type, `none` empties a field that may be
                empty.

        Raises:
            ConfigurationError: An unknown field, or a value that cannot be meant; names the nearest legal one.
        """
        if "name" in values and values["name"] != self.name:
            raise ConfigurationError(
                f"Recipe field 'name' cannot be overridden (given {values['name']!r}, the recipe is {self.name!r}). "
                "Choose the recipe by name and override the other fields."
            )
        return parse({**self.model_dump(), **{field: _read(field, value) for field, value in values.items()}})

    def steps_per_epoch(self, images: int) -> int:
        """Optimiser steps of one pass over `images` images; the last batch is filled with further draws."""
        return max(1, -(-images // self.batch_size))

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole training on `images` training images."""
        if self.max_steps is not None:
            return self.max_steps
        return (self.epochs or 0) * self.steps_per_epoch(images)

    def warmup(self, total_steps: int) -> int:
        """Warm-up steps of a training of `total_steps` steps (rounded up, as transformers' Trainer does)."""
        if self.warmup_steps is not None:
            return min(self.warmup_steps, total_steps)
        return int(-(-self.warmup_fraction * total_steps // 1))


def parse(values: Mapping[str, Any]) -> Recipe:
    """A recipe from a complete dictionary, e.g. one that was read from JSON.

    Raises:
        ConfigurationError: One line for each impossible field, naming the nearest legal value.
    """
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        name = values.get("name", "?")
        raise ConfigurationError(f"Recipe {name!r}: {' '.join(_explain(e) for e in error.errors())}") from error


def named(name: str) -> Recipe:
    """The named recipe.

    Raises:
        ConfigurationError: No recipe has this name; says which exist.
    """
    if name not in NAMES:
        close = get_close_matches(name, NAMES, n=1, cutoff=0.3)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigurationError(
            f"Recipe {name!r} does not exist. There are {', '.join(NAMES)}.{hint} "
            "Other values are overrides of one of them (--set field=value)."
        )
    return {"v1": _v1, "v2": _v2, "v3": _v3, "v4": _v4, "smoke": _smoke}[name]()


NAMES: tuple[str, ...] = ("v1", "v2", "v3", "v4", "smoke")
"""The named recipes: the static `recipe` partition of the graph."""


def _v1() -> Recipe:
    """The published model card, exactly; what it leaves unsaid is transformers' Trainer default (clip 1, fp32)."""
    return Recipe(
        name="v1",
        architecture="large",
        weights="ustc-community/dfine-large-coco",
        image_width=1280,
        image_height=704,
        epochs=18,
        batch_size=4,
        eval_batch_size=2,
        learning_rate=5e-5,
        max_grad_norm=1.0,
        schedule="cosine",
        warmup_fraction=0.05,
        sampler="class-balanced",
    )


def _v2() -> Recipe:
    """The card's plan for its second version: more pixels, a faster class head, alpha 0.25."""
    return Recipe(
        **{
            **_v1().model_dump(),
            "name": "v2",
            "image_width": 1664,
            "image_height": 928,
            "head_lr_multiplier": 10.0,
            "focal_alpha": 0.25,
        }
    )


def _v3() -> Recipe:
    """Ours, after the original D-FINE recipe (2.5e-4 at batch 32, backbone a twentieth) and the v8 corpus's traits."""
    return Recipe(
        name="v3",
        architecture="large",
        weights="ustc-community/dfine-large-coco",
        image_width=1280,
        image_height=704,
        freeze_batch_norm="all",
        class_prior=0.01,
        epochs=36,
        batch_size=16,
        micro_batch_size=4,
        eval_batch_size=4,
        precision="bf16",
        learning_rate=1.25e-4,
        backbone_lr_multiplier=0.05,
        weight_decay=1.25e-4,
        max_grad_norm=0.1,
        schedule="flat-cosine",
        warmup_steps=200,
        flat_fraction=0.5,
        final_lr_fraction=0.05,
        ema_decay=0.999,
        ema_warmup_steps=500,
        sampler="repeat-factor",
        augment_brightness=0.1,
        augment_contrast=0.2,
        augment_crop=0.15,
        augment_flip=0.5,
        plain_end_fraction=0.15,
        early_stopping_evaluations=10,
    )


def _v4() -> Recipe:
    """v3 with what was measured or published since; each change with its evidence.

    Nothing of it has run at this size on X-rays yet: what is measured is measured on the tiny model (docs/log.md).
    """
    return Recipe(
        **{
            **_v3().model_dump(),
            "name": "v4",
            # published: D-FINE-L on COCO 54.0 → 57.1 with Objects365 (the authors' table; they warn of simple classes)
            "weights": "ustc-community/dfine-large-obj365",
            # measured: frozen encoder statistics cost v3 .391 → .498 macro AP50 on phantoms from a weak start
            "freeze_batch_norm": "backbone",
            "criterion": "published",
            # measured: a step of the tiny model on a CPU in .75 of the time
            "memory_format": "channels-last",
            # measured: macro AP50 of the tiny model +.069 [.043, .092] on phantoms, +.040 [.031, .050] on real X-rays
            "nms_iou": 0.5,
        }
    )


def _smoke() -> Recipe:
    """A model that learns in minutes on two CPU cores from a start on phantoms; for demonstrations, not findings."""
    return Recipe(
        name="smoke",
        architecture="tiny",
        weights="phantom-tiny",  # 3,000 steps on phantoms, paid once
        image_width=448,
        image_height=256,
        pixel_std=0.2,
        num_queries=100,
        num_denoising=50,
        freeze_batch_norm="none",
        # measured on phantoms from random weights, 332 and 498 of 1,000 steps: macro AP50 .31 and .44 on clean valid
        # images; with transformers' loss 500 steps at 320×192 gave .25 on the demo's
        criterion="published",
        class_loss="matchability",
        focal_alpha=1.0,
        focal_gamma=1.5,
        memory_format="channels-last",
        max_steps=200,
        batch_size=4,
        eval_batch_size=8,
        learning_rate=5e-4,
        weight_decay=1e-4,
        max_grad_norm=0.1,
        schedule="flat-cosine",
        warmup_steps=20,
        flat_fraction=0.5,
        ema_decay=0.99,
        ema_warmup_steps=50,
        augment_flip=0.5,
        nms_iou=0.5,
        evaluate_every_steps=50,
        validation_images=64,
    )


def _read(field: str, value: Scalar) -> Scalar:
    """`none` and the empty string mean None where the field may be None; everything else is pydantic's to parse."""
    if not isinstance(value, str) or field not in Recipe.model_fields:
        return value
    optional = type(None) in get_args(Recipe.model_fields[field].annotation)
    return None if optional and value.strip().lower() in {"none", "null", ""} else value.strip()


def _explain(error: ErrorDetails) -> str:
    """One sentence for one of pydantic's errors: what was given, what is legal, what is nearest."""
    field = str(error["loc"][0]) if error["loc"] else ""
    given, context, kind = error["input"], error.get("ctx", {}), error["type"]
    fields = list(Recipe.model_fields)
    if kind == "extra_forbidden":
        close = get_close_matches(field, fields, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(close)}?" if close else f" There are {', '.join(fields)}."
        return f"There is no field {field!r}.{hint}"
    if kind == "missing":
        return f"Field {field} is missing."
    if kind == "value_error":
        return f"{error['msg'].removeprefix('Value error, ')}"
    if kind in {"greater_than_equal", "less_than_equal"}:
        bound = context["ge"] if kind == "greater_than_equal" else context["le"]
        side = "at least" if kind == "greater_than_equal" else "at most"
        return f"{field} must be {side} {bound}, given is {given}. The nearest legal value is {bound}."
    if kind == "literal_error":
        legal = [str(v) for v in get_args(Recipe.model_fields[field].annotation)]
        close = get_close_matches(str(given), legal, n=1, cutoff=0.0)
        return f"{field} must be one of {', '.join(legal)}, given is {given!r}. The nearest legal value is {close[0]}."
    return f"{field}: {error['msg']} (given is {given!r})."
