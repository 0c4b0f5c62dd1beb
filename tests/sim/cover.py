"""What a campaign must have met at least once: otherwise it did not test what it says."""

EXPECTED = (
    *(f"frame: {kind}" for kind in (
        "hello", "vote", "voted", "append", "heard", "durable", "forward", "refused", "read",
        "granted", "offer", "fetch", "piece", "timeout now", "named")),
    *(f"role: {change}" for change in (
        "follower -> precandidate", "precandidate -> follower", "precandidate -> candidate",
        "candidate -> follower", "candidate -> leader", "leader -> follower")),
    "kill", "clean stop", "power cut", "power cut in a sync", "power cut after a kill", "pause",
    "suspend", "stall", "cut", "cut one way", "one isolated", "partition", "ring", "disconnect",
    "sync error", "write error", "torn write", "full disk", "full disk noticed",
    "full disk has room again", "full disk: entries left out", "bit flip in one copy of meta",
    "bit flip in a record", "bit flip in a snapshot", "hard state lost", "rejoined",
    "stopped by its disk", "start: an empty directory", "start: nothing to repair",
    "start: a torn tail cut", "start: in doubt", "start: from a snapshot",
    "snapshot taken", "snapshot failed", "snapshot installed",
    "log compacted", "segment recycled", "log cut", "election by all, marked",
    "committed entries that no disk had",
    "frame lost", "frame repeated", "frame overtaken", "frame damaged", "frame refused",
    "client gave up", "client repeated", "write sent again",
    "Idempotency-Key again", "Idempotency-Key forgotten",
    "transfer begun", "transfer refused", "role: leader -> candidate",
    *(f"answer: {status}" for status in (
        "ok", "missing", "conflict", "not proposed", "unknown", "unavailable", "no space")),
    "standing: one down", "standing: leader cut from one", "standing: one way to leader",
    "standing: slow disk",
)
