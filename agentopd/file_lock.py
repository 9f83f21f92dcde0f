"""Locks on open files, of which the kernel gives back each when its process ends, however it ends."""

import errno
import sys
from typing import IO, Any

HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
"""What systems say where another process holds a lock."""
_BEYOND = 1 << 40
"""A place past any content, which others may then still read."""

if sys.platform == "win32":
    import msvcrt

    def take(file: IO[Any]) -> None:
        """Locks a file as a whole, until it is closed; raises OSError, of :data:`HELD` where another holds it."""
        take_byte(file, _BEYOND)
        file.seek(0)

    def take_turn(file: IO[Any]) -> None:
        """Does nothing: there a file's lock is waited for some seconds alone."""

    def take_byte(file: IO[Any], place: int) -> None:
        """Locks a byte of a file, which need not be there; raises OSError as :func:`take`."""
        file.seek(place)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def give_back_byte(file: IO[Any], place: int) -> None:
        """Ends what :func:`take_byte` began."""
        file.seek(place)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def take(file: IO[Any]) -> None:
        """Locks a file as a whole, until it is closed; raises OSError, of :data:`HELD` where another holds it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def take_turn(file: IO[Any]) -> None:
        """Locks a file as a whole, once no other holds it."""
        fcntl.flock(file, fcntl.LOCK_EX)

    def take_byte(file: IO[Any], place: int) -> None:
        """Locks a byte of a file, which need not be there; raises OSError as :func:`take`."""
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)

    def give_back_byte(file: IO[Any], place: int) -> None:
        """Ends what :func:`take_byte` began."""
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)
