"""Widths that a target stores: which are legal, the plan that is best, and layers of two widths."""
