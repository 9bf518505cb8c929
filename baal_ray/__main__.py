"""`python -m baal_ray` is the `baal-ray` command."""

from baal_ray.cli import main

main()
