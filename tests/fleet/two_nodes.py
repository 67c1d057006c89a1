"""A cluster of two nodes on this machine, for a test: prints its address, kills the second node when it is told to."""

import logging
import sys

from ray.cluster_utils import Cluster


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def patiently(start):
    """Start something of Ray's, which gives a busy machine half a minute for it."""
    for attempt in range(4):
        try:
            return start()
        except Exception:
            if attempt == 3:
                raise
    return None


def main():
    logging.getLogger("ray").setLevel(logging.ERROR)
    options = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=options))
    second = patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=80 << 20))
    cluster.wait_for_nodes()
    say(cluster.address)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
            say("killed")
    cluster.shutdown()


if __name__ == "__main__":
    main()
