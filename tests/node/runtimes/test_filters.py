"""The filter that crun is given is the one that it would make, and both are what the profile says.

Evaluated over every call number of every table and beyond, on every architecture, with arguments around each value
that a profile compares; then by live calls of a program in each of the machine's three call tables.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ropewalk.linux import bpf
from ropewalk.runtimes.handlers import crun
from ropewalk.runtimes.oci import capabilities, facts, seccomp
from tests.fakes import boxes, policy
from tests.fakes import bpf as kernel
from tests.node.runtimes import calls, installed

pytestmark = [
    pytest.mark.skipif(shutil.which("crun") is None, reason="crun is needed"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="written for the call tables of x86-64"),
]

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
X86_64, X86, X32 = TABLES = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
AARCH64 = "SCMP_ARCH_AARCH64"
BIG = (1 << 32) + 5


def default(*changed: str) -> dict[str, Any]:
    """RuntimeDefault with the capabilities of a container, toggled as named."""
    held = capabilities.DEFAULT ^ {f"CAP_{name}" for name in changed}
    return seccomp.default_profile(held, "x86_64")


def rule(names: str, *args: tuple[int, str, int, int], action: str = ALLOW, errno: int | None = None) -> dict[str, Any]:
    conditions = [{"index": at, "op": f"SCMP_CMP_{op}", "value": one, "valueTwo": two} for at, op, one, two in args]
    made: dict[str, Any] = {"names": names.split(), "action": action, "args": conditions}
    return made if errno is None else made | {"errnoRet": errno}


def localhost(
    *rules: dict[str, Any], action: str = ERRNO, errno: int | None = None, tables: list[str]
) -> dict[str, Any]:
    """A profile file of the node, as it comes out of the parser."""
    document: dict[str, Any] = {"defaultAction": action, "architectures": tables, "syscalls": rules}
    if errno is not None:
        document["defaultErrnoRet"] = errno
    node = facts.NodeFacts(architecture="x86_64")
    return seccomp.parse(json.dumps(document).encode(), "/p.json", capabilities=frozenset(), facts=node)


# So that the container starts, and can say what happened.
BASE = rule(
    "execve exit exit_group read write open openat openat2 close mmap mmap2 munmap mprotect brk fstat fstat64 statx "
    "newfstatat fstatat64 stat stat64 set_tid_address set_thread_area arch_prctl rt_sigaction rt_sigprocmask sigreturn "
    "rt_sigreturn getpid prlimit64 getrandom rseq set_robust_list capset capget prctl setgroups setresuid setresgid "
    "chdir fchdir dup dup2 dup3 fcntl fcntl64 close_range clone fork vfork wait4 pipe pipe2 getuid getgid geteuid "
    "getegid setsid getcwd uname poll nanosleep clock_nanosleep readlink lseek _llseek getdents64 faccessat access "
    "tgkill gettid futex recvmsg sendmsg recvfrom sendto umask seccomp setuid setgid ioctl ftruncate access"
)
OPERATORS = [
    rule("getpriority", (1, "NE", BIG, 0)),
    rule("madvise", (1, "LT", BIG, 0)),
    rule("flock", (1, "LE", BIG, 0)),
    rule("ioprio_get", (1, "EQ", BIG, 0)),
    rule("sched_getparam", (1, "GE", BIG, 0)),
    rule("sched_rr_get_interval", (1, "GT", BIG, 0)),
    rule("sched_getaffinity", (1, "MASKED_EQ", 0xF0000000F0, 0x1000000010)),
    rule("getsid", (0, "NE", 5, 0)),
    rule("getpgid", (0, "LT", 5, 0)),
    rule("sched_getscheduler", (0, "LE", 5, 0)),
    rule("sched_get_priority_max", (0, "EQ", 5, 0)),
    rule("sched_get_priority_min", (0, "GE", 5, 0)),
    rule("getitimer", (0, "GT", 5, 0)),
    rule("mlockall", (0, "MASKED_EQ", 0xF0, 0x10)),
]
ACTIONS = [
    rule("mkdir", action=ERRNO, errno=4000),
    rule("rmdir", action=ERRNO, errno=0),
    rule("mount", action=ERRNO),
    rule("chown", action="SCMP_ACT_TRACE", errno=9),
    rule("lchown", action="SCMP_ACT_TRAP"),
    rule("link", action="SCMP_ACT_LOG"),
    rule("unlink", action="SCMP_ACT_KILL_PROCESS"),
    rule("rename", action="SCMP_ACT_KILL"),
    rule("symlink", action="SCMP_ACT_KILL_THREAD"),
    rule("socket", (0, "EQ", 38, 0), action=ERRNO, errno=97),
    rule("clone", (0, "MASKED_EQ", 0x7E020000, 0x20000), action=ERRNO),
]
SEVERAL = [
    rule("personality", (0, "EQ", 1, 0), (1, "GE", 5, 0)),  # both
    rule("getpriority", (1, "EQ", 3, 0), (1, "EQ", 9, 0)),  # either, since one argument cannot be both
    rule("madvise", (0, "LT", 3, 0), (1, "EQ", 2, 0), (2, "NE", 4, 0)),
    rule("flock", (0, "EQ", 1, 0)),
    rule("flock"),
    rule("getsid"),
    rule("getsid", (0, "EQ", 3, 0)),
]
# Of 32-bit programs: what is opened by its own name is opened in the multiplexer too.
MULTIPLEXED = [
    rule("socket", (0, "EQ", 1, 0)),
    rule("connect accept4 recv semop semget shmat"),
    rule("setsockopt", (1, "EQ", 1, 0)),
]
PROFILES = {
    "default": default(),
    "default with SYS_ADMIN": default("SYS_ADMIN"),
    "default with everything": seccomp.default_profile(capabilities.KNOWN, "x86_64"),
    "default with nothing": seccomp.default_profile(frozenset(), "x86_64"),
    "actions": localhost(*ACTIONS, action=ALLOW, tables=TABLES[:2]),
    "actions in every table": localhost(*ACTIONS, action=ALLOW, tables=TABLES),
    "several conditions": localhost(BASE, *SEVERAL, tables=TABLES),
    "multiplexed": localhost(BASE, *MULTIPLEXED, tables=TABLES[:2]),
    "multiplexed, and the multiplexer": localhost(BASE, *MULTIPLEXED, rule("socketcall ipc"), tables=TABLES[:2]),
    "kill": localhost(BASE, action="SCMP_ACT_KILL_PROCESS", tables=[]),
    **{
        f"operators in {' '.join(tables) or 'no table'}": localhost(BASE, *OPERATORS, errno=4001, tables=tables)
        for tables in ([], [X86_64], [X86_64, X86], TABLES, [X86], [AARCH64], [X86_64, AARCH64])
    },
}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[boxes.Place]:
    place = boxes.Place(tmp_path)
    yield place
    await place.close()


async def filtered(box: boxes.Box) -> None:
    """`start` returns before the process has come to its filter."""
    async with asyncio.timeout(30):
        while "Seccomp:\t2\n" not in Path(f"/proc/{box.task.pid}/status").read_text():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", PROFILES)
async def test_both_programs_mean_what_the_profile_says(place: boxes.Place, name: str) -> None:
    """Compiled, given back, and compiled again by another daemon's crun: one program, and the kernel has it."""
    profile = PROFILES[name]
    first = crun.Handler(crun.Config(), place.node)
    programs, given = set(), []
    for handler in (first, first, crun.Handler(crun.Config(), place.node)):
        box = await boxes.run(handler, place.plan("sleep", "100", linux={"seccomp": profile}))
        await filtered(box)
        config = json.loads(Path(place.state, "containers", box.id, "config.json").read_text())
        given.append("run.oci.seccomp_bpf_data" in config.get("annotations", {}))
        programs |= {Path(handler.root, box.id, "seccomp.bpf").read_bytes(), installed.read(box.task.pid)}
        await box.delete()
    assert given == [False, True, False]
    (program,) = programs
    instructions, meaning = bpf.parse(program), policy.Policy(profile)
    wrong = [call for call in meaning.calls() if kernel.evaluate(instructions, call) != meaning.verdict(call)]
    assert wrong == []
    # A part of it is refused, or lacks only what nothing leads to.
    parts = [bpf.parse(program[:size]) for size in range(0, len(program), 8) if bpf.is_filter(program[:size])]
    for part in parts:
        assert all(kernel.evaluate(part, call) == kernel.evaluate(instructions, call) for call in meaning.calls())
    assert place.found() == []


def live_calls() -> list[calls.Call]:
    """Those of the sample, but clone, which would go on twice; and each operator's call with arguments around its
    values."""
    sample = [calls.Call(table, *call) for table, of in calls.SAMPLE.items() for call in of.values()]
    made = [call for call in sample if call.number != policy.number(X86_64, "clone")]
    made += [calls.Call("i386", 102, (which,), (family, 1, 0)) for which in (1, 3) for family in (38, 2)]
    for one in OPERATORS:
        (condition,) = one["args"]
        for value in (0, 4, 5, 6, 0x10, 0x20, BIG - 1, BIG, BIG + 1, 0x1000000010, 0x1100000010, 2**64 - 1):
            arguments = (2**31 - 1,) * condition["index"] + (value,)
            made.append(calls.Call("x86_64", policy.number(X86_64, one["names"][0]), arguments))
            narrow = tuple(argument & 0xFFFFFFFF for argument in arguments)
            made.append(calls.Call("i386", policy.number(X86, one["names"][0]), narrow))
    return made


@pytest.mark.parametrize("name", ["default", f"operators in {X86_64} {X86}", "multiplexed", "operators in no table"])
async def test_live_calls_agree(place: boxes.Place, name: str) -> None:
    """What the kernel does under the compiled and under the ready-made filter is what the profile says. Calls that
    end the program are made by programs of their own."""
    profile, asked = PROFILES[name], live_calls()
    meaning = policy.Policy(profile)
    verdicts = [meaning.verdict(audited(call)) for call in asked]
    several = [call for call, verdict in zip(asked, verdicts, strict=True) if verdict != kernel.KILL_THREAD]
    write(place, "calls", several)
    deadly = {"i386": calls.Call("i386", 20), "x32": calls.Call("x32", 39)}
    for table, call in deadly.items():
        write(place, table, [call])
    script = "; ".join(["calls | busybox od -An -v -w8 -td8", *(f"{table} >/dev/null; echo $?" for table in deadly)])
    handler = crun.Handler(crun.Config(), place.node)
    for _ in range(2):
        box = await boxes.run(handler, place.plan("sh", "-c", script, linux={"seccomp": profile}))
        await box.wait()
        said = [int(text) for stream, _, text in box.log() if stream == "stdout" and text.strip()]
        answers, ends = said[: len(several)], said[len(several) :]
        for call, answer in zip(several, answers, strict=True):
            agrees(call, answer, meaning.verdict(audited(call)))
        for call, end in zip(deadly.values(), ends, strict=True):
            assert (end == 159) is (meaning.verdict(audited(call)) == kernel.KILL_THREAD), call  # 128 + SIGSYS
        await box.delete()


def audited(call: calls.Call) -> kernel.Call:
    bit = policy.X32_BIT if call.table == "x32" else 0
    arch = policy.I386 if call.table == "i386" else policy.X86_64
    return kernel.Call(call.number | bit, arch, call.arguments)


def agrees(call: calls.Call, answer: int, verdict: int) -> None:
    """An errno of the filter is the answer. What is allowed may fail for its own reasons, but never with the errno that
    only the filter gives; EPERM could be either's, so there the answer must be none at all or another error."""
    if verdict & 0x7FFF0000 == kernel.ERRNO:
        assert answer == -(verdict & 0xFFFF), (call, answer)
    else:
        assert verdict == kernel.ALLOW
        assert answer not in (-4001, -1), (call, answer)


def write(place: boxes.Place, name: str, made: list[calls.Call]) -> None:
    path = Path(place.image, "bin", name)
    path.write_bytes(calls.program(made))
    path.chmod(0o755)
