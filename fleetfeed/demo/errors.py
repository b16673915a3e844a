"""The one error of a demonstration."""


class DemoFailed(Exception):
    """Something on the way did not work; the sentence says what, and where to look."""
