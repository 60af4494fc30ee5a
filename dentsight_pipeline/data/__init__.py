"""Pure data code: COCO records, Roboflow exports, ontology, normalisation, leakage, privacy, the phantom corpus."""
