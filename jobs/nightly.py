r"""Run an acquisition round: fit the model, score the pool, acquire the most informative images.

ray job submit --working-dir . -- python jobs/nightly.py \
    --config jobs/nightly.yaml --round 2026-11-22

If it is killed, run it again and it continues where it stopped. Once the round is committed, it
does nothing. `baal-ray submit` runs the same round as a job with an id derived from the round's.
"""

import argparse
import logging

from baal_ray import RoundConfig, run_round
from baal_ray.errors import in_plain_words

parser = argparse.ArgumentParser(description="Run an acquisition round.")
parser.add_argument("--config", required=True, help="such as jobs/nightly.yaml")
parser.add_argument("--round", required=True, help="name of the round, such as 2026-11-22")
arguments = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

with in_plain_words():
    config = RoundConfig.from_yaml(arguments.config)
    print(run_round(config, arguments.round).summary())
