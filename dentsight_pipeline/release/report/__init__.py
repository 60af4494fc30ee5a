"""The release report: its page, plots, tables, pictures and model card. Verdicts are reached outside."""
