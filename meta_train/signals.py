"""What a person or a batch system asks of a run in progress, by signals.

Signals are only noted; the run asks for them between the long things it does. Of
several processes one signal to one of them is enough.
"""

import signal
import threading

from meta_train import distributed


class Signals:
    """Notes what signals ask for; a second SIGINT interrupts at once.

    Attributes:
      stop: SIGTERM or SIGINT once one has come; to other processes after `agree`.
    """

    _CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self):
        """Note nothing before it is entered."""
        self.stop: int | None = None
        self._save = False
        self._previous = {}

    def __enter__(self):
        """Catch signals, in the main thread only: others cannot."""
        if threading.current_thread() is threading.main_thread():
            for number in self._CAUGHT:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        """Hand signals back to who had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number, frame):
        del frame
        if number == signal.SIGUSR1:
            self._save = True
        elif number == self.stop == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.stop = number

    def agree(self) -> None:
        """Make all processes know of what has come to any; all must call it alike."""
        stop, save = distributed.largest([self.stop or 0, self._save])
        self.stop = self.stop or stop or None
        self._save = bool(save)

    def take_save(self) -> bool:
        """Whether SIGUSR1 came since last asked."""
        save, self._save = self._save, False
        return save
