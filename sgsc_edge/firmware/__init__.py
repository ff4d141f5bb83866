"""Firmware: a model as C code, and with start-up code and a link to the host as an image for one chip."""
