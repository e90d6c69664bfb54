//! The heads that were sent, fit for a log.

use std::{fmt, time::Duration};

use http::{HeaderMap, Request, Uri, Version, header::HOST};
use overdue_core::{Deadline, DurationText, Limits};

use super::Call;

/// What is kept of one head; the rest is counted.
const HEAD_SHOWN_MAX: usize = 16 * 1024;

/// What stands for a secret, however long that is.
const HIDDEN: &str = "***";

/// Parts of names of header fields that carry secrets.
const SECRET_PARTS: [&str; 16] = [
    "accesskey",
    "apikey",
    "authoris",
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
const SECRET_WORDS: [&str; 9] = ["dpop", "key", "otp", "pass", "pin", "pwd", "sess", "sid", "sig"];
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
///   `session`, `signature`, `passw...`, `credential`, `auth` (but not `author`) in it, or with `key`, `sig`, `pin`,
///   `pwd`, `otp` as a word of it; and values that begin with the scheme of a credential (`Bearer ...`), or have a JSON
///   web token in them, whatever their name;
/// - every value in the query of the URL, and in the queries and fragments of URLs in fields such as `referer`: signed
///   URLs and session ids come under any name. The names stay;
/// - users and passwords in such URLs, before the `@` of a field such as `host`, and wherever else they look like
///   `user:password@`.
///
/// What is said of the field `host` counts for the `:authority` of HTTP/2, too.
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
        let (name, value) = (name.to_ascii_lowercase(), value.trim_ascii_start());
        let begins = |scheme: &&str| {
            value.get(..scheme.len()).is_some_and(|value| value.eq_ignore_ascii_case(scheme.as_bytes()))
        };
        SECRET_PARTS.iter().any(|part| name.contains(part))
            || name.split("auth").skip(1).any(|rest| !rest.starts_with("or"))
            || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| SECRET_WORDS.contains(&word))
            || SECRET_SCHEMES.iter().any(begins)
            || value.windows(SIGNED.len()).any(|window| window == SIGNED) && value.contains(&b'.')
    }

    /// Writes the value of a field as it may be seen.
    fn value(&self, name: &str, value: &[u8], sensitive: bool, out: &mut Vec<u8>) {
        if self.off {
            out.extend_from_slice(value);
            return;
        }
        if sensitive || self.hides(name, value) {
            out.extend_from_slice(HIDDEN.as_bytes());
            return;
        }
        let (space, value) = value.split_at(value.len() - value.trim_ascii_start().len());
        out.extend_from_slice(space);
        match value.iter().rposition(|byte| *byte == b'@') {
            Some(at) if is_host(name) => {
                out.extend_from_slice(HIDDEN.as_bytes());
                out.extend_from_slice(value.get(at..).unwrap_or_default());
            }
            _ if is_url(value) => self.url(value, out),
            _ => without_users(value, out),
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

/// Whether fields of this name have hosts in them. Each may have a user before it.
fn is_host(name: &str) -> bool {
    name == ":authority" || name.get(name.len().saturating_sub(4)..).is_some_and(|end| end.eq_ignore_ascii_case("host"))
}

/// Whether it may be a URL, the path of one, or one that is relative to another.
fn is_url(value: &[u8]) -> bool {
    let (_, query) = value.split_at(end_of(value, b"?"));
    value.starts_with(b"/") || value.windows(3).any(|window| window == b"://") || query.contains(&b'=')
}

/// Where the first of these bytes is, or the end.
fn end_of(text: &[u8], bytes: &[u8]) -> usize {
    text.iter().position(|byte| bytes.contains(byte)).unwrap_or(text.len())
}

/// What ends the authority of a URL in a text, and what ends a word of it.
const AFTER_AUTHORITY: &[u8] = b"/ ,;<>\"";
const AFTER_WORD: &[u8] = b" ,;<>\"";

/// Writes a text that may have URLs in it, each without its user.
fn without_users(mut text: &[u8], out: &mut Vec<u8>) {
    let mut begins = text.starts_with(b"//");
    loop {
        let scheme =
            if begins { Some(2) } else { text.windows(3).position(|window| window == b"://").map(|at| at + 3) };
        begins = false;
        let (start, rest) = text.split_at(scheme.unwrap_or(text.len()));
        without_bare_users(start, out);
        let (authority, after) = rest.split_at(end_of(rest, AFTER_AUTHORITY));
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

/// Writes a text in which no URL has a scheme, without what looks like `user:password@`. In a path that is something
/// else.
fn without_bare_users(mut text: &[u8], out: &mut Vec<u8>) {
    while !text.is_empty() {
        let (word, after) = text.split_at(end_of(text, AFTER_WORD));
        let (before_path, _) = word.split_at(end_of(word, b"/"));
        let at = before_path.iter().rposition(|byte| *byte == b'@');
        let user = at.filter(|at| end_of(word, b":") < *at);
        if user.is_some() {
            out.extend_from_slice(HIDDEN.as_bytes());
        }
        out.extend_from_slice(word.get(user.unwrap_or_default()..).unwrap_or_default());
        let (separator, rest) = after.split_at(after.len().min(1));
        out.extend_from_slice(separator);
        text = rest;
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

    /// `head` is what is about to be given to HTTP/2, made of a request with these `headers`, which sends the pseudo-header fields in this order.
    pub(super) fn http2(redaction: &Redaction, call: &Call<'_>, head: &Request<()>, headers: &HeaderMap) -> Box<Self> {
        let uri: &Uri = head.uri();
        let mut out = Lines::default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        // It has become of the Host field, if there was one.
        let hidden = headers.get(HOST).is_some_and(http::HeaderValue::is_sensitive)
            || redaction.hides(HOST.as_str(), authority.as_bytes());
        let pseudo = [
            (":method", head.method().as_str(), false),
            (":scheme", uri.scheme_str().unwrap_or_default(), false),
            (":authority", authority, hidden),
            (":path", uri.path_and_query().map_or("/", |path| path.as_str()), false),
        ];
        for (name, value, hidden) in pseudo {
            out.field(redaction, name, value.as_bytes(), hidden);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(name: &str, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Redaction::default().value(name, value, false, &mut out);
        out
    }

    /// Values with a secret in them, in whatever company.
    fn with_secret() -> impl Strategy<Value = (&'static str, String)> {
        let around = "( |\t)?[a-z0-9.,;<>\" -]{0,12}";
        let host = "[a-z0-9.-]{1,12}(:[0-9]{1,5})?";
        let path = "(/[a-z0-9@:;.,-]{0,8}){0,3}";
        let secret = prop_oneof![
            (host, path).prop_map(|(host, path)| format!("https://HUSH@{host}{path}")),
            (host, path).prop_map(|(host, path)| format!("ws+x://u:HUSH@x@{host}{path}")),
            host.prop_map(|host| format!("u:HUSH@{host}")),
            (host, path).prop_map(|(host, path)| format!("http://{host}{path}?a=b&c=HUSH&d#HUSH")),
            (host, path).prop_map(|(host, path)| format!("http://{host}{path}?HUSH#a=HUSH=")),
            path.prop_map(|path| format!("/x{path}?c=HUSH")),
            path.prop_map(|path| format!("x{path}?a&c=HUSH&")),
        ];
        let anywhere = (around, secret, "[ ,<>\";]", around)
            .prop_map(|(before, secret, end, after)| ("x-any", format!("{before} {secret}{end}{after}")));
        prop_oneof![
            4 => anywhere,
            1 => host.prop_map(|host| ("x-forwarded-Host", format!("HUSH@{host}"))),
            1 => "[A-Za-z-]{0,8}".prop_map(|rest| ("x-oAuth2", format!("{rest}HUSH"))),
            1 => "[ \t]{0,3}(Bearer|basic|TOKEN) ".prop_map(|scheme| ("x-any", format!("{scheme}HUSH"))),
        ]
    }

    proptest! {
        #[test]
        fn no_secret_is_seen((name, value) in with_secret()) {
            let shown = String::from_utf8(redacted(name, value.as_bytes())).unwrap();
            prop_assert!(!shown.contains("HUSH"), "{name}: {value:?} became {shown:?}");
        }

        #[test]
        fn what_has_no_secret_stays_as_it_is(value in "[A-Za-z0-9 .,;:=()*\"-]{0,40}( [a-z]{1,8}@[a-z.]{1,8})?") {
            let begins = value.trim_start().to_ascii_lowercase();
            prop_assume!(!SECRET_SCHEMES.iter().any(|scheme| begins.starts_with(scheme)) && !value.contains("eyJ"));
            prop_assert_eq!(redacted("x-any", value.as_bytes()), value.as_bytes());
        }

        #[test]
        fn whatever_it_is_hiding_twice_hides_no_more(
            name in prop::sample::select(vec!["x-any", "host", ":path", "referer"]),
            value in prop_oneof![
                "([a-z]|HUSH|/|//|://|\\?|#|&|=|@|:|,| |<|>|;|\"|\\*){0,24}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..64),
            ],
        ) {
            let once = redacted(name, &value);
            prop_assert_eq!(redacted(name, &once), once);
        }
    }
}
