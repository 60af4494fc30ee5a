"""`dentsight drift`: new X-rays, or a new version of a dataset, against what a model was trained on."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import show
from dentsight_pipeline.commands.export import named, subset_of
from dentsight_pipeline.data.drift import Sample, drift_between, picture_columns, stored_sample, training_data_of
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store


def drift(given: str, against: str, as_json: bool) -> None:
    """Tell what shifted; exit status 0 whatever did."""
    store = Workspace().store
    subset, scored = _subset_and_predictions(store, against)
    known, images = training_data_of(store, subset, scored)
    if Path(given).is_dir():
        new = folder_sample(Path(given))
    else:
        asked, predicted = _subset_and_predictions(store, given)
        _require_one_model(scored, predicted)
        new = stored_sample(store, asked, predicted)
    found = drift_between(new, known, images)
    show(plain(found), as_json, lambda: text.drift(found))


def _subset_and_predictions(store: Store, ref: str) -> tuple[Manifest, Manifest | None]:
    """The subset that a reference means, and the predictions on it where it means those."""
    if (made := named(store, ref)).kind == Kind.PREDICTIONS:
        return store.get_manifest(made.inputs[Asset.CONDITION_SUBSET]), made
    return subset_of(store, ref), None


def _require_one_model(first: Manifest | None, second: Manifest | None) -> None:
    models = {made.inputs[Asset.TRAINED_CHECKPOINT][:12] for made in (first, second) if made}
    if len(models) > 1:
        raise ConfigurationError(
            f"The predictions are of two models ({', '.join(sorted(models))}), whose scores are not to be compared. "
            "Give predictions of one model, or the datasets."
        )


def folder_sample(folder: Path) -> Sample:
    """The pictures of a folder, each a source of its own.

    Raises:
        DataError: A picture cannot be read; the message names it.
    """
    from dentsight_pipeline.data.image_bytes import ImageBytesError, clean
    from dentsight_pipeline.data.image_properties import measure
    from dentsight_pipeline.intake.dicom import xray_files

    images, widths, found = [], [], []
    for xray in xray_files([folder])[0]:
        try:
            image = clean(xray.read_bytes())
        except ImageBytesError as error:
            raise DataError(f"{xray}: {error}.") from error
        images.append(sha256(image.data).hexdigest())
        widths.append(float(image.width))
        found.append(measure(image.data, (image.width, image.height)))
    _, first = np.unique(images, return_index=True)  # a picture that is there twice is one
    columns = {key: values[first] for key, values in picture_columns(np.array(widths), found).items()}
    names = np.array(images, dtype=np.str_)[first]
    return Sample(str(folder), names, names, columns)
