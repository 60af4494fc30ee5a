"""A training job with everything that it names: recipe, store, data and starting weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dentsight_pipeline.documents.job import FitJob
from dentsight_pipeline.documents.licences import licence_on_card, published_licence
from dentsight_pipeline.documents.names import CHECKPOINT, Kind
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import PACKAGED, Recipe
from dentsight_pipeline.training.state import Identity

_PACKAGED_LICENCE = "Apache-2.0"
"""Of weights that come with the package, which are trained on its own drawn X-rays."""


@dataclass(frozen=True)
class Setup:
    """What is trained on which data, and where.

    Attributes:
        job: Folders and means.
        recipe: What.
        store: Images, weights, and the place to publish to.
        subset: The data.
        weights: Folder that replaces the recipe's `weights`: a `checkpoint:` that was fetched from the store.
    """

    job: FitJob
    recipe: Recipe
    store: Store
    subset: Manifest
    weights: Path | None = None

    @classmethod
    def of(cls, job: FitJob) -> Setup:
        """What a job names, but for the weights.

        Raises:
            ConfigurationError: The recipe cannot be meant, or transformers is too old.
        """
        recipe = recipes.parse(job.recipe)
        models.check_transformers()
        store = objects.open_store(job.store_uri)
        return cls(job, recipe, store, store.get_manifest(job.subset))

    def with_weights(self) -> Setup:
        """The same with the starting weights at hand and looked at.

        Raises:
            ConfigurationError: The weights are missing, no D-FINE, or of another size than the recipe says.
        """
        weights = self._fetched()
        models.check_weights(self.recipe, weights)
        return replace(self, weights=weights)

    @property
    def identity(self) -> Identity:
        """Which training this is."""
        return Identity(recipe=self.recipe.digest, subset=self.subset.digest)

    @property
    def initial_checkpoint(self) -> str | None:
        """Digest of the checkpoint of the store that the training starts from."""
        weights = self.recipe.weights or ""
        return weights.removeprefix(CHECKPOINT) if weights.startswith(CHECKPOINT) else None

    @property
    def weights_licence(self) -> str:
        """The licence of starting weights from outside, as their card or their publisher says; empty without any."""
        weights = self.recipe.weights
        if weights is None or self.initial_checkpoint is not None:
            return ""
        if weights in PACKAGED:
            return _PACKAGED_LICENCE
        if not Path(weights).is_dir():
            return published_licence(weights)
        card = Path(weights, "README.md")
        return licence_on_card(card.read_text("utf-8", "replace")) if card.is_file() else "unknown"

    def _fetched(self) -> Path | None:
        """The folder of the checkpoint; None when the recipe's `weights` can be used as they are."""
        if self.initial_checkpoint is None:
            return None
        found = self.store.get_manifest(self.initial_checkpoint)
        if found.kind != Kind.CHECKPOINT:
            raise ConfigurationError(
                f"weights = {self.recipe.weights} names a {found.kind} manifest. Give the digest of a checkpoint."
            )
        return content.materialise(self.store, found, self.job.folder / "initial", prefix="model/") / "model"
