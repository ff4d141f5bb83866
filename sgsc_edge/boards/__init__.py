"""Boards: what firmware runs on, and the link to it. One file a way to reach a board."""
