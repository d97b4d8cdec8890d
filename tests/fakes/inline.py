"""An Offload without processes: the call runs here, after the same journey through pickle as to a worker."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

from ropewalk.linux import offload

T = TypeVar("T")


class InlineOffload(offload.Offload):
    """`calls` are the names of the functions called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
        del timeout
        self.calls.append(fn.__name__)
        function, arguments = pickle.loads(pickle.dumps((fn, args)))
        result: T = function(*arguments)
        return result
