"""A program: a Ray cluster of three nodes on this machine, till its standard input is closed.

The head only drives; two workers have one CPU each. One line of JSON says where the Jobs API is, and the process ids of
the workers' raylets.
"""

from __future__ import annotations

import json
import os
import sys

from ray.cluster_utils import Cluster

STORE_BYTES = 80 << 20


def main(port: int, agent_port: int) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # Ray writes there too
    every = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE_BYTES}
    head = {
        **every,
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_port": port,
        "dashboard_agent_listen_port": agent_port,  # the agent that takes jobs; its usual port is another Ray's here
    }
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        workers = [cluster.add_node(num_cpus=1, **every) for _ in range(2)]
        pids = [one.process.pid for worker in workers for one in worker.all_processes["raylet"]]
        told = {"address": f"http://{cluster.head_node.webui_url}", "raylets": pids}
        os.write(answers, f"{json.dumps(told)}\n".encode())
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
