"""`fit`, `validate` and `test`, and how each way of ending them is told."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import signal
import sys
from collections.abc import Sequence

from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

import callbacks
import datamodules
import modules
from callbacks.signals import STOPS, StopSignals
from commands import run_directory
from commands.jsonargparse_private import main_words
from commands.lightning_cli import ReverieCLI
from commands.parsing import own_words
from commands.peers import Peers
from commands.quick_imports import quick_imports
from commands.slurm import WARNING, requeue, slurm_job
from modules.agent.lightning_private import lacks_metric


def import_classes() -> None:
    """Import all modules, datamodules and callbacks, so that the YAML may name classes by short names."""
    for package in (modules, datamodules, callbacks):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def run(subcommand: str, argv: list[str], more: Sequence[Callback] = ()) -> None:
    """Run one of Lightning's subcommands.

    Args:
        subcommand: its name.
        argv: its arguments.
        more: callbacks beside those of the config, which the run's saved config does not have.

    Raises:
        ValueError: a user's mistake that shows after parsing.
        SystemExit: status 143 after SIGTERM, 129 after SIGHUP, 138 after SLURM's SIGUSR1, 2 after a mistake in the
            arguments; 1 where one of several processes fails.
        KeyboardInterrupt: after Ctrl-C.
    """
    with quick_imports():
        import_classes()
    peers = Peers(subcommand == "fit")
    with peers.named():
        _run(subcommand, argv, peers, more)


def _run(subcommand: str, argv: list[str], peers: Peers, more: Sequence[Callback]) -> None:
    job = slurm_job()
    stop = StopSignals(run_directory.is_first_process(), STOPS if job is None else (*STOPS, WARNING))
    try:
        with stop.installed():
            ReverieCLI(subcommand, argv, stop, more, peers)
    except SIGTERMException as leaving:
        if not run_directory.is_first_process():
            sys.exit(0)  # an error of a process would make the first one be killed, which may still have work to do
        received = stop.received or signal.SIGTERM
        words = [f"reverie: stopped by {received.name}", *map(str, leaving.args)]
        if job is not None and received == WARNING:
            words.append(requeue(job))
        print("; ".join(words), file=sys.stderr)
        sys.exit(128 + received)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt("interrupted") from leaving
        raise
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        raise ValueError(_said(error)) from error
    except RuntimeError as error:
        if not lacks_metric(error):
            raise
        raise ValueError(str(error)) from error


def _said(error: Exception) -> str:
    """The words of an error: our own, if any of our code has raised it, however deep in what libraries wrap it into."""
    if "tensorboard" in str(error) and importlib.util.find_spec("tensorboard") is None:
        return "trainer.logger needs TensorBoard: pip install -e '.[tensorboard]'"
    return own_words(error) or main_words(str(error))


def fit(argv: list[str]) -> None:
    """Train an agent."""
    run("fit", argv)


def validate(argv: list[str]) -> None:
    """Losses on the held-out episodes."""
    run("validate", argv)


def test(argv: list[str]) -> None:
    """Losses on the held-out episodes, and returns of episodes in the environment."""
    run("test", argv)
