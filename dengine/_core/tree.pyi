def limit_allocations(n: int = ...) -> None:
    """Lets n allocations of the store succeed and none after them (tests)."""
