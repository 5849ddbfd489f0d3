"""What `compressor init` writes: a plan for a model and rows that it looked at, which runs, with comments that say what was seen."""

from compressor.proposal.looked import Asked
from compressor.proposal.propose import Proposal, propose

__all__ = ["Asked", "Proposal", "propose"]
