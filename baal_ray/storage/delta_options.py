"""Options with which Delta Lake reads the environment as fsspec's clients do."""

from collections.abc import Mapping


def delta_options(environment: Mapping[str, str]) -> dict[str, str]:
    """Return storage options for Delta Lake. None of them is a secret.

    Delta Lake reads credentials, region, endpoint and account from the same variables as fsspec's
    clients, but differs in two ways. It refuses endpoints without TLS, and it ignores the variable
    for the number of attempts.

    Args:
        environment: Environment variables, as in `os.environ`.
    """
    options = {}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    attempts = environment.get("AWS_MAX_ATTEMPTS", "")
    if attempts.isdigit():
        options["max_retries"] = str(max(0, int(attempts) - 1))  # without the first attempt
    return options
