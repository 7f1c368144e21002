"""TensorFlow in a process that was forked after it was used: there it computes nothing, and waits for ever."""

from __future__ import annotations

import os

from tensorflow.python.eager import context

from fe_gradcam.errors import UnsupportedModelError


class Forks:
    """Whether this process was forked from one in which TensorFlow had been used.

    The threads in which TensorFlow computes are not there in the child, and the first operation waits for them. So
    this is no fault that can be mended from outside: an error says what to do.
    """

    after_use = False

    @classmethod
    def look(cls) -> None:
        """Called in every forked child of this process."""
        cls.after_use = cls.after_use or bool(getattr(context.context(), "_initialized", False))

    @classmethod
    def check(cls) -> None:
        """Raises UnsupportedModelError in such a process."""
        if cls.after_use:
            raise UnsupportedModelError(
                "TensorFlow was used before this process was forked, and in a forked process it then waits for ever. "
                "Start processes anew: multiprocessing.get_context('spawn'), which ProcessPoolExecutor takes as "
                "mp_context= and DataLoader as multiprocessing_context=."
            )


if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(after_in_child=Forks.look)
