"""Names, ids and prefixes."""

from __future__ import annotations

import pytest

from ropewalk.cli import names
from ropewalk.client.values import Container, ContainerState, PodSandbox, PodSandboxState
from ropewalk.errors import Invalid, NotFound
from ropewalk.spec.container import ContainerMetadata
from ropewalk.spec.pod import PodSandboxMetadata

GONE, LIVE = ContainerState.EXITED, ContainerState.RUNNING


def pod(id: str, name: str, *, run: bool = False, attempt: int = 0, ready: bool = True) -> PodSandbox:
    return PodSandbox(
        id=id,
        metadata=PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="d", attempt=attempt),
        state=PodSandboxState.READY if ready else PodSandboxState.NOTREADY,
        labels={names.RUN: name} if run else {},
    )


def container(id: str, pod: str, name: str, state: ContainerState = LIVE, attempt: int = 0) -> Container:
    return Container(id=id, pod_sandbox_id=pod, metadata=ContainerMetadata(name, attempt), state=state)


PODS = [pod("p1aa", "web", run=True), pod("p2bb", "shop-a"), pod("p3cc", "shop-b"), pod("p4dd", "single")]
CONTAINERS = [
    container("c1aa", "p1aa", "web"),
    container("c2aa", "p2bb", "nginx", GONE, 0),
    container("c2bb", "p2bb", "nginx", LIVE, 1),
    container("c2cc", "p2bb", "side"),
    container("c3aa", "p3cc", "nginx"),
    container("c4aa", "p4dd", "main"),
]


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("c2aa", "c2aa"),  # an id, though a later attempt exists
        ("web", "c1aa"),
        ("main", "c4aa"),
        ("side", "c2cc"),
        ("shop-a/nginx", "c2bb"),  # of restarts the last
        ("p3/nginx", "c3aa"),
        ("single", "c4aa"),  # a pod of one container
        ("shop-b", "c3aa"),
        ("c4", "c4aa"),
        ("p4dd", "c4aa"),
    ],
)
def test_containers(name: str, id: str) -> None:
    assert names.find_container(name, CONTAINERS, PODS).id == id


def test_a_name_in_two_pods_lists_them() -> None:
    with pytest.raises(Invalid, match=r"shop-a/nginx \(c2bb\), shop-b/nginx \(c3aa\); name one"):
        names.find_container("nginx", CONTAINERS, PODS)
    with pytest.raises(Invalid, match="shop-a/side"):
        names.find_container("shop-a", CONTAINERS, PODS)


@pytest.mark.parametrize("name", ["", "nosuch", "web/nosuch", "/side", "c9"])
def test_no_such_container(name: str) -> None:
    with pytest.raises(NotFound, match="no container"):
        names.find_container(name, CONTAINERS, PODS)


def test_of_two_the_one_that_runs() -> None:
    both = [container("c1", "p1", "x", GONE), container("c2", "p2", "x", LIVE)]
    assert names.find_container("x", both, []).id == "c2"


def test_pods() -> None:
    assert names.find_pod("web", PODS).id == "p1aa"
    assert names.find_pod("p2", PODS).id == "p2bb"
    with pytest.raises(Invalid, match="may mean 4 pods"):
        names.find_pod("p", PODS)
    with pytest.raises(NotFound):
        names.find_pod("", PODS)


def test_of_a_pods_attempts_the_last() -> None:
    attempts = [pod("p8", "x", attempt=1), pod("p9", "x", attempt=0, ready=False)]
    assert names.find_pod("x", attempts).id == "p8"


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("web", "p1aa"),
        ("c1", "p1aa"),  # the container of a pod that `run` made: the pod goes with it
        ("c1aa", "p1aa"),
        ("side", "c2cc"),
        ("shop-a", "p2bb"),
        ("shop-a/nginx", "c2bb"),
        ("p2bb", "p2bb"),
        ("c4aa", "c4aa"),
    ],
)
def test_what_stop_and_rm_act_on(name: str, id: str) -> None:
    assert names.find_target(name, CONTAINERS, PODS).id == id


def test_prefixes_are_unique_over_both_kinds() -> None:
    with pytest.raises(Invalid, match="begins the ids"):
        names.find_target("a", [container("ab", "p", "x")], [pod("ac", "y")])
    with pytest.raises(NotFound, match="no container or pod"):
        names.find_target("nosuch", CONTAINERS, PODS)
