//! A command line without its secrets.
//!
//! Which part is a secret is guessed by the names of flags and keys, and rather once too often than too seldom: a
//! report is pasted into tickets.

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// Names of flags and keys that have a secret as their value hold one of these.
const SECRET: [&str; 22] = [
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
];
/// Or are one of these.
const SECRET_WHOLE: [&str; 6] = ["pass", "auth", "key", "pw", "userpass", "cred"];
/// Values of such names tell where the secret is, and are none.
const NOT_SECRET: [&str; 7] = ["file", "path", "dir", "url", "stdin", "prompt", "fd"];
/// Secrets that begin like this are known without a name.
const KNOWN: [&str; 12] =
    ["eyJ", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "sk-", "xoxb-", "xoxp-", "AKIA", "ASIA", "hvs."];
/// Short flags that mean a password to a program, beside `-p` where its value is no port.
const SHORT: [(&str, &str); 6] =
    [("redis-cli", "-a"), ("curl", "-u"), ("wget", "-u"), ("ldapsearch", "-w"), ("sqlcmd", "-P"), ("ftp", "-u")];

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
    let program = words.first().map_or("", |first| first.rsplit('/').next().unwrap_or(first));
    let mut is_value = false;
    words
        .iter()
        .enumerate()
        .map(|(at, word)| {
            if std::mem::take(&mut is_value) && !word.starts_with("--") {
                return HIDDEN.to_owned();
            }
            if at > 0 {
                is_value = takes_secret(program, word, words.get(at + 1).copied());
            }
            if word.contains(char::is_whitespace) { hide_in_text(word) } else { hide_in_word(program, word) }
        })
        .collect()
}

/// A text of several words: `sh -c "..."`, or a title that the program wrote itself.
fn hide_in_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_value = false;
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end_matches(char::is_whitespace);
        let space = piece.get(word.len()..).unwrap_or_default();
        if word.is_empty() {
            out.push_str(space);
            continue;
        }
        if is_value && !word.starts_with("--") {
            // `Bearer` and `Basic` are followed by what counts.
            is_value = word.trim_matches(['"', '\'']).eq_ignore_ascii_case("bearer")
                || word.trim_matches(['"', '\'']).eq_ignore_ascii_case("basic");
            out.push_str(HIDDEN);
        } else {
            is_value = takes_secret("", word.trim_start_matches(['"', '\'', '(']), None) || ends_as_secret_key(word);
            out.push_str(&hide_in_word("", word));
        }
        out.push_str(space);
    }
    out
}

/// `Authorization:` and `password=`, whose value is the next word.
fn ends_as_secret_key(word: &str) -> bool {
    word.strip_suffix([':', '=']).is_some_and(|key| is_secret(key.trim_matches(['"', '\'', '{', '-'])))
}

/// Whether the word after this flag is a secret.
fn takes_secret(program: &str, flag: &str, next: Option<&str>) -> bool {
    if SHORT.iter().any(|&(of, short)| program == of && flag == short) {
        return true;
    }
    match flag {
        // Most often a port: `-p 22`, `-p 127.0.0.1:80:80/tcp`.
        "-p" => !next.is_some_and(|next| {
            !next.is_empty() && next.trim_end_matches("/tcp").chars().all(|c| c.is_ascii_digit() || ".:,-".contains(c))
        }),
        "--user" => program == "curl",
        _ => flag.strip_prefix('-').is_some_and(|rest| {
            let name = rest.trim_start_matches('-');
            !name.contains('=') && !name.starts_with("no-") && name.len() > 1 && is_secret(name)
        }),
    }
}

/// One word: assignments in it, the userinfo and the query of a URL, and what looks like a token.
fn hide_in_word(program: &str, word: &str) -> String {
    if KNOWN.iter().any(|known| word.starts_with(known) && word.len() >= known.len() + 8) {
        return HIDDEN.to_owned();
    }
    if ["mysql", "mariadb", "sshpass"].iter().any(|of| program.starts_with(of))
        && word.strip_prefix("-p").is_some_and(|rest| !rest.is_empty())
    {
        return format!("-p{HIDDEN}");
    }
    hide_assignments(&hide_in_url(word))
}

/// `scheme://user:password@host/path?key=value`
fn hide_in_url(word: &str) -> String {
    let Some((before, rest)) = word.split_once("://") else { return word.to_owned() };
    let end = rest.find(['?', '#', '"', '\'', ',']).unwrap_or(rest.len());
    let (place, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let place = place.rsplit_once('@').map_or_else(|| place.to_owned(), |(_, host)| format!("{HIDDEN}@{host}"));
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
            if !secret.is_empty() {
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
    SECRET.iter().any(|secret| name.contains(secret))
        || name.split(['-', '.']).any(|segment| SECRET_WHOLE.contains(&segment))
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
            ("x --no-password host --keyspace a --monkey b", "x --no-password host --keyspace a --monkey b"),
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
        ] {
            assert_eq!(hide(&["sh", "-c", text])[2], shown);
        }
        assert_eq!(hide(&["curl", "-H", "Authorization: Bearer hunter2"])[2], "Authorization: *** ***");
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
