"""What can be wrong with an argument."""


class RegardError(ValueError):
    """An argument that does not fit: which one, what was found, and what was expected."""

    def __init__(self, message: str, argument: str = "", found: object = None, expected: object = None) -> None:
        super().__init__(message)
        self.argument = argument
        self.found = found
        self.expected = expected


def refuse(argument: str, found: object, expected: object) -> RegardError:
    """The error for an argument that is found to be one thing and expected to be another."""
    return RegardError(f"`{argument}` is {found}, expected {expected}", argument, found, expected)
