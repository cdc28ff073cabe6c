"""Private Postgres and Redis: where they live, how they start and stop."""

import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Optional

from processes import Child, Failure, Processes, group_of

# Recovery after a crash replays what was written since the last checkpoint.
POSTGRES_START_SECONDS = 120.0
# Nobody enters without the password, on a machine that others may use as well. (initdb would want it in a file.)
ADMISSION = """\
host all all 127.0.0.1/32 scram-sha-256
"""


class Place:
    """A folder for data that Postgres can reach, and the user it runs as.

    That is `.parley` wherever possible. Postgres refuses to run as root and becomes `postgres` then; when that user
    cannot reach the checkout (it lies in a home closed to others), the folder is one under /var/lib named after the
    checkout's path: unlike /var/tmp, nobody else can take the name and no timer clears it.
    """

    def __init__(self, parley_folder: Path):
        self.folder = parley_folder
        self.user: Optional[int] = None
        if os.geteuid() == 0:
            try:
                self.user = pwd.getpwnam("postgres").pw_uid
            except KeyError:
                raise Failure("Postgres does not run as root, and there is no user postgres: run `make setup`.") from None
        if not self.reachable(parley_folder):
            name = hashlib.sha256(os.fsencode(parley_folder)).hexdigest()[:12]
            self.folder = Path("/var/lib") / f"parley-{name}"
            self.folder.mkdir(mode=0o711, exist_ok=True)

    def reachable(self, folder: Path) -> bool:
        if self.user is None:
            return True
        return subprocess.run(["test", "-x", folder], user=self.user, group=group_of(self.user), extra_groups=[], cwd="/",
                              check=False).returncode == 0

    def give(self, folder: Path) -> None:
        """Makes a folder that only Postgres' user may enter."""
        folder.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(folder, self.user, group_of(self.user))


def clean_environment() -> dict[str, str]:
    """What the stores see: no PG* variable of the person's shell may reach them."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def postgres_programs(data: Path) -> Path:
    """The folder of Postgres' programs: of the version that wrote the data, else the newest."""
    version_file = data / "PG_VERSION"
    installed = {}
    for program in Path("/usr/lib/postgresql").glob("*/bin/initdb"):
        installed[program.parts[-3]] = program.parent
    if not installed and (on_path := shutil.which("initdb")):
        return Path(on_path).resolve().parent
    if version_file.exists():
        version = version_file.read_text().strip()
        if version not in installed:
            raise Failure(f"{data} was written by Postgres {version}, which is not installed any more.\n"
                          f"Install it (postgresql-{version}), or remove that folder to begin with no data.")
        return installed[version]
    if not installed:
        raise Failure("Postgres is not installed: run `make setup`.")
    return installed[max(installed, key=int)]


def start_postgres(processes: Processes, place: Place, folder: Path, port: int, password: str, *,
                   durable: bool) -> Child:
    """Starts Postgres on loopback with its data in FOLDER/postgres, made when missing, and waits until it answers.

    The role and the database are `parley`. Without `durable` it forgets everything in a power cut and is faster.
    """
    data = folder / "postgres"
    programs = postgres_programs(data)
    how = {"environment": clean_environment(), "user": place.user, "folder": Path("/")}
    if data.exists() and place.user is not None and (owner := data.stat().st_uid) != 0:
        # The checkout was used by another user before; the data stay theirs.
        how["user"] = owner
    if not data.exists():
        # Made beside and renamed, so that an interrupted run leaves no half of a cluster behind.
        unfinished = folder / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        place.give(unfinished)
        processes.run("initdb", [str(programs / "initdb"), "--pgdata", str(unfinished), "--username", "parley",
                                 "--encoding", "UTF8", "--locale", "C.UTF-8", "--auth", "trust",
                                 *([] if durable else ["--no-sync"])], **how)
        (unfinished / "pg_hba.conf").write_text(ADMISSION)
        single_user(programs, unfinished, how["user"], "CREATE DATABASE parley")
        unfinished.rename(data)
    # We hold the lock that every process of an earlier run held, so none is left and its pid file means nothing.
    (data / "postmaster.pid").unlink(missing_ok=True)
    if not password.isalnum():
        raise Failure("POSTGRES_PASSWORD may hold letters and digits only.")
    # At every start, so that data outlive the file that holds the password.
    single_user(programs, data, how["user"], f"ALTER ROLE parley PASSWORD '{password}'")
    # No unix socket: the path of one may not be longer than 107 bytes, and a checkout's may.
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "",
                "logging_collector": "off", "timezone": "UTC",
                # Statements and the details of errors may carry what people said.
                "log_min_error_statement": "panic", "log_error_verbosity": "terse"}
    if durable:
        settings |= {"max_connections": "200"}
    else:
        # A database is dropped only once nobody is in the middle of signing in: a test that was cut short there, and whose
        # connection is still open, would hold up the end of another for the default of a minute.
        settings |= {"max_connections": "400", "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
                     "authentication_timeout": "2s"}
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    # INT is its fast shutdown; TERM would wait for every client to leave.
    child = processes.start("postgres", [str(programs / "postgres"), "-D", str(data), *arguments],
                            stop_signal=signal.SIGINT, grace_seconds=60.0, **how)
    ready = [str(programs / "pg_isready"), "--quiet", "--host", "127.0.0.1", "--port", str(port)]
    processes.wait_until(child, "answers no connection",
                         lambda: subprocess.run(ready, env=clean_environment(), check=False).returncode == 0,
                         POSTGRES_START_SECONDS)
    return child


def single_user(programs: Path, data: Path, user: Optional[int], statement: str) -> None:
    """Runs one statement with no server and no password; takes a blink. Its text never shows in a process list."""
    identity = {} if user is None else {"user": user, "group": group_of(user), "extra_groups": []}
    done = subprocess.run([str(programs / "postgres"), "--single", "-j", "-D", str(data), "postgres"],
                          input=statement + "\n", text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          env=clean_environment(), cwd="/", check=False, start_new_session=True, **identity)
    if done.returncode != 0 or "ERROR:" in done.stderr:
        raise Failure(f"Postgres could not prepare {data}:\n{done.stderr.strip()}")


def start_redis(processes: Processes, folder: Path, port: int, password: Optional[str]) -> Child:
    """Starts Redis on loopback and waits until it answers. It keeps nothing on disk: it is the bell, not the truth."""
    if password is not None and not password.isalnum():
        raise Failure("REDIS_PASSWORD may hold letters and digits only.")
    program = shutil.which("redis-server") or "redis-server"
    # A file, because a command line is open to everybody on the machine.
    configuration = folder / "redis.conf"
    configuration.unlink(missing_ok=True)
    with open(os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f'bind 127.0.0.1\nport {port}\nsave ""\nappendonly no\ndaemonize no\n')
        if password is not None:
            file.write(f"requirepass {password}\n")
    child = processes.start("redis", [program, str(configuration)], environment=clean_environment(), folder=folder)
    processes.wait_until(child, "answers no connection", lambda: redis_answers(port), 20.0)
    return child


def redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            # With a password set, an unknown client is told so; that is an answer too.
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
