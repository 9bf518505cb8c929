"""A round on a cluster that loses the machine at work, in the fit and in scoring.

python lost_node.py CONFIG ROUND

The head has one CPU, too few for the worker of the fit or the scoring actor, so they are on the
second node. That node is killed with all its processes when the stage is under way there, and
another one comes.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from baal_ray.config import RoundConfig


def at_work(stage: str, workspace: str) -> bool:
    """Return whether an epoch is on disk, or a scoring actor has been alive for a second."""
    if stage == "fit":
        return any(Path(workspace, "fits").glob("*/state.pt"))
    scorers = [a for a in actors().values() if "PoolScorer" in a["ActorClassName"]]
    if all(scorer["State"] != "ALIVE" for scorer in scorers):
        return False
    time.sleep(1)
    return True


if __name__ == "__main__":
    path, round_id = sys.argv[1:]
    # A node counts as lost after two seconds without an answer, not after fifteen.
    health = {
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 2,
    }
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": health}
    )
    node = cluster.add_node(num_cpus=2)
    ray.init(cluster.address)
    cluster.wait_for_nodes()
    driver = subprocess.Popen(
        [sys.executable, "-m", "baal_ray", "run", path, "--round", round_id],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
    )
    workspace = RoundConfig.from_yaml(path).workspace
    for stage in ("fit", "scores"):
        while driver.poll() is None and not at_work(stage, workspace):
            time.sleep(0.1)
        state = "at work" if driver.poll() is None else "after the round"
        print(f"lost a node {state}, in {stage}", flush=True)
        cluster.remove_node(node, allow_graceful=False)
        node = cluster.add_node(num_cpus=2)
    code = driver.wait()
    ray.shutdown()
    cluster.shutdown()
    sys.exit(code)
