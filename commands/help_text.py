"""The help of a class: its arguments with their words, and of the classes that may stand there only those meant."""

from __future__ import annotations

from commands.jsonargparse_private import HelpOfClasses

OFFERED = ("modules", "datamodules", "callbacks", "pytorch_lightning", "gymnasium")
"""Packages whose classes are listed: any class of the right kind is accepted, and torch alone has hundreds."""


class ReadableHelp(HelpOfClasses):
    """Lists of known subclasses without those of libraries that nobody looks for there."""

    def offered(self, paths: list[str]) -> list[str]:
        """The paths of packages that are offered; where a layer is asked for, no trainer's module is one."""
        packages = OFFERED[:3] if "torch.nn.Module" in paths else OFFERED
        return [path for path in paths if path.split(".")[0] in packages]
