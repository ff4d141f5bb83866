"""Where it all comes from: versions, seeds, hashes, and the policy that judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sgsc_edge.inspection.text import printable
from sgsc_edge.report.build_folder import BuildFolder
from sgsc_edge.report.text import change, clean, percent

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ProvenanceView:
    """Names with what belongs to them; hashes are SHA-256."""

    policy: Pairs
    policy_sha256: str
    built_with: Pairs
    certified_with: Pairs
    seeds: Pairs
    files: Pairs
    inputs: Pairs
    sets: Pairs
    digest: str


def provenance_view(build: BuildFolder) -> ProvenanceView:
    """From the manifest and the certificate."""
    predicate, manifest = build.certificate.predicate, build.manifest
    gate, runtimes = predicate.policy.gate, predicate.policy.runtimes
    return ProvenanceView(
        policy=(
            ("gate.metric", gate.metric),
            ("gate.max_drop", change(gate.metric, gate.max_drop)),
            ("gate.reference", gate.reference),
            ("gate.max_lowering_flips", percent(gate.max_lowering_flips)),
            ("runtimes.required", ", ".join(map(clean, runtimes.required))),
            ("runtimes.optional", ", ".join(map(clean, runtimes.optional)) or "none"),
        ),
        policy_sha256=predicate.policy_sha256,
        built_with=_pairs(manifest.tools),
        certified_with=_pairs(predicate.tools),
        seeds=_pairs(manifest.seeds),
        files=_pairs(manifest.files),
        inputs=_pairs({**manifest.inputs, **predicate.inputs}),
        sets=_pairs({name: row.sha256 for name, row in predicate.sets.items()}),
        digest=predicate.digest,
    )


def _pairs(table: Mapping[str, object]) -> Pairs:
    return tuple((clean(name), printable(str(value), 64)) for name, value in sorted(table.items()))
