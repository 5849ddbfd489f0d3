"""The least that a call takes: products at the machine's peak, or weights from memory."""

import pytest

from compressor.contracts.profiles import OperatorTime, Peaks, bound_of

PEAKS = Peaks(threads=1, operations_per_s={"fp32": 1e9, "int8": 4e9}, bytes_per_s=1e6)


def operator(numbers="fp32", operations=0.0):
    return OperatorTime(name="a", kind="MatMul", family="product", block="b", ms=1.0, operations=operations, numbers=numbers)


def test_bound_adds_products_each_at_the_peak_of_its_numbers():
    found = bound_of([operator("fp32", 1e6), operator("int8", 1e6), operator()], 100, PEAKS)
    assert found.operations_ms == pytest.approx(1.0 + 0.25)
    assert found.bytes_ms == pytest.approx(0.1)
    assert found.ms == found.operations_ms


def test_bound_is_what_reading_takes_where_that_is_more():
    found = bound_of([operator("fp32", 1e6)], 5000, PEAKS)
    assert found.ms == found.bytes_ms == pytest.approx(5.0)


def test_bound_goes_by_products_alone_where_bytes_are_not_known():
    found = bound_of([operator("fp32", 1e6)], None, PEAKS)
    assert found.bytes_ms is None
    assert found.ms == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("numbers", "rate"), [("int8", 4e9), ("uint8", 4e9), ("int4", 4e9), ("bf16", 1e9), ("fp16", 1e9), ("fp64", 1e9)]
)
def test_peak_of_numbers_that_were_not_measured_is_that_of_wider_ones(numbers, rate):
    assert PEAKS.of(numbers) == rate


def test_peak_of_numbers_that_torch_multiplies_slowly_is_that_of_wider_ones():
    slow = Peaks(threads=1, operations_per_s={"fp32": 4e9, "bf16": 1e9, "int8": 1e8}, bytes_per_s=1e6)
    assert [slow.of(each) for each in ("int8", "int4", "bf16", "fp32")] == [4e9] * 4
