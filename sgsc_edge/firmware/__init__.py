"""Firmware: a folder of C code with start-up code and a link to the host, as an image for one chip."""
