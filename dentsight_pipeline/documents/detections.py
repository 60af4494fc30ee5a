"""The one form that detections have, from the detector to the evaluation: an Arrow table.

Boxes are `[x, y, width, height]` float64 in pixels of the stored image, unrounded; they may reach outside it. COCO
results lists are read where people bring them (`evaluation.validation.read_detections`).
"""

from __future__ import annotations

import pyarrow as pa

DETECTIONS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("category_id", pa.int16(), nullable=False),  # from 1, in the order of the classes
        pa.field("bbox", pa.list_(pa.float64(), 4), nullable=False),  # x, y, width, height in px
        pa.field("score", pa.float64(), nullable=False),
    ]
)
"""One row for each detection, in any order; rows of one image and equal score keep theirs."""
