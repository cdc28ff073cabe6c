"""Child processes that live and die with the launcher.

Each child is a session of its own, so Ctrl-C at the terminal reaches the launcher only, which then stops the children
in its own order. The kernel stops them should the launcher be killed.
"""

import ctypes
import os
import pwd
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Optional

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

# A second Ctrl-C means "now". Nearer together than this they are one: make and the terminal both pass a signal on.
IMPATIENCE_SECONDS = 2.0
# How long whatever is to be started again stays away.
RESTART_SECONDS = 0.5
# What a log may hold when a run begins, before it is put aside.
LOG_BYTES_MAX = 10 * 1024 * 1024
LAST_LINES = 15


def say(text: str = "") -> None:
    """Prints a line. That nobody reads it any more must not keep children from being stopped."""
    with suppress(OSError):
        print(text, flush=True)


class Failure(Exception):
    """Something that ends the run; the text says what and, if known, the mend."""


class StopAsked(Exception):
    """Ctrl-C, TERM or HUP arrived."""


class Child:
    """A started process and how it wants to be stopped."""

    def __init__(self, name: str, process: subprocess.Popen, log: Optional[Path], log_start: int,
                 stop_signal: int, grace_seconds: float, vital: bool, whole_group: bool,
                 start_again: Callable[[], "Child"]):
        self.name = name
        self.process = process
        self.start_again = start_again
        self.log = log
        self.log_start = log_start
        self.stop_signal = stop_signal
        self.grace_seconds = grace_seconds
        self.vital = vital
        self.whole_group = whole_group

    def ended(self) -> Optional[int]:
        """Its exit code once it has ended."""
        return self.process.poll()

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.whole_group or number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def obituary(self) -> str:
        """How it ended, with what it wrote last in this run."""
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if self.log is None:
            return f"{self.name} ended ({how})."
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            lines = file.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        said = "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
        return f"{self.name} ended ({how}). The end of {self.log}:\n{said}"


class Processes:
    """All children. Leaving the `with` block stops them, last started first."""

    def __init__(self, log_folder: Path, lock_descriptor: int, quiet: bool = False):
        self.log_folder = log_folder
        # Whether a vital child that ends is started again, as a supervisor does in production.
        self.restart = False
        # Children hold the lock too, so it is free only when none is left, even after a kill -9 of the launcher.
        self.lock_descriptor = lock_descriptor
        self.quiet = quiet
        self.children: list[Child] = []
        self.asked_at: list[float] = []
        self.stopping = False
        self.wake_read, wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # INT is taken even where it was ignored on arrival, as in a script that starts us with "&".
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.asked_at.append(time.monotonic()))
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def start(self, name: str, command: list[str], *, environment: dict[str, str], user: Optional[int] = None,
              folder: Optional[Path] = None, terminal: bool = False, stop_signal: int = signal.SIGTERM,
              grace_seconds: float = 10.0, vital: bool = True, whole_group: bool = False) -> Child:
        """Starts a process. It writes to its log, or where we do with `terminal`. The end of a `vital` one ends the
        run. `user` is the numeric id to become."""
        launcher = os.getpid()

        def in_child() -> None:
            # After the change of user, which would clear it. The launcher may have gone meanwhile.
            LIBC.prctl(PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0)
            if os.getppid() != launcher:
                os._exit(1)

        log, log_start = None, 0
        if not terminal:
            log = self.log_folder / f"{name}.log"
            if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.old"))
        log_file = None if log is None else log.open("ab")
        if log_file is not None:
            log_start = log_file.tell()
        identity = {} if user is None else {"user": user, "group": group_of(user), "extra_groups": []}
        try:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL,
                stdout=log_file, stderr=log_file, start_new_session=True, preexec_fn=in_child,
                pass_fds=(self.lock_descriptor,), **identity)
        except OSError as error:
            raise Failure(f"{name} could not be started: {command[0]}: {error.strerror}") from error
        finally:
            if log_file is not None:
                log_file.close()
        def start_again() -> Child:
            return self.start(name, command, environment=environment, user=user, folder=folder, terminal=terminal,
                              stop_signal=stop_signal, grace_seconds=grace_seconds, whole_group=whole_group)

        child = Child(name, process, log, log_start, stop_signal, grace_seconds, vital, whole_group, start_again)
        self.children.append(child)
        return child

    def run(self, name: str, command: list[str], **how) -> None:
        """Runs a process to its end, which must be a good one."""
        child = self.start(name, command, vital=False, **how)
        if self.wait(child) != 0:
            raise Failure(child.obituary())

    def wait(self, child: Child) -> int:
        """Waits for the end of a process that is not vital, and forgets it."""
        while (code := child.ended()) is None:
            self.pause(None)
        self.children.remove(child)
        return code

    def wait_until(self, child: Child, what: str, check: Callable[[], bool], seconds: float) -> None:
        """Waits until `check` holds for a started process."""
        give_up = time.monotonic() + seconds
        while not check():
            if time.monotonic() > give_up:
                raise Failure(f"{child.name} runs, but {what} after {seconds:.0f} s. See {child.log}")
            self.pause(0.1)

    def pause(self, seconds: Optional[float]) -> None:
        """Sleeps until a signal, the end of a child, or the time; raises if that ends the run."""
        self.sleep(seconds)
        if self.asked_at and not self.stopping:
            raise StopAsked
        for child in list(self.children):
            if child.vital and child.ended() is not None:
                if not self.restart:
                    raise Failure(child.obituary())
                self.revive(child)

    def revive(self, child: Child) -> None:
        """Starts what has ended again, in its place in the order."""
        time.sleep(RESTART_SECONDS)
        child.start_again()
        self.children[self.children.index(child)] = self.children.pop()

    def sleep(self, seconds: Optional[float]) -> None:
        select.select([self.wake_read], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self.wake_read, 4096)

    def impatient(self) -> bool:
        return bool(self.asked_at) and self.asked_at[-1] - self.asked_at[0] > IMPATIENCE_SECONDS

    def stop_all(self) -> None:
        """Stops the children one after the other, last started first, each in its own way and within its time."""
        self.stopping = True
        if self.children and not self.quiet:
            say("\nstopping (Ctrl-C once more: at once)" if self.asked_at else "\nstopping")
        for child in reversed(self.children):
            if child.ended() is not None:
                continue
            child.send(child.stop_signal)
            begun = time.monotonic()
            while child.ended() is None:
                # Postgres is never killed out of impatience: its next start would have to recover.
                waited = time.monotonic() - begun
                hurry = self.impatient() and waited > 1.0 and child.stop_signal == signal.SIGTERM
                if waited > child.grace_seconds or hurry:
                    say(f"{child.name} did not stop in time and is killed" if not hurry else f"killing {child.name}")
                    child.send(signal.SIGKILL)
                    child.process.wait()
                    break
                self.sleep(0.2)
            if not self.quiet:
                say(f"stopped {child.name}")
        self.children.clear()


def group_of(user: int) -> int:
    """The first group of a user."""
    return pwd.getpwuid(user).pw_gid


def end_with(message: str, code: int = 1) -> None:
    """Ends the launcher with a message on standard error."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)
