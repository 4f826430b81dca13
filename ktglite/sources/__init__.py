"""Where a start or a picture comes from: data sets, and what a network is pre-trained on.

Importing this package registers the sources by name, those of plug-ins too (formulas/ is one). What
draws them is imported when it is needed.
"""

from importlib.metadata import entry_points

from ktglite.models import SOURCES, Source

__all__: list[str] = []

_OURS = (
    Source(
        "imagenet1k", "ImageNet-1k", "PI", "#F6CF7E", None, "non-commercial research",
        "Deng et al., CVPR 2009",
    ),
    Source(
        "imagenet1k_quantised", "ImageNet-1k (quantised weights)", "PI", "#F6CF7E", None,
        "non-commercial",
    ),
    Source(
        "imagenet1k_standin", "ImageNet-1k stand-in", "SI", "#F3DDB3",
        "ktglite.sources.synthcars:open_standin", "MIT",
    ),
    Source(
        "fractaldb1k", "FractalDB-1k", "PF", "#A9D8F2", "ktglite.sources.fractaldb:open_source",
        "drawn here; published renderer: research use", "Kataoka et al., ACCV 2020",
    ),
    Source("teacher", "trained on the task", "T", "#C9C9C9", citation="Minami et al., ACCV 2020"),
)  # fmt: skip
_PLUGINS = (point.load() for point in entry_points(group="ktglite.sources"))

for _source in (*_OURS, *_PLUGINS):
    SOURCES[_source.name] = _source
