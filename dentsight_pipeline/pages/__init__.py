"""Pages on localhost on which people read and review X-rays. No Dagster here, and nothing leaves the machine."""
