"""Fit the model on the images labelled so far. No image is scored or acquired.

ray job submit --working-dir . -- python jobs/fit.py --config jobs/nightly.yaml

The same labels and settings are fitted only once. A second run names the checkpoint of the first.
"""

import argparse
import json
import logging
import sys

from baal_ray import Manifest, RoundConfig
from baal_ray.cluster import check_resources
from baal_ray.errors import in_plain_words
from baal_ray.training.fit import fit_model
from baal_ray.workspace import manifest_uri

parser = argparse.ArgumentParser(description="Fit the model on the labelled images.")
parser.add_argument("--config", required=True, help="such as jobs/nightly.yaml")
arguments = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

with in_plain_words():
    config = RoundConfig.from_yaml(arguments.config)
    labelled = Manifest(manifest_uri(config.workspace)).labelled()
    if not len(labelled):
        sys.exit(f"Error: nothing is labelled in {config.workspace}; import labels first")
    check_resources(config.resources)
    fit = fit_model(config, labelled)
    print(f"{'found' if fit.reused else 'fitted'} on {fit.labels} labels: {fit.checkpoint}")
    print(json.dumps(fit.history[-1]))
