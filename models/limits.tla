------------------------------- MODULE limits -------------------------------
(* How jobs of a limited queue come to wait, get slots and release them. A statement that may wait for a lock has steps of its own: it *)
(* takes its snapshot, locks, and commits. A kill ends it between two steps, and nothing of it remains.                                 *)
(* The number of a job is its id. A job is inserted in one of two forms: as a waiting job (`insert`, `insert_many`), or as an available *)
(* one (COPY, SQL, Go, the page, a retry, the scheduler). In a shared queue Go inserts a third: pending, without a row.                 *)
(* Actions of the code: CollectBegin and CollectCommit are limited_job_collect, AdmitBegin to AdmitCommit limited_job_admit, Release    *)
(* `released`, and Adopt, ReleaseEnded and WaitAgain the leader's.                                                                       *)
(* Not modelled: changes of the limit, rates, a total, turns, and kinds that a client does not know.                                    *)
EXTENDS Naturals, FiniteSets

CONSTANTS
  NumJobs, NumPartitions, Clients,
  AtOnce, InOrder, Halt, Shared,
  Fails,        \* so many attempts fail, are snoozed or rescued
  Elsewhere,    \* so many jobs end by another program
  Cancels,      \* so many jobs are cancelled by a person
  Persons,      \* so often a person retries or resumes
  Locks,        \* so often a user's transaction locks a partition or a job, and ends
  Kills,
  Without       \* the guard that a mutant leaves out

Jobs == 1..NumJobs
Partitions == 1..NumPartitions
\* The first two jobs share a partition.
PartitionOf(j) == IF j <= 2 THEN 1 ELSE NumPartitions
Of(p) == {j \in Jobs : PartitionOf(j) = p}
Has(guard) == guard \notin Without
Min(a, b) == IF a < b THEN a ELSE b
Minus(a, b) == IF a > b THEN a - b ELSE 0
\* The n lowest numbers of a set.
First(n, set) == {j \in set : Cardinality({i \in set : i < j}) < n}

VARIABLES
  state,        \* of each job in river_job; "none" before its insert
  place,        \* of each job in millhand_limited_job: "none", "waits", "slot"
  running, open, haltedBy,   \* of each partition in millhand_limit_partition
  arrivals,     \* partitions with a row of millhand_limit_arrival that no statement has taken
  collect,      \* of each client: the collect that is under way
  admission,    \* of each client: the admission that is under way
  userLock,     \* the partition that a user's transaction has locked; 0 if none
  userJob,      \* the job that a user's transaction has locked, and will not change; 0 if none
  left,         \* how often failures, cancels, persons, locks and kills may still happen
  overtaken,    \* ghost: whether a job started before an earlier one of its partition
  ended,        \* ghost: whether a job started in a partition that was halted
  undecided     \* ghost: jobs that failed finally, and about which no person has decided

vars == <<state, place, running, open, haltedBy, arrivals, collect, admission, userLock, userJob, left, overtaken, ended, undecided>>
partitionVars == <<running, open, haltedBy>>
ghosts == <<overtaken, ended, undecided>>
users == <<userLock, userJob>>

NoCollect == [on |-> FALSE, found |-> {}, taken |-> {}, opens |-> {}]
NoAdmission == [phase |-> "none", waiting |-> {}, uncollected |-> {}, ended |-> {}, inUse |-> {}, asSeen |-> {}, locked |-> {}]
Ended == {j \in Jobs : state[j] \in {"completed", "discarded"}}
Waiting == {j \in Jobs : place[j] = "waits"}
\* Available jobs that no collect has let wait.
Uncollected == {j \in Jobs : state[j] = "available" /\ place[j] # "slot"}

JobLocked(j) == j = userJob \/ \E c \in Clients : collect[c].on /\ j \in collect[c].found
PartitionLocked(p) == p = userLock \/ \E c \in Clients : p \in admission[c].locked
Idle(c) == ~collect[c].on /\ admission[c].phase = "none"
May(what) == left[what] > 0
Spend(what) == left' = [left EXCEPT ![what] = @ - 1]
\* Every statement that opens a partition counts `opened` up. An admission compares it with its snapshot.
CountOpened(set) == admission' = [c \in Clients |-> [admission[c] EXCEPT !.asSeen = @ \ set]]

Init ==
  /\ state = [j \in Jobs |-> "none"] /\ place = [j \in Jobs |-> "none"]
  /\ running = [p \in Partitions |-> 0] /\ open = [p \in Partitions |-> FALSE] /\ haltedBy = [p \in Partitions |-> 0]
  /\ arrivals = {} /\ collect = [c \in Clients |-> NoCollect] /\ admission = [c \in Clients |-> NoAdmission]
  /\ userLock = 0 /\ userJob = 0
  /\ left = [fails |-> Fails, elsewhere |-> Elsewhere, cancels |-> Cancels, persons |-> Persons, locks |-> Locks, kills |-> Kills]
  /\ overtaken = FALSE /\ ended = FALSE /\ undecided = {}

----------------------------------------------------------------------------
(* Inserts. Ids follow the order of commits here: of two transactions at the same time, nothing is promised. *)

IsNext(j) == state[j] = "none" /\ \A i \in Jobs : i < j => state[i] # "none"

InsertWaiting(j) ==
  /\ IsNext(j)
  /\ state' = [state EXCEPT ![j] = "pending"] /\ place' = [place EXCEPT ![j] = "waits"]
  /\ arrivals' = arrivals \cup {PartitionOf(j)}
  /\ UNCHANGED <<partitionVars, collect, admission, users, left, ghosts>>

InsertAvailable(j) ==
  /\ IsNext(j) /\ ~Shared
  /\ state' = [state EXCEPT ![j] = "available"]
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, left, ghosts>>

\* A Go client inserts with Pending: true, or a job is parked.
InsertPending(j) ==
  /\ IsNext(j) /\ Shared
  /\ state' = [state EXCEPT ![j] = "pending"]
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, left, ghosts>>

Adopt(j) ==
  /\ Shared /\ state[j] = "pending" /\ place[j] = "none" /\ ~JobLocked(j)
  /\ place' = [place EXCEPT ![j] = "waits"] /\ arrivals' = arrivals \cup {PartitionOf(j)}
  /\ UNCHANGED <<state, partitionVars, collect, admission, users, left, ghosts>>

----------------------------------------------------------------------------
(* limited_job_collect: it locks available jobs and arrivals, and waits for the locks of the partitions that it opens. *)

CollectBegin(c) ==
  LET found == {j \in Uncollected : ~JobLocked(j)} IN
  /\ Idle(c) /\ found \cup arrivals # {}
  /\ collect' = [collect EXCEPT ![c] = [on |-> TRUE, found |-> found, taken |-> arrivals,
                                        opens |-> arrivals \cup {PartitionOf(j) : j \in found}]]
  /\ arrivals' = {}
  /\ UNCHANGED <<state, place, partitionVars, admission, users, left, ghosts>>

CollectCommit(c) ==
  LET found == collect[c].found
      opens == collect[c].opens
      haltOf(p) == IF p \in opens /\ haltedBy[p] \in found THEN 0 ELSE haltedBy[p] IN
  /\ collect[c].on /\ \A p \in opens : ~PartitionLocked(p)
  /\ state' = [j \in Jobs |-> IF j \in found THEN "pending" ELSE state[j]]
  /\ place' = [j \in Jobs |-> IF j \in found THEN "waits" ELSE place[j]]
  /\ haltedBy' = [p \in Partitions |-> haltOf(p)]
  /\ open' = [p \in Partitions |-> IF p \in opens THEN haltOf(p) = 0 \/ ~Has("halts are obeyed") ELSE open[p]]
  /\ CountOpened(opens)
  /\ collect' = [collect EXCEPT ![c] = NoCollect]
  /\ UNCHANGED <<running, arrivals, users, left, ghosts>>

----------------------------------------------------------------------------
(* limited_job_admit. It locks open partitions and skips those that are locked. What it picks, it reads from its snapshot. *)

AdmitBegin(c) ==
  /\ Idle(c) /\ \E p \in Partitions : open[p]
  /\ admission' = [admission EXCEPT ![c] = [phase |-> "begun", waiting |-> Waiting, uncollected |-> Uncollected,
                                            ended |-> Ended, inUse |-> {p \in Partitions : running[p] > 0},
                                            asSeen |-> Partitions, locked |-> {}]]
  /\ UNCHANGED <<state, place, partitionVars, arrivals, collect, users, left, ghosts>>

AdmitLock(c) ==
  /\ admission[c].phase = "begun"
  /\ LET locked == {p \in Partitions : open[p] /\ ~PartitionLocked(p)} IN
     admission' = [admission EXCEPT ![c] = IF locked = {} THEN NoAdmission ELSE [@ EXCEPT !.phase = "locked", !.locked = locked]]
  /\ UNCHANGED <<state, place, partitionVars, arrivals, collect, users, left, ghosts>>

AdmitCommit(c) ==
  LET a == admission[c]
      isAsSeen(p) == p \in a.asSeen
      free(p) == IF haltedBy[p] # 0 /\ Has("halts are obeyed") THEN 0
                 ELSE IF InOrder /\ p \in a.inUse /\ Has("in order, free in the snapshot") THEN 0
                 ELSE IF Has("count") THEN Minus(AtOnce, running[p]) ELSE AtOnce
      candidates(p) == a.waiting \cap Of(p)
      picked(p) == First(free(p), candidates(p))
      isBehind(j) == InOrder /\ Has("in order, none before an available one")
                     /\ \E i \in a.uncollected \cap Of(PartitionOf(j)) : i < j
      chosen(p) == {j \in picked(p) : ~isBehind(j)}
      canStart(j) == state[j] = "pending" /\ ~JobLocked(j)
      lockedFirst(p) == {j \in chosen(p) : canStart(j)}
      missing(p) == Cardinality(chosen(p)) - Cardinality(lockedFirst(p))
      next(p) == IF InOrder /\ Has("in order, none in place of a locked one") THEN {}
                 ELSE First(missing(p), {j \in candidates(p) \ picked(p) : canStart(j)})
      admittedOf(p) == {j \in lockedFirst(p) \cup next(p) : place[j] = "waits"}
      admitted == UNION {admittedOf(p) : p \in a.locked}
      stale == {j \in UNION {chosen(p) : p \in a.locked} : place[j] = "waits" /\ state[j] # "pending" /\ ~JobLocked(j)}
      isExhausted(p) == /\ Cardinality(picked(p)) < free(p)
                        /\ Cardinality(admittedOf(p)) = Cardinality(picked(p))
                        /\ isAsSeen(p) \/ ~Has("as seen")
      isFull(p) == running[p] + Cardinality(admittedOf(p)) >= AtOnce /\ isAsSeen(p)
  IN
  /\ a.phase = "locked"
  /\ state' = [j \in Jobs |-> IF j \notin admitted THEN state[j] ELSE IF Shared THEN "available" ELSE "running"]
  /\ place' = [j \in Jobs |-> IF j \in admitted THEN "slot" ELSE IF j \in stale THEN "none" ELSE place[j]]
  /\ running' = [p \in Partitions |-> IF p \in a.locked THEN running[p] + Cardinality(admittedOf(p)) ELSE running[p]]
  /\ open' = [p \in Partitions |-> IF p \in a.locked THEN ~isExhausted(p) /\ ~isFull(p) /\ haltedBy[p] = 0 ELSE open[p]]
  /\ admission' = [admission EXCEPT ![c] = NoAdmission]
  /\ overtaken' = (overtaken \/ (InOrder /\ \E j \in admitted : \E i \in Of(PartitionOf(j)) \ (a.ended \cup Ended) : i < j))
  /\ ended' = (ended \/ \E j \in admitted : undecided \cap Of(PartitionOf(j)) # {})
  /\ UNCHANGED <<haltedBy, arrivals, collect, users, left, undecided>>

\* Go's fetch in a shared queue. It knows no slots, and takes what is available.
GoFetch(j) ==
  /\ Shared /\ state[j] = "available" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "running"]
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, left, ghosts>>

----------------------------------------------------------------------------
(* Releases. Who releases a slot, halts: `released` in the SQL. *)

Release(p, halts) ==
  LET halt == IF halts = 0 THEN haltedBy[p] ELSE halts IN
  /\ ~PartitionLocked(p)
  /\ running' = [running EXCEPT ![p] = @ - 1]
  /\ haltedBy' = [haltedBy EXCEPT ![p] = IF Has("the release halts") THEN halt ELSE @]
  /\ open' = [open EXCEPT ![p] = haltedBy'[p] = 0 /\ (@ \/ InOrder \/ (running[p] >= AtOnce /\ Has("a release opens")))]
  /\ CountOpened({p})

Complete(j) ==
  /\ state[j] = "running" /\ place[j] = "slot" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "completed"] /\ place' = [place EXCEPT ![j] = "none"]
  /\ Release(PartitionOf(j), 0)
  /\ UNCHANGED <<arrivals, collect, users, left, ghosts>>

Discard(j) ==
  /\ May("fails") /\ Spend("fails")
  /\ state[j] = "running" /\ place[j] = "slot" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "discarded"] /\ place' = [place EXCEPT ![j] = "none"]
  /\ Release(PartitionOf(j), IF Halt THEN j ELSE 0)
  /\ undecided' = IF Halt THEN undecided \cup {j} ELSE undecided
  /\ UNCHANGED <<arrivals, collect, users, overtaken, ended>>

\* Failed, snoozed, interrupted, or rescued after a kill: another attempt follows. In order, the job keeps its slot.
Fail(j) ==
  /\ May("fails") /\ Spend("fails")
  /\ state[j] = "running" /\ place[j] = "slot" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = IF Shared THEN "pending" ELSE "retryable"]
  /\ IF InOrder /\ Has("in order, a slot is kept")
     THEN UNCHANGED <<place, partitionVars, admission>>
     ELSE place' = [place EXCEPT ![j] = "none"] /\ Release(PartitionOf(j), 0)
  /\ UNCHANGED <<arrivals, collect, users, ghosts>>

\* A rescuer or Go's client makes it available. Its slot is kept until the leader looks.
Rescue(j) ==
  /\ May("fails") /\ Spend("fails") /\ ~Shared
  /\ state[j] = "running" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "available"]
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, ghosts>>

Schedule(j) ==
  /\ state[j] = "retryable" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "available"]
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, left, ghosts>>

\* Another program ends the job: Go, the page, a rescuer at the last attempt. The slot is taken until the leader looks.
EndElsewhere(j) ==
  /\ May("elsewhere") /\ Spend("elsewhere")
  /\ state[j] = "running" /\ place[j] = "slot" /\ ~JobLocked(j)
  /\ \/ state' = [state EXCEPT ![j] = "completed"] /\ UNCHANGED undecided
     \/ state' = [state EXCEPT ![j] = "discarded"] /\ undecided' = IF Halt THEN undecided \cup {j} ELSE undecided
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, overtaken, ended>>

\* limited_job_release_ended, by the leader.
ReleaseEnded(j) ==
  /\ place[j] = "slot" /\ ~JobLocked(j)
  /\ state[j] \in {"completed", "discarded"} \cup (IF InOrder \/ Shared THEN {} ELSE {"available", "retryable"})
  /\ place' = [place EXCEPT ![j] = "none"]
  /\ Release(PartitionOf(j), IF Halt /\ state[j] = "discarded" THEN j ELSE 0)
  /\ UNCHANGED <<state, arrivals, collect, users, left, ghosts>>

\* limited_job_wait_again, by the leader: a job that kept its slot waits for one.
WaitAgain(j) ==
  /\ InOrder /\ state[j] = "available" /\ place[j] = "slot" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "pending"] /\ place' = [place EXCEPT ![j] = "waits"]
  /\ Release(PartitionOf(j), 0)
  /\ arrivals' = arrivals \cup {PartitionOf(j)}
  /\ UNCHANGED <<collect, users, left, ghosts>>

----------------------------------------------------------------------------
(* Persons, users' transactions, and kills. *)

Cancel(j) ==
  /\ May("cancels") /\ Spend("cancels")
  /\ state[j] \in {"pending", "available", "retryable"} /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "completed"]
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, ghosts>>

Retry(j) ==
  /\ May("persons") /\ Spend("persons")
  /\ state[j] = "discarded" /\ ~JobLocked(j)
  /\ state' = [state EXCEPT ![j] = "available"] /\ undecided' = undecided \ {j}
  /\ UNCHANGED <<place, partitionVars, arrivals, collect, admission, users, overtaken, ended>>

Resume(p) ==
  /\ May("persons") /\ Spend("persons")
  /\ haltedBy[p] # 0 /\ ~PartitionLocked(p)
  /\ haltedBy' = [haltedBy EXCEPT ![p] = 0] /\ open' = [open EXCEPT ![p] = TRUE]
  /\ undecided' = undecided \ Of(p)
  /\ CountOpened({p})
  /\ UNCHANGED <<state, place, running, arrivals, collect, users, overtaken, ended>>

UserLocks(p) ==
  /\ May("locks") /\ Spend("locks") /\ userLock = 0 /\ ~PartitionLocked(p)
  /\ userLock' = p
  /\ UNCHANGED <<state, place, partitionVars, arrivals, collect, admission, userJob, ghosts>>

UserLocksJob(j) ==
  /\ May("locks") /\ Spend("locks") /\ userJob = 0 /\ state[j] \in {"pending", "available"} /\ ~JobLocked(j)
  /\ userJob' = j
  /\ UNCHANGED <<state, place, partitionVars, arrivals, collect, admission, userLock, ghosts>>

\* A commit of limits.set_partition opens the partition, and a rollback does not.
UserEnds ==
  /\ userLock # 0 \/ userJob # 0
  /\ userLock' = 0 /\ userJob' = 0
  /\ UNCHANGED <<state, place, partitionVars, arrivals, collect, admission, left, ghosts>>

Kill(c) ==
  /\ May("kills") /\ Spend("kills") /\ ~Idle(c)
  /\ arrivals' = arrivals \cup collect[c].taken
  /\ collect' = [collect EXCEPT ![c] = NoCollect] /\ admission' = [admission EXCEPT ![c] = NoAdmission]
  /\ UNCHANGED <<state, place, partitionVars, users, ghosts>>

OfJob(j) ==
  \/ InsertWaiting(j) \/ InsertAvailable(j) \/ InsertPending(j) \/ Adopt(j)
  \/ GoFetch(j) \/ Complete(j) \/ Discard(j) \/ Fail(j) \/ Rescue(j) \/ Schedule(j)
  \/ EndElsewhere(j) \/ ReleaseEnded(j) \/ WaitAgain(j)
  \/ Cancel(j) \/ Retry(j) \/ UserLocksJob(j)
OfClient(c) == CollectBegin(c) \/ CollectCommit(c) \/ AdmitBegin(c) \/ AdmitLock(c) \/ AdmitCommit(c) \/ Kill(c)
Next == (\E j \in Jobs : OfJob(j)) \/ (\E c \in Clients : OfClient(c))
        \/ (\E p \in Partitions : Resume(p) \/ UserLocks(p)) \/ UserEnds

\* Every statement is repeated, every client lives, every job that runs ends, and every transaction ends.
Fair ==
  /\ \A j \in Jobs :
       /\ WF_vars(InsertWaiting(j) \/ InsertAvailable(j) \/ InsertPending(j)) /\ WF_vars(Adopt(j)) /\ WF_vars(GoFetch(j))
       /\ SF_vars(Complete(j)) /\ WF_vars(Schedule(j)) /\ SF_vars(ReleaseEnded(j)) /\ SF_vars(WaitAgain(j))
  /\ \A c \in Clients : /\ SF_vars(CollectBegin(c)) /\ SF_vars(CollectCommit(c))
                        /\ SF_vars(AdmitBegin(c)) /\ WF_vars(AdmitLock(c)) /\ WF_vars(AdmitCommit(c))
  /\ WF_vars(UserEnds)
Spec == Init /\ [][Next]_vars /\ Fair

----------------------------------------------------------------------------
(* Never more than the limit: a job that has a slot counts, and a job that runs has a slot. *)
WithinLimit ==
  /\ \A p \in Partitions : running[p] = Cardinality({j \in Of(p) : place[j] = "slot"}) /\ running[p] <= AtOnce
  /\ \A j \in Jobs : state[j] = "running" => place[j] = "slot"
(* In order: no job starts unless every earlier one of its partition has ended. *)
InOrderOfIds == ~overtaken
(* A halted partition starts nothing. *)
HaltedStartsNothing == ~ended
(* A waiting job of a partition with a free slot is found by the next admission or the next collect. *)
NoneForgotten ==
  \A p \in Partitions :
    haltedBy[p] = 0 /\ running[p] < AtOnce /\ Waiting \cap Of(p) # {}
    => open[p] \/ p \in arrivals \/ \E c \in Clients : p \in collect[c].opens
(* No job waits for ever, unless a person has to decide. *)
AllEnd == <>[](\A j \in Jobs : j \in Ended \/ haltedBy[PartitionOf(j)] # 0)
=============================================================================
