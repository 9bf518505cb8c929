import pytest

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.storage.scratch import scratch_folder, scratch_folders


def test_a_scratch_folder_is_hidden_and_leaves_nothing(root):
    with scratch_folder(root) as scratch:
        storage.publish(storage.join(scratch, "a", "b"), b"x")
        assert len(storage.list_files(scratch)) == 1
        assert storage.list_files(root) == []
        assert set(scratch_folders(root)) == {scratch}
    assert not storage.exists(scratch)
    assert scratch_folders(root) == {}
    with scratch_folder(root):
        pass  # nothing was written


def test_a_fault_in_a_scratch_folder_is_told_and_leaves_nothing(tmp_path):
    def fill():
        with scratch_folder(str(tmp_path)) as scratch:
            storage.publish(storage.join(scratch, "a"), b"x")
            raise StorageError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        fill()
    assert not list(tmp_path.iterdir())
