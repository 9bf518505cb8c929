"""What Delta Lake must be told for the environment to mean what it means to fsspec's clients."""

from collections.abc import Mapping


def delta_options(environment: Mapping[str, str]) -> dict[str, str]:
    """Storage options for Delta Lake; none of them is a secret.

    It reads credentials, region, endpoint and account from the same variables as the others. Two
    things it would take otherwise: it refuses endpoints without TLS, and it does not know how
    often to try.

    Args:
        environment: `os.environ`.
    """
    options = {}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    attempts = environment.get("AWS_MAX_ATTEMPTS", "")
    if attempts.isdigit():
        options["max_retries"] = str(max(0, int(attempts) - 1))  # less the first
    return options
