"""What a container's runtime spec depends on beside the request: looked up on the node before it is built."""

from __future__ import annotations

from msgspec import structs

from ropewalk.images.store import Image
from ropewalk.linux.offload import Offload
from ropewalk.pods import files, placement
from ropewalk.pods.records import Pod
from ropewalk.runtimes.apparmor import AppArmor
from ropewalk.runtimes.oci import build, resolve, seccomp, security
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.runtimes.registry import Handlers
from ropewalk.spec.container import ContainerSpec


class Inputs:
    """`node`: what holds for every container; `state`: the runtime state directory."""

    def __init__(
        self, handlers: Handlers, offload: Offload, apparmor: AppArmor, *, node: NodeFacts, state: str
    ) -> None:
        self._handlers = handlers
        self._offload = offload
        self._apparmor = apparmor
        self._node = node
        self._state = state

    async def gather(self, id: str, pod: Pod, spec: ContainerSpec, image: Image, paths: dict[str, str]) -> build.Inputs:
        """`paths`: of the namespaces that it joins. Host paths are looked up by a worker: a dead network file system
        can hang it."""
        call = self._offload.call
        profile = seccomp.profile_file(spec.security)
        limit = seccomp.MAX_PROFILE
        config = self._handlers[pod.handler].config
        return build.Inputs(
            id=id,
            pod_id=pod.id,
            pod=pod.spec,
            container=spec,
            image=image.config,
            passwd=image.passwd,
            group=image.group,
            namespaces=paths,
            files=files.shared(self._state, pod.id, pod.spec),
            files_locked=resolve.read_locked(files.directory(self._state, pod.id)),
            cgroup_path=placement.container_cgroup(pod, id),
            selinux_level=pod.selinux_level,
            mounts=await call(resolve.read_mounts, spec.mounts) if spec.mounts else [],
            devices=await call(resolve.read_devices, spec.devices) if spec.devices else [],
            node_devices=await call(resolve.read_node_devices) if spec.security.privileged else [],
            seccomp_profile=await call(resolve.read_seccomp_profile, profile, limit) if profile else None,
            node=await self._facts(pod, spec),
            annotations=config.pod_annotations,
            fixed_annotations=config.annotations,
        )

    async def _facts(self, pod: Pod, spec: ContainerSpec) -> NodeFacts:
        """The node's, with what the pod's handler can do on it, and the AppArmor profiles that are loaded now."""
        capabilities = self._handlers[pod.handler].capabilities
        loaded = await self._apparmor.ready(
            security.named_apparmor(spec.security), default=security.wants_default_apparmor(spec.security)
        )
        return structs.replace(
            self._node,
            recursive_read_only=capabilities.recursive_read_only,
            apparmor_default=loaded.default,
            apparmor_problem=loaded.problem,
            apparmor_profiles=loaded.profiles,
        )
