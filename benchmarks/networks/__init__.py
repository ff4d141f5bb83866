"""Networks that benchmarks build on the digits example's data, with its training script and recipe."""
