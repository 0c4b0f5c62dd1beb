"""The judge of `dengine check` against recovery: the same histories, the same log, or none."""
from __future__ import annotations

import pytest

from dengine.findings import Severity
from dengine.judge import Examination
from tests.core.histories import History
from tests.core.small_logs import FIRST_CRC
from tests.torture.start import reader_of

SEEDS = 300
BATCHES = 3


class Judged(History):
    """Before each start the directory is examined, and must be what the start then finds."""

    judged = 0
    repairs = 0

    def recover(self) -> None:
        writes = self.disk.calls("write")
        found = Examination(reader_of(self.disk), b"").judge(False, self.disk.names("log"), [])
        assert self.disk.calls("write") == writes
        findings = [f for f in found.findings   # there is no `meta` here, and no command
                    if f.file != "meta" and "payload" not in f.means]
        super().recover()
        worst = max((f.severity for f in findings), default=Severity.FINE)
        if worst == Severity.UNREADABLE:        # the disk failed a call
            return
        assert worst != Severity.CORRUPT, findings
        assert (found.last, found.crc or FIRST_CRC) == (self.log.last, self.log.last_crc)
        assert [(s.epoch, s.size, s.first, s.kept - s.first + 1) for s in found.live] == [
            segment[:4] for segment in self.log.segments]
        self.judged += 1
        self.repairs += worst == Severity.REPAIRABLE
        if any("torn tail" in f.means for f in findings):
            assert any("torn tail" in note for note in self.log.found.notes)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_start_finds_what_check_says(batch: int) -> None:
    judged = repairs = 0
    for seed in range(batch * SEEDS // BATCHES, (batch + 1) * SEEDS // BATCHES):
        history = Judged(seed)
        for _ in range(6):
            try:
                history.live(history.random.choice([5, 20, 60]))
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error
        judged += history.judged
        repairs += history.repairs
    assert judged > 500
    assert repairs > 20
