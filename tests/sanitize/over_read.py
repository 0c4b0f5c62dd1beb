"""Reads one byte beyond a block, so that a build that would not notice is noticed."""
from tests.sanitize.races import over_read

if __name__ == "__main__":
    over_read(33)
