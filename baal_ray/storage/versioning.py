"""Old versions that a bucket keeps of files which were deleted or replaced."""

from baal_ray.errors import StorageError
from baal_ray.storage.files import filesystem, is_local, storage_errors


def what_stays(uri: str) -> str | None:
    """Return what a store keeps of files deleted below a URI, and how to remove it.

    Returns:
        A paragraph for the user; None if the store keeps nothing.
    """
    if is_local(uri) or uri.startswith("memory://"):
        return None
    fs, path = filesystem(uri)
    bucket, _, prefix = path.strip("/").partition("/")
    if not uri.startswith(("s3://", "s3a://")):
        return (
            f"If {bucket} has object versioning or soft delete, it keeps the deleted files for as "
            "long as that is set. Delete the old versions there, too."
        )
    try:
        with storage_errors(f"the versioning of bucket {bucket}", "looked up"):
            status = fs.call_s3("get_bucket_versioning", Bucket=bucket).get("Status")
    except StorageError as error:
        return (
            f"It is not known whether bucket {bucket} keeps old versions of the deleted files "
            f"({error}). If it does, {_remedy(bucket, prefix)}"
        )
    if status is None:
        return None
    return (
        f"Bucket {bucket} has versioning ({status}), so it still has the deleted files as old "
        f"versions, with the images in them. To remove these, {_remedy(bucket, prefix)}"
    )


def _remedy(bucket: str, prefix: str) -> str:
    return (
        f"list them with `aws s3api list-object-versions --bucket {bucket} --prefix '{prefix}/'` "
        "and delete each that is not the latest with `aws s3api delete-object --version-id`, or "
        "set a lifecycle rule with NoncurrentVersionExpiration for that prefix."
    )
