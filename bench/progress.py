"""What is being measured, and how long it will still take, on a stream for people."""

from typing import TextIO

Key = tuple[str, str]


class Progress:
    """
    Args:
        left_s: what each part is expected to take.
    """

    def __init__(self, left_s: dict[Key, float], stream: TextIO) -> None:
        self._left_s = left_s
        self._stream = stream

    def say(self, what: str) -> None:
        minutes, seconds = divmod(round(sum(self._left_s.values())), 60)
        print(f"[{minutes}:{seconds:02} left] {what}", file=self._stream, flush=True)

    def done(self, key: Key, seconds: float) -> None:
        self._left_s[key] = max(0.0, self._left_s[key] - seconds)

    def drop(self, key: Key) -> None:
        self._left_s.pop(key, None)
