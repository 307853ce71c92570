"""What all workers of the benchmarks do: answer requests, lines of JSON, and time bursts.

All libraries' processes read this file, so it imports nothing but the standard library.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Request = dict[str, Any]


class Channel:
    """Requests on the standard input, replies on the standard output.

    What a library prints goes to the standard error from then on.
    """

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def receive(self) -> Request:
        """Wait for the next request; the process ends with the input."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        request: Request = json.loads(line)
        return request

    def reply(self, answer: Request) -> None:
        """Send an answer."""
        print(json.dumps(answer), file=self._replies, flush=True)


def serve(answer: Callable[[Request], Request]) -> None:
    """Answer requests until the input ends."""
    channel = Channel()
    while True:
        channel.reply(answer(channel.receive()))


def cpu_seconds(step: Callable[[], object], times: int) -> float:
    """Mean CPU time of ``step``, in seconds."""
    start = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - start) / times
