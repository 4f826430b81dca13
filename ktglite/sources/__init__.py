"""Where a start or a picture comes from: data sets, and what a network is pre-trained on.

Importing this package registers the sources by name, those of plug-ins too (formulas/ is one). What
draws them is imported when it is needed.
"""

import logging
from importlib.metadata import entry_points

from ktglite.models import SOURCES, Source

log = logging.getLogger(__name__)

_OURS = (
    Source("imagenet1k", "ImageNet-1k", "PI", "#F6CF7E"),
    Source("imagenet1k_quantised", "ImageNet-1k (quantised weights)", "PI", "#F6CF7E"),
    Source(
        "imagenet1k_standin",
        "ImageNet-1k stand-in",
        "SI",
        "#F3DDB3",
        "ktglite_formulas.synthcars:open_standin",
    ),
    Source("fractaldb1k", "FractalDB-1k", "PF", "#A9D8F2", "ktglite.sources.fractaldb:open_source"),
    Source("teacher", "trained on the task", "T", "#C9C9C9"),
)

SOURCES.update({source.name: source for source in _OURS})
_TAKEN = {"scratch", *(source.name for source in _OURS)}
for _point in entry_points(group="ktglite.sources"):
    try:
        _found = _point.load()
    except Exception as error:  # of a plug-in: it must not end every command
        _found = error
    if isinstance(_found, Source) and _found.name not in _TAKEN:
        SOURCES[_found.name] = _found
    else:
        _why = _found if isinstance(_found, Exception) else "no Source of a new name"
        log.warning("plug-in %s = %s is left out: %s", _point.name, _point.value, _why)
