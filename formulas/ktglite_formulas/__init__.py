"""Three sources beyond the paper, drawn by formula: a plug-in of ktglite, and how to write another.

An entry point of the group "ktglite.sources" names each of these records, see pyproject.toml. What
draws a source is imported when it is needed, not with its record.
"""

from ktglite.models import Source

VISUALATOM = Source(
    "visualatom1k", "VisualAtom-1k", "PV", "#59B359", "ktglite_formulas.visualatom:open_source"
)
COLOURED_FRACTALS = Source(
    "coloured_fractals",
    "coloured fractals",
    "PC",
    "#E673C9",
    "ktglite_formulas.coloured_fractals:open_source",
)
ONE_FRACTAL = Source(
    "one_fractal",
    "one fractal (1p-frac)",
    "P1",
    "#9F80FF",
    "ktglite_formulas.one_fractal:open_source",
)
