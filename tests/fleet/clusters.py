"""Clusters for tests of the driver, without Ray: what a worker does is a function, and it ends when it is asked for."""

from fpvec_audit.fleet.capacity import Capacity
from fpvec_audit.fleet.outcome import Ending, Outcome


class InProcess:
    """Carries items out here, one for each time that somebody waits."""

    def __init__(self, carry_out, *, memory=10**12, machines=(), on_wait=lambda: None):
        self.carry_out, self.on_wait = carry_out, on_wait
        self.capacity = Capacity(cpus=2, memory=memory, gpus=0, nodes=1, machines=machines)
        self.waiting = {}
        self.tasks, self.most = [], 0

    def submit(self, task, need):
        self.tasks.append(task)
        handle = len(self.tasks)
        self.waiting[handle] = task
        self.most = max(self.most, len(self.waiting))
        return handle

    def finished(self, handles, *, timeout):
        self.on_wait()
        handle = next(handle for handle in handles if handle in self.waiting)
        return [(handle, self.carry_out(self.waiting.pop(handle)))]

    def cancel(self, handles):
        self.carry_out = lambda task: Outcome(Ending.CANCELLED)


class Time:
    """A clock that only waiting moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def done(task):
    return Outcome(Ending.DONE, "made", f"st-{task.number}", node="node", seconds=1.0)
