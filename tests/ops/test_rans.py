"""What goes in comes out, in no more bits than the frequencies say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.ops.rans import PRECISION, TOTAL, Decoder, Encoder, quantise, starts


def encode(frequencies, symbols, lanes):
    """Symbols int[N] under tables [N, K], `lanes` at a time."""
    encoder, first = Encoder(lanes), starts(frequencies)
    for place in range((len(symbols) - 1) // lanes * lanes, -1, -lanes):
        rows = np.arange(place, min(place + lanes, len(symbols)))
        encoder.push(first[rows, symbols[rows]], frequencies[rows, symbols[rows]])
    return encoder.finish()


def decode(data, frequencies, lanes):
    decoder = Decoder(data, lanes)
    symbols = [decoder.pop(frequencies[place : place + lanes]) for place in range(0, len(frequencies), lanes)]
    assert decoder.exhausted
    return np.concatenate(symbols)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), count=st.integers(1, 300), lanes=st.integers(1, 9), symbols=st.integers(1, 300),
    sharpness=st.sampled_from([0.0, 1.0, 30.0]),
)  # fmt: skip
def test_round_trip_and_length(seed, count, lanes, symbols, sharpness):
    """Each symbol has its own table, and is sometimes almost certain and sometimes unlikely."""
    rng = np.random.default_rng(seed)
    frequencies = quantise(np.exp(sharpness * rng.standard_normal((count, symbols))))
    uniform = rng.integers(symbols, size=count)
    likely = np.sum(starts(frequencies) <= rng.integers(TOTAL, size=(count, 1)).astype(np.uint64), axis=-1) - 1
    given = np.where(rng.random(count) < 0.5, uniform, likely)
    data = encode(frequencies, given, lanes)
    np.testing.assert_array_equal(decode(data, frequencies, lanes), given)
    bits = np.sum(PRECISION - np.log2(frequencies[np.arange(count), given].astype(np.float64)))
    # A state starts with 31 bits in it and is written as 64; rounding costs at most 2^-11 of a bit a symbol.
    assert bits + 31 * lanes - 1 <= 8 * len(data) + 0.01 <= bits + 64 * lanes + count / 2048 + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=300).filter(lambda p: sum(p) > 0))
def test_frequencies_add_up_and_leave_no_symbol_out(p):
    frequencies = quantise(np.array(p)).astype(np.int64)
    assert frequencies.sum() == TOTAL
    assert frequencies.min() >= 1
    share = np.array(p) / np.sum(p)
    np.testing.assert_allclose(frequencies / TOTAL, share, atol=2 * len(p) / TOTAL)


def test_bad_tables_and_codes_are_refused():
    for p in ([0.5, -0.1], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(UserError, match="cannot be coded"):
            quantise(np.array(p))
    frequencies = quantise(np.ones((100, 256)))
    data = encode(frequencies, np.arange(100), 2)
    with pytest.raises(UserError, match="cut short"):
        decode(data[:-4], frequencies, 2)
    with pytest.raises(UserError, match="cut short"):
        Decoder(data[:12], 2)
