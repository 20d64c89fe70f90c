"""Changes in four bits: found again from the two tensors alone, exact to the bit, and small."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcl_edge.packs.delta import apply_delta, make_delta
from mmcl_edge.packs.steps import GROUP, coded_size, decode, encode, rounded
from mmcl_edge.packs.tensors import serialise


def _pair(values, scale, change, seed=0):
    generator = np.random.default_rng(seed)
    parent = (scale * generator.standard_normal(values)).astype(np.float32)
    return parent, (parent + change * generator.standard_normal(values)).astype(np.float32)


CASES = {
    "small changes": (1000, 1.0, 1e-2),
    "one value": (1, 1.0, 1e-2),
    "one group": (64, 1.0, 1e-2),
    "one more than a group": (65, 1.0, 1e-2),
    "changes as large as the weights": (500, 0.1, 0.1),
    "changes much larger than the weights": (500, 1e-6, 1.0),
    "changes near what float32 can tell apart": (500, 1.0, 1e-7),
    "large weights": (500, 1e5, 1.0),
    "tiny weights": (500, 1e-30, 1e-31),
    "no change": (100, 1.0, 0.0),
    "from zero": (100, 0.0, 1.0),
    "both zero": (100, 0.0, 0.0),
}


@pytest.mark.parametrize(("values", "scale", "change"), CASES.values(), ids=CASES)
def test_what_is_in_steps_is_found_again(values, scale, change):
    parent, child = _pair(values, scale, change)
    result = rounded(child, parent)
    data = encode(result, parent)
    assert data is not None
    assert len(data) == coded_size(values)
    assert decode(data, parent).tobytes() == result.tobytes()


@pytest.mark.parametrize(("values", "scale", "change"), CASES.values(), ids=CASES)
def test_the_error_is_within_a_seventh_of_the_largest_change(values, scale, change):
    parent, child = _pair(values, scale, change)
    error = np.abs(rounded(child, parent).astype(np.float64) - child)
    largest = np.abs(child.astype(np.float64) - parent).max()
    assert error.max() <= max(largest / 7, 2.0**-18 * np.abs(parent).max(), 2.0**-109)


@given(
    st.integers(1, 300),
    st.floats(-35, 18),
    st.floats(-35, 18),
    st.integers(0, 2**31),
)
@settings(max_examples=300, deadline=None)
def test_any_scale_of_weights_and_changes(values, scale, change, seed):
    parent, child = _pair(values, 10.0**scale, 10.0**change, seed)
    result = rounded(child, parent)
    data = encode(result, parent)
    assert data is not None
    assert decode(data, parent).tobytes() == result.tobytes()


def test_extreme_steps_are_found_again():
    """Changes of exactly seven steps, and parents between which float32 rounds the sum up or down."""
    generator = np.random.default_rng(1)
    for power in range(-17, 3):
        parent = generator.uniform(1, 2, 4096).astype(np.float32)
        steps = generator.integers(-7, 8, 4096)
        steps[::GROUP] = 7
        child = (parent + np.ldexp(steps.astype(np.float32), power)).astype(np.float32)
        data = encode(child, parent)
        assert data is not None, power
        assert decode(data, parent).tobytes() == child.tobytes()


def test_other_changes_are_not_coded():
    parent, child = _pair(1000, 1.0, 1e-2)
    assert encode(child, parent) is None
    stepped = rounded(child, parent)
    stepped[500] = np.nextafter(stepped[500], np.float32(9))
    assert encode(stepped, parent) is None


def test_negative_zero_is_not_lost():
    parent = np.zeros(64, np.float32)
    assert encode(-parent, parent) is None
    assert encode(parent, -parent) is not None


def test_a_delta_takes_five_bits_a_value():
    parent, child = _pair(64 * 1000, 1.0, 1e-3)
    one, other = serialise({"w": parent}), serialise({"w": rounded(child, parent)})
    delta, data = make_delta(other, one, parent_digest="e" * 64)
    assert delta.in_steps == ("w",)
    assert len(data) < 64 * 1000 * 5 / 8
    assert apply_delta(delta, data, one, size_bytes=len(other)) == other


def test_the_error_of_a_random_change_is_a_fifth_at_most():
    """What a change of weights keeps: more than 95 % of its square."""
    parent, child = _pair(64 * 500, 0.05, 1e-3)
    error = np.linalg.norm(rounded(child, parent) - child) / np.linalg.norm(child - parent)
    assert 0.05 < error < 0.21
