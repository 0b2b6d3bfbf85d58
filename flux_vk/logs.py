"""Logging of the command lines: the `flux_vk` logger to standard error, at the level named by FLUX_VK_LOG.

Not for: library use. A program that imports flux_vk sets up `logging` itself; nothing here runs on import.
"""

from __future__ import annotations

import logging
import sys

from flux_vk.settings import settings

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname).1s %(name)s: %(message)s"


class _StderrHandler(logging.Handler):
    """Writes to whatever sys.stderr is at the time of the message, so redirected output is followed."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # logging's rule: a message that cannot be written never stops the program
            self.handleError(record)


def setup_logging(level: str | None = None) -> logging.Logger:
    """Send flux_vk's log messages to standard error and return the `flux_vk` logger.

    `level` is a word of settings.LOG_LEVELS; None reads FLUX_VK_LOG (default "warning"). Calling it again
    only changes the level. Raises InputError when FLUX_VK_LOG holds no known level.
    """
    logger = logging.getLogger("flux_vk")
    logger.setLevel((level or settings().log).upper())
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
    return logger
