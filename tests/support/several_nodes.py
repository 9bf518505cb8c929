"""Score a pool on a cluster of three machines, and print how much each process did.

python several_nodes.py FOLDER ACTORS MOST

Each machine has CPUs for one actor, and for reading and decoding beside it. The machines are those
of the cluster that RAY_ADDRESS names, otherwise three nodes on this one. FOLDER has a pool and a
`checkpoint`. The last line of the output is the passes of each process.
"""

import os
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from baal_ray.checkpoint import describe
from baal_ray.config import PoolConfig, ResourcesConfig, ScoringConfig
from baal_ray.pool import list_pool, read_pool
from baal_ray.scoring import score_pool

if __name__ == "__main__":
    folder, actors, most = sys.argv[1:]
    cluster = None
    if "RAY_ADDRESS" not in os.environ:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        for _ in range(2):
            cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
    ray.init()
    checkpoint = Path(folder, "checkpoint").read_text()
    score_pool(
        read_pool(list_pool(PoolConfig(uri=f"{folder}/pool"), "")),
        checkpoint,
        f"{folder}/scores",
        config=ScoringConfig(samples=4, batch_size=32),
        resources=ResourcesConfig(
            scoring_actors=int(actors), max_scoring_actors=int(most), scoring_cpus=1
        ),
        model=describe(checkpoint).model,
    )
    ray.shutdown()
    if cluster:
        cluster.shutdown()
    passes = [len(file.read_text().splitlines()) for file in Path(folder).glob("passes-of-*")]
    print(*passes)
