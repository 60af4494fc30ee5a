"""The evidence file of a release: EU AI Act, Annex IV, and the same facts in forms that others read."""
