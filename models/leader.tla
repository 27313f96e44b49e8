------------------------------- MODULE leader -------------------------------
(* The terms of one leader role: bids, renewals, resignations, and step-downs for clients in another language.                *)
(* A statement takes its now() when it begins, commits later, and its answer comes later or never. A statement that its client *)
(* has given up may reach the server late. A client may stand still between any two steps.                                     *)
EXTENDS Naturals, FiniteSets

CONSTANTS
  Registered,    \* Millhand's clients
  Others,        \* clients in another language: they bid whenever they want
  Ttl, Margin,
  Patience,      \* how long registered clients let others bid first
  MaxNow,
  HasLate,       \* whether statements may reach the server after their clients gave them up
  HasStepDown,
  Without        \* the guards that a mutant leaves out

Clients == Registered \cup Others
Has(guard) == guard \notin Without
Never == 0       \* instants begin at 1

VARIABLES
  now,
  row,           \* of the leader table; by = "none" if there is none
  statement,     \* of each client: the bid or renewal under way
  term,          \* of each client: its term, and until when it trusts that
  late,          \* statements that are on their way without a client that waits
  steppedDown,   \* the newest stepped_down_at
  down,          \* ghost: the last step-down, and whether it is recorded
  wonAt,         \* ghost: when the newest term began
  waits,         \* of each client: since when it backs off
  bidAt,         \* of each client: its newest bid
  faults         \* ghost: the names of what must never happen

vars == <<now, row, statement, term, late, steppedDown, down, wonAt, waits, bidAt, faults>>

NoRow == [by |-> "none", at |-> Never, expires |-> Never]
NoStatement == [kind |-> "none", phase |-> "none", at |-> Never, of |-> Never, won |-> FALSE]
NoStepDown == [at |-> Never, by |-> "none", recorded |-> FALSE]
NoTerm == [at |-> Never, until |-> Never, down |-> FALSE]

IsRunning == row.by # "none" /\ row.expires >= now
\* Elector.term
Leads(c) == term[c].at # Never /\ now < term[c].until
StepDownIsNew == steppedDown # Never /\ now < steppedDown + Patience
OtherHasEnded == row.by \in Others /\ row.expires < now /\ now < row.expires + Patience

Init ==
  /\ now = 1 /\ row = NoRow
  /\ statement = [c \in Clients |-> NoStatement]
  /\ term = [c \in Clients |-> NoTerm]
  /\ late = {} /\ steppedDown = Never /\ down = NoStepDown /\ wonAt = Never
  /\ waits = [c \in Clients |-> Never]
  /\ bidAt = [c \in Clients |-> Never]
  /\ faults = {}

Tick == now < MaxNow /\ now' = now + 1 /\ UNCHANGED <<wonAt, down, row, statement, term, late, steppedDown, waits, bidAt, faults>>

-----------------------------------------------------------------------------
(* Bids: elector.py and election_backoff.py, leader_attempt_elect *)

\* What a registered client sees before it bids: since when it backs off, or Never if it may bid at once.
Backoff(c) ==
  IF IsRunning THEN Never
  ELSE IF waits[c] # Never THEN waits[c]
  ELSE IF StepDownIsNew /\ Has("followers look for a step-down") THEN now
  ELSE IF OtherHasEnded /\ Has("others bid first after a term of theirs") THEN row.expires
  ELSE Never

\* It waits for the answer to its resignation, unless it gives that up.
IsFree(c) == term[c].at = Never /\ statement[c].kind = "none" /\ (HasLate \/ \A s \in late : s.by # c)

See(c) ==
  /\ c \in Registered /\ IsFree(c) /\ Backoff(c) # waits[c]
  /\ waits' = [waits EXCEPT ![c] = Backoff(c)]
  /\ UNCHANGED <<wonAt, down, now, row, statement, term, late, steppedDown, bidAt, faults>>

MayBid(c) == c \in Others \/ (~IsRunning /\ (Backoff(c) = Never \/ now >= Backoff(c) + Patience))

\* It backed off before the last term and has seen nothing since: it stood still for longer than a term.
MissedTheTerm(c) == waits[c] # Never /\ waits[c] <= wonAt

\* Without the record in its row, only the client that has stepped down knows of it.
BreaksStepDown(c) == /\ c \in Registered /\ down.at # Never /\ now < down.at + Patience
                     /\ down.recorded \/ c = down.by
                     /\ ~MissedTheTerm(c)

\* No two bids of a client have one instant: those are microseconds.
BidBegin(c) ==
  /\ IsFree(c) /\ now > bidAt[c] /\ MayBid(c)
  /\ statement' = [statement EXCEPT ![c] = [NoStatement EXCEPT !.kind = "bid", !.phase = "sent", !.at = now]]
  /\ bidAt' = [bidAt EXCEPT ![c] = now]
  /\ faults' = faults \cup (IF BreaksStepDown(c) THEN {"bid after a step-down"} ELSE {})
                      \cup (IF c \in Registered /\ OtherHasEnded /\ ~MissedTheTerm(c) THEN {"bid after a term of others"} ELSE {})
  /\ UNCHANGED <<wonAt, down, now, row, term, late, steppedDown, waits>>

BidCommit(c) ==
  LET s == statement[c]
      wins == row.by = "none" \/ row.expires < s.at \/ ~Has("bids wait for the end of the term") IN
  /\ s.kind = "bid" /\ s.phase = "sent"
  /\ row' = IF wins THEN [by |-> c, at |-> s.at, expires |-> s.at + Ttl] ELSE row
  /\ down' = IF wins THEN NoStepDown ELSE down  \* nothing is promised beyond the next term
  /\ wonAt' = IF wins /\ s.at > wonAt THEN s.at ELSE wonAt
  /\ statement' = [statement EXCEPT ![c].phase = "done", ![c].won = wins]
  /\ UNCHANGED <<now, term, late, steppedDown, waits, bidAt, faults>>

Trust(s) == (IF Has("trust counts from the question") THEN s.at ELSE now) + Ttl - Margin

BidAnswer(c) ==
  LET s == statement[c] IN
  /\ s.kind = "bid" /\ s.phase = "done"
  /\ term' = IF s.won THEN [term EXCEPT ![c] = [at |-> s.at, until |-> Trust(s), down |-> FALSE]] ELSE term
  /\ waits' = IF s.won THEN [waits EXCEPT ![c] = Never] ELSE waits
  /\ statement' = [statement EXCEPT ![c] = NoStatement]
  /\ UNCHANGED <<wonAt, down, now, row, late, steppedDown, bidAt, faults>>

-----------------------------------------------------------------------------
(* Renewals: leader_attempt_reelect *)

RenewBegin(c) ==
  /\ Leads(c) /\ statement[c].kind = "none"
  /\ statement' = [statement EXCEPT ![c] = [NoStatement EXCEPT !.kind = "renewal", !.phase = "sent", !.at = now, !.of = term[c].at]]
  /\ UNCHANGED <<wonAt, down, now, row, term, late, steppedDown, waits, bidAt, faults>>

\* A renewal of the term that `by` won at the instant `of`. It takes its now() at the instant `at`.
Renewed(by, of, at) ==
  LET holds == /\ row.by # "none"
               /\ row.by = by \/ ~Has("renewals name the client")
               /\ row.at = of \/ ~Has("renewals name the term")
               /\ row.expires >= at \/ ~Has("ended terms are not renewed") IN
  /\ row' = IF holds THEN [row EXCEPT !.expires = at + Ttl] ELSE row
  /\ faults' = faults \cup (IF holds /\ <<row.by, row.at>> # <<by, of>> THEN {"renewed another term"} ELSE {})
                      \cup (IF holds /\ row.expires < at THEN {"renewed an ended term"} ELSE {})

RenewCommit(c) ==
  LET s == statement[c] IN
  /\ s.kind = "renewal" /\ s.phase = "sent"
  /\ Renewed(c, s.of, s.at)
  /\ statement' = [statement EXCEPT ![c].phase = "done", ![c].won = row' # row]
  /\ UNCHANGED <<wonAt, down, now, term, late, steppedDown, waits, bidAt>>

RenewAnswer(c) ==
  LET s == statement[c] IN
  /\ s.kind = "renewal" /\ s.phase = "done"
  /\ term' = [term EXCEPT ![c] = IF s.won THEN [@ EXCEPT !.until = Trust(s)] ELSE NoTerm]
  /\ statement' = [statement EXCEPT ![c] = NoStatement]
  /\ UNCHANGED <<wonAt, down, now, row, late, steppedDown, waits, bidAt, faults>>

\* The answer is lost, or the client gives up. The server may run what it has not run yet, later.
GiveUp(c) ==
  LET s == statement[c] IN
  /\ s.kind # "none"
  /\ late' = IF HasLate /\ s.kind = "renewal" /\ s.phase = "sent"
             THEN late \cup {[kind |-> "renewal", by |-> c, of |-> s.of]} ELSE late
  /\ statement' = [statement EXCEPT ![c] = NoStatement]
  /\ UNCHANGED <<wonAt, down, now, row, term, steppedDown, waits, bidAt, faults>>

LateRenewal ==
  \E s \in late : /\ s.kind = "renewal"
                  /\ Renewed(s.by, s.of, now)
                  /\ late' = late \ {s}
                  /\ UNCHANGED <<wonAt, down, now, statement, term, steppedDown, waits, bidAt>>

-----------------------------------------------------------------------------
(* The end of a term: its trust runs out, or the leader stops; leader_resign, client_step_down *)

\* The client's row records a step-down, if the database allows it. Then the term's row goes.
StepDown(c) ==
  /\ HasStepDown /\ c \in Registered /\ Leads(c) /\ statement[c].kind = "none"
  /\ term' = [term EXCEPT ![c].until = now, ![c].down = TRUE]
  /\ \E isRecorded \in BOOLEAN :
       /\ steppedDown' = IF isRecorded /\ Has("a step-down is recorded") THEN now ELSE steppedDown
       /\ down' = [at |-> now, by |-> c, recorded |-> isRecorded]
  /\ UNCHANGED <<wonAt, now, row, statement, late, waits, bidAt, faults>>

Resign(c) ==
  /\ term[c].at # Never /\ statement[c].kind = "none"
  /\ late' = late \cup {[kind |-> "resignation", by |-> c, of |-> term[c].at]}
  /\ term' = IF Has("the term ends before its resignation") \/ ~Leads(c) THEN [term EXCEPT ![c] = NoTerm] ELSE term
  /\ waits' = [waits EXCEPT ![c] = IF term[c].down /\ Has("who steps down backs off") THEN now ELSE @]
  /\ UNCHANGED <<wonAt, down, now, row, statement, steppedDown, bidAt, faults>>

\* Neither a crash nor a lost answer leaves a resignation.
Forget(c) ==
  /\ term[c].at # Never /\ ~Leads(c) /\ statement[c].kind = "none" /\ ~term[c].down
  /\ term' = [term EXCEPT ![c] = NoTerm]
  /\ UNCHANGED <<wonAt, down, now, row, statement, late, steppedDown, waits, bidAt, faults>>

ResignCommit ==
  \E s \in late :
    LET holds == /\ row.by # "none"
                 /\ <<row.by, row.at>> = <<s.by, s.of>> \/ ~Has("resignations name the term") IN
    /\ s.kind = "resignation"
    /\ row' = IF holds THEN NoRow ELSE row
    /\ late' = late \ {s}
    /\ UNCHANGED <<wonAt, down, now, statement, term, steppedDown, waits, bidAt, faults>>

-----------------------------------------------------------------------------
Next ==
  \/ Tick \/ LateRenewal \/ ResignCommit
  \/ \E c \in Clients : \/ See(c) \/ BidBegin(c) \/ BidCommit(c) \/ BidAnswer(c)
                        \/ RenewBegin(c) \/ RenewCommit(c) \/ RenewAnswer(c) \/ GiveUp(c)
                        \/ StepDown(c) \/ Resign(c) \/ Forget(c)
Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
OneLeader == \A a, b \in Clients : Leads(a) /\ Leads(b) => a = b
\* No client leads a term that the database does not have.
TermsAreInTheTable == \A c \in Clients : Leads(c) => <<row.by, row.at>> = <<c, term[c].at>> /\ row.expires >= now
RenewalsAreFenced == "renewed another term" \notin faults
EndedTermsStayEnded == "renewed an ended term" \notin faults
StepDownsLeaveTime == "bid after a step-down" \notin faults
OthersBidFirst == "bid after a term of others" \notin faults
=============================================================================
