r"""One acquisition round: fit on what is labelled, score the pool, acquire the most informative.

ray job submit --working-dir . -- python jobs/nightly.py \
    --config jobs/nightly.yaml --round 2026-11-22

Run it again after a kill and it goes on where it stood; once the round is committed it does
nothing. `baal-ray submit` does the same as a job whose id is made of the round's.
"""

import argparse
import logging

from baal_ray import RoundConfig, run_round
from baal_ray.errors import in_plain_words

parser = argparse.ArgumentParser(description="One acquisition round.")
parser.add_argument("--config", required=True, help="such as jobs/nightly.yaml")
parser.add_argument("--round", required=True, help="names the round, such as 2026-11-22")
arguments = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

with in_plain_words():
    config = RoundConfig.from_yaml(arguments.config)
    print(run_round(config, arguments.round).summary())
