//! Causes found in a chain of configured limits, before any call is made.

use crate::cause::{Entry, Group};

pub(in crate::cause) static LIMIT_INVERTED: Entry = Entry {
    id: "limit-inverted",
    group: Group::Configuration,
    stages: &["any"],
    title: "An outer limit is shorter than what runs inside it",
    meaning: "The outer limit fires while an inner one (a stage, an attempt with its retries and backoff, a hop \
              further in) may still run. The caller gets its own vague timeout and never the precise inner error. \
              The inner hop works on for nobody, and its last retries can never succeed.",
    look_alikes: "`limit-shadowed`: an inner limit that can never fire, with no harm beyond that. `limit-equal`: \
                  both fire at the same moment. `budget-spent`: what the inversion looks like in one call.",
    confirm: &[
        "Add up for each hop: attempts times limit of an attempt, plus all backoffs. It must be below the limit \
         of the hop outside it.",
        "`nginx -T 2>/dev/null | grep -nE '_timeout|next_upstream'`: 60 s between two reads and as many tries as \
         there are servers, if not set.",
        "Logs: the inner hop reports success or its own timeout after the outer one has given up (nginx status \
         499, gRPC CANCELLED).",
    ],
    fix: &[
        "Shorten from the inside: inner total (attempts and backoff included) plus a reserve below the outer \
         limit.",
        "Or lengthen the outer limit, if users accept the wait.",
        "Better: forward the remaining time, and let every hop take the smaller of that and its own limit.",
    ],
};

pub(in crate::cause) static LIMIT_MISSING: Entry = Entry {
    id: "limit-missing",
    group: Group::Configuration,
    stages: &["any"],
    title: "A stage has no limit at all",
    meaning: "Nothing in this hop's configuration ends this stage. A peer that accepts and stays silent then \
              holds a connection, a thread and memory for as long as it likes. The kernel helps only in part: it \
              ends an unanswered connect after about two minutes and unacknowledged data after some 15, a silent \
              peer never.",
    look_alikes: "A limit elsewhere may cover the stage: a total limit of the caller, or a limit set in code. A \
                  limit between two reads does not bound the whole. In many tools 0 means `no limit`, not `at \
                  once`; so does SO_RCVTIMEO.",
    confirm: &[
        "Read the defaults of the tool: Go's http.Client and Python's requests have no timeout; HAProxy has none \
         for connect, client and server, and warns.",
        "`haproxy -c -f FILE`: warns of missing timeouts.",
        "Try it: `nc -l -k PORT` (or `overdue lab`) as a peer that accepts and never answers; see who ends the \
         call.",
    ],
    fix: &[
        "Set a limit for the stage that the finding names, and one for the whole call.",
        "For streams without an end: a limit on gaps, plus a heartbeat.",
    ],
};

pub(in crate::cause) static LIMIT_SHADOWED: Entry = Entry {
    id: "limit-shadowed",
    group: Group::Configuration,
    stages: &["any"],
    title: "A limit that can never fire",
    meaning: "Another limit over the same time is always shorter, so this one has no effect. Changing it changes \
              nothing, which misleads at night. An error never names it.",
    look_alikes: "`limit-inverted`: the shorter one cuts off work that should have been allowed. Two limits with \
                  different clocks (one of a gap, one of the whole) do not shadow each other, even if one is \
                  larger.",
    confirm: &[
        "Write both limits down with what starts, restarts and ends their clock. Shadowed means: same start, \
         never restarted later, and longer.",
        "Logs over a long time: this limit was never the one that fired.",
        "`overdue audit FILE`: the two lines, side by side.",
    ],
    fix: &[
        "Remove it, or make it shorter than the one that shadows it.",
        "If the shadowing limit is a default, set that one explicitly.",
    ],
};

pub(in crate::cause) static LIMIT_EQUAL: Entry = Entry {
    id: "limit-equal",
    group: Group::Configuration,
    stages: &["any"],
    title: "Caller and callee have the same limit",
    meaning: "Both clocks start almost together and end almost together, so chance decides which one fires. The \
              same fault then gives the caller's timeout one time and the callee's error (a 504, say) the next. \
              Alerts and retries that depend on the kind of error flap.",
    look_alikes: "`limit-inverted`: the outer one is clearly shorter. `keepalive-race`: the same race, for idle \
                  connections. Two faults that alternate: then the elapsed times differ.",
    confirm: &[
        "Elapsed times in the logs of both sides: all at the same value, errors of two kinds.",
        "Two defaults that meet: often both 60 s, or both 30 s.",
        "`overdue audit DIR`: names both lines.",
    ],
    fix: &[
        "Make the callee's limit shorter than the caller's by more than a round trip and the time to write an \
         error, for example by 10 %.",
        "Or forward the remaining time minus a reserve.",
    ],
};

pub(in crate::cause) static RETRY_AMPLIFIES: Entry = Entry {
    id: "retry-amplifies",
    group: Group::Configuration,
    stages: &["any"],
    title: "Retries at several hops multiply",
    meaning: "Each hop tries again on its own, so the attempts multiply: 3 at each of 3 hops are 27 for one \
              request. That is no problem until the last hop is slow. Then it gets a multiple of its load just \
              when it cannot take it, and stays down.",
    look_alikes: "A real rise of traffic: then the number of requests grows at the edge too. `limit-inverted`: \
                  the retries are configured, but the outer limit ends before they run.",
    confirm: &[
        "Multiply the attempts of every hop along the chain; look in clients, SDKs, sidecars, proxies and job \
         queues.",
        "Requests a second at the edge against those at the last hop, in a quiet hour and in a bad one.",
        "nginx: `proxy_next_upstream` is on by default (error and timeout), with no limit on tries or time except \
         the number of servers.",
        "The same request id several times in the last hop's log.",
    ],
    fix: &[
        "Retry at one hop only, usually the one nearest to the failing peer or the outermost.",
        "Use a retry budget (for example 10 % of the requests) instead of a count for each request.",
        "Backoff with jitter; no retry past the deadline, none on overload answers without Retry-After.",
    ],
};

pub(in crate::cause) static DEADLINE_NOT_FORWARDED: Entry = Entry {
    id: "deadline-not-forwarded",
    group: Group::Configuration,
    stages: &["any"],
    title: "A hop starts its own clock instead of what remains",
    meaning: "The caller sends how long it will still wait, or could, and this hop uses a fixed limit of its own \
              for its calls. It then works for callers that have gone, and its callees do the same. Under load \
              most of the capacity goes into answers that nobody reads.",
    look_alikes: "`limit-inverted`: the fixed limits do not even fit together. `deadline-ignored`: the deadline \
                  was forwarded, and the code runs on after it.",
    confirm: &[
        "Plain text: `tcpdump -nAi any 'tcp port PORT'` and look for grpc-timeout or \
         x-envoy-expected-rq-timeout-ms, inbound and outbound (HTTP/2 compresses headers: use the hop's own log \
         there).",
        "In the code: the outgoing call is made with a fresh context (Go: context.Background()) instead of the \
         inbound request's.",
        "Logs: this hop finishes work after its caller has logged a timeout.",
    ],
    fix: &[
        "Derive the outgoing deadline from the inbound one: the smaller of what remains, minus a reserve, and the \
         own cap.",
        "Pass the request's context through all layers; start fresh ones only for work that must outlive the \
         request.",
        "Forward remaining time, not points in time: clocks of two hosts differ.",
        "Do not accept a remaining time from clients that are not trusted.",
    ],
};

pub(in crate::cause) static KEEPALIVE_RACE: Entry = Entry {
    id: "keepalive-race",
    group: Group::Configuration,
    stages: &["send", "wait"],
    title: "The server closes idle connections before the client does",
    meaning: "The server's idle timeout is not longer than the client's, so the client may send a request in the \
              very moment in which the server closes. The request meets a closed socket and is answered with RST, \
              or with the FIN that was already under way. It hits a few calls in thousands, at quiet hours, and \
              never in a load test.",
    look_alikes: "`peer-reset` and `closed-early` are how it shows; this is the reason if the connection was \
                  reused, was idle for about the server's timeout, and not one byte of the response came. A \
                  restart of the server closes connections too, but all at once.",
    confirm: &[
        "Compare the two idle timeouts: server nginx `keepalive_timeout` (75 s), client nginx `keepalive_timeout` \
         in the upstream block (60 s), load balancers often 60 s.",
        "`tcpdump -ni any 'host HOST and tcp port PORT'`: FIN from the server and request from the client cross, \
         then RST.",
        "The failing calls: idle time of the connection before them, always about the same.",
    ],
    fix: &[
        "Client's idle limit below the server's by some seconds; or the server's above that of every client and \
         load balancer in front of it.",
        "Retry once, on a fresh connection, if the request is idempotent and not one byte of the response came.",
        "HTTP/2: let the server send GOAWAY before it closes.",
    ],
};
