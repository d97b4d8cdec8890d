"""The worker process: `python -m ropewalk.images.worker.main`, its socket at descriptor 3.

It serves one job at a time until the daemon closes the socket. A daemon that dies closes it too: a watcher thread
sees that even in the middle of a layer, and the process ends; what it leaves is an ingest and an active snapshot,
which the daemon's start sweeps.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
import traceback

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images import jobs
from ropewalk.images.worker import inherit, layer, resolve

SOCKET = 3
NICENESS = 10  # pulls yield to what answers the kubelet
MEMORY = 1 << 30  # bytes: a layer of millions of entries takes half of it, and an archive made to take more ends there


def main() -> None:
    os.umask(0)  # modes are the archive's
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    connection = socket.socket(fileno=SOCKET)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    requests = connection.makefile("rb")
    while header := requests.read(jobs.LENGTH.size):
        (length,) = jobs.LENGTH.unpack(header)
        job = jobs.decode_job(requests.read(length))
        connection.sendall(jobs.encode(_report(job, lambda progress: connection.sendall(jobs.encode(progress)))))


def _end_with(connection: socket.socket) -> None:
    """Leave when the other end is gone. POLLHUP is always reported, data is not asked for."""
    poll = select.poll()
    poll.register(connection, 0)
    poll.poll()
    os._exit(0)


def _report(job: jobs.Job, tell: layer.Tell) -> jobs.Report:
    """The answer to a job, or its failure with what was noted on the way."""
    try:
        return _do(job, tell)
    except RopewalkError as error:
        notes = [str(note) for note in getattr(error, "__notes__", [])]
        return jobs.Failure(error.kind.value, "; ".join([error.message, *notes]), error.hint)
    except OSError as error:
        return jobs.Failure(Kind.INTERNAL.value, f"pull worker: {error}")
    except MemoryError:
        return jobs.Failure(Kind.EXHAUSTED.value, f"pull worker: it takes more than {MEMORY} bytes of memory")
    except Exception:
        return jobs.Failure(Kind.INTERNAL.value, f"pull worker failed: {traceback.format_exc(limit=-4)}")


def _do(job: jobs.Job, tell: layer.Tell) -> jobs.Result:
    match job:
        case jobs.Resolve():
            return resolve.resolve(job)
        case jobs.Layer():
            return layer.fetch_layer(job, tell)
        case jobs.Inherit():
            return inherit.inherit(job)
    raise TypeError(job)


if __name__ == "__main__":
    main()
