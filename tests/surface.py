#!/usr/bin/env python3
"""Compares the public surface of two binaries of the probe on the same evidence: one etcd under load.

The surface is what users and their tools depend on: metric families and labels, JSON keys, flags, environment
variables, defaults, verdict words, exit codes, and HTTP statuses. Sentences are no part of it. Both binaries
run at the same time as root. The exit code is 0 if nothing differs, 1 if something does, and 2 if the
comparison failed.

    python3 tests/surface.py OLD NEW --etcd ~/.cache/etcd-disk-probe/etcd-3.5.16/usr/bin/etcd
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

# A key that depends on the moment (an operation in flight, a rare cause) must be seen from both binaries
# within this time.
SAMPLE_S = 30
# The shortest time to sample: a key that appears with both after this is not a difference.
SAMPLE_AT_LEAST_S = 5
# Generous: the machine may be busy.
READY_S = 60
COMMAND_S = 180
# A low threshold, so that even a fast disk has slow operations.
SLOW = ["--slow-threshold", "200us"]
LIMITS_KEPT = ["--wal-fsync-limit", "1h", "--backend-commit-limit", "1h"]
LIMITS_EXCEEDED = ["--wal-fsync-limit", "1us", "--backend-commit-limit", "1us"]
# Every operation and every wait is recorded, so that both daemons list the same causes. A sampler may miss a
# rare one, and an operation near a threshold may be slow for only one of them.
RUN = ["--slow-threshold", "1us", "--causes", "exact", "--scrape-interval", "1s"]

HELP = ["--help", "run --help", "check --help", "trace --help", "doctor --help"]
# Calls that fail, or end at once. PORT is in use. An exit code 64 is EX_USAGE, 66 EX_NOINPUT, 71 EX_OSERR.
CALLS = [
    "", "--version", "nonsense", "run --nonsense", "check --duration 1ms", "check --output yaml",
    "check --process-name a,b,c,d,e", "run --window 1ms", "run --cacert /nonexistent",
    "run --cert /nonexistent", "run --slow-threshold 0s", "run --max-members 0", "run --hook kprobe",
    "run --web.config.file /nonexistent", "run --listen 127.0.0.1:PORT", "run --endpoints 127.0.0.1:1",
    "run --etcd-metrics etcd-server", "doctor --output yaml",
]  # fmt: skip
PATHS = [
    "/", "/metrics", "/-/healthy", "/healthz", "/-/ready", "/api/v1/report", "/api/v1/slow", "/api", "/no",
]  # fmt: skip
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

# Labels with a fixed set of values, which are part of the surface.
CLOSED_LABELS = {
    "cause", "certificate", "errno", "file", "hook", "invariant", "le", "metric", "op", "reason", "source",
    "state", "verdict",
}  # fmt: skip
# Labels of a family that has series only for what has waited. A rare operation may wait a few nanoseconds for
# one binary and not for the other. Other families list all operations and files.
MOMENTARY = {("etcd_disk_probe_wait_seconds_total", "op"), ("etcd_disk_probe_wait_seconds_total", "file")}
# Keys of JSON with a fixed set of words. Verdicts, causes and operations are not among them: which of them
# are listed depends on the moment, and the labels cover them.
CLOSED_KEYS = {"hook", "metric", "schema", "state"}


class Children:
    """Processes that this script started, each ended by its own pid."""

    def __init__(self, stack):
        # The variables of a caller would change both binaries and etcd.
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("ETCD", "NOTIFY"))
        }
        self.stack = stack

    def start(self, *command):
        child = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.stack.callback(self.stop, child)
        return child

    @staticmethod
    def stop(child, number=signal.SIGTERM):
        """Ends a child and returns its exit code, negative if a signal ended it."""
        if child.poll() is None:
            child.send_signal(number)
            try:
                child.wait(READY_S)
            except subprocess.TimeoutExpired:
                child.kill()
        return child.wait()

    def run(self, *command):
        return subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def get(port, path, accept=None, method="GET"):
    """Returns status, content type and body of a response, also of an error."""
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers.get("content-type"), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("content-type"), error.read().decode()


def wait_for(what, condition):
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.1)
    raise RuntimeError(f"cannot use {what}: it is not ready after {READY_S} s")


def in_parallel(*functions):
    """Runs functions at the same time, so that both binaries get the same evidence; returns their results."""
    results = [None] * len(functions)
    errors = []

    def call(index, function):
        try:
            results[index] = function()
        except Exception as error:  # noqa: BLE001 - raised again below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def start_member(children, etcd, directory):
    client, peer = free_ports(2)
    url = f"http://127.0.0.1:{client}"
    children.start(
        etcd, "--name", "surface", "--data-dir", f"{directory}/data",
        "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", f"http://127.0.0.1:{peer}",
    )  # fmt: skip
    wait_for("etcd", lambda: '"health":"true"' in get(client, "/health")[2])
    return client


def start_load(stack, port):
    """Puts on four connections until the end of the stack."""
    stop = threading.Event()

    def put():
        count = 0
        while not stop.is_set():
            key = base64.b64encode(b"key-%d" % (count % 1000)).decode()
            value = base64.b64encode(os.urandom(300)).decode()
            body = json.dumps({"key": key, "value": value}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/kv/put", body)
            try:
                urllib.request.urlopen(request, timeout=30).read()
            except OSError:
                stop.wait(0.1)
            count += 1

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()

    def end():
        stop.set()
        for thread in threads:
            thread.join()

    stack.callback(end)


def options_of(help_text):
    """Returns flags with value name, variable, default and possible values, and the subcommands.

    A definition is indented by at most six columns, and its sentences, which may differ, by more.
    """
    found, flag = set(), "none"
    for line in help_text.splitlines():
        if match := re.match(r" {2,6}(?:-\w, )?(--[\w.-]+)(?: (<\w+>))?", line):
            flag = " ".join(filter(None, match.groups()))
            found.add(flag)
        elif match := re.match(r" {2}([a-z]+)(?:  |$)", line):
            found.add(f"command {match[1]}")
        elif match := re.match(r" +- ([\w-]+)(?::|$)", line):
            found.add(f"{flag}: value {match[1]}")
        for kind, text in re.findall(r"\[(env|default|possible values): ?([^\]]*)\]", line):
            if kind == "possible values":
                found |= {f"{flag}: value {value}" for value in text.split(", ")}
            else:
                found.add(f"{flag}: {kind} {text}")
    return found


def families_of(exposition):
    """Returns the probe's families, their labels, and the values of labels with a fixed set of them.

    Labels are listed one by one: which combinations have a series depends on the moment.
    """
    found = set()
    for line in exposition.splitlines():
        if re.match(r"# (?:TYPE|UNIT) etcd_disk_probe", line):
            found.add(line)
        elif match := re.match(r"(etcd_disk_probe\w*)(?:\{(.*)\})? ", line):
            labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")
            found.add(f"{match[1]}{{{','.join(name for name, _ in labels)}}}")
            found |= {
                f'{match[1]}: {name}="{value}"'
                for name, value in labels
                if name in CLOSED_LABELS and (match[1], name) not in MOMENTARY
            }
    return found


def reexported_of(exposition):
    """Returns etcd's own families, which the probe re-exports."""
    lines = exposition.splitlines()
    return {line for line in lines if re.match(r"# TYPE etcd_(?!disk_probe)", line)}


def keys_of(value, path=""):
    """Returns the paths of all keys of a JSON value, and the words of keys with a fixed set of them."""
    found = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found.add(f"{path}.{key}")
            if key in CLOSED_KEYS and isinstance(inner, (str, int)):
                found.add(f"{path}.{key}={inner}")
            found |= keys_of(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            found |= keys_of(inner, path + "[]")
    return found


class Samples:
    """The aspects of both binaries that depend on the moment: what any of several samples contained.

    A sample is a function of the binary's index that returns a set for each aspect.
    """

    def __init__(self):
        self.seen = ({}, {})
        self.constant = ({}, {})

    def take(self, sample):
        started = time.monotonic()
        while True:
            for index, aspects in enumerate(in_parallel(lambda: sample(0), lambda: sample(1))):
                for aspect, found in aspects.items():
                    self.seen[index].setdefault(aspect, set()).update(found)
                    self.constant[index].setdefault(aspect, set(found)).intersection_update(found)
            elapsed_s = time.monotonic() - started
            same = all(self.seen[0][aspect] == self.seen[1][aspect] for aspect in aspects)
            if elapsed_s >= SAMPLE_S or same and elapsed_s >= SAMPLE_AT_LEAST_S:
                return
            time.sleep(0.1)

    def momentary(self, aspect):
        """Returns what some samples contained, and others did not."""
        return set().union(*(self.seen[index][aspect] - self.constant[index][aspect] for index in (0, 1)))


def static_surface(children, binary, used_port):
    """Returns the aspects that need no member."""
    surface = {}
    for call in HELP:
        surface[f"options of `{call}`"] = options_of(children.run(binary, *call.split()).stdout)
    for call in CALLS:
        arguments = call.replace("PORT", str(used_port)).split()
        surface[f"exit code of `{call}`"] = {children.run(binary, *arguments).returncode}
    unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    # The binary may be in a directory that only root can read.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="surface-") as directory:
        os.chmod(directory, 0o755)
        copy = shutil.copy(binary, directory)
        for call in ["run --listen 127.0.0.1:0", "doctor"]:
            surface[f"exit code of `{call}` without privileges"] = {
                children.run(*unprivileged, copy, *call.split()).returncode
            }
    return surface


def served_surface(port):
    surface = {}
    for path in PATHS:
        for method in ["GET", "HEAD", "POST"]:
            status, content_type, _ = get(port, path, method=method)
            surface[f"{method} {path}"] = {(status, content_type)}
    return surface


def poll_daemon(port):
    text = get(port, "/metrics")[2]
    return {
        "families": families_of(text),
        "re-exported families": reexported_of(text),
        "families in OpenMetrics": families_of(get(port, "/metrics", OPENMETRICS)[2]),
        "keys of /api/v1/report": keys_of(json.loads(get(port, "/api/v1/report")[2])),
        "keys of /api/v1/slow": keys_of(json.loads(get(port, "/api/v1/slow")[2])),
    }


def check(children, binary, *arguments):
    """Returns the exit code and the report of `check`."""
    finished = children.run(binary, "check", "--output", "json", *arguments)
    return finished.returncode, json.loads(finished.stdout)


def run_idle_check(children, binary):
    code, report = check(children, binary, "--duration", "3s")
    return {"exit code of check without load": {code}, "keys of check": keys_of(report)}


def run_checks(children, binary):
    """Limits that every disk keeps, and that no disk keeps, make the verdict independent of the noise."""
    healthy = check(children, binary, "--duration", "10s", *SLOW, *LIMITS_KEPT)
    slow = check(children, binary, "--duration", "10s", *SLOW, *LIMITS_EXCEEDED)
    members = [member for member in healthy[1]["members"] if member["member"] == "surface"]
    return {
        "keys of check": keys_of(healthy[1]) | keys_of(slow[1]),
        "exit code of check with limits that are kept": {healthy[0]},
        "exit code of check with limits that are exceeded": {slow[0]},
        "differences of the cross-check": {
            figure["crosscheck"]["difference"] for member in members for figure in member["figures"]
        },
    }


def run_trace(children, binary):
    call = ["trace", "--slower-than", "200us", "--duration", "4s", "--output", "json"]
    finished = children.run(binary, *call)
    operations = [keys_of(json.loads(line)) for line in finished.stdout.splitlines()]
    return {"keys of trace": set().union(*operations), "exit code of trace": {finished.returncode}}


def run_doctor(children, binary):
    finished = children.run(binary, "doctor", "--output", "json")
    report = json.loads(finished.stdout)
    return {
        "keys of doctor": keys_of(report),
        "exit code of doctor": {finished.returncode},
        # Without the pid of a member, which is the same, and of other processes, which come and go.
        "findings of doctor": {
            (finding["group"].split(",")[0], finding["what"], finding["state"])
            for finding in report["findings"]
        },
    }


def compare(binaries, etcd):
    """Returns the surface of each binary: the aspects by name, each a set."""
    surfaces = ({}, {})
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp", prefix="surface-"))
        children = Children(stack)
        client = start_member(children, etcd, directory)
        for surface, binary in zip(surfaces, binaries):
            surface.update(static_surface(children, binary, client))

        samples = Samples()
        samples.take(lambda index: run_idle_check(children, binaries[index]))
        ports = free_ports(2)
        daemons = [
            children.start(binary, "run", "--listen", f"127.0.0.1:{port}", *RUN)
            for binary, port in zip(binaries, ports)
        ]
        for binary, port in zip(binaries, ports):
            wait_for(binary, lambda: get(port, "/-/ready")[0] == 200)
        # Only now, so that neither daemon records a rare operation that the other was too late for.
        start_load(stack, client)

        samples.take(lambda index: run_checks(children, binaries[index]))
        samples.take(lambda index: run_trace(children, binaries[index]))
        samples.take(lambda index: run_doctor(children, binaries[index]))
        samples.take(lambda index: poll_daemon(ports[index]))
        # `check` prints one report, in which a key that depends on the moment may be absent.
        momentary = samples.momentary("keys of /api/v1/report")
        for surface, seen, port in zip(surfaces, samples.seen, ports):
            surface.update(seen)
            surface["keys of check"] = seen["keys of check"] - momentary
            surface.update(served_surface(port))

        traces = [children.start(binary, "trace") for binary in binaries]
        time.sleep(5)
        for surface, trace, daemon in zip(surfaces, traces, daemons):
            surface["exit code of trace after SIGINT"] = {children.stop(trace, signal.SIGINT)}
            surface["exit code of run after SIGTERM"] = {children.stop(daemon)}
    return surfaces


def report(old, new):
    """Prints every aspect and returns the number of differences."""
    differing = 0
    for aspect in sorted(old | new):
        before, after = old.get(aspect, set()), new.get(aspect, set())
        differing += before != after
        print(f"{'same' if before == after else 'DIFF'}  {aspect}  ({len(before)} items)")
        for title, items in [("old", before - after), ("new", after - before)]:
            for item in sorted(map(str, items)):
                print(f"      only {title}: {item}")
    print(f"{len(old | new)} aspects, {sum(map(len, old.values()))} items, {differing} differences")
    return differing


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", metavar="OLD", type=pathlib.Path, help="binary of the probe to compare with")
    parser.add_argument("new", metavar="NEW", type=pathlib.Path, help="binary of the probe to compare")
    parser.add_argument("--etcd", metavar="PATH", type=pathlib.Path, required=True, help="etcd to start")
    arguments = parser.parse_args()
    for program in [arguments.old, arguments.new, arguments.etcd]:
        if not os.access(program, os.X_OK):
            parser.error(f"cannot execute {program}")
    if os.geteuid() != 0:
        parser.error("cannot load kernel programs without root; run as root")
    binaries = [str(arguments.old.resolve()), str(arguments.new.resolve())]
    try:
        surfaces = compare(binaries, str(arguments.etcd.resolve()))
    except (OSError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError) as error:
        print(f"surface: cannot compare the binaries: {error!r}", file=sys.stderr)
        return 2
    return 1 if report(*surfaces) else 0


if __name__ == "__main__":
    sys.exit(main())
