"""Thin Dagster assets and their checks. Logic lives in the pure rooms, never here."""
