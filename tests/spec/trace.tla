--------------------------------- MODULE trace ---------------------------------
(* Is what a simulated cluster did a behaviour of dengine.tla? Each event of a trace names an action and its arguments;
   where the node was seen after it, the action has to lead to what was seen. See trace.py. *)
EXTENDS dengine

CONSTANT Trace          \* [leader, events, logs]
VARIABLE i              \* its next event

event == Trace.events[i]

Act(e) ==
  \/ e.a = "Campaign" /\ Campaign(e.n)
  \/ e.a = "Vote" /\ Vote(e.n, e.m)
  \/ e.a = "Hear" /\ Hear(e.n, e.m)
  \/ e.a = "Win" /\ Win(e.n)
  \/ e.a = "Flush" /\ Flush(e.n)
  \/ e.a = "Propose" /\ Propose(e.n)
  \/ e.a = "Accept" /\ Accept(e.n, e.m, e.e)
  \/ e.a = "Commit" /\ Commit(e.n, e.e)
  \/ e.a = "Contact" /\ Contact(e.n, e.m, e.e)
  \/ e.a = "Kill" /\ Kill(e.n)
  \/ e.a = "Power" /\ Power(e.n) /\ Len(log'[e.n]) = e.e
  \/ e.a = "Change" /\ Change(e.n, e.V)
  \/ e.a = "Leave" /\ Leave(e.n)

\* <<term, length of the log, its last term, in doubt, leading, commit>>
Matches(n, seen) ==
  /\ term'[n] = seen[1] /\ Len(log'[n]) = seen[2] /\ LastTerm(log'[n]) = seen[3]
  /\ (marked'[n] => seen[4]) = TRUE
  /\ (role'[n] = "l") = seen[5]
  /\ seen[6] = 0 \/ \E T \in Terms : com'[T] >= seen[6]

AtEnd == /\ \A n \in Nodes : [j \in 1..Len(log'[n]) |-> log'[n][j].t] = Trace.logs[n]
         /\ Complete'

TraceInit == Init /\ i = 1 /\ role[Trace.leader] = "l"
TraceNext ==
  /\ i <= Len(Trace.events)
  /\ Act(event)
  /\ IF event.seen = <<>> THEN TRUE ELSE Matches(event.n, event.seen)
  /\ i = Len(Trace.events) => AtEnd
  /\ PrintT(<<"passed", i>>)
  /\ i' = i + 1
TraceSpec == TraceInit /\ [][TraceNext]_<<vars, i>>
================================================================================
