"""Runs, Table 1, searches, and what follows from them."""

import ktglite.sources  # noqa: F401  (registers what a node may start from)
