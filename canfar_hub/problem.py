"""What the user of the command line can mend."""


class Problem(Exception):
    """`str()` is one sentence that says what is wrong and what to do."""
