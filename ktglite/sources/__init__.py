"""Where a start or a picture comes from: data sets, and what a network is pre-trained on.

Importing this package registers the sources by name, those of plug-ins too (formulas/ is one). What
draws them is imported when it is needed.
"""

from importlib.metadata import entry_points

from ktglite.models import SOURCES, Source

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
_PLUGINS = (point.load() for point in entry_points(group="ktglite.sources"))

for _source in (*_OURS, *_PLUGINS):
    SOURCES[_source.name] = _source
