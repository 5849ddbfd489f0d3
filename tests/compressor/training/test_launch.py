"""What the process that runs a plan makes of what training processes tell."""

from __future__ import annotations

import pytest

from compressor import errors
from compressor.training.launch import _pass_on

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CompressorError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_passed_on_as_it_was_told(kind):
    with pytest.raises(kind) as raised:
        _pass_on({"error": kind.__name__, "text": "row 3 of train: it is broken"}, lambda _: None)
    assert type(raised.value) is kind
    assert str(raised.value) == "row 3 of train: it is broken"
    assert raised.value.exit_code == kind.exit_code


@pytest.mark.parametrize("name", ["OfAPlugin", "Fault", "near_name"])
def test_an_error_of_another_class_is_passed_on_too(name):
    with pytest.raises(errors.CompressorError, match="broken"):
        _pass_on({"error": name, "text": "broken"}, lambda _: None)
