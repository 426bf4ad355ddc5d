"""Run a sandbox in a container of a Docker Engine, made from the root: no network, no capability, no privilege.

Inputs are bind mounts, read-only. /build, /out and caches are volumes that the container's user owns: which user of
the host that is, only the daemon knows. /build and /out are copied in and out through it, so that on the host they
belong to whoever runs the engine.
"""

import contextlib
import fcntl
import os
import secrets
import shlex
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any

from pipeline.base.assemble import tree_digest
from pipeline.errors import HostError
from pipeline.model import Digest
from pipeline.sandbox import Sandbox, Usage
from pipeline.sandbox.daemon import ANSWER, daemon, explanation, import_image, receive, send, tar_stream
from pipeline.sandbox.setting import Setting
from pipeline.sandbox.watch import HIDDEN_FILES, HIDDEN_FOLDERS, LINGER, THREADS, Sample, Watch, sample, too_much_memory

REPOSITORY = "rfo-root"
"""What images of roots are called, in the daemon only."""
STORE, LEASE = "rfo.store", "rfo.lease"
"""Labels: the store that containers and volumes serve, and the file that their engine holds while it lives."""
ROOT = "rfo.root"
"""Label of images, with their tag."""
PROBE = "/probe"
"""A folder in an image that holds nothing else: it shows mounts and makes volumes without running a program."""
REFUSED = 125
"""Exit status of what could not be started, as `docker run` has it."""


class Docker:
    """Sandboxes in containers of the daemon that the environment names; `store` is the folder that inputs are in."""

    name = "docker"

    def __init__(self, store: Path) -> None:
        self.setting = Setting()
        self.store = store
        self._lease: IO[str] | None = None
        self._lock = threading.Lock()

    @property
    def owner(self) -> tuple[int, int]:
        """User and group inside."""
        return self.setting.uid, self.setting.gid

    @property
    def labels(self) -> dict[str, str]:
        """Of what is gone when a run is."""
        return {STORE: str(self.store), LEASE: self._lease.name if self._lease else ""}

    def check(self) -> None:
        """See that the daemon answers and sees this host's files; end what a killed engine left. Raises HostError."""
        with self._lock:
            if self._lease:
                return
            with daemon() as client:
                end_abandoned(client, self.store)
                lease = take_lease(self.store / "locks")
                self._have_image(client, "probe", None, [PROBE], {})
                refuse_remote(client, f"{REPOSITORY}:probe", Path(lease.name))
            self._lease = lease
            weakref.finalize(self, lease.close)  # at the end of the process as well

    def run(self, sandbox: Sandbox, log: IO[bytes], cancel: threading.Event) -> Usage:
        """Run to the end. When it returns, no process of the sandbox is left. Raises HostError."""
        self.check()
        if missing := [m.source for m in sandbox.mounts if not m.source.exists()]:
            log.write(f"$ docker run\n{missing[0]}: No such file or directory\n".encode())
            return Usage(REFUSED, 0.0, 0.0, 0)
        for mount in sandbox.mounts:
            _open(mount.source)
        with daemon() as client, self._volumes(client, sandbox) as volumes:
            image = self._image(client, sandbox.root)
            config = container(sandbox, self.setting, image, volumes, self.labels)
            log.write(f"$ {shlex.join(command_line(config))}\n".encode())
            log.flush()
            with created(client, config) as name:
                return self._run(client, name, Watch(sandbox, log, cancel))

    def _run(self, client: Any, name: str, watch: Watch) -> Usage:
        sandbox = watch.sandbox
        folders = {sandbox.build: self.setting.build, sandbox.out: self.setting.out}
        for folder, target in folders.items():
            send(client, name, folder, target, self.owner)
        status, stopped = _follow(client, name, watch)
        if not stopped and client.inspect_container(name)["State"]["OOMKilled"]:
            watch.peak = max(watch.peak, kernel_limit(sandbox.memory))
            stopped = too_much_memory(watch.peak, sandbox.memory)
        for folder, target in folders.items() if not stopped else ():
            receive(client, name, target, folder)
        return Usage(status, watch.seconds, watch.cpu, watch.peak, stopped)

    def _image(self, client: Any, root: Path) -> str:
        """The image of a root, named by its content: made once and kept, or as long as a root that one step made."""
        stamp = root.with_suffix(".digest")  # pipeline.roots checked it
        kept = root.parent == self.store / "trees" and stamp.exists()
        facts = [stamp.read_text()] if kept else [str(tree_digest(root)), self.labels[LEASE]]
        folders = [self.setting.inputs, self.setting.build, self.setting.out]
        tag = Digest.of_bytes(repr((facts, self.owner, folders)).encode()).hex
        with self._lock:
            return self._have_image(client, tag, root, folders, {} if kept else self.labels)

    def _have_image(
        self, client: Any, tag: str, tree: Path | None, folders: Iterable[str], labels: Mapping[str, str]
    ) -> str:
        from docker.errors import ImageNotFound

        image = f"{REPOSITORY}:{tag}"
        try:
            client.inspect_image(image)
        except ImageNotFound:
            stream = tar_stream(tree, self.owner, [f.lstrip("/") for f in folders])
            import_image(client, stream, REPOSITORY, tag, {ROOT: tag, **labels})
        return image

    @contextlib.contextmanager
    def _volumes(self, client: Any, sandbox: Sandbox) -> Iterator[dict[Path, str]]:
        """Volumes in place of what is writable: empty ones for /build and /out, and caches, which stay."""
        volumes = {}
        try:
            for folder in (sandbox.build, sandbox.out):
                if folder not in volumes:
                    volumes[folder] = client.create_volume(f"rfo-{secrets.token_hex(8)}", labels=self.labels)["Name"]
            caches = {m.source: self._cache(client, m.source) for m in sandbox.mounts if m.writable}
            yield {**volumes, **caches}
        finally:
            for name in volumes.values():
                client.remove_volume(name, force=True)

    def _cache(self, client: Any, source: Path) -> str:
        """The volume that is to the containers what a folder of this host is to other sandboxes, made if need be.

        It gets its owner from the folder that it is first mounted over.
        """
        name = f"rfo-cache-{Digest.of_bytes(str(source).encode()).hex[:32]}"
        client.create_volume(name, labels={STORE: str(self.store)})
        mounts = [{"Type": "volume", "Source": name, "Target": PROBE}]
        with created(client, _unstarted(f"{REPOSITORY}:probe", mounts, self.labels)):
            return name


def container(
    sandbox: Sandbox, setting: Setting, image: str, volumes: Mapping[Path, str], labels: Mapping[str, str]
) -> dict[str, Any]:
    """The body of the request that makes the container (`POST /containers/create`)."""
    mounts = [
        {"Type": "volume", "Source": volumes[folder], "Target": target}
        for folder, target in ((sandbox.build, setting.build), (sandbox.out, setting.out))
    ]
    for mount in sorted(sandbox.mounts, key=lambda m: m.target):
        target = setting.place(mount.target)
        if mount.writable:
            mounts.append({"Type": "volume", "Source": volumes[mount.source], "Target": target})
        else:
            mounts.append(_bind(mount.source, target))
    directory = setting.place(sandbox.directory)
    variables = {**setting.environment, **{n: setting.place(v) for n, v in sandbox.environment.items()}}
    owner = f"uid={setting.uid},gid={setting.gid}"
    limits = {"Memory": kernel_limit(sandbox.memory), "MemorySwap": kernel_limit(sandbox.memory)}
    return {
        "Image": image,
        "Cmd": list(map(setting.place, sandbox.command)),
        "User": f"{setting.uid}:{setting.gid}",
        "Hostname": setting.host,
        "WorkingDir": directory,
        # A name without a value takes a variable away that the daemon sets.
        "Env": [*(f"{n}={v}" for n, v in sorted({**variables, "PWD": directory}.items())), "HOSTNAME"],
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": True,  # so that there is no resolv.conf of the host either
        "Labels": dict(labels),
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "Mounts": mounts,
            "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=755,{owner}"},  # noqa: S108
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "MaskedPaths": ["/sys", *(f"/proc/{name}" for name in (*HIDDEN_FOLDERS, *HIDDEN_FILES))],
            "ReadonlyPaths": ["/proc/bus", "/proc/irq"],
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Init": True,  # else the command were process 1, which no signal ends that it does not handle
            "LogConfig": {"Type": "none"},
            "PidsLimit": sandbox.processes * THREADS,
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            **(limits if sandbox.memory else {}),
        },
    }


def command_line(config: Mapping[str, Any]) -> list[str]:
    """What a person types for much the same container; /build starts empty there."""
    host = config["HostConfig"]
    line = ["docker", "run", "--rm", "--init", "--read-only", "--network", "none", "--cap-drop", "ALL"]
    line += ["--security-opt", *host["SecurityOpt"], "--hostname", config["Hostname"], "--user", config["User"]]
    for folder, options in host["Tmpfs"].items():
        line += ["--tmpfs", f"{folder}:{options}"]
    for mount in host["Mounts"]:
        readonly = ",readonly" if mount.get("ReadOnly") else ""
        line += ["--mount", f"type={mount['Type']},src={mount['Source']},dst={mount['Target']}{readonly}"]
    for variable in config["Env"]:
        line += ["--env", variable]
    return [*line, "--workdir", config["WorkingDir"], config["Image"], *config["Cmd"]]


def kernel_limit(memory: int) -> int:
    """Bytes at which the kernel ends a process: beyond the limit, which is looked at first and tells what was taken."""
    return memory + memory // 8


@contextlib.contextmanager
def created(client: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """A container that is gone afterwards, its processes as well; its id."""
    name = client.create_container_from_config(config)["Id"]
    try:
        yield name
    finally:
        client.remove_container(name, force=True, v=True)


def _follow(client: Any, name: str, watch: Watch) -> tuple[int, str]:
    """Start a container and watch it to its end; its exit status, and why it was ended from outside, if it was."""
    stopped = ""
    output = client.attach(name, stream=True)
    with ThreadPoolExecutor(2) as pool:
        printed = pool.submit(_copy, output, watch.log)
        try:
            client.start(name)
            state = client.inspect_container(name)
            ended = pool.submit(client.wait, name, None)
            while not ended.done():
                stopped = watch.reason_to_end(_sample(state["State"]["Pid"], state["Config"]["Cmd"]))
                if stopped or (printed.done() and printed.exception()):
                    _kill(client, name)
                    break
                wait([ended], watch.pause)
            status = int(ended.result(ANSWER)["StatusCode"])
            wait([printed], LINGER)
        except BaseException:
            _kill(client, name)  # for else the threads would wait for its end
            raise
        finally:
            _close(output)
        printed.result()
    return status, stopped


def _kill(client: Any, name: str) -> None:
    """End a container, if it runs."""
    from docker.errors import APIError

    with contextlib.suppress(APIError):
        client.kill(name)


def _close(output: Any) -> None:
    """End a stream of output, and whoever waits for more of it."""
    with contextlib.suppress(OSError):  # the daemon has closed it
        output.close()
    output._response.close()  # which the SDK leaves open


def _copy(output: Iterable[bytes], log: IO[bytes]) -> None:
    for piece in output:
        log.write(piece)
        log.flush()


def _sample(pid: int, command: Sequence[str]) -> Sample:
    """What the processes of a container use, if its first one is process `pid` for us as well; else nothing."""
    ours = "".join(f"\0{word}" for word in ("--", *command)) + "\0"  # after the path of the init program
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(os.fsencode(ours)):
            return sample(pid)
    return Sample()


def _bind(source: Path, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}


def _unstarted(image: str, mounts: list[dict[str, Any]], labels: Mapping[str, str]) -> dict[str, Any]:
    """A container that is only made, for what that does to its mounts."""
    return {
        "Image": image,
        "Cmd": ["-"],
        "NetworkDisabled": True,
        "Labels": dict(labels),
        "HostConfig": {"NetworkMode": "none", "Mounts": mounts},
    }


def _open(source: Path) -> None:
    """Let others read a workspace, which is made for its owner alone: the container's user is another."""
    mode = source.stat().st_mode
    wanted = mode | (0o055 if source.is_dir() else 0o044)
    if mode != wanted and source.stat().st_uid == os.geteuid():
        source.chmod(wanted)


def take_lease(folder: Path) -> IO[str]:
    """A file with a secret that this process holds until it ends; it is gone when the process ends by itself."""
    lease = tempfile.NamedTemporaryFile("w", prefix="docker-", dir=folder)  # noqa: SIM115 - it is to stay open
    fcntl.flock(lease, fcntl.LOCK_EX)
    lease.write(secrets.token_hex())
    lease.flush()
    return lease


def is_held(lease: Path) -> bool:
    """Whether the process that took a lease is alive."""
    try:
        with lease.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def end_abandoned(client: Any, store: Path) -> None:
    """Remove what engines left that are no more: containers, volumes, images of roots that one step made."""
    mine = {"label": [f"{STORE}={store}", LEASE]}
    left: list[tuple[Any, Callable[[Any], None]]] = [
        (client.containers(all=True, filters=mine), lambda c: client.remove_container(c["Id"], force=True, v=True)),
        (client.volumes(filters=mine)["Volumes"] or (), lambda v: client.remove_volume(v["Name"], force=True)),
        (client.images(filters=mine), lambda i: client.remove_image(i["Id"], force=True)),
    ]
    for found, remove in left:
        for item in found:
            lease = Path(item["Labels"][LEASE])
            if not is_held(lease):
                remove(item)
                if lease.parent == store / "locks":
                    lease.unlink(missing_ok=True)


def refuse_remote(client: Any, image: str, file: Path) -> None:
    """Raise HostError if the daemon does not see a file of this host with the bytes that it has here."""
    from docker.errors import APIError

    seen = Path()
    try:
        with (
            created(client, _unstarted(image, [_bind(file, f"{PROBE}/{file.name}")], {})) as name,
            tempfile.TemporaryDirectory() as folder,
        ):
            seen = Path(folder, file.name)
            receive(client, name, PROBE, Path(folder))
            same = seen.read_bytes() == file.read_bytes()
            reason = "it has another file there"
    except (APIError, OSError) as error:
        same, reason = False, explanation(error) if isinstance(error, APIError) else str(error)
    if not same:
        raise HostError(
            f"the Docker daemon does not see this host's files: {file}: {reason}",
            "name a daemon of this host (DOCKER_HOST); if this is a container itself, mount the store into it at the "
            "path that it has on the host; or use the default: --executor bwrap",
        )
