from typing import final

__all__ = ["TaskConnections"]

@final
class TaskConnections:
    def __len__(self) -> int: ...
