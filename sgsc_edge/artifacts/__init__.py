"""Files that survive: atomic writes, hashes, reproducible archives, manifest, resume stamps, folder lock."""

from sgsc_edge.artifacts.archives import MAX_NPZ_BYTES, npz_bytes, read_npz, write_npz
from sgsc_edge.artifacts.earlier import Earlier, restoring
from sgsc_edge.artifacts.files import (
    MAX_JSON_BYTES,
    atomic_path,
    canonical_json,
    content_key,
    output_errors,
    read_bytes,
    read_json,
    remove_leftovers,
    scratch_errors,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from sgsc_edge.artifacts.folder import (
    MANIFEST_NAME,
    STAMPS_NAME,
    FolderLock,
    Manifest,
    Stamps,
    check_manifest,
    is_inside,
    refuse_links,
    write_manifest,
)
from sgsc_edge.artifacts.sources import package_hash, sources_hash

__all__ = [
    "MANIFEST_NAME",
    "MAX_JSON_BYTES",
    "MAX_NPZ_BYTES",
    "STAMPS_NAME",
    "Earlier",
    "FolderLock",
    "Manifest",
    "Stamps",
    "atomic_path",
    "canonical_json",
    "check_manifest",
    "content_key",
    "is_inside",
    "npz_bytes",
    "output_errors",
    "package_hash",
    "read_bytes",
    "read_json",
    "read_npz",
    "refuse_links",
    "remove_leftovers",
    "restoring",
    "scratch_errors",
    "sha256_bytes",
    "sha256_file",
    "sources_hash",
    "write_bytes",
    "write_json",
    "write_manifest",
    "write_npz",
]
