"""Embedding tables whose gradients are rows learn what they learn by torch's dense ones, to the bit."""

from __future__ import annotations

import pytest
import torch

from compressor.training.cheap import Cheap
from compressor.training.learners import Learner, Learning
from compressor.training.tables import LARGE, measured

WIDTH = 64
ROWS = LARGE // WIDTH
IDS = torch.tensor([[3, 0, 7, 3], [9, 3, 0, 0], [ROWS - 1, 2, 2, 9]])


class Reader(torch.nn.Module):
    """A table of `rows`, padded by row 0, and what tells two classes apart; `tied` also reads the table as a matrix."""

    def __init__(self, rows: int = ROWS, *, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(rows, WIDTH, padding_idx=0)
        self.head = torch.nn.Linear(WIDTH, 2)
        self.tied = tied

    def forward(self, ids):
        found = self.table(ids).tanh()
        weight = self.table.weight if self.tied else self.head.weight
        return torch.nn.functional.linear(found, weight).square().mean()


def backward(model, ids=IDS, *, rows=True):
    with Cheap(rows=rows):
        loss = model(ids)
    loss.backward()


def trained(*, rows, shrink=1.0, parts=1, tied=False):
    """Weights after some steps, each on other rows."""
    model = Reader(tied=tied)
    learning = Learning(Learner("all", tuple(model.parameters()), 0.01, 0.1))
    for step in range(4):
        for part in (IDS + step).clamp(max=ROWS - 1).chunk(parts):
            backward(model, part, rows=rows)
        measured(learning.learner.parameters)
        learning.update(1.0, shrink=shrink)
        model.zero_grad(set_to_none=True)
    return dict(model.state_dict())


@pytest.mark.parametrize("given", [{}, {"shrink": 3.0}, {"parts": 3}], ids=str)
def test_table_learns_what_it_learns_by_a_dense_gradient(given):
    dense, sparse = trained(rows=False, **given), trained(rows=True, **given)
    assert all(torch.equal(dense[name], sparse[name]) for name in dense)
    assert not torch.equal(sparse["table.weight"], Reader().state_dict()["table.weight"])


def test_table_that_is_read_as_a_matrix_too_has_a_dense_gradient_of_both():
    dense, sparse = trained(rows=False, tied=True), trained(rows=True, tied=True)
    torch.testing.assert_close(sparse, dense)  # rows are added to the matrix's one by one


def test_gradient_has_each_row_of_the_batch_once_and_none_of_padding():
    dense, sparse = Reader(), Reader()
    backward(dense, rows=False)
    backward(sparse)
    norms = [torch.nn.utils.get_total_norm(measured(list(model.parameters()))) for model in (dense, sparse)]
    assert torch.allclose(*norms)
    gradient = sparse.table.weight.grad
    assert gradient.is_coalesced()
    assert set(gradient.indices()[0].tolist()) - {0} == {2, 3, 7, 9, ROWS - 1}
    assert torch.equal(gradient.to_dense(), dense.table.weight.grad)


def test_small_tables_and_those_of_another_gradient_are_left_to_torch():
    small, counted = Reader(16), Reader()
    counted.table.scale_grad_by_freq = True
    for model, ids in ((small, IDS.clamp(max=15)), (counted, IDS)):
        backward(model, ids)
        assert not model.table.weight.grad.is_sparse
