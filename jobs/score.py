r"""Score the pool with a checkpoint. No image is acquired.

ray job submit --working-dir . -- python jobs/score.py \
    --config jobs/nightly.yaml --checkpoint 3b0c...

It leaves out images in the manifest, and images that this checkpoint has already scored with the
same settings. If it is killed, run it again and it scores the rest.
"""

import argparse
import logging

from baal_ray import Manifest, RoundConfig, score_pool
from baal_ray.errors import in_plain_words
from baal_ray.ids import IdSet
from baal_ray.pool import list_pool, read_pool
from baal_ray.workspace import checkpoint_uri, manifest_uri, scores_uri

parser = argparse.ArgumentParser(description="Score the pool with a checkpoint.")
parser.add_argument("--config", required=True, help="such as jobs/nightly.yaml")
parser.add_argument("--checkpoint", required=True, help="its sha256, or its folder")
parser.add_argument("--all", action="store_true", help="score images in the manifest too")
arguments = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

with in_plain_words():
    config = RoundConfig.from_yaml(arguments.config)
    checkpoint = arguments.checkpoint
    if "/" not in checkpoint:
        checkpoint = checkpoint_uri(config.workspace, checkpoint)
    listing = list_pool(config.pool, f"{config.workspace}/pool")
    leave_out = [] if arguments.all else Manifest(manifest_uri(config.workspace)).ids()
    pool = read_pool(listing, leave_out=IdSet.of(leave_out))
    settings = {"config": config.scoring, "resources": config.resources, "seed": config.seed}
    keep_by = config.selection.ranked_by  # used by further stages, if there are any
    folder = scores_uri(config.workspace)
    scores = score_pool(pool, checkpoint, folder, keep_by=keep_by, model=config.model, **settings)
    print(f"{scores.scored} of {scores.rows} images scored now, {scores.unreadable} unreadable")
    print(scores.uri)
