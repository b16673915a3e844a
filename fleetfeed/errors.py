"""Errors of the embedded stack.

StackError                        a server did not start, ended by itself, or cannot be ended
├── AlreadyRunning                the run folder has a living stack
└── PortTaken                     a port that was asked for belongs to another program
"""


class StackError(Exception):
    """Base of every error that the embedded stack raises; its sentence names the log to look into."""


class AlreadyRunning(StackError):
    """One run folder holds one stack."""


class PortTaken(StackError):
    """A port that the settings name cannot be had."""
