//! The heads that were sent, fit for a log.

use std::{fmt, time::Duration};

use http::{HeaderMap, Request, Uri, Version};
use overdue_core::{Deadline, DurationText, Limits};

use super::Call;

/// What is kept of one head; the rest is counted.
const HEAD_SHOWN_MAX: usize = 16 * 1024;

/// What stands for a secret, however long that is.
const HIDDEN: &str = "***";

/// Parts of names of header fields that carry secrets.
const SECRET_PARTS: [&str; 17] = [
    "accesskey",
    "apikey",
    "authentic",
    "authkey",
    "authoriz",
    "bearer",
    "cookie",
    "credential",
    "hmac",
    "jwt",
    "passcode",
    "passphrase",
    "passw",
    "secret",
    "session",
    "signature",
    "token",
];
/// The same, where they are a whole word of a name: `x-api-key`, but not `monkey`.
const SECRET_WORDS: [&str; 10] = ["auth", "dpop", "key", "otp", "pass", "pin", "pwd", "sess", "sid", "sig"];
/// Schemes of credentials, which give away a field of any name.
const SECRET_SCHEMES: [&str; 10] =
    ["apikey ", "basic ", "bearer ", "digest ", "dpop ", "hawk ", "hmac ", "negotiate ", "ntlm ", "token "];
/// How every JSON web token begins: `{"` in base64.
const SIGNED: &[u8] = b"eyJ";

/// What a [`Snapshot`] hides. Given to [`Builder::snapshot`](super::Builder::snapshot), or in the extensions of one
/// request, it asks for snapshots.
///
/// Hidden by default, behind `***` of the same length for all:
/// - the values of fields that are marked as sensitive ([`http::HeaderValue::set_sensitive`]), whatever their name;
/// - the values of fields whose name says so: `authorization`, `cookie`, `x-api-key`, and any with `token`, `secret`,
///   `session`, `signature`, `passw...`, `credential` in it, or with `auth`, `key`, `sig`, `pin`, `pwd`, `otp` as a
///   word of it; and values that begin with the scheme of a credential (`Bearer ...`), or have a JSON web token in
///   them, whatever their name;
/// - every value in the query of the URL, and in the queries and fragments of URLs in fields such as `referer`: signed
///   URLs and session ids come under any name. The names stay. Users and passwords in such URLs are hidden too.
///
/// What is not hidden: the path of the URL, names, the values of all other fields.
///
/// ```
/// use overdue::{Client, client::Redaction};
///
/// # fn f() -> Result<(), overdue::BuildError> {
/// let client = Client::builder().snapshot(Redaction::default().hide("x-tenant").show("page")).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Redaction {
    hide: Vec<Box<str>>,
    show: Vec<Box<str>>,
    off: bool,
}

impl Redaction {
    /// Hides the field of this name, too. Case does not matter.
    #[must_use]
    pub fn hide(mut self, name: impl Into<Box<str>>) -> Self {
        self.hide.push(name.into());
        self
    }

    /// Shows the field, or the value in a query, of this name, unless it is marked as sensitive or the same name is
    /// hidden with [`hide`](Self::hide). Case does not matter.
    #[must_use]
    pub fn show(mut self, name: impl Into<Box<str>>) -> Self {
        self.show.push(name.into());
        self
    }

    /// Hides nothing, not even what is marked as sensitive. For a wire that has to be seen byte by byte, where no log
    /// is kept.
    #[must_use]
    pub fn dangerously_hide_nothing() -> Self {
        Self { off: true, ..Self::default() }
    }

    fn shows(&self, name: &str) -> bool {
        is_among(name, &self.show) && !is_among(name, &self.hide)
    }

    fn hides(&self, name: &str, value: &[u8]) -> bool {
        if is_among(name, &self.hide) {
            return true;
        }
        if is_among(name, &self.show) {
            return false;
        }
        let name = name.to_ascii_lowercase();
        let begins = |scheme: &&str| {
            value.get(..scheme.len()).is_some_and(|value| value.eq_ignore_ascii_case(scheme.as_bytes()))
        };
        SECRET_PARTS.iter().any(|part| name.contains(part))
            || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| SECRET_WORDS.contains(&word))
            || SECRET_SCHEMES.iter().any(begins)
            || value.windows(SIGNED.len()).any(|window| window == SIGNED) && value.contains(&b'.')
    }

    /// Writes the value of a field as it may be seen.
    fn value(&self, name: &str, value: &[u8], sensitive: bool, out: &mut Vec<u8>) {
        if !self.off && (sensitive || self.hides(name, value)) {
            out.extend_from_slice(HIDDEN.as_bytes());
        } else if value.starts_with(b"/") || value.windows(3).any(|window| window == b"://") {
            self.url(value, out);
        } else {
            out.extend_from_slice(value);
        }
    }

    /// Writes a URL, or the path of one, without users and without the values of its query and its fragment.
    fn url(&self, url: &[u8], out: &mut Vec<u8>) {
        if self.off {
            out.extend_from_slice(url);
            return;
        }
        let (before, mut rest) = url.split_at(end_of(url, b"?#"));
        without_users(before, out);
        while let Some((separator, after)) = rest.split_first() {
            out.push(*separator);
            let (pair, next) = after.split_at(end_of(after, b"&#"));
            rest = next;
            let equals = pair.iter().position(|byte| *byte == b'=');
            let name = pair.get(..equals.unwrap_or(pair.len())).unwrap_or_default();
            if pair.is_empty() || std::str::from_utf8(name).is_ok_and(|name| self.shows(name)) {
                out.extend_from_slice(pair);
            } else {
                // What stands alone is a value as well as a name, and what has a user in it is another URL.
                let named = equals.filter(|_| !name.contains(&b'@'));
                out.extend_from_slice(named.and_then(|at| pair.get(..=at)).unwrap_or_default());
                out.extend_from_slice(HIDDEN.as_bytes());
            }
        }
    }
}

/// Where the first of these bytes is, or the end.
fn end_of(text: &[u8], bytes: &[u8]) -> usize {
    text.iter().position(|byte| bytes.contains(byte)).unwrap_or(text.len())
}

/// Writes one URL or several, each without its user.
fn without_users(mut text: &[u8], out: &mut Vec<u8>) {
    let mut begins = text.starts_with(b"//");
    loop {
        let scheme =
            if begins { Some(2) } else { text.windows(3).position(|window| window == b"://").map(|at| at + 3) };
        begins = false;
        let (start, rest) = text.split_at(scheme.unwrap_or(text.len()));
        out.extend_from_slice(start);
        let (authority, after) = rest.split_at(end_of(rest, b"/ ,;<>\""));
        match authority.iter().rposition(|byte| *byte == b'@') {
            Some(at) => {
                out.extend_from_slice(HIDDEN.as_bytes());
                out.extend_from_slice(authority.get(at..).unwrap_or_default());
            }
            None => out.extend_from_slice(authority),
        }
        text = after;
        if text.is_empty() {
            return;
        }
    }
}

fn is_among(name: &str, names: &[Box<str>]) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// The head of one request as it was sent, without its secrets, and the limits that held at that moment: for logs.
///
/// There is one for each attempt that sent something ([`CallLog::snapshots`](crate::CallLog::snapshots) and
/// [`Error::snapshots`](crate::Error::snapshots)), when the client or the request asked for it with a [`Redaction`].
/// What the kernel took (over HTTP/2: the connection) may still not have reached the peer: the report tells.
///
/// [`Display`](fmt::Display) writes it in lines, with every byte that is no printable ASCII escaped.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Counts the attempts of the call, from 1.
    pub attempt: u32,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// HTTP/1.1: the request line and the fields, byte by byte as they were sent. HTTP/2, which sends no text: a line
    /// for each pseudo-header field and each field, in the order in which they were sent. Each line ends with CR LF, and
    /// an empty line ends the whole. What is hidden is `***`.
    ///
    /// At most 16 KiB.
    pub head: Vec<u8>,
    /// Bytes of `head` beyond that, left out.
    pub left_out: usize,
    /// The limits of the call, with those who set them.
    pub limits: Limits,
    /// The deadline of the call, or of the attempt, with the limit that made it.
    pub deadline: Option<Deadline>,
    /// What was left until then.
    pub remaining: Option<Duration>,
}

impl Snapshot {
    /// `head` is what is about to be sent.
    pub(super) fn http1(redaction: &Redaction, call: &Call<'_>, head: &[u8], headers: &HeaderMap) -> Box<Self> {
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut out = Lines::default();
        out.line(|out| {
            let mut parts = lines.next().unwrap_or_default().splitn(3, |byte| *byte == b' ');
            out.extend_from_slice(parts.next().unwrap_or_default());
            out.push(b' ');
            redaction.url(parts.next().unwrap_or_default(), out);
            out.push(b' ');
            out.extend_from_slice(parts.next().unwrap_or_default());
        });
        for line in lines.take_while(|line| !line.is_empty()) {
            // No name has a colon in it, and what writes a head writes a space behind it.
            let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
            let (name, value) = (String::from_utf8_lossy(name), value.strip_prefix(b": ").unwrap_or(value));
            let sensitive = headers.get_all(&*name).iter().any(http::HeaderValue::is_sensitive);
            out.field(redaction, &name, value, sensitive);
        }
        out.end(call, Version::HTTP_11)
    }

    /// `head` is what is about to be given to HTTP/2, which sends the pseudo-header fields in this order.
    pub(super) fn http2(redaction: &Redaction, call: &Call<'_>, head: &Request<()>) -> Box<Self> {
        let uri: &Uri = head.uri();
        let mut out = Lines::default();
        let pseudo = [
            (":method", head.method().as_str()),
            (":scheme", uri.scheme_str().unwrap_or_default()),
            (":authority", uri.authority().map_or("", |authority| authority.as_str())),
            (":path", uri.path_and_query().map_or("/", |path| path.as_str())),
        ];
        for (name, value) in pseudo {
            out.field(redaction, name, value.as_bytes(), false);
        }
        for (name, value) in head.headers() {
            out.field(redaction, name.as_str(), value.as_bytes(), value.is_sensitive());
        }
        out.end(call, Version::HTTP_2)
    }
}

/// A head that grows to its bound.
#[derive(Default)]
struct Lines {
    head: Vec<u8>,
    left_out: usize,
}

impl Lines {
    fn line(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut line = Vec::new();
        write(&mut line);
        line.extend_from_slice(b"\r\n");
        let room = HEAD_SHOWN_MAX - self.head.len();
        let (shown, rest) = line.split_at(room.min(line.len()));
        self.head.extend_from_slice(shown);
        self.left_out += rest.len();
    }

    fn field(&mut self, redaction: &Redaction, name: &str, value: &[u8], sensitive: bool) {
        self.line(|out| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            redaction.value(name, value, sensitive, out);
        });
    }

    fn end(mut self, call: &Call<'_>, version: Version) -> Box<Snapshot> {
        self.line(|_| {});
        Box::new(Snapshot {
            attempt: call.log.attempt(),
            version,
            head: self.head,
            left_out: self.left_out,
            limits: call.limits.clone(),
            deadline: call.context.deadline().cloned(),
            remaining: call.context.remaining(),
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {}, {:?}", self.attempt, self.version)?;
        if let (Some(deadline), Some(remaining)) = (&self.deadline, self.remaining) {
            write!(f, ", {} left of {}", DurationText(remaining), deadline.limit())?;
        }
        // What can still fire once a request is under way.
        let ahead = [&self.limits.send, &self.limits.wait, &self.limits.gap];
        for (index, limit) in ahead.into_iter().flatten().enumerate() {
            write!(f, "{}{limit}", if index == 0 { "; limits: " } else { ", " })?;
        }
        let lines = self.head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        for line in lines.filter(|line| !line.is_empty()) {
            f.write_str("\n> ")?;
            for byte in line {
                match byte {
                    b' '..=b'~' if *byte != b'\\' => fmt::Write::write_char(f, char::from(*byte))?,
                    other => write!(f, "{}", other.escape_ascii())?,
                }
            }
        }
        if self.left_out > 0 {
            write!(f, "\n({} bytes left out)", self.left_out)?;
        }
        Ok(())
    }
}
