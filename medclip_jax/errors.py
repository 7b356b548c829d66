"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in the input: its message is one line that says what is wrong and how to mend it.

    The command line prints the message and exits with status 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        # Names of files and columns may have line breaks.
        super().__init__(" ".join(message.splitlines()))
