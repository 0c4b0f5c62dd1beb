-------------------------------- MODULE dengine --------------------------------
(* Elections, replication, commitment, doubt and changes of membership, as DESIGN.md, sections 4 and 5, says.
   Left out, because nothing here depends on them: pre-votes (they change no state), time (leases are in lease.tla),
   compaction and snapshots (an installed snapshot is a prefix of what the leader sent).

   The network is adversarial without a set of messages. log and votes of a leader's term are all that it ever sent:
   llog[T] may be received, up to any entry, at any later time, also when that leader died; acks[T] and votes[T] hold
   every acknowledgement and vote ever sent, and count at any later time. A node that is down does nothing, so a crash
   and the next start are one action. Hard state is always durable; a power loss cuts a log anywhere behind its no-op
   that was synced, and may bring back what was cut before.

   An entry is [t |-> term, c |-> configuration or None]. A configuration is [old, new]: joint while old is not empty. *)
EXTENDS Integers, Sequences, FiniteSets, TLC

CONSTANTS Nodes, None, First,           \* First: the voters that form the cluster
          MaxTerm, MaxLen,              \* both counted with the first election, which is done
          MaxPower, MaxKill, MaxDoubt,  \* power losses, other restarts, voters in doubt at one moment
          Changes,                      \* how often the voters change
          Hears,                        \* do nodes hear of terms? For traces: see Hear
          Variant                       \* "ok", or a rule that is left out

VARIABLES term, log, old, synced, role, marked, target, start, votes, leader, llog, acks, com, power, kill, changes
vars == <<term, log, old, synced, role, marked, target, start, votes, leader, llog, acks, com, power, kill, changes>>

Terms == 1..MaxTerm
Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b
Cut(s, k) == SubSeq(s, 1, k)
Prefix(s, t) == Len(s) <= Len(t) /\ Cut(t, Len(s)) = s
Same(s, t) ==                           \* entries that both begin with
  LET n == Min(Len(s), Len(t)) IN CHOOSE k \in 0..n : Cut(s, k) = Cut(t, k) /\ (k = n \/ s[k + 1] # t[k + 1])
LastTerm(s) == IF s = <<>> THEN 0 ELSE s[Len(s)].t
AtLeast(s, t) == LastTerm(s) > LastTerm(t) \/ (LastTerm(s) = LastTerm(t) /\ Len(s) >= Len(t))
Entry(T) == [t |-> T, c |-> None]

\* A configuration acts from its append: the newest in the log.
Configs(s) == {i \in 1..Len(s) : s[i].c # None}
NewestIndex(s) == CHOOSE i \in Configs(s) : \A j \in Configs(s) : j <= i
Config(s) == s[NewestIndex(s)].c
Voters(s) == Config(s).old \cup Config(s).new
Majority(S, V) == 2 * Cardinality(S \cap V) > Cardinality(V)
Quorum(S, c) == Majority(S, c.new) /\ (c.old = {} \/ Majority(S, c.old) \/ Variant = "one_half_is_enough")
Noop(T) == Len(llog[T]) + 1 - Cardinality({i \in 1..Len(llog[T]) : llog[T][i].t = T})   \* the first entry of T

Forming == [t |-> 1, c |-> [old |-> {}, new |-> First]]
Init ==
  \E l \in First :
    /\ term = [n \in Nodes |-> IF n \in First THEN 1 ELSE 0]
    /\ log = [n \in Nodes |-> IF n \in First THEN <<Forming>> ELSE <<>>]
    /\ old = [n \in Nodes |-> {}]
    /\ synced = [n \in Nodes |-> IF n \in First \ {l} THEN 1 ELSE 0]
    /\ role = [n \in Nodes |-> IF n = l THEN "l" ELSE "f"]
    /\ marked = [n \in Nodes |-> FALSE]
    /\ target = [n \in Nodes |-> 0] /\ start = [n \in Nodes |-> 0]
    /\ votes = [T \in Terms |-> [n \in Nodes |-> IF T = 1 /\ n \in First THEN <<l, FALSE>> ELSE <<>>]]
    /\ leader = [T \in Terms |-> IF T = 1 THEN l ELSE None]
    /\ llog = [T \in Terms |-> IF T = 1 THEN <<Forming>> ELSE <<>>]
    /\ acks = [T \in Terms |-> [n \in Nodes |-> IF T = 1 /\ n \in First \ {l} THEN 1 ELSE 0]]
    /\ com = [T \in Terms |-> IF T = 1 THEN 1 ELSE 0]
    /\ power = 0 /\ kill = 0 /\ changes = 0

\* --------------------------------------------------------------------------------------------------- elections
\* Also a leader, that steps down for it.
Campaign(n) ==
  /\ term[n] < MaxTerm /\ log[n] # <<>> /\ n \in Voters(log[n])
  /\ term' = [term EXCEPT ![n] = @ + 1]
  /\ role' = [role EXCEPT ![n] = "c"]
  /\ target' = [target EXCEPT ![n] = 0]
  /\ votes' = [votes EXCEPT ![term[n] + 1][n] = <<n, marked[n]>>]
  /\ UNCHANGED <<log, old, synced, marked, start, leader, llog, acks, com, power, kill, changes>>

\* Whoever is asked answers, also one that does not know yet that it is a voter.
Vote(n, c) ==
  LET T == term[c] IN
  /\ n # c /\ role[c] = "c" /\ term[n] <= T
  /\ votes[T][n] = <<>> \/ votes[T][n] = <<c, TRUE>>
  /\ AtLeast(log[c], log[n]) \/ Variant = "any_log_wins"
  /\ term' = [term EXCEPT ![n] = T]
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ target' = [target EXCEPT ![n] = IF term[n] < T THEN 0 ELSE @]
  /\ votes' = [votes EXCEPT ![T][n] = <<c, marked[n]>>]
  /\ UNCHANGED <<log, old, synced, marked, start, leader, llog, acks, com, power, kill, changes>>

\* Of a later term, which nobody need have saved; or, in this term, from no quorum any more. It takes away what n might
\* do, and gives nothing, for a leader may campaign: nothing is found with it that is not found without.
Hear(n, T) ==
  /\ Hears
  /\ T > term[n] \/ (T = term[n] /\ role[n] # "f")
  /\ term' = [term EXCEPT ![n] = T]
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ target' = [target EXCEPT ![n] = IF term[n] < T THEN 0 ELSE @]
  /\ UNCHANGED <<log, old, synced, marked, start, votes, leader, llog, acks, com, power, kill, changes>>

\* Won by a quorum that forgot nothing, or by all voters.
Win(c) ==
  LET T == term[c]
      any == {n \in Nodes : votes[T][n] # <<>> /\ votes[T][n][1] = c}
      sure == {n \in any : ~votes[T][n][2]}
      new == Append(log[c], Entry(T)) IN
  /\ role[c] = "c" /\ leader[T] = None /\ Len(log[c]) < MaxLen
  /\ \/ Quorum(IF Variant = "marked_votes_count" THEN any ELSE sure, Config(log[c]))
     \/ Voters(log[c]) \subseteq any
  /\ leader' = [leader EXCEPT ![T] = c]
  /\ role' = [role EXCEPT ![c] = "l"]
  /\ log' = [log EXCEPT ![c] = new]
  /\ llog' = [llog EXCEPT ![T] = new]
  /\ target' = [target EXCEPT ![c] = 0]
  /\ UNCHANGED <<term, old, synced, marked, start, votes, acks, com, power, kill, changes>>

\* The no-op is on the leader's disk, what is behind it maybe not: it acknowledges, and has all that it forgot.
Flush(l) ==
  LET T == term[l] IN
  /\ role[l] = "l" /\ synced[l] < Noop(T)
  /\ synced' = [synced EXCEPT ![l] = Noop(T)]
  /\ old' = [old EXCEPT ![l] = {}]
  /\ acks' = [acks EXCEPT ![T][l] = Len(log[l])]
  /\ marked' = [marked EXCEPT ![l] = FALSE]
  /\ start' = [start EXCEPT ![l] = 0]
  /\ UNCHANGED <<term, log, role, target, votes, leader, llog, com, power, kill, changes>>

\* --------------------------------------------------------------------------------------------------- replication
Extend(l, e) ==
  LET T == term[l] new == Append(log[l], e) IN
  /\ log' = [log EXCEPT ![l] = new]
  /\ llog' = [llog EXCEPT ![T] = new]
  /\ acks' = [acks EXCEPT ![T][l] = IF synced[l] >= Noop(T) THEN Len(new) ELSE @]
  /\ UNCHANGED <<term, old, synced, role, marked, target, start, votes, leader, com, power, kill>>

Propose(l) ==
  /\ role[l] = "l" /\ Len(log[l]) < MaxLen
  /\ Extend(l, Entry(term[l])) /\ UNCHANGED changes

\* n takes what the leader of T sent up to entry e, and acknowledges it; the no-op of T only after a sync.
Accept(n, T, e) ==
  LET s == Cut(llog[T], e)
      new == IF Prefix(s, log[n]) THEN log[n] ELSE s
      tgt == IF term[n] < T THEN 0 ELSE target[n]
      ends == (tgt > 0 /\ e >= tgt) \/ (T > start[n] /\ e >= Noop(T))
      m == marked[n] /\ ~ends
      kept == Min(synced[n], Same(log[n], new))
      sync == e >= Noop(T) /\ kept < Noop(T) IN
  /\ leader[T] \notin {None, n} /\ term[n] <= T
  /\ term' = [term EXCEPT ![n] = T]
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ log' = [log EXCEPT ![n] = new]
  /\ synced' = [synced EXCEPT ![n] = IF sync THEN Noop(T) ELSE kept]
  /\ old' = [old EXCEPT ![n] = IF sync THEN {} ELSE IF Prefix(log[n], new) THEN @ ELSE @ \cup {log[n]}]
  /\ acks' = [acks EXCEPT ![T][n] = Max(@, e)]
  /\ target' = [target EXCEPT ![n] = IF m THEN tgt ELSE 0]
  /\ marked' = [marked EXCEPT ![n] = m]
  /\ start' = [start EXCEPT ![n] = IF m THEN @ ELSE 0]
  /\ UNCHANGED <<votes, leader, llog, com, power, kill, changes>>

\* A quorum of the newest configuration acknowledged an entry of this term. A leader that the change removes does
\* not count itself: it is in neither half.
Commit(l, e) ==
  LET T == term[l] IN
  /\ role[l] = "l" /\ com[T] < e /\ e <= Len(log[l])
  /\ log[l][e].t = T \/ Variant = "earlier_terms_by_counting"
  /\ Quorum({n \in Nodes : acks[T][n] >= e}, Config(log[l]))
  /\ com' = [com EXCEPT ![T] = e]
  /\ role' = [role EXCEPT ![l] = IF Config(Cut(log[l], e)).old = {} /\ l \notin Voters(Cut(log[l], e)) THEN "f" ELSE @]
  /\ UNCHANGED <<term, log, old, synced, marked, target, start, votes, leader, llog, acks, power, kill, changes>>

\* --------------------------------------------------------------------------------------------------- doubt
\* n, in doubt, learns from a leader, in a session opened after n's start, how long its log was then: no shorter than
\* what n acknowledged before, and with the no-op, which goes before all that a leader says.
Contact(n, T, e) ==
  /\ marked[n] /\ leader[T] \notin {None, n} /\ term[n] <= T
  /\ Max(Noop(T), acks[T][n]) <= e /\ e <= Len(llog[T])
  /\ term[n] < T \/ target[n] = 0
  /\ term' = [term EXCEPT ![n] = T]
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ target' = [target EXCEPT ![n] = e]
  /\ UNCHANGED <<log, old, synced, marked, start, votes, leader, llog, acks, com, power, kill, changes>>

Restart(n, new, m) ==
  /\ log' = [log EXCEPT ![n] = new]
  /\ old' = [old EXCEPT ![n] = {}]
  /\ synced' = [synced EXCEPT ![n] = Len(new)]
  /\ role' = [role EXCEPT ![n] = "f"]
  /\ target' = [target EXCEPT ![n] = 0]
  /\ start' = [start EXCEPT ![n] = IF m THEN term[n] ELSE 0]
  /\ marked' = [marked EXCEPT ![n] = m]
  /\ UNCHANGED <<term, votes, leader, llog, acks, com, changes>>

Kill(n) ==
  /\ kill < MaxKill /\ kill' = kill + 1 /\ UNCHANGED power
  /\ Restart(n, log[n], marked[n])

Power(n) ==
  /\ power < MaxPower /\ power' = power + 1 /\ UNCHANGED kill
  /\ Cardinality({x \in Nodes : marked[x]} \cup {n}) <= MaxDoubt
  /\ \E s \in {log[n]} \cup old[n] : \E k \in synced[n]..Len(s) :
       Restart(n, Cut(s, k), Variant # "power_loss_unmarked")

\* --------------------------------------------------------------------------------------------------- membership
\* One change at a time, after an entry of this term is committed (Ongaro's bug of 2015), always joint.
Steady(l) ==
  LET T == term[l] IN
  /\ role[l] = "l"
  /\ com[T] >= Noop(T) \/ Variant = "change_before_noop"
  /\ com[T] >= NewestIndex(log[l]) \/ Variant = "two_changes_at_once"
Change(l, V) ==
  LET c == Config(log[l]) IN
  /\ Steady(l) /\ changes < Changes /\ Len(log[l]) < MaxLen
  /\ c.old = {} /\ V # c.new /\ V # {}
  /\ changes' = changes + 1
  /\ Extend(l, [t |-> term[l], c |-> IF Variant = "not_joint" THEN [old |-> {}, new |-> V]
                                                             ELSE [old |-> c.new, new |-> V]])
Leave(l) ==
  LET c == Config(log[l]) IN
  /\ Steady(l) /\ c.old # {} /\ Len(log[l]) < MaxLen
  /\ Extend(l, [t |-> term[l], c |-> [old |-> {}, new |-> c.new]]) /\ UNCHANGED changes

Next ==
  \E n \in Nodes :
    \/ Campaign(n) \/ Win(n) \/ Flush(n) \/ Propose(n) \/ Kill(n) \/ Power(n) \/ Leave(n)
    \/ \E c \in Nodes : Vote(n, c)
    \/ \E V \in SUBSET Nodes : Change(n, V)
    \/ \E e \in 1..MaxLen : Commit(n, e)
    \/ \E T \in Terms : Hear(n, T) \/ \E e \in 1..Len(llog[T]) : Contact(n, T, e) \/ Accept(n, T, e)

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(First)

\* No committed entry is ever lost: every later leader has it. One leader a term follows from `leader`.
Complete ==
  \A T, U \in Terms : T < U /\ leader[T] # None /\ leader[U] # None => Prefix(Cut(llog[T], com[T]), llog[U])
================================================================================
