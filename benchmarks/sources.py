"""Images per second of every source that is drawn, at 48 and 64 px, and how long it takes to open.

One core; images are asked for in random order, 256 at a time, as in pre-training. The best of five
rounds counts, since others may use the machine. A first opening may also fill the cache. Run:
python benchmarks/sources.py [--cache data/cache]
"""

import os

os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import time

import numpy as np

from ktglite.models import SOURCES
from ktglite.sources.pretrain import PretrainConfig, open_source

ROUNDS = 5
BATCHES = 4
BATCH = 256


def speed(source) -> float:
    """Images per second of CPU time."""
    rng = np.random.default_rng(0)
    best = 0.0
    source.batch(rng.integers(len(source), size=8))  # compiled, and the file mapped
    for _ in range(ROUNDS):
        numbers = rng.integers(len(source), size=(BATCHES, BATCH))
        start = time.process_time()
        for batch in numbers:
            source.batch(batch)
        best = max(best, numbers.size / (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", default="data/cache")
    cache = parser.parse_args().cache
    print(f"{'source':22} {'px':>3} {'images/s':>9} {'opened in s':>12}")
    for record in SOURCES.values():
        for size in (48, 64) if record.open else ():
            config = PretrainConfig(record.name, size=size, standin_images=5000)
            start = time.perf_counter()
            source = open_source(config, cache)
            opened = time.perf_counter() - start
            print(f"{record.name:22} {size:3} {speed(source):9,.0f} {opened:12.2f}", flush=True)


if __name__ == "__main__":
    main()
