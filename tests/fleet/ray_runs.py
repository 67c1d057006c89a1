"""Real runs on Ray: a registry on PostgreSQL with a password, tiny models, ``fpvec fleet`` as a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.registry.given_key import GivenKey
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.models import register_model
from tests.tiny import make_tiny, perturb

PASSWORD = "pw-3f9c1e77a2"
"""The server trusts everybody; this is looked for where it must not be."""
MASTER_KEY = "5ec1e7" * 10 + "5ec1"
SECRETS = (PASSWORD.encode(), MASTER_KEY.encode(), bytes.fromhex(MASTER_KEY))
PROGRAM = "from fpvec_audit.cli.main import entry; entry()"
ROOT = Path(__file__).resolve().parents[2]


class Workplace:
    """Tiny models, a vector, a key set, and a registry; what is started here finds it in its environment.

    Args:
        place: directory of the models.
        url: of the registry, without a password.
        count: how many models.
    """

    def __init__(self, place, url, count):
        self.place, self.url = place, url.replace("postgres@", f"postgres:{PASSWORD}@")
        self.ray = Path(tempfile.mkdtemp(prefix="fr-"))  # short: sockets lie in it
        tools = {"registry": self.registry(), "catalog": load_catalog()}
        base = make_tiny(place / "base", "gpt2")
        fingerprinted = perturb(base, place / "fp", exact=True)
        self.vector = extract_vector(base, fingerprinted, out=place / "vector", **tools).vector_id
        (place / "models").mkdir()
        self.models = [perturb(base, place / f"models/m{number:03}", seed=100 + number) for number in range(count)]
        for model in self.models:
            register_model(model, parent="base", **tools)
        issue_key_set("acme", registry=tools["registry"], specification=KeySetSpecification(issued=4, decoys=8))
        tools["registry"].close()

    def registry(self):
        return open_registry(self.url, master_key=GivenKey(MASTER_KEY))

    @property
    def environment(self):
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
            "FPVEC_REGISTRY": self.url,
            "FPVEC_HOME": str(self.place / "home"),
            "FPVEC_VAULT_KEY": MASTER_KEY,
            "FPVEC_BACKEND": "transformers",
            "RAY_TMPDIR": str(self.ray),
            "OMP_NUM_THREADS": "1",
        }

    def manifest(self, name, field, places):
        file = self.place / name
        file.write_text(f"{field}\n" + "".join(f"{place}\n" for place in places))
        return file

    def start(self, *arguments):
        """Begin ``fpvec fleet …`` and return the process, whose output are lines of JSON."""
        with (self.place / "stderr.log").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "fleet", *map(str, arguments), "--json-lines"],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self.place,
            )

    def told(self, process):
        """Yield what a process tells."""
        for line in process.stdout:
            yield json.loads(line)

    def finished(self, process):
        """Wait for the end of a process and return its exit code and its report."""
        with process.stdout:
            told = list(self.told(process))
        return process.wait(), told[-1] if told else None

    def stderr(self):
        return (self.place / "stderr.log").read_text()

    def close(self):
        shutil.rmtree(self.ray, ignore_errors=True)


def session_bytes(ray):
    """Yield file and content of everything that Ray keeps: its session's directory, and its object store."""
    for file in ray.rglob("*"):
        if file.is_file():
            yield file, file.read_bytes()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if str(ray).encode() not in command or b"raylet" not in command:
                continue
            for descriptor in (process / "fd").iterdir():
                if "plasma" in str(descriptor.readlink()):
                    yield descriptor, descriptor.read_bytes()
        except OSError:  # it ended meanwhile, or is no file
            continue


@contextmanager
def two_nodes(workplace):
    """Give the address of a cluster of two nodes on this machine, and a function that kills the second one."""
    with (workplace.place / "cluster.log").open("ab") as errors:
        host = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("two_nodes.py"))],
            env=workplace.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def kill_node():
        host.stdin.write("kill\n")
        host.stdin.flush()
        assert host.stdout.readline().strip() == "killed"

    try:
        yield host.stdout.readline().strip(), kill_node
    finally:
        host.stdin.close()
        try:
            host.wait(60)
        except subprocess.TimeoutExpired:
            host.kill()
        host.stdout.close()


def killed(process):
    """Kill a driver as a power cut would."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
