"""Tells people what a pipeline that is left alone has to say: to a file always, to a webhook where one is set."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from dentsight_pipeline.orchestration.resources import Workspace

Event = Literal["gate_verdict", "run_failed", "champion_stale", "head_collapse"]

WEBHOOK_VARIABLE, WEBHOOK_FILE_VARIABLE = "DENTSIGHT_WEBHOOK", "DENTSIGHT_WEBHOOK_FILE"


class Notifier(dg.ConfigurableResource):
    """Appends each event to a JSON-lines file, and posts it to a webhook.

    A webhook that does not answer never fails a run: the event is in the file, with what went wrong beside it.
    """

    workspace: Workspace
    """Its `notifications.jsonl` gets every event."""
    webhook: str = ""
    """URL that takes a JSON body; when empty, `DENTSIGHT_WEBHOOK` or the content of the file that
    `DENTSIGHT_WEBHOOK_FILE` names. It may hold a token, so it is never logged, and best not written into code."""
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
        try:
            url = self.webhook or _webhook_of(os.environ)
        except OSError as error:
            return f"the file named by {WEBHOOK_FILE_VARIABLE} cannot be read: {error.strerror}"
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


def _webhook_of(variables: Mapping[str, str]) -> str:
    """The webhook's address from the environment, or from the file that it names; empty when neither is set."""
    if url := variables.get(WEBHOOK_VARIABLE, "").strip():
        return url
    named = variables.get(WEBHOOK_FILE_VARIABLE, "").strip()
    return Path(named).read_text(encoding="utf-8").strip() if named else ""
