"""The exception that is raised where a signal ends the process."""

from __future__ import annotations


class Stop(SystemExit):
    """A signal asks the process to end; whatever forgives the errors of others lets it pass, as it lets Ctrl-C pass."""
