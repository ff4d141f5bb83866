"""Firmware: a generated C package, start-up code and the link to the host, built for one chip."""
