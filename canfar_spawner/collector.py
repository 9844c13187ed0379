"""When Python's collector looks through all objects: between starts, since that stops the hub's loop.

With a thousand sessions a full run takes 0.2 s. By itself it comes in the midst of what makes objects: many
starts at once.
"""

from __future__ import annotations

import gc

_DUE = 50
"""Runs over young objects that a full run is worth: a few hundred thousand objects may have become garbage."""
_OVERDUE = 2000
"""After so many there is a full run whoever waits: memory has an end, too."""


def spare_the_loop() -> None:
    """Has no full run come by itself unless it is overdue. What a hub loads at its start is no garbage."""
    first, second, _ = gc.get_threshold()
    gc.set_threshold(first, second, _OVERDUE)


def settle() -> None:
    """Spares later runs what the hub has loaded by now."""
    gc.collect()
    gc.freeze()


def rest(*, busy: bool) -> None:
    """Makes a full run if one is due and nobody waits for a start."""
    if not busy and gc.get_count()[2] >= _DUE:
        gc.collect()
