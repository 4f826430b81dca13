"""numpy's random numbers of MT19937 (Matsumoto and Nishimura, 1998), bit for bit and several times as fast.

The search for FractalDB-1k draws four billion of them. A whole block of the state is advanced at a time here, in
loops that a compiler turns into vector instructions; `numpy.random` goes number by number.
"""

import numpy as np
from numba import njit

BLOCK = 624  # words of the state


@njit(cache=True, error_model="numpy")
def twist(key):
    """Advance the whole state, uint32 (624,)."""
    for i in range(227):
        y = (key[i] & np.uint32(0x80000000)) | (key[i + 1] & np.uint32(0x7FFFFFFF))
        key[i] = key[i + 397] ^ (y >> np.uint32(1)) ^ ((y & np.uint32(1)) * np.uint32(0x9908B0DF))
    for i in range(227, 623):
        y = (key[i] & np.uint32(0x80000000)) | (key[i + 1] & np.uint32(0x7FFFFFFF))
        key[i] = key[i - 227] ^ (y >> np.uint32(1)) ^ ((y & np.uint32(1)) * np.uint32(0x9908B0DF))
    y = (key[623] & np.uint32(0x80000000)) | (key[0] & np.uint32(0x7FFFFFFF))
    key[623] = key[396] ^ (y >> np.uint32(1)) ^ ((y & np.uint32(1)) * np.uint32(0x9908B0DF))


@njit(cache=True, error_model="numpy")
def temper(key, words):
    """State to random words, uint32 each."""
    for i in range(len(key)):
        y = key[i]
        y ^= y >> np.uint32(11)
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        words[i] = y ^ (y >> np.uint32(18))


@njit(cache=True, error_model="numpy")
def fill(key, position, words, out):
    """Fill `out`, float64 in [0, 1), from the state; returns the new position in it. `words` is room to work in."""
    needed, have = 2 * len(out), BLOCK - position
    temper(key[position:], words)
    while have < needed:
        twist(key)
        temper(key, words[have:])
        have += BLOCK
    for i in range(len(out)):
        high, low = words[2 * i] >> np.uint32(5), words[2 * i + 1] >> np.uint32(6)
        out[i] = (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)  # 27 and 26 bits make 53
    return BLOCK - (have - needed)


def room(count: int) -> np.ndarray:
    """Room that `random` needs for so many numbers."""
    return np.empty(2 * count + 2 * BLOCK, np.uint32)


def random(bits: np.random.MT19937, out: np.ndarray, words: np.ndarray) -> None:
    """What `np.random.Generator(bits).random(out=out)` does, `bits` left where that would leave it."""
    whole = bits.state
    state = whole["state"]
    state["pos"] = fill(state["key"], state["pos"], words, out)
    bits.state = whole
