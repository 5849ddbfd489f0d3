"""Every plug-in of this distribution, as it is installed, keeps its contract."""

import pytest

from compressor.testing import checks


@pytest.mark.parametrize("check", checks("example-plugins"), ids=str)
def test_plugin_keeps_its_contract(check):
    check()
