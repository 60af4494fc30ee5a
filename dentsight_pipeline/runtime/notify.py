"""Tells people what a pipeline that is left alone has to say: to a file always, to a webhook where one is set."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Literal

import dagster as dg

from dentsight_pipeline.resources import Workspace

Event = Literal["gate_verdict", "run_failed", "champion_stale", "head_collapse"]

WEBHOOK_VARIABLE = "DENTSIGHT_WEBHOOK"


class Notifier(dg.ConfigurableResource):
    """Appends each event to a JSON-lines file, and posts it to a webhook.

    A webhook that does not answer never fails a run: the event is in the file, with what went wrong beside it.
    """

    workspace: Workspace
    """Its `notifications.jsonl` gets every event."""
    webhook: str = ""
    """URL that takes a JSON body; `DENTSIGHT_WEBHOOK` when empty. It may hold a token, so it is never logged."""
    timeout_seconds: float = 10.0
    """How long the webhook may take to answer."""

    def send(self, event: Event, text: str, facts: Mapping[str, Any]) -> bool:
        """Tell one event.

        Args:
            event: What kind.
            text: One sentence for a person.
            facts: Digests, run ids, links.

        Returns:
            Whether the webhook took it; True when none is set.
        """
        message = {"event": event, "text": text, "time": round(time.time(), 3), **facts}
        problem = self._post(message)
        if problem:
            message["webhook_problem"] = problem
        path = self.workspace.folder / "notifications.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(message, default=str) + "\n")
        return problem is None

    def _post(self, message: Mapping[str, Any]) -> str | None:
        url = self.webhook or os.environ.get(WEBHOOK_VARIABLE, "")
        if not url:
            return None
        body = json.dumps(message, default=str).encode()
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
            urllib.request.urlopen(request, timeout=self.timeout_seconds).close()
        except urllib.error.HTTPError as error:
            return f"the webhook answered {error.code}"
        except (OSError, ValueError) as error:
            return f"the webhook could not be reached: {type(error).__name__}"
        return None
