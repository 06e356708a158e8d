------------------------------------------------ MODULE Pair ------------------------------------------------
(* The pair protocol of ftvm: two hosts (or more), one guest, one arbiter; at most one guest that the world can see.

   This is the protocol without its clocks, its buffers and its bytes: what is left is what safety rests on. Read it in
   this order: what the world sees (Guest), who may go on (Arbiter), how the state gets across (Session), the changes of
   the arbiter's record (Changes), how a host learns of them (Learning), and last what must never happen (Safety).

   How trouble is modelled. There is no action "pause", "crash" or "lose a message": whoever takes no step is paused,
   whoever takes no step ever again has crashed, and a message that nobody takes is lost or late. Nothing in the model
   is fair, so TLC tries every such silence. A host that has crashed may come back: `Restart`. Nothing has a clock, so
   suspicion needs no reason: a standby may claim, and an active may drop, at any moment. What is safe under such
   suspicion is safe under any time-out.

   How the guest is modelled. One step of the guest makes one output. A replica's state is the history of its steps, and
   a step is written as the name of the replica that took it: two replicas that both run on from one state make
   different histories, as two real machines with different inputs would. A guest that has ended (VACATE) and one that
   is started after it are two guests: what left of the first is forgotten, and what leaves late does not count. *)
EXTENDS Integers, Sequences, FiniteSets, TLC

CONSTANTS
    Hosts,          \* the machines
    MaxSteps,       \* bounds of the search: so many steps of the guest,
    MaxGeneration,  \* so many records of the arbiter (the first is the vacant one),
    MaxSessions,    \* so many sessions in all,
    MaxLives,       \* and so many replica ids for each host;
    Flushes,        \* which steps of the guest flush what it has written;
    MayEnd          \* whether a guest may end with its host (VACATE), which doubles the search

None == <<"none", 0>>                        \* nobody, where a replica id is expected
NoProposal == [base |-> 0, act |-> None, stb |-> None]
NoSession == 0
NothingAcked == -1                           \* less than the acknowledgement of an empty history, which is 0
NothingDurable == -1

VARIABLES
    records,  \* the arbiter: every record in force so far; its index is its generation, the last one is in force
    asked,    \* requests that were sent to the arbiter and may still take effect
    wire,     \* every session ever opened, with all that was sent in it, both ways
    world,    \* the outputs that have left: pairs <<number, step>>

    id,       \* of each host: the replica it is now, <<host, how many lives it had>>
    role,     \*   "empty", "standby" (its state is whole) or "active" (it runs the guest)
    hist,     \*   its state: the steps it took or committed
    known,    \*   the generation of the last record it has learned
    prop,     \*   its own proposal while it does not know what became of it
    sess,     \*   the session it is in
    acked,    \*   as active: the highest acknowledgement it has received in this session
    rel,      \*   as active: the highest output it has released
    disk      \*   so many of its steps survive a power cut; NothingDurable: not even the copy that it began with

perHost == <<id, role, hist, known, prop, sess, acked, rel, disk>>
vars == <<records, asked, wire, world, perHost>>

Init ==
    /\ records = <<[act |-> None, stb |-> None]>>
    /\ asked = {} /\ wire = <<>> /\ world = {}
    /\ id = [h \in Hosts |-> <<h, 1>>]
    /\ role = [h \in Hosts |-> "empty"]
    /\ hist = [h \in Hosts |-> <<>>]
    /\ known = [h \in Hosts |-> 1]
    /\ prop = [h \in Hosts |-> NoProposal]
    /\ sess = [h \in Hosts |-> NoSession]
    /\ acked = [h \in Hosts |-> NothingAcked]
    /\ rel = [h \in Hosts |-> 0]
    /\ disk = [h \in Hosts |-> 0]

Newest == Len(records)
Known(h) == records[known[h]]                \* the last record that h knows: there may be newer ones
IsActive(h) == role[h] = "active"
IsStandby(h) == role[h] = "standby"
IsEmpty(h) == role[h] = "empty"
Mine(h) == wire[sess[h]]                     \* the session of h, if it has one
IsProposing(h) == prop[h] # NoProposal
IsSwitching(h) == prop[h].stb = id[h]
IsVacating(h) == IsProposing(h) /\ prop[h].act = None
HasEnded(h) == \E g \in (known[h] + 1)..Newest : records[g].act = None   \* its guest, although it does not know

----------------------------------------------------------------------------------------------------------------------
(* Guest. The active runs it, and may be far ahead of what the standby has; only outputs wait. *)

Run(h) ==
    /\ IsActive(h)
    /\ ~IsSwitching(h)                                       \* paused until the SWITCH is resolved, however long
    /\ ~IsVacating(h)                                        \* paused for good: the guest has ended
    /\ Len(hist[h]) < MaxSteps
    /\ hist' = [hist EXCEPT ![h] = Append(@, id[h])]
    /\ wire' = IF sess[h] = NoSession THEN wire ELSE [wire EXCEPT ![sess[h]].hist = hist'[h]]
    /\ UNCHANGED <<records, asked, world, id, role, known, prop, sess, acked, rel, disk>>

(* The release rule. In every configuration that may be in force as far as h can know (the last record it knows, and
   its own proposal), there is no standby, or it has acknowledged the output. *)
StandbysInForce(h) ==
    {Known(h).stb} \cup
    (IF IsProposing(h) THEN {prop[h].stb} ELSE {})

(* Under the engines that log, an output waits for the log up to itself, and for the epoch that holds the last flush
   before it. Under the others it waits for its own epoch, which is never less. *)
LastFlush(n) ==
    LET before == {f \in Flushes : f <= n} IN
    IF before = {} THEN NothingAcked ELSE CHOOSE f \in before : \A other \in before : other <= f

HasAcknowledged(h, standby, n) ==
    sess[h] # NoSession /\ Mine(h).to = standby /\ Mine(h).logged >= n /\ acked[h] >= LastFlush(n)

MayRelease(h, n) == \A s \in StandbysInForce(h) : s = None \/ HasAcknowledged(h, s, n)

Release(h) ==
    /\ IsActive(h)
    /\ \E n \in (rel[h] + 1)..Len(hist[h]) :                 \* in order: all up to n leave
        /\ MayRelease(h, n)
        /\ Known(h).stb # None \/ LastFlush(n) <= disk[h]    \* alone: also what it has taken over, or told beside one
        /\ world' = IF HasEnded(h) THEN world ELSE world \cup {<<i, hist[h][i]>> : i \in (rel[h] + 1)..n}
        /\ rel' = [rel EXCEPT ![h] = n]
    /\ UNCHANGED <<records, asked, wire, id, role, hist, known, prop, sess, acked, disk>>

----------------------------------------------------------------------------------------------------------------------
(* Arbiter. It compares and sets, nothing else. A request may take effect at any time after it was sent, also when its
   sender has died since; a request whose base is past never does, so those are forgotten here. *)

Propose(h, active, standby) ==
    /\ ~IsProposing(h)                                       \* one at a time, and never given up before it is resolved
    /\ prop' = [prop EXCEPT ![h] = [base |-> known[h], act |-> active, stb |-> standby]]
    /\ asked' = asked \cup {prop'[h]}
    /\ UNCHANGED <<records, wire, world, id, role, hist, known, sess, acked, rel, disk>>

Decide ==
    /\ Newest < MaxGeneration
    /\ \E request \in asked :
        /\ request.base = Newest
        /\ records' = Append(records, [act |-> request.act, stb |-> request.stb])
        /\ asked' = {other \in asked : other.base > request.base}
        /\ world' = IF request.act = None THEN {} ELSE world
    /\ UNCHANGED <<wire, perHost>>

----------------------------------------------------------------------------------------------------------------------
(* Session. `wire` keeps what was sent; what is taken from it, and when, is free: that is the network. A session holds:

     act, gen   who opened it, and the generation of the record that it knew
     to         the replica it was opened for
     base       the length of the history in the first copy
     hist       the history shipped so far: the first copy, then one epoch for each step
     acked      the highest acknowledgement that the standby has sent of an epoch
     logged     and of the log: that it came late would be a release that comes late

   A first copy that is not whole serves nobody, so it is modelled as taken at once or never. *)

Session(h, standby, from) ==
    [act |-> id[h], gen |-> known'[h], to |-> standby, base |-> Len(hist[h]), hist |-> hist[h],
     acked |-> NothingAcked, logged |-> from]

Open(h) ==                                                   \* the active takes a joiner in
    /\ IsActive(h) /\ sess[h] = NoSession /\ ~IsProposing(h) /\ Known(h).stb = None
    /\ Len(wire) < MaxSessions
    /\ \E joiner \in Hosts \ {h} :
        /\ IsEmpty(joiner)
        /\ known' = known
        /\ wire' = Append(wire, Session(h, id[joiner], NothingAcked))
    /\ sess' = [sess EXCEPT ![h] = Len(wire')]
    /\ acked' = [acked EXCEPT ![h] = NothingAcked]
    /\ UNCHANGED <<records, asked, world, id, role, hist, prop, rel, disk>>

(* A loser that lives still has what it held, as a cache: what is the same there need not be sent. *)
IsKept(h, s, n) == n <= Len(hist[h]) /\ hist[h][n] = wire[s].hist[n]
Copied(h, s) == [n \in 1..wire[s].base |-> IF IsKept(h, s, n) THEN hist[h][n] ELSE wire[s].hist[n]]

TakeCopy(h) ==                                               \* the joiner has the first copy, whole
    /\ IsEmpty(h) /\ ~IsProposing(h)
    /\ \E s \in 1..Len(wire) :
        /\ wire[s].to = id[h]
        /\ wire[s].gen >= known[h]                           \* else a deposed active is sending
        /\ role' = [role EXCEPT ![h] = "standby"]
        /\ hist' = [hist EXCEPT ![h] = Copied(h, s)]
        /\ sess' = [sess EXCEPT ![h] = s]
        /\ disk' = [disk EXCEPT ![h] = NothingDurable]       \* so it acknowledges no epoch yet: Persist
        /\ wire' = [wire EXCEPT ![s].logged = wire[s].base]
    /\ UNCHANGED <<records, asked, world, id, known, prop, acked, rel>>

Continue(h) ==                                               \* after a SWITCH the old active has the state already
    /\ IsStandby(h) /\ sess[h] = NoSession
    /\ \E s \in 1..Len(wire) :
        /\ wire[s].to = id[h] /\ wire[s].gen = known[h]
        /\ sess' = [sess EXCEPT ![h] = s]
        /\ wire' = IF disk[h] >= Len(hist[h]) THEN [wire EXCEPT ![s].acked = Len(hist[h])] ELSE wire
    /\ UNCHANGED <<records, asked, world, id, role, hist, known, prop, acked, rel, disk>>

(* A step of the guest is a write, perhaps a flush, and an output that tells of it; also a record of the log, and an
   epoch. The log is acknowledged as it comes, an epoch that holds a flush only once the standby's disk has it. *)
Commit(h) ==                                                 \* the standby commits the next epoch, in memory
    /\ IsStandby(h) /\ sess[h] # NoSession
    /\ ~IsProposing(h)                                       \* from its claim on it acknowledges nothing
    /\ \E n \in {Len(hist[h]) + 1} :                         \* no gap is skipped
        /\ n <= Len(Mine(h).hist)
        /\ hist' = [hist EXCEPT ![h] = Append(@, Mine(h).hist[n])]
        /\ wire' = [wire EXCEPT
            ![sess[h]].logged = n,
            ![sess[h]].acked = IF disk[h] >= LastFlush(n) /\ disk[h] # NothingDurable THEN n ELSE @]
    /\ UNCHANGED <<records, asked, world, id, role, known, prop, sess, acked, rel, disk>>

Persist(h) ==                                                \* its disk has all that it has, and a standby says so
    /\ ~IsEmpty(h) /\ disk[h] < Len(hist[h])
    /\ disk' = [disk EXCEPT ![h] = Len(hist[h])]
    /\ wire' = IF IsStandby(h) /\ sess[h] # NoSession /\ ~IsProposing(h)
               THEN [wire EXCEPT ![sess[h]].acked = Len(hist[h]), ![sess[h]].logged = Len(hist[h])] ELSE wire
    /\ UNCHANGED <<records, asked, world, id, role, hist, known, prop, sess, acked, rel>>

HearAck(h) ==
    /\ IsActive(h) /\ sess[h] # NoSession
    /\ \E s \in {sess[h]} :                                  \* of this session only
        /\ wire[s].acked > acked[h]
        /\ acked' = [acked EXCEPT ![h] = wire[s].acked]
    /\ UNCHANGED <<records, asked, wire, world, id, role, hist, known, prop, sess, rel, disk>>

Abandon(h) ==                                                \* a joiner fell silent; the record does not name it
    /\ IsActive(h) /\ sess[h] # NoSession /\ ~IsProposing(h) /\ Known(h).stb = None
    /\ sess' = [sess EXCEPT ![h] = NoSession]
    /\ acked' = [acked EXCEPT ![h] = NothingAcked]
    /\ UNCHANGED <<records, asked, wire, world, id, role, hist, known, prop, rel, disk>>

----------------------------------------------------------------------------------------------------------------------
(* Changes. Who may propose what, and when. *)

Start(h) ==                                                  \* an operator's word: nobody does this by itself
    /\ IsEmpty(h) /\ Known(h).act = None
    /\ Propose(h, id[h], None)

Add(h) ==                                                    \* the joiner has all that ever left
    /\ IsActive(h) /\ sess[h] # NoSession /\ Known(h).stb = None
    /\ acked[h] # NothingAcked
    /\ acked[h] >= rel[h]
    /\ Propose(h, id[h], Mine(h).to)

Drop(h) ==                                                   \* the standby fell silent; outputs stay held until learned
    /\ IsActive(h) /\ Known(h).stb # None
    /\ Propose(h, id[h], None)

Take(h) ==                                                   \* the active fell silent
    /\ IsStandby(h) /\ Known(h).stb = id[h]
    /\ Propose(h, id[h], None)

Switch(h) ==                                                 \* planned; the guest is paused from here on
    /\ IsActive(h) /\ sess[h] # NoSession /\ Known(h).stb = Mine(h).to
    /\ acked[h] = Len(hist[h])
    /\ LastFlush(Len(hist[h])) <= disk[h]                    \* it is to be the standby
    /\ Propose(h, Mine(h).to, id[h])

Vacate(h) ==                                                 \* its host stops, and nobody takes the guest: it ends
    /\ MayEnd /\ IsActive(h)                                 \* whoever stands by is out with it, in one step
    /\ Propose(h, None, None)

(* Such a record may bear the remark that the guest has ended for good. Whoever had a part in the guest and learns of it
   takes no step any more, which every host may do at any time: nothing else here depends on the remark. *)

----------------------------------------------------------------------------------------------------------------------
(* Learning. An answer of the arbiter may be late, so a host may learn any record from the one it knows on; it never
   goes back. What it learns alone makes a replica active, or puts it out. *)

Unresolved(h, g) == IF IsProposing(h) /\ g <= prop[h].base THEN prop[h] ELSE NoProposal

Discard(h, cache) ==                                         \* come back as somebody else; a cache is no state
    /\ id' = [id EXCEPT ![h] = <<h, @[2] + 1>>]
    /\ role' = [role EXCEPT ![h] = "empty"]
    /\ hist' = [hist EXCEPT ![h] = cache]
    /\ prop' = [prop EXCEPT ![h] = NoProposal]
    /\ sess' = [sess EXCEPT ![h] = NoSession]
    /\ acked' = [acked EXCEPT ![h] = NothingAcked]
    /\ rel' = [rel EXCEPT ![h] = 0]
    /\ disk' = [disk EXCEPT ![h] = 0]
    /\ UNCHANGED wire

StayActive(h, g) ==                                          \* its own ADD or DROP, or nothing new
    LET isDropped == g > known[h] /\ records[g].stb = None IN
    /\ prop' = [prop EXCEPT ![h] = Unresolved(h, g)]
    /\ sess' = [sess EXCEPT ![h] = IF isDropped THEN NoSession ELSE @]
    /\ acked' = [acked EXCEPT ![h] = IF isDropped THEN NothingAcked ELSE @]
    /\ UNCHANGED <<wire, id, role, hist, rel, disk>>

BecomeActive(h, g) ==                                        \* START, TAKE or SWITCH is in force; run from what is here
    LET standby == records[g].stb IN
    /\ role' = [role EXCEPT ![h] = "active"]
    /\ prop' = [prop EXCEPT ![h] = NoProposal]
    /\ rel' = [rel EXCEPT ![h] = 0]                          \* what left is not known for sure: all is emitted again
    /\ hist' = [hist EXCEPT ![h] = IF IsEmpty(h) THEN <<>> ELSE @]   \* a START begins from nothing
    /\ disk' = [disk EXCEPT ![h] = IF IsEmpty(h) THEN 0 ELSE @]
    /\ IF standby = None
       THEN /\ sess' = [sess EXCEPT ![h] = NoSession]
            /\ acked' = [acked EXCEPT ![h] = NothingAcked]
            /\ UNCHANGED wire
       ELSE /\ Len(wire) < MaxSessions                       \* SWITCH: the other one has all that is here, and tells
                                                             \* once its disk has it, too
            /\ wire' = Append(wire, Session(h, standby, Len(hist[h])))
            /\ sess' = [sess EXCEPT ![h] = Len(wire')]
            /\ acked' = [acked EXCEPT ![h] = NothingAcked]
    /\ UNCHANGED id

BecomeStandby(h) ==                                          \* its SWITCH is in force; it stands where it paused
    /\ role' = [role EXCEPT ![h] = "standby"]
    /\ prop' = [prop EXCEPT ![h] = NoProposal]
    /\ sess' = [sess EXCEPT ![h] = NoSession]
    /\ acked' = [acked EXCEPT ![h] = NothingAcked]
    /\ rel' = [rel EXCEPT ![h] = 0]
    /\ UNCHANGED <<wire, id, hist, disk>>

StayOut(h, g) ==                                             \* as joiner or standby: nothing here depends on it
    /\ prop' = [prop EXCEPT ![h] = Unresolved(h, g)]
    /\ UNCHANGED <<wire, id, role, hist, sess, acked, rel, disk>>

IsJoining(h, g) == IsStandby(h) /\ sess[h] # NoSession /\ g <= Mine(h).gen

Learn(h) ==
    /\ \E g \in known[h]..Newest :
        LET record == records[g] IN
        /\ known' = [known EXCEPT ![h] = g]
        /\ CASE record.act = id[h] /\ IsActive(h) -> StayActive(h, g)
             [] record.act = id[h] /\ ~IsActive(h) -> BecomeActive(h, g)
             [] record.stb = id[h] /\ IsActive(h) -> BecomeStandby(h)
             [] record.stb = id[h] /\ ~IsActive(h) -> StayOut(h, g)
             [] OTHER -> IF IsEmpty(h) \/ IsJoining(h, g) THEN StayOut(h, g) ELSE id[h][2] < MaxLives /\ Discard(h, hist[h])
    /\ UNCHANGED <<records, asked, world>>

Restart(h) ==                                                \* its memory is lost, and its id with it; of what it had
    /\ id[h][2] < MaxLives                                   \* a disk's image may be left: a cache
    /\ \E cache \in {<<>>, hist[h]} : Discard(h, cache)
    /\ UNCHANGED <<records, asked, world, known>>

----------------------------------------------------------------------------------------------------------------------
Next ==
    \/ Decide
    \/ \E h \in Hosts :
        \/ Run(h) \/ Release(h)
        \/ Open(h) \/ TakeCopy(h) \/ Continue(h) \/ Commit(h) \/ Persist(h) \/ HearAck(h) \/ Abandon(h)
        \/ Start(h) \/ Add(h) \/ Drop(h) \/ Take(h) \/ Switch(h) \/ Vacate(h)
        \/ Learn(h) \/ Restart(h)

Spec == Init /\ [][Next]_vars

Symmetry == Permutations(Hosts)              \* hosts differ in nothing: TLC looks at one of each such pair of states

----------------------------------------------------------------------------------------------------------------------
(* Safety. *)

(* I2, first half: no output is contradicted. *)
NothingContradicted == \A one, other \in world : one[1] = other[1] => one = other

(* I2, second half, and I5: a replica that the record names, as active or as the one that may take over, holds all that
   ever left. (One that has crashed is named no more: it has another id, or none.) *)
Holds(h, output) == output[1] <= Len(hist[h]) /\ hist[h][output[1]] = output[2]
NothingLost == \A h \in Hosts : id[h] \in {records[Newest].act, records[Newest].stb} => \A o \in world : Holds(h, o)

(* I9: and a standby has what was flushed before anything that ever left on its disk: the power may fail there, the other
   host being gone. Who is alone has it, too, but for what it told beside a standby that it has just lost: that was on the
   standby's disk. *)
WasDurableBeside(h, n) == \E s \in 1..Len(wire) : wire[s].act = id[h] /\ wire[s].acked >= LastFlush(n)
NothingFlushedLost ==
    \A h \in Hosts : \A output \in world :
        /\ id[h] = records[Newest].stb => LastFlush(output[1]) <= disk[h]
        /\ id[h] = records[Newest].act /\ records[Newest].stb = None =>
            LastFlush(output[1]) <= disk[h] \/ WasDurableBeside(h, output[1])

(* I1: at most one replica is active per generation. *)
OneActive == \A g, h \in Hosts : IsActive(g) /\ IsActive(h) /\ known[g] = known[h] => g = h

(* I3, between marks: what a standby in session has committed is what its active shipped. *)
StandbyAgrees ==
    \A h \in Hosts : IsStandby(h) /\ sess[h] # NoSession =>
        Len(hist[h]) <= Len(Mine(h).hist) /\ hist[h] = SubSeq(Mine(h).hist, 1, Len(hist[h]))

(* I7: each active releases in order, without gaps. *)
NoGaps == \A output \in world : \A n \in 1..output[1] : \E earlier \in world : earlier[1] = n

----------------------------------------------------------------------------------------------------------------------
(* Witnesses. A model that can do nothing is safe. Each of these is false somewhere, and a test has TLC show where. *)

NoTakeover == \A g \in 2..Newest : records[g - 1].act = None \/ records[g].act # records[g - 1].stb
NoSwitchThereAndBack ==
    ~ \E g \in 1..(Newest - 2) :
        /\ records[g].stb # None /\ records[g + 2] = records[g]
        /\ records[g + 1] = [act |-> records[g].stb, stb |-> records[g].act]
NoLateRelease ==                             \* a deposed active, woken, releases what its standby had acknowledged
    ~ \E h \in Hosts : IsActive(h) /\ records[Newest].act # id[h] /\ \E n \in (rel[h] + 1)..Len(hist[h]) :
        MayRelease(h, n) /\ <<n, hist[h][n]>> \notin world
NoReprotection ==                            \* a host that was active serves as the standby of the one that took over
    ~ \E h \in Hosts : id[h][2] > 1 /\ records[Newest].stb = id[h] /\ Len(hist[h]) > 0
NoNewGuest == \A g \in 2..Newest : records[g].act = None => g = Newest \/ world = {}
                                             \* a guest has ended with its host, and another one speaks
======================================================================================================================
