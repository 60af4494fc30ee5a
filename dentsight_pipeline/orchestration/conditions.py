"""When an asset makes itself, for those who turn automation on: only when bytes changed and checks passed."""

import dagster as dg


def on_new_content() -> dg.AutomationCondition:
    """Fires when the bytes of something upstream changed and its blocking checks passed; never on same-byte updates."""
    changed = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    return (
        dg.AutomationCondition.eager().replace("any_deps_updated", changed)
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
    )
