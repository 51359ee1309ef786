"""The LightningCLI of `fit`, `validate` and `test`: model, data and callbacks come from the YAML."""

from __future__ import annotations

import os
import pkgutil
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, register_type
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.checkpointing import AtomicCheckpointIO, Checkpoint, ExactResume, is_last
from callbacks.collection import Collection
from callbacks.evaluation.evaluation import Evaluation
from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.run import MLflowRun
from callbacks.nonfinite_updates import NonfiniteUpdates
from callbacks.progress import ProgressBar
from callbacks.resumable import check_resumable
from callbacks.signals import StopSignals
from callbacks.throughput import Throughput
from callbacks.verified_updates import VerifiedUpdates
from callbacks.wall_time import WallTime
from commands import run_directory
from commands.class_names import argument_names
from commands.linked_arguments import minibatches, refuse_linked
from commands.messages import full_disk_named
from commands.parsing import ReadableParser
from commands.peers import Peers
from commands.restoring import restoring_named
from commands.saved_config import SaveConfig
from commands.slurm import with_slurm
from commands.strategy import check_processes, choose_strategy
from commands.trainer_settings import check_trainer
from datamodules.offline import OfflineDataModule
from datamodules.online import OnlineDataModule
from datamodules.played.sides import check_sides
from modules.agent.agent import Agent
from modules.agent.checkpoint_file import read_checkpoint
from modules.arguments.changed import refuse_changed_run
from modules.arguments.checks import check_seed
from modules.contracts import ChecksRun
from modules.run import run_of

EXPERIMENT = "<name of the run's root folder>"
TRAINER_DEFAULTS = {
    "logger": {"class_path": "callbacks.mlflow.logger.MLflowLogger", "init_args": {"experiment_name": EXPERIMENT}},
    "devices": 1,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    "log_every_n_steps": 100,
    "num_sanity_val_steps": 0,
}

# Lightning's `StochasticWeightAveraging` has one as a default, which would be written as what no device is called.
register_type(torch.device, str, torch.device)


class CommandParser(ReadableParser, LightningArgumentParser):
    """LightningCLI's parser with one-line errors."""


class ReverieCLI(LightningCLI):
    """Parses one subcommand, makes data, model (from the data's spaces), callbacks and trainer, and runs it."""

    def __init__(
        self,
        subcommand: str,
        argv: list[str],
        stop: StopSignals | None = None,
        more: Sequence[Callback] = (),
        peers: Peers | None = None,
    ) -> None:
        self.chosen = subcommand
        # Callbacks that no config names, beside those that are made below.
        self.more = more
        self.command = shlex.join(["reverie", subcommand, *argv])
        self.stop = StopSignals() if stop is None else stop
        self.peers = Peers() if peers is None else peers
        self.own_parser: CommandParser  # of the chosen subcommand
        self.given_checkpoint: str | None = None
        usage = f"reverie {subcommand} [--config NAME_OR_FILE]... [--key value]..."
        with (
            ExitStack() as self.resources,
            full_disk_named(lambda: getattr(self, "directory", None)),
            restoring_named(lambda: self.config[subcommand].ckpt_path),
        ):
            super().__init__(
                Agent,
                LightningDataModule,
                save_config_callback=None,  # `instantiate_trainer` adds our own
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=0,
                parser_kwargs={"prog": "reverie", subcommand: {"usage": usage}},
                parser_class=CommandParser,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                args=[subcommand, *argv],
            )

    # ------------------------------------------------------------------------------------------------------- arguments
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the subcommand that was asked for: each one costs a second of parser building."""
        return {self.chosen: LightningCLI.subcommands()[self.chosen]}

    def init_parser(self, **kwargs: Any) -> CommandParser:
        """A parser with readable errors and configs found by name; Lightning makes that of the subcommand last."""
        self.own_parser = CommandParser(**kwargs)
        self.own_parser.add_config_argument()
        return self.own_parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments that belong to no class."""
        # Where a run begins and what it leaves behind.
        parser.add_argument(
            "--seed_everything", type=int, default=self.seed_everything_default, help="Seed of every random choice."
        )
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the experiment; each run makes a subfolder named by the time. Default: runs/<config name>.",
        )
        parser.add_argument(
            "--weights_from",
            type=str | None,
            default=None,
            help="Checkpoint of another run, whose weights a new run starts with; a continued run has its own.",
        )
        parser.add_argument(
            "--publish",
            type=bool,
            default=False,
            help="Make models of the kept checkpoints at the end, as `reverie publish` does.",
        )
        parser.add_argument(
            "--register",
            type=str | None,
            default=None,
            help="Name in MLflow's registry for the models of --publish, with the aliases best, last and so on.",
        )
        # How it computes.
        parser.add_argument(
            "--verify_updates",
            type=NonNegativeInt,
            default=0,
            help="Execute every so many updates twice, and stop where a bit differs; 0 for none.",
        )
        parser.add_argument(
            "--nonfinite",
            type=Literal["stop", "skip", "rollback"],
            default="stop",
            help="After an update with NaN or infinity in a loss or gradient, which never counts: stop; skip it; or go "
            "back to the weights of last.ckpt, and on with other batches.",
        )
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="Of float32 matrix products: 'high' is TF32 on GPUs, faster and exact to three digits.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Configurable callbacks, and the links between data, model and seed."""
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.add_lightning_class_args(MLflowRun, "mlflow")
        parser.link_arguments("data", "model.init_args.spaces", compute_fn=lambda d: d.spaces, apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        # Links are skipped for classes that lack these arguments.
        sources = ("model.init_args.seeds", "model.init_args.shared_batch")
        parser.link_arguments(sources, "data.init_args.minibatches", compute_fn=minibatches)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments; unlike Lightning's, without a warning that `sys.argv` holds the same ones."""
        refuse_linked(args, [])
        self.config = parser.parse_args(args)
        refuse_linked([], self.own_parser.config_files)
        # Arguments and files win: Lightning would let the hyper-parameters of a checkpoint that it finds here override
        # them without a word.
        config = self.config[self.chosen]
        check_seed(seed_everything=config.seed_everything)
        if config.register is not None and not config.publish:
            raise ValueError("register would be ignored without publish: give --publish true, or leave it out")
        self.given_checkpoint = config.ckpt_path
        config.ckpt_path = None

    # -------------------------------------------------------------------------------------------------------- the run
    def before_instantiate_classes(self) -> None:
        """Find checkpoint and folder of the run before anything that writes is made."""
        # What was given, checked.
        config = self.config[self.chosen]
        if config.trainer.default_root_dir is not None:
            raise ValueError("trainer.default_root_dir would be ignored; use --run_dir")
        check_trainer(config.trainer, argument_names(pkgutil.resolve_name(config.model.class_path)))
        root = run_directory.experiment_root(config.run_dir, [str(path) for path in self.own_parser.config_names])
        checkpoint = run_directory.find_checkpoint(self.given_checkpoint, root, may_begin=self.chosen == "fit")
        if checkpoint is not None and (self.chosen, self.given_checkpoint) == ("fit", "last"):
            checkpoint = run_directory.newest_whole(checkpoint)
        if checkpoint is None and self.chosen != "fit":
            raise ValueError(f"{self.chosen} needs --ckpt_path: last, best or a checkpoint file")
        # What the config says from now on.
        torch.set_float32_matmul_precision(config.float32_matmul_precision)
        config.run_dir = str(root)
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        for logger in as_list(config.trainer.logger):
            if isinstance(logger, Namespace) and logger.init_args.get("experiment_name") == EXPERIMENT:
                logger.init_args.experiment_name = root.name
        # The folder, which other runs keep out of.
        if self.chosen == "fit":
            self.resources.enter_context(run_directory.nothing_left(root))
            self.directory = run_directory.choose(root, checkpoint)
            past = checkpoint is not None and is_last(checkpoint) and checkpoint.parents[1] == self.directory
            continued = past or (checkpoint is None and self.given_checkpoint == "last")
            self.resources.enter_context(run_directory.occupied(self.directory, continued))
        else:
            assert checkpoint is not None
            self.directory = checkpoint.parent  # nothing is written
        self.folder_is_named = run_directory.VARIABLE in os.environ  # before the run names it to its own processes
        self.peers.write_below(self.directory, self.folder_is_named)
        self.resources.enter_context(run_directory.announced(self.directory, checkpoint))
        # What Lightning hands to the agent as its arguments: it would check all values again, as long as parsing takes.
        plain = self.parser.dump(self.config, skip_link_targets=False, skip_unset=False, skip_validation=True)
        self.config_dump = yaml.safe_load(plain)[self.chosen]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer in the run's folder, with the callbacks that every run has."""
        made = self.config_init[self.chosen]
        settings = {**made.trainer, **kwargs, "default_root_dir": str(self.directory)}
        settings["strategy"] = choose_strategy(settings, self.peers)
        settings["plugins"] = [*with_slurm(as_list(settings["plugins"])), AtomicCheckpointIO()]
        # Callbacks run in this order, those of the config first.
        extra: list[Callback] = [] if settings["enable_progress_bar"] is False else [ProgressBar()]
        if self.chosen == "fit":
            # The checkpoint comes after the evaluation that it is chosen by, and MLflow after the files that it keeps.
            kept = [] if settings["enable_checkpointing"] is False else [made.checkpoint]
            extra.append(NonfiniteUpdates(made.nonfinite))  # around the two executions of one that is verified
            if made.verify_updates:
                extra.append(VerifiedUpdates(made.verify_updates))
            extra += [self.stop, self.peers, Throughput(), WallTime(), Collection(), ExactResume()]
            extra += [made.evaluation, *kept, made.mlflow]
            made.mlflow.command = self.command
            made.mlflow.folder_is_named = self.folder_is_named
            if not settings["fast_dev_run"]:
                extra.append(SaveConfig(self.command, self.own_parser, self.config[self.chosen], save_to_log_dir=False))
        else:
            extra += [made.evaluation] if self.chosen == "test" else []
            settings["logger"] = False
            settings["enable_checkpointing"] = False
        settings["callbacks"] = [*as_list(settings["callbacks"]), *extra, *self.more]
        try:
            trainer = Trainer(**settings)
        except TypeError as error:  # what Lightning raises for a value that it cannot use
            raise ValueError(f"trainer: {error}") from error
        # A run that nobody has named is called by its experiment, its seed and the time.
        config = self.config[self.chosen]
        for logger in trainer.loggers:
            if isinstance(logger, MLflowLogger):
                experiment = Path(config.run_dir).name
                logger.name_run(f"{experiment} seed {config.seed_everything} {datetime.now():%Y-%m-%d %H:%M}")
        return trainer

    def before_fit(self) -> None:
        """Refuse what cannot work before the config, the MLflow page and the files of the run change.

        Raises:
            ValueError: the number of processes does not fit the mixtures, the sampler cannot draw the data, the agent
                refuses the callbacks, the data or the trainer, or a checkpoint is of another model, or an argument has
                changed that it cannot follow.
        """
        check_processes(self.model, self.trainer.world_size, self.trainer.strategy)
        if isinstance(self.datamodule, OfflineDataModule):
            self.datamodule.check_sampler()
        if isinstance(self.datamodule, OnlineDataModule):
            check_sides(self.datamodule.environment_spec, self.model)
        for callback in run_of(self.trainer).callbacks:
            if isinstance(callback, Evaluation):
                callback.prepare(self.datamodule, self.model)
            if isinstance(callback, ChecksRun):
                callback.check_run(self.trainer, self.model, self.datamodule)
        self.model.attach(*run_of(self.trainer).callbacks)
        with torch.random.fork_rng(devices=[]):  # a policy that it makes to look at must not change what training draws
            self.model.check_run(self.trainer, self.datamodule)
        # The weights of another run, or all that the checkpoint of this one holds.
        path, epochs = self.config[self.chosen].ckpt_path, self.trainer.max_epochs
        if path is None:
            if (weights := self.config[self.chosen].weights_from) is not None:
                self.model.take_weights(weights, self.datamodule)
            return
        checkpoint = read_checkpoint(path)
        refuse_changed_run(checkpoint, self.model, self.datamodule)
        try:
            self.model.on_load_checkpoint(checkpoint)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        check_resumable(checkpoint, self.model, path)
        if epochs is not None and -1 < epochs < checkpoint["epoch"] + 1:
            raise ValueError(
                f"{path} is in epoch {checkpoint['epoch'] + 1}, trainer.max_epochs is {epochs}: raise it to go on"
            )

    def fit(self, **arguments: Any) -> None:
        """Train; a run that a signal ends says how to go on.

        Raises:
            SIGTERMException: after SIGTERM or SIGHUP, with the command that goes on.
            KeyboardInterrupt: after Ctrl-C, the same.
        """
        try:
            self.trainer.fit(**arguments)
        except SystemExit as leaving:  # Lightning has ended the run in good order
            if not isinstance(leaving.__context__, KeyboardInterrupt) and not isinstance(leaving, SIGTERMException):
                raise
            self.peers.end_children(3.0)  # they may wait for this one, as while it evaluates
            if isinstance(leaving.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt(f"interrupted; {self.peers.how_to_go_on()}") from leaving
            raise SIGTERMException(self.peers.how_to_go_on()) from leaving

    def after_fit(self) -> None:
        """Make models of the kept checkpoints where that is asked for; a server that is away is no error of the run."""
        config = self.config[self.chosen]
        if not config.publish or not self.trainer.is_global_zero or run_of(self.trainer).fast_dev_run:
            return
        from commands.publish import published  # exporters, which no other run waits for at its start

        try:
            for line in published(self.directory, None, None, config.register, None):
                print(line, flush=True)
        except (OSError, ValueError) as error:
            again = f"reverie publish --folder {shlex.quote(str(self.directory))}"
            again += "" if config.register is None else f" --register {shlex.quote(config.register)}"
            print(f"reverie: warning: not all models were published: {error}; later: {again}", file=sys.stderr)


def as_list(value: Any) -> list[Any]:
    """A list from a list, a single value or None."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
