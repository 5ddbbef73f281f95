"""Flags: every setting has one, and ranges mean what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.estimators.errors import UsageError
from sgdphases.faces.options import FLAGS, one_value, option_values, several_values
from sgdphases.sim.run.settings import RunSettings


def test_every_setting_has_a_flag():
    assert set(FLAGS) == set(RunSettings.model_fields) - {"dataset", "dataset_options"}


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.integers(2, 30))
def test_a_range_is_even_and_holds_its_ends(first, last, count):
    even = several_values("learning_rate", [f"{first!r}:{last!r}:{count}"])
    np.testing.assert_allclose(even, np.linspace(first, last, count), rtol=1e-8)
    ratios = several_values("learning_rate", [f"{first!r}:{last!r}:{count}:log"])
    np.testing.assert_allclose(ratios, np.geomspace(first, last, count), rtol=1e-8)


def test_values_may_be_ranges_lists_and_repeated_flags_together():
    assert several_values("noise_fraction", ["0:0.4:3,0.5", "0.9"]) == (0.0, 0.2, 0.4, 0.5, 0.9)
    assert several_values("noise_fraction", ["0:0.9:10"])[3] == 0.3
    assert several_values("train_size", ["100:1000:3:log"]) == (100, 316, 1000)
    assert several_values("hidden", ["100,100", "none"]) == ((100, 100), ())
    assert several_values("noise_kind", ["uniform", "pair-flip"]) == ("uniform", "pair-flip")
    assert one_value("spectrum_parameters", "layers.1.weight, layers.2.*") == ("layers.1.weight", "layers.2.*")
    assert one_value("epochs", "ten") == "ten"  # the settings say what is wrong with it
    assert option_values(["a=1", "b=x", "a=2"]) == {"a": [1, 2], "b": ["x"]}


@pytest.mark.parametrize("text", ["1:2", "1:2:x", "1:2:1", "1:2:3:lin", "0:2:3:log", "a:2:3", "1:2:3:log:log"])
def test_a_range_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match=text.split(":")[0]):
        several_values("learning_rate", [text])


@pytest.mark.parametrize("name", FLAGS)
def test_the_help_says_the_default_of_the_setting(name):
    default = RunSettings.model_fields[name].default
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    hidden = default is None or default is False or text == ""
    assert FLAGS[name].default == (None if hidden else text)
