"""What a spec says of a pod's user namespace."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ropewalk import errors
from ropewalk.runtimes.oci import build, facts
from ropewalk.spec import container, pod
from tests.unit.runtimes.oci import samples

MAP = pod.IDMapping(host_id=65536, container_id=0, length=1000)
USERS = pod.UserNamespace(pod.NamespaceMode.POD, [MAP], [MAP])
RANGE = [{"containerID": 0, "hostID": 65536, "size": 1000}]
PATHS = {**samples.NAMESPACES, "user": "/run/ropewalk/pods/p/ns/user"}


def built(**fields: Any) -> dict[str, Any]:
    return samples.built(pod=samples.pod_spec(userns_options=USERS), namespaces=PATHS, **fields)


def mount(**fields: Any) -> container.Mount:
    return container.Mount("/data", "/srv", **fields)


def data(spec: dict[str, Any]) -> dict[str, Any]:
    (found,) = (one for one in spec["mounts"] if one["destination"] == "/data")
    return dict(found)


def test_the_pods_namespace_is_joined_first_and_its_ids_are_told() -> None:
    linux = built()["linux"]
    assert linux["namespaces"][0] == {"type": "user", "path": PATHS["user"]}
    assert (linux["uidMappings"], linux["gidMappings"]) == (RANGE, RANGE)
    assert "uidMappings" not in samples.built()["linux"]


def test_options_of_the_nodes_mounts_are_repeated() -> None:
    """Taking one away is refused to a less privileged namespace; a pod without users need not care."""
    resolved = facts.ResolvedMount(mount(readonly=True), "/srv", locked=["nosuid", "nodev", "ro"])
    options = data(built(mounts=[resolved]))["options"]
    assert options == ["rbind", "rprivate", "ro", "nosuid", "nodev"]
    assert data(samples.built(mounts=[resolved]))["options"] == ["rbind", "rprivate", "ro"]


def test_a_volume_has_the_pods_ids_or_none() -> None:
    same = facts.ResolvedMount(mount(uidMappings=[MAP], gidMappings=[MAP]), "/srv")
    found = data(built(mounts=[same]))
    assert (found["uidMappings"], found["gidMappings"]) == (RANGE, RANGE)
    assert "uidMappings" not in data(built(mounts=[facts.ResolvedMount(mount(), "/srv")]))
    other = facts.ResolvedMount(mount(uidMappings=[pod.IDMapping(0, 0, 1000)], gidMappings=[MAP]), "/srv")
    with pytest.raises(errors.Invalid, match="not its pod's"):
        built(mounts=[other])


def test_mounts_cannot_reach_the_node() -> None:
    both = facts.ResolvedMount(mount(propagation=container.MountPropagation.BIDIRECTIONAL), "/srv", "shared")
    with pytest.raises(errors.Invalid, match="BIDIRECTIONAL"):
        built(mounts=[both])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"run_as_user": 1000}, "user 1000"),
        ({"run_as_user": 1, "run_as_group": 1000}, "group 1000"),
        ({"supplemental_groups": [5000]}, "group 5000"),
    ],
)
def test_ids_beyond_the_map_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.Invalid, match=f"{named} is not in the pod's user namespace"):
        built(container=samples.container_spec(samples.security(**fields)))


def test_terminals_have_no_group_that_is_not_mapped() -> None:
    few = pod.UserNamespace(pod.NamespaceMode.POD, [MAP], [pod.IDMapping(65536, 0, 5)])
    spec = samples.built(pod=samples.pod_spec(userns_options=few), namespaces=PATHS)
    (terminals,) = (one for one in spec["mounts"] if one["destination"] == "/dev/pts")
    assert "gid=5" not in terminals["options"]


def test_the_init_is_nobody_among_the_pods_users() -> None:
    spec = build.init_spec(
        samples.pod_spec(userns_options=USERS), id="p", namespaces=PATHS, cgroup_path="/c", node=facts.NodeFacts()
    )
    assert spec["process"]["user"] == {"uid": 999, "gid": 999}
    assert spec["linux"]["uidMappings"] == RANGE


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"run_as_user": 1000}, "user 1000"),
        ({"run_as_user": 1, "run_as_group": 1000}, "group 1000"),
        ({"supplemental_groups": [1000]}, "group 1000"),
    ],
)
def test_an_init_is_none_whom_the_pods_users_have_not(asked: dict[str, Any], named: str) -> None:
    spec = samples.pod_spec(userns_options=USERS)
    context = msgspec.structs.replace(spec.linux.security_context, **asked)
    spec = msgspec.structs.replace(spec, linux=msgspec.structs.replace(spec.linux, security_context=context))
    with pytest.raises(errors.Invalid, match=named):
        build.init_spec(spec, id="p", namespaces=PATHS, cgroup_path="/c", node=facts.NodeFacts())
