"""Where a start or a picture comes from: data sets, and the sources that a network is pre-trained
on.

Importing this package registers the sources by name; what draws them is imported when it is needed.
"""

from ktglite.models import SOURCES, Source

__all__: list[str] = []

for _source in (
    Source("imagenet1k", "ImageNet-1k", "PI", "#F6CF7E", None, "non-commercial research", "Deng et al., CVPR 2009"),
    Source("imagenet1k_quantised", "ImageNet-1k (quantised weights)", "PI", "#F6CF7E", None, "non-commercial", ""),
    Source(
        "imagenet1k_standin", "ImageNet-1k stand-in", "SI", "#F3DDB3", "ktglite.sources.synthcars:open_standin", "MIT"
    ),
    Source(
        "fractaldb1k", "FractalDB-1k", "PF", "#A9D8F2", "ktglite.sources.fractaldb:open_source",
        "drawn here; published renderer: research use", "Kataoka et al., ACCV 2020",
    ),
    Source(
        "visualatom1k", "VisualAtom-1k", "PV", "#59B359", "ktglite.sources.visualatom:open_source",
        "drawn here; published renderer: MIT", "Takashima et al., CVPR 2023",
    ),
    Source(
        "coloured_fractals", "coloured fractals", "PC", "#E673C9", "ktglite.sources.coloured_fractals:open_source",
        "drawn here; published code: no licence given", "Anderson and Farrell, WACV 2022",
    ),
    Source(
        "one_fractal", "one fractal (1p-frac)", "P1", "#9F80FF", "ktglite.sources.one_fractal:open_source",
        "drawn here; published renderer: MIT", "Nakamura et al., ECCV 2024",
    ),
    Source("teacher", "trained on the task", "T", "#C9C9C9", citation="Minami et al., ACCV 2020"),
):  # fmt: skip
    SOURCES[_source.name] = _source
