//! Why a hello was turned away, and what its sender is told.

use std::{fmt, io};

use super::{Ja4, Version};
use crate::Error;

/// A rule of the RFCs that a ClientHello breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The major version of a record is not 3.
    #[error("a record has a version that is not TLS")]
    RecordVersion,
    /// A record is longer than records may be.
    #[error("a record is longer than 16384 bytes")]
    RecordTooLong,
    /// A record holds nothing.
    #[error("a record is empty")]
    EmptyRecord,
    /// Another message, or an alert.
    #[error("the first message is no ClientHello")]
    NotClientHello,
    /// It is longer than 16 KiB.
    #[error("it is longer than 16384 bytes")]
    TooLong,
    /// Something follows in the same record, or behind the extensions.
    #[error("something follows its end")]
    Trailing,
    /// A part of it ends before its length.
    #[error("a part of it is shorter than its length says")]
    Short,
    /// The version is no version of TLS.
    #[error("its version is not one of TLS")]
    Version,
    /// The session id is longer than 32 bytes.
    #[error("its session id is longer than 32 bytes")]
    SessionId,
    /// There are no cipher suites, or half a one.
    #[error("it has no list of cipher suites")]
    CipherSuites,
    /// It does not offer to compress nothing.
    #[error("it insists on compression")]
    Compression,
    /// An extension comes twice.
    #[error("extension {extension} comes twice")]
    Twice {
        /// Its type.
        extension: u16,
    },
    /// An extension cannot be read.
    #[error("extension {extension} is malformed")]
    Extension {
        /// Its type.
        extension: u16,
    },
    /// `pre_shared_key` is not the last extension.
    #[error("pre_shared_key is not the last extension")]
    KeyNotLast,
}

/// Bytes that are no ClientHello.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotHello {
    /// They are not TLS at all.
    #[error("not TLS: it begins with {:?}", char::from(*first))]
    NotTls {
        /// The first byte.
        first: u8,
    },
    /// They break a rule.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Why a hello was turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhyRejected {
    /// It is not TLS: somebody speaks HTTP to this port.
    #[error("not TLS: it begins with {:?}", char::from(*first))]
    NotTls {
        /// The first byte.
        first: u8,
    },
    /// It breaks a rule.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// The connection ended in the middle of it.
    #[error("it ends too early")]
    Truncated,
    /// The name is not served here.
    #[error("its name is not served here")]
    Name,
    /// It asks for no name.
    #[error("it asks for no name")]
    Nameless,
    /// All versions that it offers are too old.
    #[error("it offers nothing newer than {newest}")]
    Version {
        /// The newest of them.
        newest: Version,
    },
    /// None of its protocols (ALPN) is spoken here.
    #[error("none of its protocols is spoken here")]
    Protocol,
    /// It offers no cipher suite.
    #[error("it offers no cipher suite")]
    NoCipher,
    /// Too many hellos came from its source.
    #[error("too many hellos from its source")]
    Rate,
    /// Too many handshakes of its source failed.
    #[error("too many failures of its source")]
    FailureRate,
}

impl WhyRejected {
    /// The words of [`as_str`](Self::as_str).
    pub const KINDS: [&'static str; 10] = [
        "not-tls",
        "malformed",
        "truncated",
        "name",
        "nameless",
        "version",
        "protocol",
        "no-cipher",
        "rate",
        "failure-rate",
    ];

    pub(super) const fn kind(&self) -> usize {
        match self {
            Self::NotTls { .. } => 0,
            Self::Malformed(_) => 1,
            Self::Truncated => 2,
            Self::Name => 3,
            Self::Nameless => 4,
            Self::Version { .. } => 5,
            Self::Protocol => 6,
            Self::NoCipher => 7,
            Self::Rate => 8,
            Self::FailureRate => 9,
        }
    }

    /// The kind of reason in one word, as metrics name it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        Self::KINDS.get(self.kind()).copied().unwrap_or_default()
    }

    /// What the peer is told; nothing where it would not understand, or is gone.
    #[must_use]
    pub const fn alert(&self) -> Option<Alert> {
        Some(match self {
            Self::NotTls { .. } | Self::Truncated => return None,
            Self::Malformed(malformed) => malformed.alert(),
            Self::Name | Self::Nameless => Alert::UnrecognizedName,
            Self::Version { .. } => Alert::ProtocolVersion,
            Self::Protocol => Alert::NoApplicationProtocol,
            Self::NoCipher | Self::Rate | Self::FailureRate => Alert::HandshakeFailure,
        })
    }
}

impl Malformed {
    const fn alert(self) -> Alert {
        match self {
            Self::RecordVersion | Self::Version => Alert::ProtocolVersion,
            Self::RecordTooLong => Alert::RecordOverflow,
            Self::EmptyRecord | Self::NotClientHello => Alert::UnexpectedMessage,
            Self::Compression | Self::Twice { .. } | Self::KeyNotLast => Alert::IllegalParameter,
            Self::TooLong
            | Self::Trailing
            | Self::Short
            | Self::SessionId
            | Self::CipherSuites
            | Self::Extension { .. } => Alert::DecodeError,
        }
    }
}

impl From<NotHello> for WhyRejected {
    fn from(not: NotHello) -> Self {
        match not {
            NotHello::NotTls { first } => Self::NotTls { first },
            NotHello::Malformed(malformed) => Self::Malformed(malformed),
        }
    }
}

/// A fatal alert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Alert {
    /// 10
    UnexpectedMessage,
    /// 22
    RecordOverflow,
    /// 40
    HandshakeFailure,
    /// 47
    IllegalParameter,
    /// 50
    DecodeError,
    /// 70
    ProtocolVersion,
    /// 112
    UnrecognizedName,
    /// 120
    NoApplicationProtocol,
}

impl Alert {
    /// The number that goes on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::UnexpectedMessage => 10,
            Self::RecordOverflow => 22,
            Self::HandshakeFailure => 40,
            Self::IllegalParameter => 47,
            Self::DecodeError => 50,
            Self::ProtocolVersion => 70,
            Self::UnrecognizedName => 112,
            Self::NoApplicationProtocol => 120,
        }
    }

    /// The record, in the clear, as any version understands it.
    #[must_use]
    pub const fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self.code()]
    }
}

/// A hello that was turned away.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RejectedHello {
    /// Why.
    pub why: WhyRejected,
    /// The name that it asked for: letters, digits, `-`, `_` and dots, as it was sent.
    pub server_name: Option<Box<str>>,
    /// Its fingerprint, where the policy asks for it and it could be read.
    pub ja4: Option<Ja4>,
}

impl From<WhyRejected> for RejectedHello {
    fn from(why: WhyRejected) -> Self {
        Self { why, server_name: None, ja4: None }
    }
}

impl fmt::Display for RejectedHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server_name {
            Some(name) => write!(f, "{} (for {name})", self.why),
            None => self.why.fmt(f),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The hello was turned away.
    #[error("the ClientHello was turned away: {0}")]
    Rejected(RejectedHello),
    /// A limit fired, or the context was cancelled; in a stage named `hello` or `handshake`.
    #[error("{error} ({received} bytes had come of the hello)")]
    Limit {
        /// Which limit, and whose.
        #[source]
        error: Error,
        /// How many bytes of the hello had come.
        received: usize,
    },
    /// The connection failed, or ended before anything came.
    #[error("the connection failed in the handshake: {0}")]
    Io(#[source] io::Error),
    /// The handshake failed.
    #[error("the handshake failed: {0}")]
    Tls(#[source] rustls::Error),
}
