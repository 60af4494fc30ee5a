"""Everything that knows Dagster or MLflow: assets, checks, automation, backends, tracking. No rule of the product."""
