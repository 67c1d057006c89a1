"""A cluster as the driver sees it, and Ray as one: where an item is handed to a worker and its outcome comes back.

Everything that is Ray's stands here: addresses, versions, resources, and what it means when a worker is lost. Its own
output is silenced and its usage statistics are off. What travels to a worker is a task
(:class:`~fpvec_audit.fleet.outcome.Task`).
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from fpvec_audit.errors import OperationError
from fpvec_audit.fleet.capacity import Capacity, Machine
from fpvec_audit.fleet.handshake import Greeting, refuse_differences, this_process, worker_greeting
from fpvec_audit.fleet.knocking import CLIENT, LOCAL, knock, no_cluster
from fpvec_audit.fleet.outcome import Ending, Outcome, Task
from fpvec_audit.fleet.pulse import Pulse
from fpvec_audit.fleet.sizing import MEBIBYTE, Need
from fpvec_audit.fleet.worker import ray_work
from fpvec_audit.settings import Settings, handed_down

if TYPE_CHECKING:
    from ray import ObjectRef

SCRATCH = "fpvec_scratch"
"""Ray resource of a node: MiB of scratch that items may take together there; none where it has no bound."""
NODE_LABEL = "ray.io/node-id"
"""Label that Ray gives every node."""
OBJECT_STORE = 80 * MEBIBYTE
"""Bytes of a local cluster's object store: outcomes are small, and no model passes through it."""
STARTS = 3
"""How often Ray is started on this machine, or a client's server on another, before that is given up: it gives a busy
one half a minute each time, and Ray 2.60's proxy forks a server for each client that now and then does not come up."""
HANDSHAKE_SECONDS = 120.0
"""How long a node may take to start a worker that says which versions it has."""
NOTICE_SECONDS = 40.0
"""How long a cluster may take to notice that a node is away."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


class Cluster(Protocol):
    """Where items are carried out."""

    @property
    def capacity(self) -> Capacity:
        """What it has."""
        ...

    def submit(self, task: Task, need: Need) -> Any:
        """Hand a task over and return what it is known by from then on; returns at once."""
        ...

    def finished(self, handles: Sequence[Any], *, timeout: float) -> list[tuple[Any, Outcome]]:
        """Wait until at least one of some tasks has ended, or for so many seconds, and return all that have."""
        ...

    def cancel(self, handles: Sequence[Any]) -> None:
        """Ask tasks to end as Ctrl-C would; those that have not begun do not begin."""
        ...


@contextmanager
def ray_cluster(
    address: str,
    *,
    settings: Settings,
    carry_out: Callable[[Task], Outcome] = ray_work,
    expected: Greeting | None = None,
) -> Iterator["RayCluster"]:
    """Connect to a cluster, or start one on this machine, and make sure that every node can do the work.

    Args:
        address: ``local``, ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        settings: of the driver; workers of a local cluster inherit them by their environment, others have their own.
        carry_out: what a worker does.
        expected: what every node must answer; nothing is compared where it is None.

    Raises:
        UsageError: Ray is not installed, or the address is none.
        OperationError: no cluster answers there, or a node has other versions or another registry.
    """
    knock(address)
    with handed_down(settings, QUIET):
        import ray

        dashboard = _start(ray, address)
    try:
        head = "" if address.startswith(CLIENT) else ray.get_runtime_context().gcs_address
        cluster = RayCluster(ray, carry_out, dashboard, Pulse(head))
        if expected is not None:
            cluster.shake_hands(expected)
        yield cluster
    finally:
        ray.shutdown()


class RayCluster:
    """A cluster that Ray schedules.

    Args:
        ray: the module, connected.
        carry_out: what a worker does.
        dashboard: address of Ray's own dashboard, empty where there is none.
        pulse: of the cluster's head; none is missed if not given.
    """

    def __init__(
        self, ray: Any, carry_out: Callable[[Task], Outcome], dashboard: str = "", pulse: Pulse | None = None
    ) -> None:
        self._ray = ray
        self._pulse = pulse or Pulse("")
        self._remote = ray.remote(max_retries=0)(carry_out)
        resources: Mapping[str, float] = ray.cluster_resources()
        alive = [node for node in ray.nodes() if node["Alive"]]
        self._bounds_scratch = SCRATCH in resources
        self.capacity = Capacity(
            cpus=resources.get("CPU", 0.0),
            memory=int(max((node["Resources"].get("memory", 0) for node in alive), default=0)),
            gpus=resources.get("GPU", 0.0),
            nodes=len(alive),
            dashboard=dashboard,
            machines=tuple(
                Machine(node["NodeManagerHostname"], node["NodeID"], int(node["Resources"].get("GPU", 0)))
                for node in alive
            ),
        )

    def shake_hands(self, expected: Greeting) -> None:
        """Make sure that every node is like the driver, and learn how large its GPUs are.

        Raises:
            OperationError: a node starts no worker, or has other versions or another registry.
        """
        greeted = self.greetings()
        refuse_differences(list(greeted.values()), expected)
        machines = tuple(
            replace(machine, gpu_bytes=min(greeted[machine.node].gpus, default=0))
            for machine in self.capacity.machines
            if machine.node in greeted
        )
        self.capacity = replace(self.capacity, machines=machines)

    def greetings(self) -> dict[str, Greeting]:
        """Return what every node has, each asked in a worker of its own; one that is lost meanwhile is left out.

        Returns:
            node → what it says of itself.

        Raises:
            OperationError: a node starts no worker, or none that has this package.
        """
        answered = {}
        for reference, node in self._asked().items():
            name = node["NodeManagerHostname"]
            try:
                answered[node["NodeID"]] = self._ray.get(reference, timeout=HANDSHAKE_SECONDS)
            except self._ray.exceptions.RayError as error:
                answered_badly = isinstance(error, self._ray.exceptions.RayTaskError)
                if not answered_badly and self._is_gone(node["NodeID"]):
                    continue
                raise _cannot_work(f"the node {name}", error) from error
        return answered

    def _asked(self) -> "dict[ObjectRef[Any], Mapping[str, Any]]":
        """Ask every node, and return what it is that comes of each."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = self._ray.remote(num_cpus=0, max_retries=0)(worker_greeting)
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        try:
            places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
            return {
                ask.options(scheduling_strategy=place).remote(): node for place, node in zip(places, nodes, strict=True)
            }
        except (ImportError, AttributeError) as error:  # a client's server reads what it is sent, and has not our code
            raise _cannot_work("the cluster's head", error) from error

    def _is_gone(self, node: str) -> bool:
        """Say whether a node is away, waiting as long as the cluster may take to notice."""
        until = time.monotonic() + NOTICE_SECONDS
        while any(known["NodeID"] == node and known["Alive"] for known in self._ray.nodes()):
            if time.monotonic() > until:
                return False
            time.sleep(1)
        return True

    def submit(self, task: Task, need: Need) -> "ObjectRef[Any]":
        """Hand a task over; Ray finds a node with room for it."""
        disk = -(-need.disk // MEBIBYTE) if self._bounds_scratch else 0
        with self._there():
            reference: ObjectRef[Any] = self._remote.options(
                name=f"{task.action} {task.run} {task.number}",
                num_cpus=need.cpus,
                num_gpus=need.gpus,
                memory=need.memory,
                resources={SCRATCH: disk} if disk else {},
                label_selector={NODE_LABEL: f"in({','.join(need.nodes)})"} if need.nodes else None,
            ).remote(task)
        return reference

    def finished(
        self, handles: Sequence["ObjectRef[Any]"], *, timeout: float
    ) -> list[tuple["ObjectRef[Any]", Outcome]]:
        """Wait for tasks and return those that have ended."""
        with self._there():
            ready, others = self._ray.wait(list(handles), num_returns=1, timeout=timeout)
            if ready and others:
                more, _ = self._ray.wait(others, num_returns=len(others), timeout=0)
                ready = [*ready, *more]
            return [(reference, self._outcome(reference)) for reference in ready]

    def cancel(self, handles: Sequence["ObjectRef[Any]"]) -> None:
        """Interrupt tasks."""
        for reference in handles:
            with suppress(OperationError, ValueError), self._there():
                self._ray.cancel(reference, force=False)

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Tell that the cluster went away, whatever Ray does then: it raises, or starts a cluster of its own."""
        if not self._ray.is_initialized():
            raise _gone("the connection is closed")
        if away := self._pulse.missing():
            raise _gone(f"its head has not answered for {away:.0f} s")
        try:
            yield
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise _gone(_reason(error)) from error

    def _outcome(self, reference: "ObjectRef[Any]") -> Outcome:
        failures = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(reference)
        except failures.TaskCancelledError:
            return Outcome(Ending.CANCELLED)
        except failures.RayTaskError as error:
            interrupted = isinstance(error.cause, KeyboardInterrupt)
            return Outcome(Ending.CANCELLED) if interrupted else Outcome(Ending.LOST, error=_reason(error))
        except failures.LocalRayletDiedError as error:  # that of the driver's own node: no item is at fault
            raise _gone(_reason(error)) from error
        except failures.RayError as error:
            return Outcome(Ending.LOST, error=_reason(error))
        return outcome


def _start(ray: Any, address: str) -> str:
    """Connect, and return the address of Ray's own dashboard, empty where there is none."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "address": address}
    if address == LOCAL:
        options |= {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    _silence_reports()
    left = STARTS if address == LOCAL or address.startswith(CLIENT) else 1
    while True:
        left -= 1
        try:
            url = ray.init(**options).dashboard_url
        except Exception as error:  # Ray raises bare ones, as when a machine is too busy to start in time
            ray.shutdown()
            if not left or "mismatch" in str(error):
                raise _refusal(address, error) from error
        else:
            return f"http://{url}" if url else ""


def _silence_reports() -> None:
    """Keep Ray from printing on stdout, among results, what befalls nodes; lost items are told by the driver.

    No option of Ray does that: ``log_to_driver`` is about the output of workers alone.
    """
    with suppress(ImportError):
        from ray._private import worker

        if hasattr(worker, "print_to_stdstream"):
            worker.print_to_stdstream = lambda *_, **__: None


def _cannot_work(what: str, error: BaseException) -> OperationError:
    return OperationError(
        f"{what} cannot work: {_reason(error)}",
        advice=f"install fpvec-audit[fleet] {this_process().fpvec} there, as here",
    )


def _gone(reason: str) -> OperationError:
    return OperationError(f"the cluster went away: {reason}", advice="go on when it is back: `fpvec fleet resume`")


def _refusal(address: str, error: BaseException) -> OperationError:
    """Say why there is no cluster."""
    text = " ".join(str(error).split())
    if "version mismatch" in text.lower():
        versions = [f"{name} {version}" for name, version in re.findall(r"\b(Ray|Python): (\S+)", text)]
        both = len(versions) == 4  # the cluster's two, and this process's
        said = f"has {versions[0]} and {versions[1]}, this driver {versions[2]} and {versions[3]}" if both else text
        return OperationError(
            f"the cluster at {address} {said}", advice="install the same versions of Ray and Python on both"
        )
    if address == LOCAL:
        return OperationError(
            f"Ray could not be started on this machine: {_reason(error)}",
            advice="try again when the machine is less busy",
        )
    return no_cluster(address, _reason(error))


def _reason(error: BaseException) -> str:
    """Return the last line of what Ray says, which says what happened; the others say where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]
