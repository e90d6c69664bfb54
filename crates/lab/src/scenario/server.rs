//! What listens: the kinds of server, the steps of a script, the DNS server beside it and the filters in its way.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::value;

/// What listens at the address that the caller is sent to.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Server {
    /// Each connection runs the same list of steps.
    Script(Script),
    /// A real HTTP/2 server, good at first and then with one fault.
    Http2(Http2),
    /// A port that is taken but not listened on: every SYN is answered with RST.
    Refused,
    /// A listener whose accept queue is full, so that the kernel drops every further SYN.
    FullBacklog {
        /// After this time, counted from the start of the server, the queue is emptied and every connection is
        /// accepted and then met with silence. Without it the queue stays full.
        #[serde(default, deserialize_with = "value::optional_duration")]
        drain_after: Option<Duration>,
    },
    /// Every local port that could reach the server is in use. Needs a network namespace, whose range of ports it
    /// narrows.
    PortsTaken {
        /// How many local ports the namespace is left with.
        ports: u16,
    },
    /// Nothing of ours: an address that no route leads to. Needs a network namespace, which has no route but its own.
    Nowhere {
        /// Where the caller is sent.
        address: SocketAddr,
    },
}

/// What happens on each accepted connection, step by step. When the caller leaves, the script ends, whatever step it
/// has come to.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// In this order. The last one is `hold`, `close`, `reset`, `again` or `read = "all-and-ignore"`.
    pub steps: Vec<Step>,
    /// For the steps `tls` and `server-flight`.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// SO_RCVBUF of the listener: a small one shuts the window soon.
    #[serde(default)]
    pub receive_buffer_bytes: Option<u32>,
}

/// One step of a [`Script`].
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// Waits for something from the caller.
    Read(Read),
    /// Sends these bytes, in one write where they fit one (64 KiB).
    Send(Payload),
    /// Sends filler bytes a few at a time.
    Trickle {
        /// How many in all.
        filler_bytes: u64,
        /// How many at once, and how often.
        pace: Pace,
    },
    /// Takes the TLS handshake as a real server does. The steps that follow are inside TLS.
    Tls,
    /// Reads the ClientHello and sends what a real server answers to it (ServerHello to Finished), raw; the
    /// handshake is not taken further.
    ServerFlight {
        /// A few bytes at a time; without it, all in one write.
        #[serde(default)]
        pace: Option<Pace>,
    },
    /// Does nothing for this long. The pause is the fault itself.
    Pause(#[serde(deserialize_with = "value::duration")] Duration),
    /// Switches a filter on; it stays until the namespace is gone. Needs a network namespace.
    Filter(Rule),
    /// Marks that the fault is in place: [`Fault::armed`](crate::Fault::armed) waits for it.
    Armed,
    /// Goes back to the first step (behind `tls`): one more request on a kept connection.
    Again,
    /// Reads nothing and says nothing, until the caller leaves.
    Hold,
    /// Ends the connection in an orderly way: close_notify where there is TLS, then FIN.
    Close,
    /// Ends the connection with RST.
    Reset,
}

impl Step {
    /// Whether no step can follow.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Again | Self::Hold | Self::Close | Self::Reset | Self::Read(Read::AllAndIgnore))
    }

    /// The word used in files and messages.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Send(_) => "send",
            Self::Trickle { .. } => "trickle",
            Self::Tls => "tls",
            Self::ServerFlight { .. } => "server-flight",
            Self::Pause(_) => "pause",
            Self::Filter(_) => "filter",
            Self::Armed => "armed",
            Self::Again => "again",
            Self::Hold => "hold",
            Self::Close => "close",
            Self::Reset => "reset",
        }
    }
}

/// What a script waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Read {
    /// The head of an HTTP/1 message, to the empty line.
    Head,
    /// One TLS record, such as the ClientHello.
    TlsRecord,
    /// The preface of HTTP/2 and everything up to the first request's HEADERS.
    Http2Request,
    /// This many bytes.
    Bytes(u64),
    /// Everything until the caller leaves; nothing is done with it.
    AllAndIgnore,
}

/// Bytes to send: a string, or a table whose parts follow each other (`text`, then `hex`, then `filler_bytes`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Payload {
    /// What is sent first, byte for byte.
    pub bytes: Vec<u8>,
    /// How many bytes `x` follow.
    pub filler_bytes: u64,
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(default)]
            text: String,
            #[serde(default)]
            hex: String,
            #[serde(default)]
            filler_bytes: u64,
        }

        impl<'de> Visitor<'de> for TextOrTable {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a table with text, hex or filler_bytes")
            }

            fn visit_str<E>(self, text: &str) -> Result<Payload, E> {
                Ok(Payload { bytes: text.as_bytes().to_vec(), filler_bytes: 0 })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Payload, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                let mut bytes = table.text.into_bytes();
                bytes.extend(value::bytes_from_hex(&table.hex).map_err(serde::de::Error::custom)?);
                Ok(Payload { bytes, filler_bytes: table.filler_bytes })
            }
        }

        deserializer.deserialize_any(TextOrTable)
    }
}

/// A few bytes at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// How many bytes at once.
    pub chunk_bytes: u16,
    /// How long from one chunk to the next.
    #[serde(deserialize_with = "value::duration")]
    pub every: Duration,
}

/// How the server does TLS.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// What it shows the caller.
    pub certificate: Certificate,
    /// The protocols it offers to speak; none by default.
    #[serde(default)]
    pub alpn: Vec<String>,
}

/// The certificate that a server shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// For the right name and address, from the issuer that the caller is told to trust.
    Good,
    /// As good, and no longer valid since 2001.
    Expired,
    /// As good, for another name and no address.
    WrongName,
    /// As good, from an issuer that the caller is not told about.
    UntrustedIssuer,
    /// Good, and so large that the server's first flight takes several full segments and a small one, as the
    /// certificate of a content network does.
    Large,
}

/// An HTTP/2 server.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http2 {
    /// Inside TLS; without it, with prior knowledge.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// SETTINGS_MAX_CONCURRENT_STREAMS; 100 when it is left out.
    #[serde(default)]
    pub max_streams: Option<u32>,
    /// How many requests of a connection are answered well before the fault.
    #[serde(default)]
    pub good_requests: u32,
    /// What happens to the requests after those.
    pub then: Http2Then,
}

/// What an HTTP/2 server does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Http2Then {
    /// Answers it well.
    Answer,
    /// Keeps its stream open and never answers. This also marks the fault as in place, as the step `armed` does.
    Hold,
    /// Takes its body and never sends WINDOW_UPDATE.
    NoWindowUpdate,
}

/// The DNS server that the caller is sent to for the scenario's host name.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// What it says.
    pub reply: Reply,
    /// The addresses of the name; those of an answer. Only the server's own address by default.
    #[serde(default = "loopback")]
    pub addresses: Vec<IpAddr>,
}

fn loopback() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into()]
}

/// What a DNS server says to a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Reply {
    /// The addresses, at once.
    Answer,
    /// Nothing.
    Silent,
    /// The addresses, after this long.
    Slow(#[serde(deserialize_with = "value::duration")] Duration),
    /// This error.
    Rcode(Rcode),
    /// "Truncated, ask again over TCP", where this happens.
    Truncated(OverTcp),
}

/// The error code of a DNS reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the codes of RFC 1035")]
pub enum Rcode {
    Nxdomain,
    Servfail,
    Refused,
}

/// What a DNS server does on TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverTcp {
    /// Refuses the connection.
    Refused,
    /// Accepts it and says nothing.
    Silent,
}

/// Filters that are there from the start; a script switches on others (see [`Step::Filter`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// What is dropped.
    pub at_start: Rule,
}

/// Which packets vanish on their way between caller and server. No error is sent back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Rule {
    /// The caller's SYNs.
    DropSyn,
    /// All from the server.
    DropFromServer,
    /// All to the server.
    DropToServer,
    /// All, both ways.
    DropBoth,
    /// All, both ways, once the caller has sent so much (headers of IP and TCP included).
    DropBothAfterUpload {
        /// How much is let through.
        bytes: u64,
    },
    /// Those larger than a part of the path can carry, both ways.
    DropLarge {
        /// The largest IP packet that passes.
        over_bytes: u16,
    },
}
