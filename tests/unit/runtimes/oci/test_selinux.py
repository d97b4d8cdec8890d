"""SELinux labels: options over the policy's contexts, one level for a pod, and where they go."""

from __future__ import annotations

import pytest

from ropewalk import errors
from ropewalk.linux.selinux import Contexts
from ropewalk.runtimes.oci import build, facts, selinux
from ropewalk.spec import container, pod
from tests.unit.runtimes.oci import samples

POLICY = Contexts("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0")
PLAIN = Contexts("system_u:system_r:container_t", "system_u:object_r:container_file_t")
Option = pod.SELinuxOption
LEVEL = "s0:c1,c2"


def labels(
    options: Option | None = None,
    *,
    of_pod: Option | None = None,
    level: str = LEVEL,
    contexts: Contexts | None = POLICY,
    privileged: bool = False,
) -> tuple[str, str]:
    found = selinux.labels(contexts, options, pod=of_pod, level=level, privileged=privileged)
    return found.process, found.mount


def test_without_options_the_policys_contexts_and_the_pods_level() -> None:
    own = ("system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2")
    assert labels() == labels(Option()) == labels(of_pod=Option()) == own
    assert labels(privileged=True) == ("", own[1])


def test_options_replace_parts() -> None:
    assert labels(Option(type="spc_t")) == (
        "system_u:system_r:spc_t:s0:c1,c2",
        "system_u:object_r:container_file_t:s0:c1,c2",
    )
    everything = Option(user="u", role="r", type="t", level="s0:c8,c9")
    assert labels(everything) == ("u:r:t:s0:c8,c9", "u:object_r:container_file_t:s0:c8,c9")


def test_the_containers_options_count_before_the_pods() -> None:
    of_pod = Option(type="pod_t", level="s0:c5,c6")
    assert labels(of_pod=of_pod, level="s0:c5,c6")[0] == "system_u:system_r:pod_t:s0:c5,c6"
    assert labels(Option(type="own_t"), of_pod=of_pod, level="s0:c5,c6")[0] == "system_u:system_r:own_t:s0:c5,c6"


def test_without_selinux_there_are_none() -> None:
    assert labels(Option(type="spc_t", level=LEVEL), contexts=None) == ("", "")


def test_a_policy_without_levels() -> None:
    assert selinux.level(PLAIN, None, ()) == ""
    assert labels(contexts=PLAIN, level="") == PLAIN


def test_the_level_of_a_pod() -> None:
    assert selinux.level(None, Option(level=LEVEL), ()) == ""
    assert selinux.level(POLICY, Option(level="s0:c7"), {"s0:c7"}) == "s0:c7"
    taken: set[str] = set()
    for _ in range(500):
        one = selinux.level(POLICY, Option(type="x_t"), taken)
        assert one not in taken
        first, second = (int(name.removeprefix("c")) for name in one.removeprefix("s0:").split(","))
        assert 0 <= first < second < selinux.CATEGORIES
        selinux.check(Option(level=one))
        taken.add(one)


def test_a_level_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([[2, 1], [1, 2], [4, 3]])
    monkeypatch.setattr("random.sample", lambda *_: next(drawn))
    assert selinux.level(POLICY, None, {LEVEL}) == "s0:c3,c4"


@pytest.mark.parametrize(
    "level", ["s0", "s0:c1", "s0:c1,c2", "s0:c0.c1023", "s0-s0:c0.c1023", "s1:c1.c3,c9", "s0:c1-s15:c1,c2", ""]
)
def test_levels(level: str) -> None:
    selinux.check(Option(level=level))


@pytest.mark.parametrize(
    "option",
    [
        Option(level="c1"),
        Option(level="s0:"),
        Option(level="s0:c1 "),
        Option(level="s0:c1\n"),
        Option(level="s0:c12345"),
        Option(level='s0",lowerdir="/'),
        Option(user="a:b"),
        Option(role="r,x"),
        Option(type="container_t\n"),
        Option(type="x" * 256),
    ],
)
def test_what_is_no_label_is_refused(option: Option) -> None:
    with pytest.raises(errors.Invalid, match="selinux_options"):
        selinux.check(option)


def test_the_spec_has_them_where_the_node_labels() -> None:
    options = Option(type="own_t")
    volume = facts.ResolvedMount(container.Mount("/data", "/srv/data", selinux_relabel=True), "/srv/data")
    other = facts.ResolvedMount(container.Mount("/other", "/srv/other"), "/srv/other")
    inputs = samples.inputs(
        container=samples.container_spec(samples.security(selinux_options=options)),
        mounts=[volume, other],
        selinux_level=LEVEL,
        node=facts.NodeFacts(selinux=POLICY),
    )
    built = build.build(inputs)
    assert built.spec["process"]["selinuxLabel"] == "system_u:system_r:own_t:s0:c1,c2"
    assert built.spec["linux"]["mountLabel"] == "system_u:object_r:container_file_t:s0:c1,c2"
    assert built.relabel == ["/srv/data"]
    exec_label = build.exec_process(built.spec, ["ls"])["selinuxLabel"]
    assert exec_label == built.spec["process"]["selinuxLabel"]
    without = build.build(samples.inputs(container=inputs.container, mounts=[volume]))
    assert "selinuxLabel" not in without.spec["process"]
    assert "mountLabel" not in without.spec["linux"]
    assert without.relabel == []
