"""The method of arXiv 2505.00350 and ours, row by row: what the preservation set and the controller buy.

Every row is one way to compress the same float model, run from the float checkpoint to the compressed model's
integers, which is what all runtimes compute but for the steps that targets state (``benchmarks.exactness``);
nothing is exported. One command makes the table of a model::

    python -m benchmarks.paper [--model mnist|rare|scale] [--rows NAME ...] [--seeds 0 1 2]

``subjects`` says which models there are, ``variants`` which rows; a new model, or a new row, is an entry
there. Schedules are short: they keep the order of the rows, not the best accuracy of each (``mnist_budget``
and ``digits_budget`` have the default recipe).
"""
