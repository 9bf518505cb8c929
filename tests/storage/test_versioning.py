import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from baal_ray import storage
from baal_ray.manifest import Manifest
from baal_ray.operations.forgetting import forget_images
from baal_ray.storage.parquet import publish_table
from baal_ray.storage.versioning import what_stays


def test_a_disk_keeps_nothing(tmp_path):
    assert what_stays(str(tmp_path)) is None


def test_a_store_that_cannot_be_asked_may_keep_versions(bucket):
    assert what_stays(f"{bucket}/nowhere") is None
    told = what_stays("s3://no-such-bucket/cats")
    assert told.startswith("It is not known whether bucket no-such-bucket keeps old versions")


@pytest.mark.timeout(120)
def test_a_bucket_with_versioning_has_the_images_until_the_old_versions_go(bucket, monkeypatch):
    import boto3

    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    client = boto3.client("s3")
    client.create_bucket(Bucket="versioned")
    enabled = {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration=enabled)
    workspace = "s3://versioned/cats"
    manifest = Manifest(f"{workspace}/manifest")
    manifest.acquire(pa.table({"id": ["forget me", "other"]}), "night")
    publish_table(f"{workspace}/scores/0123", pa.table({"id": ["forget me", "other"]}))
    forget_images(workspace, ["forget me"])

    def ids():
        found = set()
        for version in client.list_object_versions(Bucket="versioned")["Versions"]:
            which = {"Bucket": "versioned", "Key": version["Key"]}
            if version["Key"].endswith(".parquet") and "_scratch" not in version["Key"]:
                data = client.get_object(**which, VersionId=version["VersionId"])["Body"].read()
                found |= {*pq.read_table(pa.BufferReader(data))["id"].to_pylist()}
        return found

    assert ids() == {"forget me", "other"}
    told = what_stays(workspace)
    assert told.startswith("Bucket versioned has versioning (Enabled), so it still has")
    assert "list-object-versions --bucket versioned --prefix 'cats/'" in told
    for version in client.list_object_versions(Bucket="versioned", Prefix="cats/")["Versions"]:
        if not version["IsLatest"]:
            which = {"Bucket": "versioned", "Key": version["Key"]}
            client.delete_object(**which, VersionId=version["VersionId"])
    assert ids() == {"other"}
    assert manifest.rows()["id"].to_pylist() == ["other"]
    assert len(storage.list_files(f"{workspace}/scores", ".parquet")) == 1
