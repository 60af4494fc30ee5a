"""Gates as data, verdicts, the release report, the model card and the release statement."""
