"""What the kernel is asked about a whole process."""

def lock_memory(future: bool) -> None:
    """Keep this process's memory from being paged out, with ``future`` what it will have as well; children ask anew. Raises OSError."""

def allow_core_dumps() -> None:
    """After a change of user the kernel writes no core of a process, unless that asks for it. Raises OSError."""
