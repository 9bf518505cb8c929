"""The `baal-ray` command."""

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich import filesize
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

import baal_ray
from baal_ray.config import RoundConfig
from baal_ray.errors import escaped, in_plain_words, printable
from baal_ray.factory_module import import_beside
from baal_ray.storage.redaction import redacted

_config_argument = click.argument("config_path", metavar="CONFIG")
_round_option = click.option(
    "--round", "round_id", required=True, metavar="ID", help="Id of the round, such as 2026-11-22."
)


class _Formatter(logging.Formatter):
    """A format of log lines, none of which a message can forge."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the message of a record."""
        return printable(super().formatMessage(record))


class _Console(Console):
    """A console that shows control characters in tables and texts instead of obeying them."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render an object and escape its texts, but not the console's own control codes."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escaped(text), style, control)


class _Group(click.Group):
    """A command group that reports errors of baal_ray, even wrapped by Ray, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        with in_plain_words():
            return super().invoke(ctx)


@click.group(cls=_Group)
@click.version_option(baal_ray.__version__)
def main() -> None:
    """Bayesian active learning on Ray: fit, score the pool, acquire the best images."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@main.command()
@click.option(
    "--folder",
    default="baal_ray_demo",
    show_default=True,
    help="Folder to write to. It must not exist yet.",
)
def demo(folder: str) -> None:
    """Run three rounds on handwritten digits on this machine, and compare with random picks."""
    console = _Console()
    with console.status("loading Ray"):
        from baal_ray.demo import run_demo

    run_demo(os.path.abspath(folder), console)


@main.command()
@_config_argument
@_round_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only report what the round would do, and how long it would take.",
)
def run(config_path: str, round_id: str, dry_run: bool) -> None:
    """Run an acquisition round, or finish one that was interrupted.

    The round runs on the Ray cluster that this machine or job belongs to, or on a local one if
    there is none.
    """
    config = RoundConfig.from_yaml(config_path)
    import_beside(config_path, config.model.factory)
    if dry_run:
        from baal_ray.driver.preview import preview_round

        _echo("\n".join(preview_round(config, round_id)))
        return
    from baal_ray.driver import run_round

    _echo(run_round(config, round_id).summary())


@main.command()
@_config_argument
@_round_option
@click.option(
    "--address",
    metavar="URL",
    help="URL of Ray's dashboard, such as http://127.0.0.1:8265.  [default: RAY_ADDRESS, or the "
    "cluster on this machine]",
)
@click.option(
    "--working-dir",
    help="Folder to upload with the job.  [default: only CONFIG, with the module or package of "
    "model.factory beside it]",
)
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME",
    help="Environment variable to pass on to the job. May be repeated. Ray's dashboard shows its "
    "value.",
)
def submit(
    config_path: str,
    round_id: str,
    address: str | None,
    working_dir: str | None,
    environment: tuple[str, ...],
) -> None:
    """Run a round as a job on a Ray cluster, follow its log, and exit with its exit code.

    Submitting the same round again joins its job if that is running or has succeeded. If the job
    failed or was stopped, a new job continues where it stopped.
    """
    config = RoundConfig.from_yaml(config_path)
    from baal_ray.operations.submission import submit_round

    code = submit_round(
        config_path,
        config,
        round_id,
        address=address,
        working_dir=working_dir,
        environment=environment,
        echo=lambda text: click.echo(text, nl=False),
    )
    sys.exit(code)


@main.command()
@_config_argument
@click.option("--rule", help="Run the curves of this rule only.")
@click.option("--seed", type=int, help="Run the curves of this seed only. Seeds start at 0.")
def experiment(config_path: str, rule: str | None, seed: int | None) -> None:
    """Compare acquisition rules with random picks, on images whose labels are known.

    Run it again to continue after it was killed, or to add seeds, rules or rounds.
    """
    from baal_ray.experiment.config import ExperimentConfig

    config = ExperimentConfig.from_yaml(config_path)
    import_beside(config_path, config.model.factory)
    console = _console()
    with console.status("loading Ray"):
        from baal_ray.experiment.console import summary, watching
        from baal_ray.experiment.run import run_experiment
    with watching(config, console) as watch:
        curves = run_experiment(config, rule=rule, seed=seed, watch=watch)
    console.print(summary(config, curves))


@main.command()
@_config_argument
def status(config_path: str) -> None:
    """Show a workspace's rounds, the status of their picks, and what new labels still gain."""
    from baal_ray.report.status import workspace_status

    found = workspace_status(RoundConfig.from_yaml(config_path))
    _console().print(found)
    for paragraph in found.summary:
        _echo(f"\n{paragraph}")


@main.command()
@_config_argument
@_round_option
@click.option(
    "--output", metavar="FILE", help="File to write.  [default: report.html in the round's folder]"
)
def report(config_path: str, round_id: str, output: str | None) -> None:
    """Write an HTML page about a finished round: its picks, scores, curves and failures.

    A round writes such a page by itself, unless it has more than a hundred files of scores. This
    command writes it at any time, with the labels that have come in since.
    """
    from baal_ray.report.automatic_pages import require_extra

    config = RoundConfig.from_yaml(config_path)
    require_extra()
    from baal_ray.report.round_page import write_round_report

    uri = write_round_report(config.workspace, round_id, output)
    _echo(f"{redacted(uri)} written")


@main.command()
@_config_argument
def doctor(config_path: str) -> None:
    """Check everything that a round relies on, and report what works and what to fix.

    Run it where the round will run. On a cluster, run it as a job:
    `ray job submit --working-dir . -- baal-ray doctor CONFIG`.
    """
    logging.disable(logging.WARNING)
    console = _console()
    with console.status("loading Ray") as status:
        from baal_ray.operations.doctor import examine

        failed = False
        for finding in examine(config_path, announce=status.update):
            failed |= finding.outcome == "failed"
            console.print(finding)
    sys.exit(failed)


@main.group()
def labels() -> None:
    """Import labels from annotators, and export the images that need labels."""


@labels.command("import")
@_config_argument
@click.argument("file")
@click.option("--by", "labelled_by", help="Name of the annotator.")
@click.option("--overwrite", is_flag=True, help="Replace labels that differ from the new ones.")
@click.option("--skip-unknown", is_flag=True, help="Skip ids that were never acquired.")
@click.option(
    "--with-images",
    is_flag=True,
    help="Import FILE (Parquet of id, image and label) as a labelled set with its own images.",
)
def import_(
    config_path: str,
    file: str,
    labelled_by: str | None,
    overwrite: bool,
    skip_unknown: bool,
    with_images: bool,
) -> None:
    """Import labels from FILE (.csv, .parquet or .jsonl with id and label).

    If anything in FILE is wrong, every fault is reported and nothing is written.
    """
    from baal_ray.manifest.labelled_sets import import_labelled_set
    from baal_ray.manifest.labels import import_labels

    config = RoundConfig.from_yaml(config_path)
    manifest = _manifest(config)
    if with_images:
        count = import_labelled_set(
            manifest,
            file,
            workspace=config.workspace,
            classes=config.classes,
            labelled_by=labelled_by,
            max_pixels=config.scoring.max_pixels,
            integer_ids=config.pool.integer_ids,
        )
        _echo(f"{count} labelled images imported")
        return
    done = import_labels(
        manifest,
        file,
        classes=config.classes,
        labelled_by=labelled_by,
        overwrite=overwrite,
        skip_unknown=skip_unknown,
    )
    _echo(done.summary())


@labels.command()
@_config_argument
@click.argument("file")
@click.option(
    "--status",
    default="acquired",
    show_default=True,
    help="Status of the images to export, or `all`.",
)
@click.option("--round", "round_id", metavar="ID", help="Export the images of this round only.")
def export(config_path: str, file: str, status: str, round_id: str | None) -> None:
    """Write the images that are waiting for a label to FILE (.csv, .parquet or .jsonl)."""
    from baal_ray.manifest.labels import export_labels
    from baal_ray.workspace.rounds import check_round

    config = RoundConfig.from_yaml(config_path)
    if round_id is not None:
        check_round(config.workspace, round_id)
    count = export_labels(
        _manifest(config), file, status=None if status == "all" else status, round_id=round_id
    )
    _echo(f"{count} rows written to {redacted(file)}")


@labels.command()
@_config_argument
@click.argument("file", required=False)
@click.option(
    "--round", "round_id", metavar="ID", help="Release all unlabelled images of this round."
)
def release(config_path: str, file: str | None, round_id: str | None) -> None:
    """Return unlabelled images to the pool: those listed in FILE, or all those of a round.

    FILE (.csv, .parquet or .jsonl) needs a column `id`, as in exported files.
    """
    from baal_ray.manifest.labels import release_images
    from baal_ray.workspace.rounds import check_round

    if (file is None) == (round_id is None):
        raise click.UsageError("Give either FILE or --round.")
    config = RoundConfig.from_yaml(config_path)
    if round_id is not None:
        check_round(config.workspace, round_id)
    count = release_images(_manifest(config), config.workspace, path=file, round_id=round_id)
    _echo(f"{count} images released: they can be picked again")


@labels.command()
@_config_argument
@click.argument("file")
def reject(config_path: str, file: str) -> None:
    """Mark the images in FILE as unusable. They get no label and are not picked again.

    FILE (.csv, .parquet or .jsonl) needs a column `id`, as in exported files.
    """
    from baal_ray.manifest.labels import reject_images

    count = reject_images(_manifest(RoundConfig.from_yaml(config_path)), file)
    _echo(f"{count} images rejected: they will not be picked again")


@main.command()
@_config_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--file", help="A .csv, .parquet or .jsonl file with more ids, in a column `id`.")
@click.option(
    "--yes", is_flag=True, help="Remove the images. Without this option, only show where they are."
)
def forget(config_path: str, ids: tuple[str, ...], file: str | None, yes: bool) -> None:
    """Permanently remove images from the manifest, batches, scores and listings."""
    from baal_ray.manifest.label_files import read_ids
    from baal_ray.operations.forgetting import (
        CONSEQUENCES,
        find_traces,
        forget_images,
        table_of,
    )
    from baal_ray.storage.versioning import what_stays

    config = RoundConfig.from_yaml(config_path)
    wanted = list(dict.fromkeys([*ids, *(read_ids(file) if file else [])]))
    if not wanted:
        raise click.UsageError("Name the images to forget, with ID... or --file.")
    traces = (forget_images if yes else find_traces)(config.workspace, wanted)
    _console().print(table_of(traces))
    held = {id for trace in traces for id in trace.ids}
    _echo(
        f"{len(held)} of {len(wanted)} images found in {len(traces)} files of {config.workspace}"
    )
    _echo(CONSEQUENCES.format(pool=config.pool.uri))
    if kept := what_stays(config.workspace):
        _echo(kept)
    if not yes:
        _echo("Nothing was removed. Add --yes to remove the images.")


@main.command()
@_config_argument
@click.option(
    "--keep",
    default=7,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the models and scores of the last N finished rounds.",
)
@click.option("--yes", is_flag=True, help="Remove the files. Without this option, only list them.")
def prune(config_path: str, keep: int, yes: bool) -> None:
    """Remove old models and their scores, leftover files, and old versions of the manifest."""
    from baal_ray.operations.pruning import plan_pruning

    pruning = plan_pruning(RoundConfig.from_yaml(config_path).workspace, keep=keep)
    _console().print(pruning)
    if pruning.waiting_for:
        rounds = ", ".join(pruning.waiting_for)
        _echo(f"All models and scores are kept until these rounds are finished: {rounds}")
    removals = pruning.run() if yes else pruning.removals
    total = filesize.decimal(sum(removal.bytes for removal in removals))
    _echo(
        f"{total} removed"
        if yes
        else f"{total} can be freed. Nothing was removed; add --yes to remove it."
    )


def _echo(text: str) -> None:
    click.echo(printable(text))


def _console() -> Console:
    """Return a console that prints names literally, and does not wrap lines in a pipe."""
    width = None if sys.stdout.isatty() else 10_000
    return _Console(width=width, markup=False, emoji=False)


def _manifest(config: RoundConfig) -> Any:
    from baal_ray.manifest import Manifest
    from baal_ray.workspace import manifest_uri

    return Manifest(manifest_uri(config.workspace))
