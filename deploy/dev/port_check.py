"""Whether the ports are free, and who has them if not."""

import errno
import os
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Optional

import services
from processes import Failure

# Below the range from which Linux takes ports for outgoing connections.
FREE_PORTS = range(20000, 32000)


def check(values: dict[str, str]) -> None:
    """Raises with one line for every port that cannot be opened, and for every one that is meant twice."""
    problems, seen = [], {}
    for setting, optional in [(port.setting, port.optional) for port in services.ports()]:
        text = values[setting]
        if optional and text == "0":
            continue
        if not text.isdecimal() or not 0 < int(text) < 65536:
            problems.append(f"{setting}={text} is no port number")
            continue
        number = int(text)
        if number in seen:
            problems.append(f"port {number} is given to both {seen[number]} and {setting}")
            continue
        seen[number] = setting
        faces_world = any(port.setting == setting for port in services.FRONT_DOOR)
        address = values["HTTP_ADDR"] if faces_world else "127.0.0.1"
        if problem := fault(address, number):
            problems.append(f"port {number} {problem}: free it, or choose another with {setting}=…")
    if problems:
        raise Failure("Parley cannot start:\n" + "\n".join(f"  {problem}" for problem in problems)
                      + "\nNothing was started. Settings go into the environment or into .env beside the Makefile.")


def fault(address: str, number: int) -> Optional[str]:
    """Why this port cannot be opened, or None."""
    with socket.socket() as probe:
        # As servers do: connections of an earlier run that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
            probe.listen()
            return None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"is taken by {holder(number)}"
            return f"on {address} cannot be opened ({error.strerror})"


def holder(number: int) -> str:
    """The process that listens on a port, as far as we may see it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == number:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in inodes:
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return "another program"


def free() -> int:
    """A port that nobody has at this moment."""
    while True:
        number = random.choice(FREE_PORTS)
        if fault("127.0.0.1", number) is None:
            return number
