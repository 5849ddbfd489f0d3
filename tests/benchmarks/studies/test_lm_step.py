"""The page of what a step costs: ratios of memory without the teacher's bytes, of times turn by turn."""

from __future__ import annotations

from benchmarks.studies.lm_step import KINDS, ROUNDS, TEACHER_ALONE, TIMES, document, middle


def test_memory_is_held_against_fine_tuning_and_times_against_their_parts():
    cells = {kind: [{"peak": 1500 * 2**20, "teacher": 400 * 2**20}] * 2 for kind in KINDS}
    cells["fine-tuning"] = [{"peak": 1000 * 2**20, "teacher": 0}] * 2
    seconds = {name: [4.0] * (ROUNDS - 1) for name in (TEACHER_ALONE, *KINDS)}
    cells[TIMES] = [{"seconds": {**seconds, TEACHER_ALONE: [1.0] * (ROUNDS - 1)}}]
    (line,) = [line for line in document(cells, "bf16").splitlines() if line.startswith("| forward KL |")]
    assert line == "| forward KL | 1500 [1500, 1500] | 1.10 [1.10, 1.10] | 4.00 [4.00, 4.00] | 0.80 (0.80 to 0.80) |"
    (kept,) = [line for line in document(cells, "bf16").splitlines() if line.startswith("| forward KL, answers kept |")]
    assert kept.endswith("| 1.00 (1.00 to 1.00) |")


def test_an_interval_by_ranks_leaves_out_the_ends_where_there_are_enough():
    assert middle([3, 1, 2]) == "2.00 (1.00 to 3.00)"
    assert middle(range(1, 22)) == "11.00 (6.00 to 16.00)"
