"""From a tag or digest to a manifest and a config for this node's platform."""

from __future__ import annotations

import hashlib

from ropewalk import errors
from ropewalk.errors import NotFound, RopewalkError
from ropewalk.images import descriptor, jobs, platforms
from ropewalk.images.descriptor import BadDocument, Config, Descriptor, Index, Manifest
from ropewalk.images.worker import registry


def resolve(job: jobs.Resolve) -> jobs.Resolved:
    """Every document's digest, size and type checked. Raises BadDocument, NotFound, Unsupported, registry errors."""
    remote = registry.Registry(job.source)
    if job.known and _is_unchanged(remote, job):
        return jobs.Resolved(source=remote.learnt(), unchanged=True, notes=remote.notes)
    name = f"{job.source.registry}/{job.source.repository}"
    documents: list[jobs.Document] = []
    found, manifest = _fetch_manifest(remote, job, name, documents)
    raw = remote.fetch_config(manifest.config)
    documents.append(jobs.Document(manifest.config.media_type, manifest.config.digest, raw))
    config = descriptor.parse_config(raw, manifest, f"the config of {name}")
    _check_platform(config, job, name)
    root = documents[0]
    return jobs.Resolved(
        source=remote.learnt(),
        root=Descriptor(root.media_type, root.digest, len(root.data)),
        manifest=found,
        config_digest=manifest.config.digest,
        config=config,
        documents=documents,
        layers=plan_layers(manifest, config),
        notes=remote.notes,
    )


def _is_unchanged(remote: registry.Registry, job: jobs.Resolve) -> bool:
    """One cheap request instead of three, for the many pulls of what is already here. A registry without HEAD says
    nothing; the GET that follows tells what is wrong."""
    try:
        return remote.head_digest(job.target) == job.known
    except RopewalkError as error:
        if error.kind in (errors.Kind.DENIED, errors.Kind.NOT_FOUND):
            raise
        return False


def _fetch_manifest(
    remote: registry.Registry, job: jobs.Resolve, name: str, documents: list[jobs.Document]
) -> tuple[Descriptor, Manifest]:
    """Down from the root, through indexes, to the manifest that fits. Appends each document on the way."""
    target, expected = job.target, None
    for _ in range(descriptor.MAX_DEPTH + 1):
        what = f"{name}@{target}" if ":" in target else f"{name}:{target}"
        found, data, content_type = remote.fetch_manifest(target, expected)
        media_type, document = descriptor.parse_document(
            data, content_type, what, expected=expected.media_type if expected else ""
        )
        documents.append(jobs.Document(media_type, found.digest, data))
        if isinstance(document, Manifest):
            return Descriptor(media_type, found.digest, len(data)), document
        expected = _choose(document, job, what)
        target = expected.digest
    raise BadDocument(f"{name}:{job.target} has more than {descriptor.MAX_DEPTH} indexes within each other")


def _choose(index: Index, job: jobs.Resolve, what: str) -> Descriptor:
    return platforms.choose(index, job.platform, what)


def _check_platform(config: Config, job: jobs.Resolve, name: str) -> None:
    """Also a lone manifest must run here. A config that names no platform (built from scratch) is taken at its word."""
    if config.platform.os and config.platform.architecture and platforms.rank(config.platform, job.platform) is None:
        raise NotFound(f"{name} is an image for {config.platform}, this node is {job.platform}")


def plan_layers(manifest: Manifest, config: Config) -> list[jobs.LayerPlan]:
    """Layers bottom first, each with the name of the stack up to it (image-spec, config.md: ChainID)."""
    plans: list[jobs.LayerPlan] = []
    chain = ""
    for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        chain = diff_id if not chain else "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
        plans.append(jobs.LayerPlan(layer, diff_id, chain))
    return plans
