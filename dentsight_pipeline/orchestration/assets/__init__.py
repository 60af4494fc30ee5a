"""Thin Dagster assets. Logic lives in the pure rooms, never here."""
