"""Packages: a model as an embedded project takes it in, one file a format."""

from __future__ import annotations

from sgsc_edge.packaging.c_array import package_c_array
from sgsc_edge.packaging.c_code import package_c_code
from sgsc_edge.packaging.folder import Packaged
from sgsc_edge.packaging.source import Source, read_model, read_source

__all__ = ["Packaged", "Source", "package_c_array", "package_c_code", "read_model", "read_source"]
