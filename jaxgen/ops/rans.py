"""Entropy coding by range asymmetric numeral systems, arXiv:1311.2540, section 2.3.

Frequencies sum to M = 2^PRECISION. A symbol s has the frequency f_s, and c_s is the sum of the frequencies of smaller
symbols. Encoding s maps the state x to (x // f_s) M + c_s + x mod f_s, which adds log2(M / f_s) bits. Decoding is the
inverse, so symbols come out in reverse order. x is kept in [2^31, 2^63) by moving words of 32 bits to and from a stack.
Several states, called lanes, share one stack and each encode one symbol at a time.
"""

import numpy as np

from jaxgen.errors import UserError

PRECISION = 20  # bits: the minimum frequency of 1 for each of 256 symbols takes 1/4096 of the probability in total
TOTAL = 1 << PRECISION
LOW = 1 << 31
WORD, MASK = np.uint64(32), np.uint64(0xFFFFFFFF)


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """Frequencies uint64[..., K], each at least 1, that sum to TOTAL, from unnormalised probabilities f[..., K].

    Raises UserError for probabilities that are negative, not finite or all zero, and for more than TOTAL / 2 symbols.
    """
    p = np.asarray(probabilities, np.float64)
    count = p.shape[-1]
    sums = p.sum(axis=-1, keepdims=True)
    if count > TOTAL // 2 or not np.all(np.isfinite(sums)) or np.any(p < 0) or np.any(sums <= 0):
        raise UserError(
            f"{count} probabilities from {np.min(p):.3g} to {np.max(p):.3g} cannot be coded: they must be finite, "
            f"not negative, not all 0, and at most {TOTAL // 2} in number"
        )
    frequencies = np.floor(p / sums * (TOTAL - count)).astype(np.int64) + 1
    # Give the remainder of rounding to the most likely symbol, where it changes least.
    left = TOTAL - frequencies.sum(axis=-1, keepdims=True)
    most = frequencies.argmax(axis=-1, keepdims=True)
    np.put_along_axis(frequencies, most, np.take_along_axis(frequencies, most, -1) + left, -1)
    return frequencies.astype(np.uint64)


def starts(frequencies: np.ndarray) -> np.ndarray:
    """c of each symbol, uint64[..., K]: the sum of the frequencies before it."""
    return np.cumsum(frequencies, axis=-1) - frequencies


class Encoder:
    """Encodes symbols as bytes. Symbols are pushed in reverse order, the last first."""

    def __init__(self, lanes: int = 1):
        self.state = np.full(lanes, LOW, np.uint64)
        self._stack: list[np.ndarray] = []

    def push(self, start: np.ndarray, frequency: np.ndarray) -> None:
        """Encodes one symbol in each of the first n lanes. start, frequency: uint64[n], c and f of the symbols."""
        x = self.state[: len(start)]
        full = x >= (frequency << np.uint64(63 - PRECISION))
        if np.any(full):
            self._stack.append((x[full] & MASK).astype("<u4"))
            x[full] >>= WORD
        quotient, rest = np.divmod(x, frequency)
        x[:] = (quotient << np.uint64(PRECISION)) + start + rest

    def finish(self) -> bytes:
        """The code: the states, then the words in the order in which decoding reads them."""
        words = [self.state.astype("<u8").view("<u4"), *self._stack[::-1]]
        return np.concatenate(words).tobytes()


class Decoder:
    """Decodes the bytes of an `Encoder` with the same number of lanes. The first symbol comes out first."""

    def __init__(self, data: bytes, lanes: int = 1):
        if len(data) % 4 or len(data) < 8 * lanes:
            raise UserError(f"the code is {len(data)} bytes long, which {lanes} lanes never produce: it was cut short")
        words = np.frombuffer(data, "<u4")
        self.state = words[: 2 * lanes].view("<u8").astype(np.uint64)
        self._words, self._place = words[2 * lanes :], 0

    def pop(self, frequencies: np.ndarray) -> np.ndarray:
        """Decodes one symbol from each of the first n lanes, i64[n]. frequencies: uint64[n, K]. Raises UserError when
        the code has ended."""
        x, first = self.state[: len(frequencies)], starts(frequencies)
        slot = x & np.uint64(TOTAL - 1)
        symbol = np.sum(first <= slot[:, None], axis=-1) - 1
        rows = np.arange(len(symbol))
        x[:] = frequencies[rows, symbol] * (x >> np.uint64(PRECISION)) + slot - first[rows, symbol]
        empty = x < LOW
        count = int(np.sum(empty))
        if count:
            words = self._words[self._place : self._place + count]
            if len(words) < count:
                raise UserError("the code ends before its last symbol: it was cut short or has other frequencies")
            self._place += count
            x[empty] = (x[empty] << WORD) | words.astype(np.uint64)
        return symbol

    @property
    def exhausted(self) -> bool:
        """Whether every encoded symbol has been decoded."""
        return self._place == len(self._words) and bool(np.all(self.state == LOW))
