"""The drawn corpus: synthetic panoramic X-rays with true answers. Nothing here knows how exports are read."""

CODE_VERSION = "1"
"""Goes up when the same numbers would draw other bytes; keys the reuse of drawn corpora, without loading what draws."""
