import logging

import pyarrow as pa
import pyarrow.parquet as pq

from baal_ray.experiment.run import _warn_of_shared_images
from pools import experiment_config, table


def test_labelled_images_that_are_evaluation_images_are_told_by_their_bytes(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    config = experiment_config(tmp_path)
    _warn_of_shared_images(config)
    assert caplog.text == ""
    # Row numbers as ids, the same in both sets, name different images. Two images are the same.
    rows = {config.labelled: table(0, 50), config.training.evaluation_set: table(48, 98)}
    for path, images in rows.items():
        numbers = pa.array([str(number) for number in range(50)])
        pq.write_table(images.set_column(0, "id", numbers), path)
    _warn_of_shared_images(config)
    assert f"2 images of {config.labelled}, such as '48', are also in" in caplog.text
