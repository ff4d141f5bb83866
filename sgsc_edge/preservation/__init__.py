"""The preservation set: which samples guard a compression, and in which part each one serves."""
