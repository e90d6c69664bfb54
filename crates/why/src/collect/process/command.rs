//! A command line, or a path in a request, without its secrets.
//!
//! Which part is a secret is guessed by the names of flags and keys and by its shape, and rather once too often than too
//! seldom: a report is pasted into tickets. What is known of names and shapes is in the tables.

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// Names of flags and keys that have a secret as their value hold one of these.
const SECRET: [&str; 24] = [
    "password",
    "passwd",
    "passphrase",
    "passin",
    "passout",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api-key",
    "accesskey",
    "access-key",
    "privatekey",
    "private-key",
    "credential",
    "authorization",
    "cookie",
    "signature",
    "connectionstring",
    "connection-string",
    "sas-key",
    "jwt",
    "sessionid",
    "bearer",
];
/// Or have one of these between dashes and dots, or a word that ends so (`-storepass`).
const SECRET_WHOLE: [&str; 5] = ["pass", "auth", "key", "pw", "cred"];
const SECRET_END: &str = "pass";
const NOT_SECRET_END: [&str; 4] = ["bypass", "compass", "encompass", "overpass"];
/// Or are one of these: `sig` is what signs a URL of Azure's.
const SECRET_NAME: [&str; 2] = ["sig", "otp"];
/// Values of such names tell where the secret is, or what kind it is of, and are none.
const NOT_SECRET: [&str; 18] = [
    "file", "path", "dir", "url", "stdin", "prompt", "fd", "type", "mode", "method", "plugin", "ttl", "timeout",
    "length", "size", "name", "format", "required",
];
/// Nor are these, whatever the name.
const NOT_SECRET_VALUE: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "none", "null"];
/// A file that has such a name is known to be one.
const KEY_FILES: [&str; 7] = [".pem", ".key", ".crt", ".cer", ".p12", ".pfx", ".json"];
/// Secrets that begin like this are known without a name.
const KNOWN: [&str; 24] = [
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "sk-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xapp-",
    "npm_",
    "pypi-",
    "hf_",
    "ghu_",
    "dop_v1_",
    "AIza",
    "ya29.",
    "AKIA",
    "ASIA",
    "hvs.",
];
/// Short flags whose value is a secret, for programs whose names begin so: behind the flag, or the word after it.
const SHORT: [(&str, &str); 23] = [
    ("mysql", "-p"),
    ("mariadb", "-p"),
    ("sshpass", "-p"),
    ("mongo", "-p"),
    ("cqlsh", "-p"),
    ("7z", "-p"),
    ("rar", "-p"),
    ("unrar", "-p"),
    ("redis-cli", "-a"),
    ("valkey-cli", "-a"),
    ("curl", "-u"),
    ("curl", "-U"),
    ("curl", "-b"),
    ("wget", "-u"),
    ("ftp", "-u"),
    ("lftp", "-u"),
    ("ldap", "-w"),
    ("sqlcmd", "-P"),
    ("zip", "-P"),
    ("unzip", "-P"),
    ("ipmitool", "-P"),
    ("mosquitto_pub", "-P"),
    ("mosquitto_sub", "-P"),
];
/// The same for programs of exactly these names.
const SHORT_OF: [(&str, &str); 8] = [
    ("http", "-a"),
    ("https", "-a"),
    ("xh", "-a"),
    ("xhs", "-a"),
    ("smbclient", "-U"),
    ("rpcclient", "-U"),
    ("psexec", "-p"),
    ("plink", "-pw"),
];
/// Flags as Windows has them; those with whole words as names are known by these.
const SLASHED: [&str; 3] = ["/p:", "/gp:", "/pth:"];
/// To these `/p:` sets a property.
const OTHER_SLASHED: [&str; 3] = ["dotnet", "msbuild", "MSBuild"];
/// Paths that are secrets: whoever has the address may post to it. What follows the first text is hidden, as far as it has
/// that shape.
const PATHS: [(&str, &[Piece]); 6] = [
    // Slack: /services/T0/B0/XXX
    ("/services/", &[Piece::Text("T"), Piece::Word, Piece::Text("/B"), Piece::Word, Piece::Text("/"), Piece::Word]),
    // Slack's workflows.
    ("/triggers/", &[Piece::Text("T"), Piece::Word, Piece::Text("/"), Piece::Digits, Piece::Text("/"), Piece::Word]),
    // Telegram: /bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe
    ("/bot", &[Piece::Digits, Piece::Text(":"), Piece::Word]),
    ("/bot", &[Piece::Digits, Piece::Text("%3A"), Piece::Word]),
    // Discord, with and without the version of its interface.
    ("/webhooks/", &[Piece::Digits, Piece::Text("/"), Piece::Word]),
    // Microsoft Teams.
    ("/webhookb2/", &[Piece::Rest]),
];

/// A part of a shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    Text(&'static str),
    Digits,
    /// Letters, digits, `-` and `_`.
    Word,
    /// Up to what ends a path.
    Rest,
}

/// To these `-p` is a folder, a file or nothing, whatever stands behind it. Of others nobody knows.
const OTHER_P: [&str; 5] = ["nginx", "haproxy", "mkdir", "cp", "unshare"];

/// The parts of `/proc/PID/cmdline`, secrets hidden, `at_most` of them.
pub(super) fn parse(text: &str, at_most: usize) -> Vec<String> {
    let text = text.trim_end_matches('\0');
    if text.is_empty() {
        return Vec::new();
    }
    let mut parts: Vec<&str> = text.split('\0').collect();
    parts.truncate(at_most);
    hide(&parts)
}

/// The same words with secrets hidden.
fn hide(words: &[&str]) -> Vec<String> {
    let mut programs = Vec::new();
    let mut is_value = false;
    words
        .iter()
        .enumerate()
        .map(|(at, word)| {
            let next = words.get(at + 1).copied();
            if std::mem::take(&mut is_value) {
                // It may be a flag all the same, with a secret behind it.
                is_value = ends_as_scheme(word) || word.starts_with("--") && takes_secret(&programs, word, next);
                return HIDDEN.to_owned();
            }
            programs.extend(known_program(word));
            if at > 0 {
                is_value = takes_secret(&programs, word, next)
                    || !word.contains(char::is_whitespace) && (ends_as_header(word) || is_scheme_of(word, next));
            }
            if word.contains(char::is_whitespace) { hide_in_text(word) } else { hide_in_word(&programs, word) }
        })
        .collect()
}

/// A program whose short flags are known, wherever it stands: behind `sudo`, `env`, `exec`, in its own title.
fn known_program(word: &str) -> Option<&str> {
    let word = word.trim_matches(['"', '\'', '(', ':', ';']);
    let name = word.rsplit('/').next().unwrap_or(word);
    let is_known = !word.starts_with('-')
        && (SHORT.iter().any(|(known, _)| name.starts_with(known))
            || SHORT_OF.iter().any(|(known, _)| name == *known)
            || OTHER_SLASHED.iter().any(|known| name.starts_with(known))
            || OTHER_P.contains(&name)
            || ["docker", "podman"].contains(&name));
    is_known.then_some(name)
}

/// A text of several words: `sh -c "..."`, or a title that the program wrote itself.
fn hide_in_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut programs = Vec::new();
    // Of several lines, and not to be told apart.
    if text.contains("-----BEGIN") && text.contains("PRIVATE KEY") {
        return HIDDEN.to_owned();
    }
    let mut is_value = false;
    let (mut before, mut open) = ("", None);
    let mut words = text.split_whitespace();
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end_matches(char::is_whitespace);
        let space = piece.get(word.len()..).unwrap_or_default();
        if word.is_empty() {
            out.push_str(space);
            continue;
        }
        words.next();
        let next = words.clone().next().map(|next| next.trim_matches(['"', '\'']));
        if open.is_some() {
            is_value = false;
        }
        if open == Some(END) {
            out.push_str(HIDDEN);
        } else if let Some(quote) = open {
            // The rest of a secret of several words.
            let after = word.split_once(quote).map(|(_, after)| after);
            out.push_str(HIDDEN);
            out.push_str(&after.map(|after| hide_in_word(&programs, after)).unwrap_or_default());
            open = open.filter(|_| after.is_none());
        } else if is_value || word.starts_with('=') && is_secret(before) {
            is_value =
                word == "=" || ends_as_scheme(word) || word.starts_with("--") && takes_secret(&programs, word, next);
            out.push_str(if word == "=" { word } else { HIDDEN });
            open = left_open(word.trim_start_matches('='));
        } else {
            programs.extend(known_program(word));
            let hidden = hide_in_word(&programs, word);
            let is_assigned = hidden != word;
            is_value = takes_secret(&programs, word.trim_start_matches(['"', '\'', '(']), next)
                || ends_as_secret_key(word)
                || is_assigned && ends_as_scheme(word)
                || is_scheme_of(word, next);
            open = word.split_once(['=', ':']).filter(|_| is_assigned).and_then(|(_, value)| left_open(value));
            if ends_as_header(word) {
                // A field of a header goes on to its end, in words of its own.
                let quote = word.chars().find(|c| matches!(c, '"' | '\''));
                let quote = quote.filter(|quote| word.matches(*quote).count() == 1);
                open = quote.or_else(|| (out.is_empty() && !text.starts_with(['"', '\''])).then_some(END));
            }
            out.push_str(&hidden);
        }
        before = word.trim_matches(['"', '\'']);
        out.push_str(space);
    }
    out
}

/// Stands for the quote that ends a value, where all of the text is one.
const END: char = '\0';

/// `Authorization:`, `-H'Cookie:`, `--header=X-Api-Key:`
fn ends_as_header(word: &str) -> bool {
    let name = |key: &str| key.rsplit(['=', '"', '\'']).next().map(|name| name.trim_start_matches("-H").to_owned());
    word.strip_suffix(':').and_then(name).is_some_and(|name| !name.is_empty() && is_secret(name.trim_matches('-')))
}

/// `Bearer`, and `Basic` before what looks like an encoded name and password and not like a word.
fn is_scheme_of(word: &str, next: Option<&str>) -> bool {
    let is_encoded = |text: &str| {
        let begin = text.trim_end_matches(['"', '\'', ',', ';']);
        let text = begin.trim_end_matches('=');
        text.len() >= 4
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "+/-_".contains(c))
            && (text != begin || text.chars().skip(1).any(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
    };
    let name = word.trim_matches(['"', '\'']);
    let name = name.rsplit([':', '=', '"', '\'']).next().unwrap_or_default();
    name.eq_ignore_ascii_case("bearer") && next.is_some()
        || name.eq_ignore_ascii_case("basic") && next.is_some_and(is_encoded)
}

/// `Bearer` and `Basic` are followed by what counts.
fn ends_as_scheme(word: &str) -> bool {
    let name = word.rsplit(['=', ':', '"', '\'']).find(|part| !part.is_empty()).unwrap_or_default();
    name.eq_ignore_ascii_case("bearer") || name.eq_ignore_ascii_case("basic")
}

/// The quote that a value begins with and does not end with: what it holds goes on in the next word.
fn left_open(value: &str) -> Option<char> {
    let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    (value.matches(quote).count() == 1).then_some(quote)
}

/// `Authorization:` and `password=`, whose value is the next word.
fn ends_as_secret_key(word: &str) -> bool {
    word.strip_suffix([':', '=']).is_some_and(|key| is_secret(key.trim_matches(['"', '\'', '{', '-'])))
}

/// Whether the word after this flag is a secret.
fn takes_secret(programs: &[&str], flag: &str, next: Option<&str>) -> bool {
    // The port of a container may stand behind the name of what runs in it.
    let is_port = |next: &str| next.contains(':') && is_path_or_number(next);
    if short_flags(programs).any(|short| flag == short) {
        return !(flag == "-p" && next.is_some_and(is_port));
    }
    // `-su` is `-s -u`.
    let letters = flag.strip_prefix('-').filter(|letters| letters.len() > 1);
    if letters.is_some_and(|letters| {
        letters.chars().all(|c| c.is_ascii_alphabetic())
            && short_flags(programs).any(|short| letters.ends_with(short.trim_start_matches('-')))
    }) {
        return true;
    }
    if flag.starts_with("--") && flag.ends_with("user") && next.is_some_and(is_user_and_password) {
        return true;
    }
    if next.is_some_and(|next| NOT_SECRET_VALUE.contains(&next)) {
        return false;
    }
    match flag {
        "-p" => !programs.iter().any(|program| OTHER_P.contains(program)) && !next.is_some_and(is_path_or_number),
        "--user" => programs.contains(&"curl"),
        _ => flag.strip_prefix('-').is_some_and(|rest| {
            let name = rest.trim_start_matches('-');
            let is_key_file = name.ends_with("key") && next.is_some_and(is_key_file);
            !name.contains(['=', ':']) && !name.starts_with("no-") && name.len() > 1 && is_secret(name) && !is_key_file
        }),
    }
}

/// `root:secret`, and not `1000:1000`.
fn is_user_and_password(value: &str) -> bool {
    value.contains(':') && !is_path_or_number(value)
}

/// The flags of these programs that have a secret as their value.
fn short_flags(programs: &[&str]) -> impl Iterator<Item = &'static str> {
    let begin = SHORT.iter().filter(|(known, _)| programs.iter().any(|program| program.starts_with(known)));
    begin.chain(SHORT_OF.iter().filter(|(known, _)| programs.contains(known))).map(|&(_, flag)| flag)
}

/// `/etc/tls/server.key`
fn is_key_file(value: &str) -> bool {
    KEY_FILES.iter().any(|end| value.ends_with(end))
}

/// A file, a folder, a pid or a port: `/run/x.pid`, `22`, `127.0.0.1:80:80/tcp`.
fn is_path_or_number(value: &str) -> bool {
    let is_path = value == "." || ["/", "./", "../", "~/"].iter().any(|begin| value.starts_with(begin));
    let number = value.trim_end_matches("/tcp").trim_end_matches("/udp");
    is_path || !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || ".:,-".contains(c))
}

/// One word: assignments in it, the userinfo and the query of a URL, and what looks like a token.
fn hide_in_word(programs: &[&str], word: &str) -> String {
    let bare = word.trim_start_matches(['"', '\'']);
    let slashed = |flag: &&str| {
        let (begin, secret) = bare.split_at_checked(flag.len()).unwrap_or_default();
        begin.eq_ignore_ascii_case(flag) && !secret.is_empty()
    };
    let sets_properties =
        || programs.iter().any(|program| OTHER_SLASHED.iter().any(|known| program.starts_with(known)));
    if let Some(flag) = SLASHED.into_iter().find(slashed).filter(|_| !sets_properties()) {
        let begin = word.get(..word.len() - bare.len() + flag.len()).unwrap_or_default();
        return format!("{begin}{HIDDEN}");
    }
    let glued = |flag: &&str| word.strip_prefix(flag).is_some_and(|secret| !secret.is_empty());
    if let Some(flag) = short_flags(programs).find(glued) {
        return format!("{flag}{HIDDEN}");
    }
    if let Some((flag, value)) = word.split_once('=')
        && flag.starts_with("--")
        && flag.ends_with("user")
        && is_user_and_password(value)
    {
        return format!("{flag}={HIDDEN}");
    }
    let in_container = programs.iter().any(|program| ["docker", "podman"].contains(program));
    if let Some(value) = word.strip_prefix("-p").filter(|value| in_container && !value.is_empty())
        && !is_path_or_number(value)
    {
        return format!("-p{HIDDEN}");
    }
    hide_tokens(&hide_assignments(&hide_userinfo(&hide_in_url(&hide_in_path(word)))))
}

/// The secrets in paths that are addresses to post to.
pub(in crate::collect) fn hide_in_path(path: &str) -> String {
    let mut out = path.to_owned();
    for (begin, shape) in PATHS {
        let mut from = 0;
        while let Some(at) = out.get(from..).and_then(|rest| rest.find(begin)) {
            let secret = from + at + begin.len();
            let length = out.get(secret..).and_then(|rest| fits(rest, shape));
            if let Some(length) = length {
                out.replace_range(secret..secret + length, HIDDEN);
            }
            from = secret;
        }
    }
    out
}

/// How many bytes of the text have that shape.
fn fits(text: &str, shape: &[Piece]) -> Option<usize> {
    let mut rest = text;
    for piece in shape {
        let length = match piece {
            Piece::Text(text) => rest.starts_with(text).then_some(text.len())?,
            Piece::Digits => rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()),
            Piece::Word => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            Piece::Rest => rest.find(['?', '#', '"', '\'', ' ']).unwrap_or(rest.len()),
        };
        rest = rest.get(length..).filter(|_| length > 0)?;
    }
    Some(text.len() - rest.len())
}

const fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// What looks like a token, wherever in a word. Behind something else it must be longer, and have a digit: `sk-` may be
/// a part of a name.
fn hide_tokens(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let begins = !out.ends_with(|c: char| c.is_ascii_alphanumeric());
        let length = rest.find(|c| !(is_of_word(c) || c == '.')).unwrap_or(rest.len());
        let run = rest.get(..length).unwrap_or_default();
        let is_token = |known: &&str| {
            let enough = if out.trim_start_matches(['"', '\'']).is_empty() { 8 } else { 16 };
            run.starts_with(*known)
                && run.len() >= known.len() + enough
                && (enough == 8 || run.chars().any(|c| c.is_ascii_digit()))
        };
        if begins && KNOWN.iter().any(is_token) {
            out.push_str(HIDDEN);
            rest = rest.get(length..).unwrap_or_default();
        } else {
            out.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
    }
    out
}

/// `user:password@host` without a scheme; an image by its digest looks much the same.
fn hide_userinfo(word: &str) -> String {
    let Some((before, host)) = word.rsplit_once('@').filter(|(_, host)| !host.starts_with("sha256:")) else {
        return word.to_owned();
    };
    let begin = before.rfind(['=', '"', '\'']).map_or(0, |at| at + 1);
    let (key, place) = before.split_at_checked(begin).unwrap_or(("", before));
    let has_password = place.split_once(':').is_some_and(|(_, password)| !password.is_empty());
    if !has_password || word.contains("://") {
        return word.to_owned();
    }
    format!("{key}{HIDDEN}@{host}")
}

/// `scheme://user:password@host/path?key=value`
fn hide_in_url(word: &str) -> String {
    let Some((before, rest)) = word.split_once("://") else { return word.to_owned() };
    let end = rest.find(['?', '#', '"', '\'', ',']).unwrap_or(rest.len());
    let (place, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    // Elsewhere than in the authority, and behind no password with a slash in it, it is of a name: `/@scope/package@1`.
    let authority = place.split('/').next().unwrap_or_default();
    let has_user = authority.contains('@')
        || !authority.starts_with('[')
            && authority.split_once(':').is_some_and(|(_, port)| !port.chars().all(|c| c.is_ascii_digit()));
    let user = place.rmatch_indices('@').find(|(at, _)| !place.get(..*at).is_some_and(|user| user.ends_with('/')));
    let user = user.filter(|_| has_user);
    let host = user.and_then(|(at, _)| place.get(at..));
    let place = host.map_or_else(|| place.to_owned(), |host| format!("{HIDDEN}{host}"));
    let tail = match tail.strip_prefix('?') {
        // Values whatever their names: no list of names knows those of signed URLs.
        Some(query) => {
            let pairs: Vec<String> = query
                .split('&')
                .map(|pair| pair.split_once('=').map_or(pair.to_owned(), |(key, _)| format!("{key}={HIDDEN}")))
                .collect();
            format!("?{}", pairs.join("&"))
        }
        None => hide_in_url(tail),
    };
    format!("{before}://{place}{tail}")
}

/// `KEY=VALUE`, `key: value`, `{"key":"value"}`, `a=1;password=2`.
fn hide_assignments(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find(['=', ':']) {
        let (key, value) = rest.split_at_checked(at + 1).unwrap_or((rest, ""));
        out.push_str(key);
        let name = key.trim_end_matches(['=', ':']).trim_end_matches(['"', '\'', ' ']);
        let name = name.rsplit(|c: char| !(c.is_alphanumeric() || "-_.".contains(c))).next().unwrap_or_default();
        rest = value;
        if is_secret(name.trim_start_matches('-')) {
            let begin = value.find(|c| !"\"' ".contains(c)).unwrap_or(value.len());
            let (quote, value) = value.split_at_checked(begin).unwrap_or(("", value));
            let end = value.find([';', '&', ',', '"', '\'', '}']).unwrap_or(value.len());
            let (secret, after) = value.split_at_checked(end).unwrap_or((value, ""));
            out.push_str(quote);
            if NOT_SECRET_VALUE.contains(&secret) || name.ends_with("key") && is_key_file(secret) {
                out.push_str(secret);
            } else if !secret.is_empty() {
                out.push_str(HIDDEN);
            }
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Whether a value of that name is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    if NOT_SECRET.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|before| before.ends_with(['-', '.']))) {
        return false;
    }
    let is_whole = |segment: &str| {
        SECRET_WHOLE.contains(&segment) || segment.ends_with(SECRET_END) && !NOT_SECRET_END.contains(&segment)
    };
    SECRET.iter().any(|secret| name.contains(secret))
        || SECRET_NAME.contains(&name.as_str())
        || name.split(['-', '.']).any(is_whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_hidden() {
        for (line, shown) in [
            ("x --password hunter2 -v", "x --password *** -v"),
            ("x --password=hunter2", "x --password=***"),
            ("x -token=hunter2 -port=80", "x -token=*** -port=80"),
            ("x --db-passwd hunter2 --token-file /etc/t", "x --db-passwd *** --token-file /etc/t"),
            ("ssh -p 22 host", "ssh -p 22 host"),
            ("docker run -p 127.0.0.1:80:80/tcp img", "docker run -p 127.0.0.1:80:80/tcp img"),
            ("mongo -p hunter2", "mongo -p ***"),
            ("anything -p hunter2", "anything -p ***"),
            ("haproxy -f /etc/h.cfg -p /run/haproxy.pid", "haproxy -f /etc/h.cfg -p /run/haproxy.pid"),
            ("/usr/sbin/haproxy -p haproxy.pid -D", "/usr/sbin/haproxy -p haproxy.pid -D"),
            ("nginx -p prefix -c n.conf", "nginx -p prefix -c n.conf"),
            ("anything -p ./run -p ../x -p . -p 53/udp", "anything -p ./run -p ../x -p . -p 53/udp"),
            ("sshpass -p 123456 ssh host", "sshpass -p *** ssh host"),
            ("mysql -p /hunter2", "mysql -p ***"),
            ("sudo mysqldump -phunter2 db", "sudo mysqldump -p*** db"),
            ("env A=1 redis-cli -p 6380 -a hunter2", "env A=1 redis-cli -p 6380 -a ***"),
            ("curl -ume:hunter2 h", "curl -u*** h"),
            ("curl https://h/mysql -u me:hunter2", "curl https://h/mysql -u ***"),
            ("docker run --name mongo -p 27017:27017 mongo", "docker run --name mongo -p 27017:27017 mongo"),
            ("mysql -uroot -phunter2 db", "mysql -uroot -p*** db"),
            ("redis-cli -a hunter2", "redis-cli -a ***"),
            ("curl -u me:hunter2 http://h/", "curl -u *** http://h/"),
            ("x postgres://me:hunter2@db:5432/app?sslkey=hunter2&a=b", "x postgres://***@db:5432/app?sslkey=***&a=***"),
            ("x http://h:80/a,http://u:hunter2@k/b", "x http://h:80/a,http://***@k/b"),
            ("env API_KEY=hunter2 PATH=/bin x", "env API_KEY=*** PATH=/bin x"),
            ("x Server=a;Password=hunter2;Port=1", "x Server=a;Password=***;Port=1"),
            (r#"x {"password":"hunter2","a":1}"#, r#"x {"password":"***","a":1}"#),
            ("java -Dspring.datasource.password=hunter2", "java -Dspring.datasource.password=***"),
            ("x ghp_hunter2hunter2", "x ***"),
            ("x sk_live_hunter2hunter2", "x ***"),
            ("curl -su me:hunter2 h", "curl -su *** h"),
            ("curl -b sid=hunter2 --proxy-user me:hunter2 h", "curl -b *** --proxy-user *** h"),
            ("docker login -u a -phunter2", "docker login -u a -p***"),
            ("docker run -p80:80 -u 1:1 a:1@sha256:ab", "docker run -p80:80 -u 1:1 a:1@sha256:ab"),
            ("ldapsearch -xw hunter2", "ldapsearch -xw ***"),
            ("etcdctl --user root:hunter2 get", "etcdctl --user *** get"),
            ("etcdctl --user=root:hunter2 get", "etcdctl --user=*** get"),
            ("x --user 1000:1000 --user me", "x --user 1000:1000 --user me"),
            ("lftp -u u,hunter2 h", "lftp -u *** h"),
            ("x u:hunter2@host:1/0 git@host:a/b", "x ***@host:1/0 git@host:a/b"),
            ("x --password --hunter2 --token hunter2", "x --password *** --token ***"),
            ("x -p --token hunter2", "x -p *** ***"),
            ("x http://h/a;jsessionid=hunter2", "x http://h/a;jsessionid=***"),
            ("x --no-password host --keyspace a --monkey b", "x --no-password host --keyspace a --monkey b"),
            ("http -a user:hunter2 POST h/", "http -a *** POST h/"),
            ("/usr/bin/https -auser:hunter2 h", "/usr/bin/https -a*** h"),
            ("xh --auth user:hunter2 h", "xh --auth *** h"),
            ("x --auth=user:hunter2 h", "x --auth=*** h"),
            ("xfreerdp /u:me /p:hunter2 /v:host", "xfreerdp /u:me /p:*** /v:host"),
            ("xfreerdp /P:hunter2 /gp:hunter2 /password:hunter2", "xfreerdp /P:*** /gp:*** /password:***"),
            ("keytool -storepass hunter2 -keypass hunter2 -alias a", "keytool -storepass *** -keypass *** -alias a"),
            (
                "env SSHPASS=hunter2 PGPASSWORD=hunter2 MYSQL_PWD=hunter2",
                "env SSHPASS=*** PGPASSWORD=*** MYSQL_PWD=***",
            ),
            ("x https://hooks.slack.com/services/T0A/B0B/hunter2", "x https://hooks.slack.com/services/***"),
            ("x --data x=hooks.slack.com/services/T0A/B0B/hunter2", "x --data x=hooks.slack.com/services/***"),
            ("x https://api.telegram.org/bot11:AAhunter2_-x/getMe", "x https://api.telegram.org/bot***/getMe"),
            ("x https://h/file/bot11%3AAAhunter2/a.jpg", "x https://h/file/bot***/a.jpg"),
            (
                "x https://discord.com/api/v10/webhooks/12/hunter2-_?wait=1",
                "x https://discord.com/api/v10/webhooks/***?wait=***",
            ),
            ("x https://a.webhook.office.com/webhookb2/1@2/hunter2/3", "x https://a.webhook.office.com/webhookb2/***"),
            (
                "x h/o?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2&a=1",
                "x h/o?X-Amz-Credential=***&X-Amz-Signature=***&a=1",
            ),
            ("x h/o?sv=2020&sp=r&sig=hunter2%3D", "x h/o?sv=2020&sp=r&sig=***"),
            ("x https://h/o?sv=2020&sig=hunter2", "x https://h/o?sv=***&sig=***"),
            ("x pg://u:hunt/er2@h/a", "x pg://***@h/a"),
            ("x ftp://u:hunter2@h/a smb://u:hunter2@h", "x ftp://***@h/a smb://***@h"),
            ("x /in/eyJhbGciOiJIUzI1NiJ9.e30.hunter2 a", "x /in/*** a"),
            ("curl -HX-Own:eyJhbGciOiJIUzI1NiJ9.e30.hunter2", "curl -HX-Own:***"),
            (
                "curl -HAuthorization:hunter2 --header=PRIVATE-TOKEN:hunter2",
                "curl -HAuthorization:*** --header=PRIVATE-TOKEN:***",
            ),
            ("x Authorization: Basic aHVudGVyMg== h", "x Authorization: *** *** h"),
            ("x Basic aHVudGVyMg== Bearer hunter2 h", "x Basic *** Bearer *** h"),
            ("plink -pw hunter2 h", "plink -pw *** h"),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(hide(&words).join(" "), shown);
        }
    }

    #[test]
    fn secrets_within_a_text_are_hidden() {
        for (text, shown) in [
            ("run --password hunter2 now", "run --password *** now"),
            ("curl -H \"Authorization: Bearer hunter2\"", "curl -H \"Authorization: *** ***"),
            ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
            ("nginx: worker process", "nginx: worker process"),
            ("nginx: master process nginx -p run", "nginx: master process nginx -p run"),
            ("anything -p /run/x.pid -p '8080' -p hunter2", "anything -p /run/x.pid -p '8080' -p ***"),
            ("exec sshpass -p 123456 ssh host", "exec sshpass -p *** ssh host"),
            ("PASSWORD=\"a hunter2\" x", "PASSWORD=\"*** *** x"),
            ("mysql --password 'a b hunter2' db", "mysql --password *** *** *** db"),
            ("host=h password = hunter2 port=1", "host=h password = *** port=1"),
            ("authorization=Bearer hunter2", "authorization=*** ***"),
            ("-----BEGIN PRIVATE KEY-----hunter2", "***"),
            ("cd /x; mysql -phunter2 db", "cd /x; mysql -p*** db"),
            ("curl -H 'Authorization: Custom a hunter2' h -v", "curl -H 'Authorization: *** *** *** h -v"),
            ("curl -H'Cookie: a=hunter2; b=hunter2' h", "curl -H'Cookie: *** *** h"),
            ("Authorization: Digest username=a, response=hunter2", "Authorization: *** *** ***"),
            ("--header=Cookie: a=hunter2; b=hunter2", "--header=Cookie: *** ***"),
            ("X-Own: Bearer hunter2", "X-Own: Bearer ***"),
            ("X-Own: Basic aHVudGVyMg==", "X-Own: Basic ***"),
            ("http -a me:hunter2 h", "http -a *** h"),
            ("xfreerdp '/p:hunter2' /v:h", "xfreerdp '/p:*** /v:h"),
        ] {
            assert_eq!(hide(&["sh", "-c", text])[2], shown);
        }
        assert_eq!(hide(&["curl", "-H", "Authorization: Bearer hunter2"])[2], "Authorization: *** ***");
    }

    /// What is no secret tells what the program was asked to do.
    #[test]
    fn ordinary_words_stay() {
        for line in [
            "nc -p 8080 --port 80 -v",
            "http h/a -b --check-status",
            "httpd -a b -f /etc/httpd.conf",
            "git commit --author me --date=now",
            "x http://[::1]:80/a@b http://h:80/a@b",
            "npm install https://registry.npmjs.org/@scope/package@1.2.3",
            "x --auth-type basic --token-ttl 5m --key-name a --auth=none --cookie false",
            "curl --key /etc/tls/server.key --cert /etc/tls/server.pem h",
            "x --tls-key=server.pem",
            "dotnet build /p:Configuration=Release /m:4",
            "x Basic usage and Basic Authentication of bearers",
            "x /data/sk-learn/models /opt/npm_modules/a /bots/1:2 /robot1/a",
            "x https://h/services/today https://h/webhooks/mine https://h/bot/1:2",
            "x --auth-required a --bypass a --compass b --signal 9 --sig-proxy=false --author-token-file /a",
            "java -Xmx2g -jar /srv/app.jar --server.port=8080",
            "postgres: writer process",
            "x --volume /a:/b --user 1000 12:30 [::1]:80 a@b.example",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(hide(&words).join(" "), line);
            assert_eq!(hide(&["sh", "-c", line])[2], line);
        }
    }

    #[test]
    fn a_path_is_shown_without_its_token() {
        for (path, shown) in [
            ("/bot11:AAhunter2/sendMessage", "/bot***/sendMessage"),
            ("/services/T0/B0/hunter2", "/services/***"),
            ("/bot11:A/bot12:B", "/bot***/bot***"),
            ("/a/b/services/today", "/a/b/services/today"),
            ("/bot", "/bot"),
        ] {
            assert_eq!(hide_in_path(path), shown);
        }
    }

    #[test]
    fn a_command_line_is_cut_into_its_parts() {
        assert_eq!(parse("a\0\0b c\0", 9), ["a", "", "b c"]);
        assert_eq!(parse("a\0b\0c", 2), ["a", "b"]);
        assert_eq!(parse("", 2), [] as [&str; 0]);
    }

    proptest! {
        #[test]
        fn whatever_it_holds_it_is_read(text in "\\PC*") {
            let _ = parse(&text, 9);
            let _ = hide_in_path(&text);
        }

        #[test]
        fn no_password_is_ever_shown(secret in "[A-Za-z0-9+/_.]{6,20}", around in "[a-z]{0,3}") {
            prop_assume!(!"program --password=***".contains(&secret));
            for word in [format!("--password={secret}"), format!("{around}PASSWORD={secret}")] {
                let shown = hide(&["program", &word]).join(" ");
                prop_assert!(!shown.contains(&secret), "{}", shown);
            }
            let shown = hide(&["program", "--auth-token", &secret]).join(" ");
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
