"""Measurements of sgsc-edge: each module is a script, run from the repository's top with ``python -m``.

A script writes ``benchmarks/results/<name>.json`` and prints its rows; ``python -m benchmarks.report``
turns the results into ``docs/results.md``. It exits 1 when a limit is not met. What takes hours is kept here,
too: float checkpoints in ``benchmarks/floats``, finished rows in ``benchmarks/rows``.
"""
