"""The group of verbs, loaded one at a time, and the turning of errors into one line and an exit code."""

from __future__ import annotations

import importlib
import sys

import click

import hetero
from hetero_devices.errors import HeteroError

VERBS = {
    "demo": "Carry out the whole loop on the embedded data, from training to report.",
    "doctor": "Say what is installed, what is missing, and what this machine can do.",
    "data": "Show a data set: its splits, its protocol, and optionally a sheet of its images.",
    "train": "Train a recipe's anchor, its compatible student, and the student alone.",
    "search": "Search the student's architecture by cross-model accuracy, within a budget.",
    "embed": "Embed a data set with a model; the result carries the model's space.",
    "compress": "Compress a gallery of embeddings: fewer bytes a vector, searched as it is.",
    "export": "Export a run's student, or any model, as a bundle: ONNX and LiteRT, float32 to int8.",
    "verify": "Check a bundle without torch, and gate it by retrieval, size, latency and placement.",
    "devices": "List, add and examine devices; make runners, measure their blocks.",
    "bench": "Run a bundle on devices: search, drift, flips, latency, memory, and gates.",
    "matrix": "Compare query and gallery models: M(q, g) with intervals.",
    "flips": "Which queries did the old system answer that the new one does not? With a gate.",
    "upgrade": "A new model for an old gallery: evaluate, link, plan, migrate, roll back, draw the graph.",
    "finetune": "Adapt a trained network to new classes from a few images of each (LQF), and compare how.",
    "report": "Evaluate a run's exported artefacts and write the report; exit 1 if a gate fails.",
}


class Verbs(click.Group):
    """Imports a verb's module only when it is asked for, so that --help is instant and torch-free."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"hetero.cli.{cmd_name}").command
        command.short_help = VERBS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}: choose one of {', '.join(VERBS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hetero.__version__, package_name="hetero")
def cli() -> None:
    """Compact students that search a large model's gallery.

    Trains them, exports them to ONNX and LiteRT, and proves by cross-model retrieval on the exported
    artefact that phone and cloud still understand each other. Start with `hetero demo`.
    """


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a gate failed, 2 usage or bad input, 130 interrupted."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _fail("interrupted: run the same command again to continue", 130)
    except KeyboardInterrupt:
        _fail("interrupted: run the same command again to continue", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (HeteroError, OSError) as error:
        _fail(_one_line(error), 2)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, HeteroError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return " ".join(str(error).split())


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
