import pytest
import torch

from baal_ray.errors import SelectionError
from baal_ray.posterior.memory import budget
from baal_ray.selection.predictions import check_candidates
from pools import round_config


@pytest.mark.parametrize("setting", ["candidates", "target_images"])
def test_more_candidates_than_memory_holds_are_refused_before_anything_runs(tmp_path, setting):
    # Predictions of an image take 4 samples · 3 classes · 8 bytes.
    most = budget(torch.device("cpu")) // (4 * 3 * 8)
    for images in (most, most + 1):
        selection = {"k": 1, "by": "epig", setting: images}
        config = round_config(tmp_path, selection=selection)
        if images == most:
            check_candidates(config)
        else:
            with pytest.raises(SelectionError, match=f"for {images} candidates with 4 posterior"):
                check_candidates(config)
    check_candidates(round_config(tmp_path, selection={"k": most + 1}))
