--------------------------------- MODULE lease ---------------------------------
(* The rules Promise, Start, Transfer and LeaseRead of DESIGN.md, section 5, and a transfer that is taken back. That a
   leader's log has every acknowledged entry is dengine.tla's and taken for granted: any node may win, and its no-op
   brings it up to date.
   Time is real time in ticks. Drift is taken at its worst: every promise is the shortest that the drift allows (PMin),
   every lease the longest (LMax). Messages live for ever: sent[T] are the rounds of T's leader, heard[T] the echoes,
   tnow the TimeoutNow messages; each may arrive at any later time. *)
EXTENDS Integers, Sequences, FiniteSets, TLC
CONSTANTS Nodes, None, MaxNow, MaxTerm, MaxRounds, MaxRestart, MaxTransfer, PMin, LMax, Variant
VARIABLES now, term, role, votes, leader, forced, sent, heard, conf, lease, given, noop, val, acked, promise, starts,
          tnow, restarts
vars == <<now, term, role, votes, leader, forced, sent, heard, conf, lease, given, noop, val, acked, promise, starts,
          tnow, restarts>>
Terms == 1..MaxTerm
Maj == Cardinality(Nodes) \div 2 + 1
Max(a, b) == IF a > b THEN a ELSE b

Init ==
  \E l \in Nodes :
    /\ now = 0 /\ acked = 0 /\ restarts = 0 /\ tnow = {}
    /\ term = [n \in Nodes |-> 1]
    /\ role = [n \in Nodes |-> IF n = l THEN "l" ELSE "f"]
    /\ votes = [T \in Terms |-> [n \in Nodes |-> IF T = 1 THEN l ELSE None]]
    /\ leader = [T \in Terms |-> IF T = 1 THEN l ELSE None]
    /\ forced = [T \in Terms |-> {}]
    /\ sent = [T \in Terms |-> <<>>]
    /\ heard = [T \in Terms |-> [n \in Nodes |-> 0]]
    /\ conf = [n \in Nodes |-> 0]               \* newest round confirmed at leader n
    /\ lease = [n \in Nodes |-> 0]              \* its end
    /\ given = [n \in Nodes |-> FALSE]          \* given up by a transfer
    /\ noop = [n \in Nodes |-> FALSE]           \* the no-op of its term is committed
    /\ val = [n \in Nodes |-> 0]                \* writes in the state it reads from
    /\ promise = [n \in Nodes |-> 0] /\ starts = [n \in Nodes |-> 0]

Holds(n) == role[n] = "l" /\ now < lease[n] /\ ~given[n]
Reads(n) == Holds(n) /\ (noop[n] \/ Variant = "read_before_noop")

Stand(c, f) ==
  /\ role[c] # "l" /\ term[c] < MaxTerm
  /\ term' = [term EXCEPT ![c] = @ + 1]
  /\ role' = [role EXCEPT ![c] = "c"]
  /\ votes' = [votes EXCEPT ![term[c] + 1][c] = c]
  /\ forced' = [forced EXCEPT ![term[c] + 1] = IF f THEN @ \cup {c} ELSE @]
  /\ UNCHANGED <<now, leader, sent, heard, conf, lease, given, noop, val, acked, promise, starts, tnow, restarts>>
Free(n) == now >= promise[n] /\ now >= starts[n]
\* The transfer failed: the leader that gave up its lease stands itself, forced.
TakeBack(c) ==
  /\ role[c] = "l" /\ given[c] /\ term[c] < MaxTerm
  /\ term' = [term EXCEPT ![c] = @ + 1]
  /\ role' = [role EXCEPT ![c] = "c"]
  /\ votes' = [votes EXCEPT ![term[c] + 1][c] = c]
  /\ forced' = [forced EXCEPT ![term[c] + 1] = @ \cup {c}]
  /\ UNCHANGED <<now, leader, sent, heard, conf, lease, given, noop, val, acked, promise, starts, tnow, restarts>>
Campaign(c) == Free(c) /\ Stand(c, FALSE)
Obey(c) == (<<term[c], c>> \in tnow \/ (Variant = "late_timeoutnow" /\ \E T \in Terms : <<T, c>> \in tnow)) /\ Stand(c, TRUE)

Vote(n, c) ==
  LET T == term[c] IN
  /\ n # c /\ role[c] = "c" /\ term[n] <= T /\ (term[n] = T => votes[T][n] = None)
  /\ c \in forced[T] \/ (Free(n) /\ ~Holds(n))
  /\ term' = [term EXCEPT ![n] = T]
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ votes' = [votes EXCEPT ![T][n] = c]
  /\ UNCHANGED <<now, leader, forced, sent, heard, conf, lease, given, noop, val, acked, promise, starts, tnow, restarts>>

Win(c) ==
  LET T == term[c] IN
  /\ role[c] = "c" /\ leader[T] = None
  /\ Cardinality({n \in Nodes : votes[T][n] = c}) >= Maj
  /\ leader' = [leader EXCEPT ![T] = c]
  /\ role' = [role EXCEPT ![c] = "l"]
  /\ conf' = [conf EXCEPT ![c] = 0] /\ lease' = [lease EXCEPT ![c] = 0]
  /\ given' = [given EXCEPT ![c] = FALSE] /\ noop' = [noop EXCEPT ![c] = FALSE]
  /\ UNCHANGED <<now, term, votes, forced, sent, heard, val, acked, promise, starts, tnow, restarts>>

\* The first commit of a term is its no-op, each further one a client's write.
Commit(l) ==
  /\ role[l] = "l" /\ Cardinality({n \in Nodes : term[n] = term[l]}) >= Maj
  /\ IF noop[l] THEN acked < MaxTerm /\ acked' = acked + 1 ELSE UNCHANGED acked
  /\ val' = [val EXCEPT ![l] = acked']
  /\ noop' = [noop EXCEPT ![l] = TRUE]
  /\ UNCHANGED <<now, term, role, votes, leader, forced, sent, heard, conf, lease, given, promise, starts, tnow, restarts>>

Round(l) ==
  LET T == term[l] IN
  /\ role[l] = "l" /\ Len(sent[T]) < MaxRounds
  /\ sent' = [sent EXCEPT ![T] = Append(@, now)]
  /\ heard' = [heard EXCEPT ![T][l] = Len(sent[T]) + 1]
  /\ UNCHANGED <<now, term, role, votes, leader, forced, conf, lease, given, noop, val, acked, promise, starts, tnow, restarts>>

Hear(n, T, r) ==
  /\ leader[T] \notin {None, n} /\ term[n] <= T
  /\ term' = [term EXCEPT ![n] = T]
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ promise' = [promise EXCEPT ![n] = now + PMin]
  /\ heard' = [heard EXCEPT ![T][n] = Max(@, r)]
  /\ UNCHANGED <<now, votes, leader, forced, sent, conf, lease, given, noop, val, acked, starts, tnow, restarts>>

Confirm(l, r) ==
  LET T == term[l] IN
  /\ role[l] = "l" /\ r > conf[l] /\ Cardinality({n \in Nodes : heard[T][n] >= r}) >= Maj
  /\ conf' = [conf EXCEPT ![l] = r]
  /\ lease' = [lease EXCEPT ![l] = (IF Variant = "lease_from_reply" THEN now ELSE sent[T][r]) + LMax]
  /\ UNCHANGED <<now, term, role, votes, leader, forced, sent, heard, given, noop, val, acked, promise, starts, tnow, restarts>>

Transfer(l, c) ==
  /\ role[l] = "l" /\ c # l /\ Cardinality(tnow) < MaxTransfer
  /\ tnow' = tnow \cup {<<term[l], c>>}
  /\ given' = [given EXCEPT ![l] = TRUE]
  /\ UNCHANGED <<now, term, role, votes, leader, forced, sent, heard, conf, lease, noop, val, acked, promise, starts, restarts>>
Resume(l) ==            \* the transfer timed out
  /\ Variant = "lease_resumes_after_transfer" /\ given[l]
  /\ given' = [given EXCEPT ![l] = FALSE]
  /\ UNCHANGED <<now, term, role, votes, leader, forced, sent, heard, conf, lease, noop, val, acked, promise, starts, tnow, restarts>>

Restart(n) ==
  /\ restarts < MaxRestart /\ restarts' = restarts + 1
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ promise' = [promise EXCEPT ![n] = 0]
  /\ starts' = [starts EXCEPT ![n] = IF Variant = "no_start_rule" THEN 0 ELSE now + PMin]
  /\ UNCHANGED <<now, term, votes, leader, forced, sent, heard, conf, lease, given, noop, val, acked, tnow>>

Tick == now < MaxNow /\ now' = now + 1
        /\ UNCHANGED <<term, role, votes, leader, forced, sent, heard, conf, lease, given, noop, val, acked, promise, starts, tnow, restarts>>

Next == Tick \/ \E n \in Nodes :
  \/ Campaign(n) \/ TakeBack(n) \/ Obey(n) \/ Win(n) \/ Commit(n) \/ Round(n) \/ Resume(n) \/ Restart(n)
  \/ \E c \in Nodes : Vote(n, c) \/ Transfer(n, c)
  \/ \E r \in 1..MaxRounds : Confirm(n, r)
  \/ \E T \in Terms : \E r \in 1..Len(sent[T]) : Hear(n, T, r)
Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Nodes)

\* Whoever may answer a lease read has every acknowledged write.
Fresh == \A n \in Nodes : Reads(n) => val[n] = acked
================================================================================
