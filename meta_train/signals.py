"""What a person or a batch system asks of a run in progress, by signals."""

import signal
import threading


class Signals:
    """Notes what signals ask for; a second SIGINT interrupts at once.

    Attributes:
      stop: SIGTERM or SIGINT once one has come.
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

    def take_save(self) -> bool:
        """Whether SIGUSR1 came since last asked."""
        save, self._save = self._save, False
        return save
