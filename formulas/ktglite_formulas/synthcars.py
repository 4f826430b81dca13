"""synthcars: pictures of cars drawn by formula, so that every notebook runs without a download.

A class is a car model: a body type with its own proportions, window line, lights, grille and
wheels. What varies inside a class is what varies in photographs: colour, viewpoint, distance,
position, light, background, things in front, blur and noise. Neighbouring models share their body
type and differ in details, as real ones do.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

__all__ = ["class_names", "draw"]

IMAGES = 12_554  # as many as the paper's car set has, unless a limit is given
STANDIN_MODELS = 40
STANDIN_SEED = 1  # car models that no fine-tuning set has: those are drawn from seed 0

# Side views, x from the rear bumper (0) to the front bumper (1), y up from the sill (0): the upper
# outline's knots, as (x, share of the roof height), and the part of it that is glass.
OUTLINES = {
    "sedan": [(0, 0.48), (0.16, 0.56), (0.30, 0.98), (0.56, 1.0), (0.72, 0.58), (0.97, 0.44)],
    "hatchback": [(0, 0.50), (0.05, 0.68), (0.14, 0.98), (0.55, 1.0), (0.74, 0.56), (0.98, 0.42)],
    "wagon": [(0, 0.50), (0.02, 0.66), (0.08, 0.96), (0.58, 1.0), (0.74, 0.54), (0.98, 0.42)],
    "suv": [(0, 0.52), (0.02, 0.70), (0.06, 0.98), (0.60, 1.0), (0.72, 0.62), (0.98, 0.56)],
    "pickup": [
        (0, 0.54), (0.02, 0.56), (0.42, 0.56), (0.45, 1.0), (0.66, 1.0), (0.76, 0.58), (0.98, 0.54),
    ],
    "van": [(0, 0.50), (0.01, 0.94), (0.05, 1.0), (0.70, 1.0), (0.88, 0.58), (0.99, 0.42)],
    "coupe": [(0, 0.54), (0.08, 0.60), (0.32, 0.97), (0.50, 1.0), (0.70, 0.56), (0.98, 0.38)],
    "convertible": [
        (0, 0.54), (0.10, 0.62), (0.34, 0.60), (0.52, 0.62), (0.56, 1.0), (0.72, 0.58), (0.98, 0.4),
    ],
}  # fmt: skip
GLASS = {
    "sedan": (0.21, 0.69), "hatchback": (0.08, 0.71), "wagon": (0.05, 0.71), "suv": (0.05, 0.70),
    "pickup": (0.45, 0.74), "van": (0.05, 0.86), "coupe": (0.18, 0.67), "convertible": (0.54, 0.70),
}  # fmt: skip
BODY_TYPES = tuple(OUTLINES)
HEIGHTS = dict(zip(BODY_TYPES, (0.31, 0.34, 0.33, 0.41, 0.39, 0.46, 0.27, 0.28), strict=True))
# Colours as they are met on a road, RGB; every picture shifts them a little.
SKIES = [(150, 190, 230), (120, 165, 215), (205, 210, 214), (232, 205, 176), (170, 176, 190)]
LANDS = [
    (70, 108, 58), (98, 122, 76), (124, 106, 84), (132, 132, 136), (160, 142, 120), (150, 84, 66),
]  # fmt: skip
ROADS = [(104, 104, 108), (86, 87, 90), (130, 127, 120), (118, 108, 96), (92, 110, 74)]
PAINTS = [
    (236, 236, 234), (186, 189, 193), (120, 124, 130), (38, 39, 44), (34, 60, 122), (70, 120, 190),
    (168, 30, 36), (214, 96, 34), (226, 190, 60), (38, 92, 64), (122, 84, 56), (196, 182, 152),
]  # fmt: skip
LIGHTS = ("round", "slit", "block", "split")
GRILLES = ("bars", "mesh", "frame", "none")
HEADLAMP = (250, 245, 200)


@dataclass(frozen=True)
class CarModel:
    """What makes a class. Lengths are shares of the car's length; shapes are indices or names."""

    name: str
    body: str
    height: float  # of the roof above the sill
    stretch: float  # shifts the cabin forwards (> 0) or backwards
    belt: float  # height of the window line, a share of the roof height
    rake: float  # rise of the window line towards the rear
    clearance: float  # of the sill above the ground
    wheel: float  # radius of the tyres
    axles: tuple[float, float]  # x of the rear and the front axle
    spokes: int
    rim: float  # radius of the rim, a share of the tyre's
    pillars: int
    lights: str
    grille: str
    crease: float  # height of the line along the doors
    trim: bool  # dark lower cladding
    rails: bool  # on the roof
    spoiler: bool
    paints: tuple[int, ...]  # it is sold in these of `PAINTS`


def car_models(count: int = 20, seed: int = 0) -> tuple[CarModel, ...]:
    """`count` car models; other seeds give other models."""
    rng = np.random.default_rng([seed, 20])
    models = []
    for i in range(count):
        body = BODY_TYPES[i % len(BODY_TYPES)]
        models.append(
            CarModel(
                name=f"{body} {chr(65 + seed % 26)}{i // len(BODY_TYPES) + 1}",
                body=body,
                height=HEIGHTS[body] * rng.uniform(0.82, 1.18),
                stretch=rng.uniform(-0.08, 0.08),
                belt=rng.uniform(0.5, 0.7),
                rake=rng.uniform(-0.03, 0.09),
                clearance=rng.uniform(0.05, 0.07) + 0.025 * (body in ("suv", "pickup")),
                wheel=rng.uniform(0.066, 0.094) + 0.012 * (body in ("suv", "pickup")),
                axles=(rng.uniform(0.16, 0.22), rng.uniform(0.78, 0.84)),
                spokes=int(rng.choice([0, 3, 4, 5, 6, 8])),
                rim=rng.uniform(0.5, 0.75),
                pillars=int(rng.integers(1, 4)),
                lights=LIGHTS[rng.integers(4)],
                grille=GRILLES[rng.integers(4)],
                crease=rng.uniform(0.2, 0.4),
                trim=bool(rng.random() < 0.35),
                rails=bool(rng.random() < 0.6) and body in ("suv", "wagon", "van"),
                spoiler=bool(rng.random() < 0.5) and body in ("coupe", "hatchback", "sedan"),
                paints=tuple(int(i) for i in rng.choice(len(PAINTS), 3, replace=False)),
            )
        )
    return tuple(models)


def class_names(models: tuple[CarModel, ...] | None = None) -> list[str]:
    """Names of the classes, in label order."""
    return [model.name for model in models or car_models()]


def draw(
    count: int, size: int, seed: int = 0, models: tuple[CarModel, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures, uint8 (count, size, size, 3), and their labels, int64 (count,), as balanced
    as can be.

    Picture i depends on (seed, i) alone, whatever `count` is; its class is i modulo the number of
    models.
    """
    models = models or car_models()
    labels = np.arange(count, dtype=np.int64) % len(models)
    images = np.empty((count, size, size, 3), np.uint8)
    for i, label in enumerate(labels):
        images[i] = _draw_one(models[label], size, np.random.default_rng([seed, i, 21]))
    return images, labels


class _OtherCars:
    """The stand-in for ImageNet-1k: drawn cars of models that are not in the fine-tuning set."""

    def __init__(self, count: int, size: int):
        models = car_models(STANDIN_MODELS, seed=STANDIN_SEED)
        self.classes = tuple(class_names(models))
        images, self.labels = draw(count, size, seed=STANDIN_SEED, models=models)
        self.images = np.ascontiguousarray(np.moveaxis(images, 3, 1))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[indices], self.labels[indices]


def open_standin(config, cache) -> _OtherCars:
    """The stand-in's images for a `PretrainConfig`."""
    return _OtherCars(config.standin_images, config.render or config.size)


def _draw_one(model: CarModel, size: int, rng: np.random.Generator) -> np.ndarray:
    """One picture of `model`, uint8 (size, size, 3), drawn at twice the size and averaged down."""
    canvas = 2 * size
    picture = _background(canvas, rng.uniform(0.35, 0.6) * canvas, rng)
    _Car(model, picture, rng).paint()
    if rng.random() < 0.3:
        _clutter(ImageDraw.Draw(picture), canvas, rng)
    return _finish(picture, size, rng)


def _shade(colour, light: float) -> tuple[int, ...]:
    """An RGB colour in a light."""
    return tuple(int(v) for v in np.clip(np.asarray(colour) * light, 0, 255))


def _near(colours, rng: np.random.Generator) -> np.ndarray:
    """One of `colours`, (n, 3), a little changed; float (3,)."""
    return np.clip(colours[rng.integers(len(colours))] + rng.normal(0, 9, 3), 0, 255)


def _background(canvas: int, horizon: float, rng: np.random.Generator) -> Image.Image:
    """Sky, buildings or trees, and a road, in the light of some hour."""
    light = rng.uniform(0.45, 1.1)
    sky = _near(SKIES, rng)
    road = _near(ROADS, rng)
    picture = Image.new("RGB", (canvas, canvas), _shade(sky, light))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 7)):
        x = rng.uniform(-0.1, 1) * canvas
        width = rng.uniform(0.08, 0.4) * canvas
        height = rng.uniform(0.1, 0.9) * horizon
        box = [x, horizon - height, x + width, horizon + canvas * 0.05]
        colour = _shade(_near(LANDS, rng) * rng.uniform(0.6, 1.2), light)
        if rng.random() < 0.5:
            pen.rectangle(box, fill=colour)
            for wx in np.arange(box[0] + 3, box[2] - 3, canvas / 14):
                window = [wx, box[1] + 4, wx + canvas / 40, box[1] + 4 + canvas / 30]
                pen.rectangle(window, fill=_shade(sky * 0.6, light))
        else:
            pen.ellipse(box, fill=colour)
    pen.rectangle([0, horizon, canvas, canvas], fill=_shade(road, light))
    for _ in range(rng.integers(0, 4)):
        y = rng.uniform(horizon, canvas)
        line = [0, y, canvas, y + rng.normal(0, 4)]
        colour = _shade(road * rng.uniform(0.7, 1.6), light)
        pen.line(line, fill=colour, width=int(rng.integers(1, 4)))
    return picture


class _Car:
    """A car of a model in a picture, in a view and a light of its own."""

    def __init__(self, model: CarModel, picture: Image.Image, rng: np.random.Generator):
        canvas = picture.width
        self.model = model
        self.pen = ImageDraw.Draw(picture)
        self.rng = rng
        self.length = rng.uniform(0.7, 0.92) * canvas
        self.turn = rng.uniform(0.0, 0.22)  # how much of the front is turned towards us
        self.tilt = rng.normal(0, 0.03)
        self.ground = rng.uniform(0.7, 0.82) * canvas
        self.left = rng.uniform(0.03, 0.97 - self.length / canvas) * canvas
        self.slope = rng.uniform(-0.05, 0.05)
        self.side = self.length * (1 - self.turn)
        self.body = _near([PAINTS[i] for i in model.paints], rng)
        self.light = rng.uniform(0.6, 1.15)
        self.glass = self.colour(base=rng.uniform(20, 90) * np.array([0.9, 1.0, 1.1]))
        self.dark = self.colour(base=[30, 30, 32])
        # the upper outline; the cabin is moved by the model's stretch, the bumpers stay
        sill = model.clearance
        self.upper = [(self.bend(x), sill + y * model.height) for x, y in OUTLINES[model.body]]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Car coordinates on its side to pixels: the far end is a little smaller."""
        depth = 1 + self.slope * (x - 0.5) * 2
        height = y * self.length * depth
        return self.left + x * self.side, self.ground - height + self.tilt * (x - 0.5) * self.side

    def on_front(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates on the front face (0 at the near edge, 1 at the far one) to pixels."""
        px, py = self.at(0.98, y)
        return px + x * self.turn * self.length, py - x * self.turn * self.length * 0.12

    def colour(self, scale: float = 1.0, base=None) -> tuple[int, ...]:
        base = np.asarray(self.body if base is None else base)
        return _shade(base * self.light, scale)

    def bend(self, x: float) -> float:
        return x + self.model.stretch * np.sin(np.pi * x)

    def box(self, place, low: tuple[float, float], high: tuple[float, float], **paint) -> None:
        """A quadrilateral between two corners, on the side or the front."""
        corners = [low, (low[0], high[1]), high, (high[0], low[1])]
        self.pen.polygon([place(*corner) for corner in corners], **paint)

    def paint(self) -> None:
        """The car itself, from the shadow on the road to the spokes."""
        at, on_front = self.at, self.on_front
        sill, roof = self.model.clearance, self.model.height
        shadow = [at(0.0, 0), at(1.0, 0), on_front(1.0, 0.0), on_front(1.0, -0.03), at(0.02, -0.03)]
        self.pen.polygon(shadow, fill=self.colour(base=[25, 25, 25]))
        if self.turn > 0.03:  # behind the side, so that their common edge is clean
            self.paint_front()
        outline = [(0.0, sill), *self.upper, (1.0, sill + 0.28 * roof), (0.99, sill)]
        outline = [at(*knot) for knot in outline]
        self.pen.polygon(outline, fill=self.colour(), outline=self.colour(0.55))
        self.paint_windows()
        self.paint_details()
        self.lamp(at, 0.955, sill + 0.34 * roof, 0.035, HEADLAMP)
        self.lamp(at, 0.02, sill + 0.40 * roof, 0.025, (200, 30, 30))
        for x in self.model.axles:
            self.wheel(x)

    def paint_front(self) -> None:
        """The front face with its windscreen, grille and lamps."""
        on_front, grille = self.on_front, self.model.grille
        sill, roof = self.model.clearance, self.model.height
        top = sill + 0.42 * roof
        self.box(on_front, (0, sill), (1, top), fill=self.colour(0.75))
        x, y = [self.at(*knot) for knot in self.upper if knot[1] > sill + 0.9 * roof][-1]
        screen = [(x, y), self.at(*self.upper[-2]), on_front(0.9, top + 0.1 * roof)]
        self.pen.polygon([*screen, (x + self.turn * self.length * 0.8, y)], fill=self.glass)
        low, high = sill + 0.14 * roof, sill + 0.32 * roof
        if grille in ("bars", "mesh"):
            self.box(on_front, (0.3, low), (0.7, high), fill=self.dark)
        for k in range(1, 4):
            y = low + (high - low) * k / 4
            if grille == "bars":
                bar = [on_front(0.3, y), on_front(0.7, y)]
                self.pen.line(bar, fill=self.colour(1.2, [180, 180, 185]))
            if grille == "mesh":
                bar = [on_front(0.3 + 0.1 * k, low), on_front(0.3 + 0.1 * k, high)]
                self.pen.line(bar, fill=self.colour(1.2, [120, 120, 125]))
        if grille == "frame":
            chrome = self.colour(1.3, [190, 190, 190])
            self.box(on_front, (0.25, low), (0.75, high), outline=chrome)
        for x in (0.12, 0.88):
            self.lamp(on_front, x, sill + 0.34 * roof, 0.02, HEADLAMP, wide=0.1)

    def paint_windows(self) -> None:
        """The glass below the roof line, cut by the pillars."""
        model = self.model
        sill, roof = model.clearance, model.height
        ends = GLASS[model.body]
        left, right = (self.bend(x) for x in ends)
        low = [sill + (model.belt + model.rake * (ends[1] - x)) * roof for x in (left, right)]
        grid = np.linspace(left + 0.015, right - 0.015, 14)
        line = np.interp(grid, *zip(*self.upper, strict=True)) - 0.07 * roof
        floor = np.interp(grid, [left, right], low)
        inside = line > floor
        if inside.sum() < 2:
            return
        top = list(zip(grid[inside], line[inside], strict=True))
        bottom = list(zip(grid[inside], floor[inside], strict=True))
        self.pen.polygon([self.at(*p) for p in top + bottom[::-1]], fill=self.glass)
        first, last = grid[inside][0], grid[inside][-1]
        for k in range(1, model.pillars + 1):
            x = first + (last - first) * k / (model.pillars + 1)
            pillar = [self.at(x, np.interp(x, grid, floor))]
            pillar.append(self.at(x - 0.008, np.interp(x, grid, line)))
            self.pen.line(pillar, fill=self.colour(0.8), width=2)

    def paint_details(self) -> None:
        """The crease along the doors, and what only some models have."""
        at, model = self.at, self.model
        sill, roof = model.clearance, model.height
        y = sill + model.crease * roof
        width = max(1, round(self.length / 90))
        self.pen.line([at(0.04, y), at(0.95, y - 0.01)], fill=self.colour(0.72), width=width)
        if model.trim:
            self.box(at, (0.02, sill), (0.98, sill + 0.13 * roof), fill=self.dark)
        if model.rails:
            xs = [x for x, y in self.upper if y > sill + 0.9 * roof]
            y = sill + roof * 1.06
            self.pen.line([at(xs[0] + 0.02, y), at(xs[-1] - 0.02, y)], fill=self.dark, width=2)
        if model.spoiler:
            x, y = self.upper[1]
            self.box(at, (x - 0.05, y + 0.02), (x + 0.04, y + 0.035), fill=self.colour(0.6))

    def lamp(self, place, x: float, y: float, r: float, colour, wide: float | None = None) -> None:
        """A head or tail lamp of the model's shape at (x, y)."""
        w = wide or r
        shapes = {"round": [(w, r)], "slit": [(1.6 * w, 0.4 * r)], "block": [(w, 0.9 * r)]}
        round_one = self.model.lights == "round"
        for k, (dx, dy) in enumerate(shapes.get(self.model.lights, [(w, 0.35 * r)] * 2)):
            middle = y - 1.1 * r * k
            xs, ys = zip(place(x - dx, middle + dy), place(x + dx, middle - dy), strict=True)
            box = [min(xs), min(ys), max(xs), max(ys)]
            (self.pen.ellipse if round_one else self.pen.rectangle)(box, fill=colour)

    def wheel(self, x: float) -> None:
        """A tyre, its rim and the spokes of the model."""
        cx, cy = self.at(x, self.model.wheel - 0.01)
        r = self.model.wheel * self.length
        self.pen.ellipse([cx - r, cy - r, cx + r, cy + r], fill=self.dark)
        rim = r * self.model.rim
        self.pen.ellipse([cx - rim, cy - rim, cx + rim, cy + rim], fill=(165, 165, 170))
        phase = self.rng.uniform(0, np.pi)
        for k in range(self.model.spokes):
            angle = phase + 2 * np.pi * k / self.model.spokes
            end = (cx + rim * np.cos(angle), cy + rim * np.sin(angle))
            self.pen.line([(cx, cy), end], fill=(50, 50, 55), width=max(1, int(r / 6)))


def _clutter(pen, canvas: int, rng: np.random.Generator) -> None:
    """Something between the camera and the car: a post, or a bush at the edge."""
    colour = tuple(int(v) for v in _near(LANDS, rng) * rng.uniform(0.4, 0.8))
    x = rng.uniform(0, canvas)
    if rng.random() < 0.5:
        pen.rectangle([x, 0, x + rng.uniform(0.02, 0.05) * canvas, canvas], fill=colour)
    else:
        r, y = rng.uniform(0.05, 0.14) * canvas, rng.uniform(0.7, 0.95) * canvas
        pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)


def _finish(picture: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Mirror, blur, average down, and add the camera's noise."""
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2) * size / 64))
    small = picture.resize((size, size), Image.Resampling.BOX)
    if rng.random() < 0.15:
        tint = tuple(int(v) for v in rng.uniform(150, 255, 3))
        small = ImageChops.multiply(small, Image.new("RGB", small.size, tint))
    noise = rng.normal(0, rng.uniform(1, 8), (size, size, 1)).astype(np.float32)
    return np.clip(np.asarray(small, np.float32) + noise, 0, 255).astype(np.uint8)
