//! Waits that may be what a connection is for.

use overdue_core::{Cause, Confidence};

use crate::judge::{Finding, diag};

/// Whether a wait may be what a connection is for. Of several with one peer the first of these decides, so they stand in the
/// order of what is known: from `No`, a fault for certain, to what explains itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Meant {
    No,
    /// The process itself refused the peer.
    OwnDecision,
    /// A client does not take its own answer, and others are served meanwhile.
    OwnAffair,
    /// The process takes no more of an answer than it wants.
    OwnPace,
    /// One name, or one server, of many that are asked meanwhile and answer.
    OneOfMany,
    /// A name server said no, and that is an answer to what was asked.
    NoIsAnswer,
    /// An answer may have been whole when its connection ended.
    Whole,
    /// Nothing was sent, and nothing came.
    Quiet,
    /// What was sent was not seen: it may ask for nothing.
    Unseen,
    /// Callers wait, who asked before it was sent: for it, or for another call.
    Called,
    /// It is a request that has an answer, some day.
    Request,
    /// Nothing speaks against it.
    Perhaps,
    /// It hands on, byte by byte, what a client says, and nobody saw what that is.
    Relayed,
    /// The request itself asks to wait.
    Asked,
    /// The answer is a stream of events, which come when there are some.
    Events,
}

/// Why something may be no fault, for a reader.
struct Doubt {
    why: &'static str,
    fix: &'static str,
    instead: &'static str,
}

impl Meant {
    const fn doubt(self) -> Doubt {
        const FOR_IT: &str = "possible: the wait may be what the connection is for, and then no fault at all";
        const NEWS: &str = "A subscriber, a long poll and a worker that waits for its next job look like this and are well. If \
                            somebody does wait for this answer, look at the server.";
        match self {
            Self::OwnDecision => Doubt {
                why: "whom it trusts, and what it speaks, is this process's own decision",
                fix: "If it should get on with this peer: `openssl s_client -connect HOST:PORT -servername NAME -showcerts` \
                      shows the chain, and the process's own log why it refused.",
                instead: "possible: it may refuse whom it should",
            },
            Self::OwnAffair => Doubt {
                why: "it holds up its own answer, and other callers of this process are served",
                fix: "A player that is paused looks like this and is well. What waits for it takes memory: set a limit to the \
                      time that a client may take nothing (nginx: send_timeout).",
                instead: "possible: the client may want no more for now, and then it is no fault at all",
            },
            Self::OwnPace => Doubt {
                why: "it has read before, no caller of it waits, and its loop turns and does not ask for more",
                fix: "A player that has enough for now and a download with a limit to its rate look like this and are well. If \
                      it should read on: look for what pauses it, a sink that takes no more perhaps.",
                instead: "possible: it may want no more for now, and then it is no fault at all",
            },
            Self::OneOfMany => Doubt {
                why: "it asks for other names meanwhile, and nearly all of them are answered",
                fix: "A resolver and a crawler meet dead names and servers, and are well. If that name should be found, ask \
                      for it: `dig @SERVER NAME`.",
                instead: "possible: the name or its server may be dead for everybody, and then it is no fault here",
            },
            Self::NoIsAnswer => Doubt {
                why: "no is an answer, too, where somebody asks whether there is one",
                fix: "Mail filters that ask lists of senders, logs that look for names of addresses, and programs that ask for \
                      one kind of address first look like this and are well. If there should be one: `dig @SERVER NAME TYPE`.",
                instead: "possible: the answer may be the right one, and then it is no fault at all",
            },
            Self::Whole => Doubt {
                why: "an answer had come, nothing was asked since, and whether it was whole cannot be told of this protocol",
                fix: "Servers that end idle connections so are well. If calls fail, look at the server: why it resets what it \
                      has begun to answer.",
                instead: "possible: each call may have had its answer, and then it is no fault at all",
            },
            Self::Quiet => Doubt {
                why: "nothing was sent on it either, so the peer may have nothing to say",
                fix: "A feed without news looks like this and is well. If the peer should speak first, as servers of SSH, SMTP \
                      and MySQL do, look at it.",
                instead: FOR_IT,
            },
            Self::Relayed => Doubt {
                why: "it carries what a client of this process says, byte by byte, and a WebSocket or a tunnel may be silent",
                fix: "If that client does wait for an answer, look at the server behind this process.",
                instead: FOR_IT,
            },
            Self::Unseen => Doubt {
                why: "what was sent may ask for nothing",
                fix: "Logs and metrics are sent like this, without an answer, and are well. If somebody does wait for an \
                      answer on this connection, look at the server.",
                instead: FOR_IT,
            },
            Self::Called => Doubt {
                why: "the callers of this process that wait asked just before other calls went out",
                fix: NEWS,
                instead: FOR_IT,
            },
            Self::Asked => Doubt {
                why: "no caller of this process is known to wait for it, and the request itself asks to wait",
                fix: NEWS,
                instead: FOR_IT,
            },
            Self::Events => Doubt {
                why: "its head says that it is a stream of events (text/event-stream), which come when there are some",
                fix: "A stream without news looks like this and is well. If there is news that does not come, look at the server.",
                instead: FOR_IT,
            },
            Self::No | Self::Request | Self::Perhaps => Doubt {
                why: "no caller of this process is known to wait for it, and the peer has answered before",
                fix: NEWS,
                instead: FOR_IT,
            },
        }
    }
}

impl Finding {
    /// As a remark: it may be a fault, and may be what the connection is for.
    pub(super) fn maybe_meant(mut self, meant: Meant) -> Self {
        self.advisory = true;
        self.verdict.confidence = Confidence::Low;
        let Doubt { why, fix, instead } = meant.doubt();
        self.verdict.evidence.push(diag(format!("nothing shows that anybody is held up by it: {why}")));
        self.verdict.rejected.clear();
        self.fix(fix).rejected(Cause::Unknown, instead)
    }
}
