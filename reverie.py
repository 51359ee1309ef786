"""The command line: `reverie <subcommand>`. Light on purpose; torch is imported only by a subcommand that needs it."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from commands.loaded import LoadedPolicy
    from commands.published_policy import PublishedPolicy

__version__ = "0.1.0"

# name: (where its function is, one line of help)
COMMANDS = {
    "fit": ("commands.lightning:fit", "train an agent; `--ckpt_path last` continues the newest run"),
    "evolve": ("commands.evolve:main", "train a population whose members copy and change what does well"),
    "sweep": ("commands.sweep:main", "search for the settings of a config that do best over seeds"),
    "validate": ("commands.lightning:validate", "losses of a checkpoint on the held-out episodes"),
    "test": ("commands.lightning:test", "losses of a checkpoint on the held-out episodes, and its returns"),
    "evaluate": ("commands.evaluate:main", "let a checkpoint act: returns, normalised scores, table, video"),
    "select": ("commands.select:main", "choose among policies by recorded data, without the environment"),
    "compare": ("commands.compare:main", "compare runs over their seeds: curves, aggregates, who is better"),
    "collect": ("commands.collect:main", "environment and behaviour policy -> Minari dataset"),
    "export": ("commands.export:main", "checkpoint -> policy that acts with numpy and onnxruntime alone"),
    "publish": ("commands.publish:main", "a run's checkpoints -> MLflow models with a card, served and registered"),
    "datasets": ("commands.datasets:main", "list, check and convert datasets, and take the best episodes of one"),
    "reproduce": ("commands.reproduce:main", "run a cell of docs/evidence.md again: is it in its interval?"),
    "doctor": ("commands.doctor:main", "say what would break a run on this machine, and what to do"),
    "inspect": ("commands.inspect:main", "show an update with NaN or infinity, from the file that its run has kept"),
    "sync": ("commands.sync:main", "send to MLflow what runs could not send while its store was away"),
    "ui": ("commands.ui:main", "show the runs of a folder in MLflow's pages, on this machine only"),
}

PACKAGES = ("modules", "datamodules", "callbacks", "commands")
"""Our own packages; an installation has them beside this file."""

SLOW = (
    "fit",
    "evolve",
    "sweep",
    "validate",
    "test",
    "evaluate",
    "select",
    "compare",
    "collect",
    "export",
    "publish",
    "reproduce",
    "doctor",
    "inspect",
    "sync",
)
"""Subcommands that import for seconds before anything can be seen of them."""


def load(
    ckpt_path: str | Path,
    member: str | None = None,
    *,
    config: str | None = None,
    run_dir: str | Path | None = None,
    trust: Sequence[str] = (),
    tracking_uri: str | None = None,
) -> LoadedPolicy | PublishedPolicy:
    """The policy of a checkpoint, a run or a model, for numpy arrays: `action, state = load("best").act(observation)`.

    Both kinds of policies have `act(observation, state=None, reward=None)`, which remembers nothing; `predict`, which
    remembers the running episode, and `reset`; and `environment`, which makes the environment of the training.

    Args:
        ckpt_path: checkpoint file; or last, best or trusted, of the newest run of that config or folder, or of all; a
            run's folder, whose best checkpoint is taken, or its last; a folder of `reverie publish` or `export`; a
            model of MLflow, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/ID`, that reverie published.
        member: name of the member, where the checkpoint holds several, for example `beta=4/seed=0`.
        config: name or file of the config that `fit` was given, for these names.
        run_dir: folder of the experiment that `fit` was given, for these names.
        trust: modules or classes of others that the file may name; its own code may run then.
        tracking_uri: address of MLflow's store with the model; by default `$MLFLOW_TRACKING_URI`, or mlflow.db.

    Raises:
        ValueError: there is no such checkpoint, member or model, or a file is damaged or names what is not trusted.
    """
    importlib.import_module("commands.quiet")
    with importlib.import_module("commands.quick_imports").quick_imports():
        loaded = importlib.import_module("commands.loaded")
    folder = None if run_dir is None else str(run_dir)
    policy: LoadedPolicy | PublishedPolicy = loaded.load(
        str(ckpt_path), member, config=config, run_dir=folder, trust=trust, tracking_uri=tracking_uri
    )
    return policy


def help_text() -> str:
    """The text that `reverie --help` prints."""
    rows = "\n".join(f"  {name:<10} {description}" for name, (_, description) in COMMANDS.items())
    return (
        "usage: reverie <subcommand> [--config NAME_OR_FILE]... [--key value]...\n\n"
        f"subcommands:\n{rows}\n\n"
        "options:\n  --help     this text; `reverie <subcommand> --help` explains each argument\n"
        "  --version  version of reverie\n"
        "  --trust PACKAGE.MODULE  let checkpoints and datasets name classes and environments of it; after a\n"
        "             subcommand, repeatable, stored nowhere\n\n"
        "example: reverie fit --config atac/pendulum --model.beta 4"
    )


def fail(message: str, status: int = 2) -> NoReturn:
    """Print one error line and leave; with REVERIE_DEBUG=1 the traceback comes first."""
    print(f"reverie: error: {importlib.import_module('commands.messages').shorten(message)}", file=sys.stderr)
    sys.exit(status)


def split_trust(argv: list[str]) -> tuple[list[str], list[str]]:
    """Arguments without every `--trust NAME`, and the names; they are the command line's alone, never a config's."""
    rest, names, given = [], [], iter(argv)
    for argument in given:
        flag, equals, name = argument.partition("=")
        if flag != "--trust":
            rest.append(argument)
            continue
        name = name if equals else next(given, "")
        if not all(part.isidentifier() for part in name.split(".")):
            fail(f"--trust needs the name of a module or class, such as package.module, got '{name}'")
        names.append(name)
    return rest, names


def check_own_packages() -> None:
    """Refuse to start where packages of another project take the place of ours, such as an own folder `modules`."""
    home = Path(__file__).resolve().parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if home / name not in found:
            place = found[0] if found else "nowhere" if spec is None else spec.origin
            fail(
                f"the name '{name}' means {place} here, not reverie's own {home / name}: start reverie in another "
                "folder or without that PYTHONPATH, or give that package another name"
            )


def main(argv: list[str] | None = None) -> None:
    """Run one subcommand; where nobody reads what is printed, as after `| head`, leave in silence."""
    try:
        run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        if not nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter flushes once more
        sys.exit(141)


def nobody_reads() -> bool:
    """Whether the other end of standard output is closed; a pipe to a process of our own may be broken, too."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def run(argv: list[str] | None) -> None:
    """Run one subcommand; a user's mistake ends with one message and status 2, never with a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text(), flush=True)
        sys.exit(0 if argv else 2)
    if argv[0] == "--version":
        print(f"reverie {__version__}")
        return
    if argv[0] not in COMMANDS:
        close = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(COMMANDS)}"
        fail(f"unknown subcommand '{argv[0]}'; {hint}")
    # Nothing heavy is imported before the subcommand is known: a typing mistake is answered at once.
    check_own_packages()
    module, function = COMMANDS[argv[0]][0].split(":")
    arguments, trusted = split_trust(argv[1:])
    if argv[0] in SLOW and sys.stderr.isatty() and not any(argument.endswith("help") for argument in arguments):
        print(f"reverie {argv[0]}: loading PyTorch ...", file=sys.stderr, flush=True)
    # The order matters: who is trusted, then what silences torch's warnings, then torch and the command.
    try:
        importlib.import_module("modules.trust.beside").find_named(" ".join(arguments), trusted)
        importlib.import_module("commands.quiet")  # before torch and friends
        with importlib.import_module("commands.quick_imports").quick_imports():
            command = getattr(importlib.import_module(module), function)
        with importlib.import_module("modules.trust.names").trusting(trusted):
            command(arguments)
    except KeyboardInterrupt as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process says it
            sys.exit(130)
        fail(str(error) or "interrupted", status=130)
    except BrokenPipeError:
        raise
    except Exception as error:
        message = importlib.import_module("commands.messages").told(error)
        if message is None or os.environ.get("REVERIE_DEBUG") == "1":
            raise
        fail(message)


if __name__ == "__main__":
    main()
