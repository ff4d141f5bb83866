"""One file an op family; each holds ``ROWS`` for :mod:`sgsc_edge.lowering.registry`."""
