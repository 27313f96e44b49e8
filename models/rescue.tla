------------------------------- MODULE rescue -------------------------------
(* The rescue of a dead client's job, and the fence of outcomes. One job, clients that fetch it, and one leader.                *)
(* A statement of a client has steps of its own: it takes its now() when it begins, others see it when it commits, and its      *)
(* answer comes later or never. `now` is the clock of the database. A tick is long: statements within one have equal instants.  *)
EXTENDS Naturals, FiniteSets

CONSTANTS
  Clients,
  Faulty,        \* clients that may miss heartbeats; the others always send theirs
  Patience,      \* without a heartbeat for longer, a client counts as dead
  MaxNow, MaxFetches,
  HeartbeatMax,  \* a client gives up a heartbeat that takes longer
  HasReturns,    \* whether a client that may miss heartbeats sends any, and searches for lost fetches
  HasOutcomes,   \* whether attempts end
  HasLateFetch,  \* whether the server may run a fetch after its client has given it up
  HasLateHeartbeat,
  Fails,         \* whether attempts may fail, so that the job is available again
  Without        \* the guards that a mutant leaves out

Has(guard) == guard \notin Without
Never == 0       \* instants begin at 1
Max(a, b) == IF a > b THEN a ELSE b
Minus(a, b) == IF a > b THEN a - b ELSE 0

VARIABLES
  now,
  job,           \* its row; `n` is a ghost that numbers the attempts
  row,           \* of each client in millhand_client: last_seen_at and lost_at
  fetch,         \* of each client: the fetch under way
  search,        \* of each client: whether it searches for a lost fetch, and what the search has read
  beat,          \* of each client: the heartbeat under way
  lateBeat,      \* of each client: the instant of a heartbeat that the client has given up, and the server has not run
  memory,        \* of each client: what it remembers
  attempts,      \* of each client: the attempts that it runs
  outbox,        \* of each client: the attempts that have ended, and whose outcome it writes
  declaration,   \* the statement that declares a client dead
  suspects, stranded,  \* what the leader has read
  rescued,       \* ghost: the attempts that were rescued
  faults         \* ghost: the names of what must never happen

vars == <<now, job, row, fetch, search, beat, lateBeat, memory, attempts, outbox, declaration, suspects, stranded, rescued, faults>>
clientVars == <<fetch, search, beat, lateBeat, memory, attempts, outbox>>
leaderVars == <<declaration, suspects, stranded>>

NoFetch == [phase |-> "none", at |-> Never, n |-> 0, gone |-> FALSE]
NoSearch == [on |-> FALSE, found |-> {}]
NoBeat == [phase |-> "none", at |-> Never, seen |-> Never, lost |-> Never, before |-> {}]
NoDeclaration == [of |-> "none", at |-> Never]

IsGone(c) == row[c].lost > row[c].seen
IsOverdue(c, at) == row[c].seen + Patience < at
Fault(name, when) == faults' = IF when THEN faults \cup {name} ELSE faults

Init ==
  /\ now = 1
  /\ job = [state |-> "available", at |-> Never, by |-> "none", n |-> 0]
  /\ row = [c \in Clients |-> [seen |-> 1, lost |-> Never]]
  /\ fetch = [c \in Clients |-> NoFetch]
  /\ search = [c \in Clients |-> NoSearch]
  /\ beat = [c \in Clients |-> NoBeat]
  /\ lateBeat = [c \in Clients |-> Never]
  \* lost: the last lost_at; before, inFlight: jobs from before are others' (Producer._lost_before, _lost_while_fetching);
  \* fetchedAt: the newest fetch; known: what it has started; told (a ghost): what was rescued before its last answered heartbeat.
  /\ memory = [c \in Clients |-> [lost |-> Never, before |-> Never, inFlight |-> Never, fetchedAt |-> Never,
                                  known |-> {}, told |-> {}]]
  /\ attempts = [c \in Clients |-> {}]
  /\ outbox = [c \in Clients |-> {}]
  /\ declaration = NoDeclaration /\ suspects = {} /\ stranded = {}
  /\ rescued = {} /\ faults = {}

Tick == /\ now < MaxNow /\ now' = now + 1
        /\ UNCHANGED <<job, row, clientVars, leaderVars, rescued, faults>>

-----------------------------------------------------------------------------
(* producer.py, lost_fetch_search.py *)

\* No two fetches of a client have one instant: those are microseconds.
FetchBegin(c) ==
  /\ fetch[c].phase = "none" /\ now > memory[c].fetchedAt /\ job.n < MaxFetches
  /\ fetch' = [fetch EXCEPT ![c] = [phase |-> "sent", at |-> now, n |-> 0, gone |-> IsGone(c) \/ declaration.of = c]]
  /\ memory' = [memory EXCEPT ![c].fetchedAt = now, ![c].inFlight = Never]
  /\ UNCHANGED <<now, job, row, search, beat, lateBeat, attempts, outbox, leaderVars, rescued, faults>>

FetchCommit(c) ==
  /\ fetch[c].phase = "sent" /\ job.state = "available" /\ job.n < MaxFetches
  /\ job' = [state |-> "running", at |-> fetch[c].at, by |-> c, n |-> job.n + 1]
  /\ fetch' = [fetch EXCEPT ![c].phase = "done", ![c].n = job.n + 1]
  /\ UNCHANGED <<now, row, search, beat, lateBeat, memory, attempts, outbox, leaderVars, rescued, faults>>

FetchNothing(c) ==
  /\ fetch[c].phase = "sent"
  /\ fetch' = [fetch EXCEPT ![c] = NoFetch]
  /\ UNCHANGED <<now, job, row, search, beat, lateBeat, memory, attempts, outbox, leaderVars, rescued, faults>>

\* The client starts the attempts of a fetch or of a search. It cancels those from before `lost` at once.
Start(c, new, lost) ==
  /\ attempts' = [attempts EXCEPT ![c] = @ \cup {[at |-> a.at, n |-> a.n, gone |-> a.gone, off |-> a.at < lost] : a \in new}]
  /\ Fault("started twice", \E a \in new : a.n \in memory[c].known)

FetchAnswer(c) ==
  /\ fetch[c].phase = "done"
  /\ Start(c, {[at |-> fetch[c].at, n |-> fetch[c].n, gone |-> fetch[c].gone]},
           IF Has("answers of fetches are compared with the death") THEN memory[c].inFlight ELSE Never)
  /\ memory' = [memory EXCEPT ![c].known = @ \cup {fetch[c].n}]
  /\ fetch' = [fetch EXCEPT ![c] = NoFetch]
  /\ UNCHANGED <<now, job, row, search, beat, lateBeat, outbox, leaderVars, rescued>>

FetchLost(c) ==
  /\ HasReturns /\ fetch[c].phase # "none"
  /\ fetch' = [fetch EXCEPT ![c] = NoFetch]
  /\ search' = [search EXCEPT ![c].on = TRUE]
  /\ UNCHANGED <<now, job, row, beat, lateBeat, memory, attempts, outbox, leaderVars, rescued, faults>>

\* The kernel has sent the fetch again, after the client gave it up.
LateFetch(c) ==
  /\ HasLateFetch /\ search[c].on /\ job.state = "available" /\ job.n < MaxFetches /\ now > memory[c].fetchedAt
  /\ job' = [state |-> "running", at |-> now, by |-> c, n |-> job.n + 1]
  /\ memory' = [memory EXCEPT ![c].fetchedAt = now]  \* a ghost here: the client does not know
  /\ UNCHANGED <<now, row, fetch, search, beat, lateBeat, attempts, outbox, leaderVars, rescued, faults>>

SearchRead(c) ==
  /\ search[c].on /\ search[c].found = {} /\ fetch[c].phase = "none"
  /\ job.state = "running" /\ job.by = c
  /\ search' = [search EXCEPT ![c].found = {[at |-> job.at, n |-> job.n, gone |-> TRUE]}]
  /\ UNCHANGED <<now, job, row, fetch, beat, lateBeat, memory, attempts, outbox, leaderVars, rescued, faults>>

SearchAnswer(c) ==
  LET new == {a \in search[c].found : a.n \notin memory[c].known \/ ~Has("searches leave out known attempts")} IN
  /\ search[c].found # {}
  /\ Start(c, new, IF Has("jobs of searches are compared with the death") THEN memory[c].before ELSE Never)
  /\ memory' = [memory EXCEPT ![c].known = @ \cup {a.n : a \in new}]
  /\ search' = [search EXCEPT ![c].found = {}]
  /\ UNCHANGED <<now, job, row, fetch, beat, lateBeat, outbox, leaderVars, rescued>>

-----------------------------------------------------------------------------
(* client_heartbeat.py *)

BeatBegin(c) ==
  /\ HasReturns /\ beat[c].phase = "none"
  /\ beat' = [beat EXCEPT ![c] = [NoBeat EXCEPT !.phase = "sent", !.at = now, !.before = rescued]]
  /\ UNCHANGED <<now, job, row, fetch, search, lateBeat, memory, attempts, outbox, leaderVars, rescued, faults>>

SeenBy(c, at) == IF Has("heartbeats are no earlier than the death") THEN Max(at, row[c].lost) ELSE at

BeatCommit(c) ==
  /\ beat[c].phase = "sent"
  /\ row' = [row EXCEPT ![c].seen = SeenBy(c, beat[c].at)]
  /\ beat' = [beat EXCEPT ![c].phase = "done", ![c].seen = SeenBy(c, beat[c].at), ![c].lost = row[c].lost]
  /\ UNCHANGED <<now, job, fetch, search, lateBeat, memory, attempts, outbox, leaderVars, rescued, faults>>

\* Producer.cancel_lost. Others gave jobs away until the heartbeat was committed, at most `took` after its instant.
BeatAnswer(c) ==
  LET b == beat[c]
      took == IF Has("the heartbeat's duration counts") THEN now - b.at ELSE 0
      sinceSilence == IF Has("late fetches of a dead client count") THEN Minus(b.seen + took, Patience) ELSE 0
      before == IF Has("later fetches are kept") THEN Max(b.lost, sinceSilence) ELSE MaxNow + 1
      isNews == b.lost # Never /\ b.lost # memory[c].lost IN
  /\ b.phase = "done" /\ now <= b.at + HeartbeatMax
  /\ attempts' = IF isNews
                 THEN [attempts EXCEPT ![c] = {[a EXCEPT !.off = @ \/ a.at < before] : a \in attempts[c]}]
                 ELSE attempts
  /\ memory' = [memory EXCEPT ![c].lost = b.lost, ![c].told = b.before,
                              ![c].before = IF isNews THEN before ELSE @,
                              ![c].inFlight = IF isNews THEN before ELSE @]
  /\ beat' = [beat EXCEPT ![c] = NoBeat]
  /\ UNCHANGED <<now, job, row, fetch, search, lateBeat, outbox, leaderVars, rescued, faults>>

BeatGivenUp(c) ==
  /\ beat[c].phase # "none" /\ now > beat[c].at + HeartbeatMax
  /\ lateBeat' = [lateBeat EXCEPT ![c] = IF HasLateHeartbeat /\ beat[c].phase = "sent" THEN beat[c].at ELSE @]
  /\ beat' = [beat EXCEPT ![c] = NoBeat]
  /\ UNCHANGED <<now, job, row, fetch, search, memory, attempts, outbox, leaderVars, rescued, faults>>

LateBeatCommit(c) ==
  /\ lateBeat[c] # Never
  /\ row' = [row EXCEPT ![c].seen = SeenBy(c, lateBeat[c])]
  /\ lateBeat' = [lateBeat EXCEPT ![c] = Never]
  /\ UNCHANGED <<now, job, fetch, search, beat, memory, attempts, outbox, leaderVars, rescued, faults>>

-----------------------------------------------------------------------------
(* client_rescuer.py: client_declare_lost in two passes, job_get_stranded, job_rescue_stranded_many. It may stand still between any two. *)

Suspect ==
  /\ declaration = NoDeclaration
  /\ suspects' = {c \in Faulty : ~IsGone(c) /\ IsOverdue(c, now)} /\ suspects' # suspects
  /\ UNCHANGED <<now, job, row, clientVars, declaration, stranded, rescued, faults>>

DeclareBegin(c) ==
  /\ declaration = NoDeclaration /\ c \in suspects /\ ~IsGone(c) /\ IsOverdue(c, now)
  /\ declaration' = [of |-> c, at |-> now]
  /\ suspects' = suspects \ {c}
  /\ UNCHANGED <<now, job, row, clientVars, stranded, rescued, faults>>

DeclareCommit ==
  LET c == declaration.of
      holds == IsOverdue(c, declaration.at) \/ ~Has("declarations check the locked row") IN
  /\ declaration # NoDeclaration
  /\ row' = IF holds THEN [row EXCEPT ![c].lost = declaration.at] ELSE row
  /\ Fault("declared dead despite a heartbeat", holds /\ ~IsOverdue(c, declaration.at))
  /\ declaration' = NoDeclaration
  /\ UNCHANGED <<now, job, clientVars, suspects, stranded, rescued>>

\* Jobs that a client has fetched since it died are given away a while later: the fetch was on its way.
EndOf(c) ==
  IF ~IsGone(c) THEN row[c].lost
  ELSE IF Has("fetches on their way have the patience") THEN Max(row[c].lost, Minus(now, Patience)) ELSE now + 1

ReadStranded ==
  /\ job.state = "running" /\ row[job.by].lost # Never
  /\ job.at < EndOf(job.by) \/ ~Has("only jobs from before the death are rescued")
  /\ stranded' = {[at |-> job.at, by |-> job.by, n |-> job.n]} /\ stranded' # stranded
  /\ Fault("a returned client's job was taken", ~IsGone(job.by) /\ job.at >= row[job.by].lost)
  /\ UNCHANGED <<now, job, row, clientVars, declaration, suspects, rescued>>

Rescue ==
  /\ \E read \in stranded :
       /\ job.state = "running"
       /\ (job.at = read.at /\ job.by = read.by) \/ ~Has("rescues compare the attempt")
       /\ job' = [job EXCEPT !.state = "available"]
       /\ rescued' = rescued \cup {job.n}
       /\ Fault("another attempt was rescued", job.n # read.n)
  /\ stranded' = {}
  /\ UNCHANGED <<now, row, clientVars, declaration, suspects>>

-----------------------------------------------------------------------------
(* completer.py *)

End(c) ==
  /\ HasOutcomes
  /\ \E a \in attempts[c] :
       /\ attempts' = [attempts EXCEPT ![c] = @ \ {a}]
       /\ outbox' = [outbox EXCEPT ![c] = @ \cup {[at |-> a.at, n |-> a.n]}]
  /\ UNCHANGED <<now, job, row, fetch, search, beat, lateBeat, memory, leaderVars, rescued, faults>>

\* If the answer is lost, the outcome stays, and the completer writes it again.
WriteOutcome(c) ==
  /\ \E a \in outbox[c], state \in {"completed"} \cup (IF Fails THEN {"available"} ELSE {}), isLost \in BOOLEAN :
       LET counts == /\ job.state = "running" \/ ~Has("only running jobs get an outcome")
                     /\ job.at = a.at \/ ~Has("outcomes name the instant of the fetch")
                     /\ job.by = c \/ ~Has("outcomes name the client") IN
       /\ job' = IF counts THEN [job EXCEPT !.state = state] ELSE job
       /\ Fault("an outcome counts for another attempt", counts /\ (job.n # a.n \/ job.state # "running"))
       /\ outbox' = IF isLost THEN outbox ELSE [outbox EXCEPT ![c] = @ \ {a}]
  /\ UNCHANGED <<now, row, fetch, search, beat, lateBeat, memory, attempts, leaderVars, rescued>>

-----------------------------------------------------------------------------
Next ==
  \/ Tick \/ Suspect \/ DeclareCommit \/ ReadStranded \/ Rescue
  \/ \E c \in Clients : FetchBegin(c) \/ FetchCommit(c) \/ FetchNothing(c) \/ FetchAnswer(c) \/ End(c) \/ WriteOutcome(c)
  \/ \E c \in Faulty : \/ FetchLost(c) \/ LateFetch(c) \/ SearchRead(c) \/ SearchAnswer(c)
                       \/ BeatBegin(c) \/ BeatCommit(c) \/ BeatAnswer(c) \/ BeatGivenUp(c) \/ LateBeatCommit(c)
                       \/ DeclareBegin(c)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
OutcomesAreFenced == "an outcome counts for another attempt" \notin faults
RescuesAreFenced == "another attempt was rescued" \notin faults
HeartbeatsCount == "declared dead despite a heartbeat" \notin faults
ReturnedClientsKeepJobs == "a returned client's job was taken" \notin faults
AttemptsStartOnce == "started twice" \notin faults
\* A client that had an answer to a heartbeat from after a rescue runs the rescued attempt no more.
NoSecondAttempt == \A c \in Clients : \A a \in attempts[c] : a.n \in memory[c].told => a.off
\* No attempt is cancelled whose fetch began while its client counted as living, unless the client was declared dead after that.
NoNeedlessCancel == \A c \in Clients : \A a \in attempts[c] : a.off => a.gone \/ a.at <= row[c].lost
LivingClientsKeepJobs == \A c \in Clients \ Faulty : \A a \in attempts[c] : a.n \notin rescued
=============================================================================
