"""The one error that a user's input, files or flags can cause."""


class UserError(Exception):
    """Something the user gave is wrong. The message says what, where (file, line, column, field) and what to do.

    Command-line entry points print the message alone, without a traceback, and exit with status 1.
    """
