"""How good generated rows are, as a set: distances with intervals, neighbours, copies, and the features that all of it is measured on."""
