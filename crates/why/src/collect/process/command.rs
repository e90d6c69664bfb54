//! A command line without its secrets.
//!
//! Which part is a secret is guessed by the names of flags and keys, and rather once too often than too seldom: a
//! report is pasted into tickets.

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// Names of flags and keys that have a secret as their value hold one of these.
const SECRET: [&str; 23] = [
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
];
/// Or are one of these.
const SECRET_WHOLE: [&str; 6] = ["pass", "auth", "key", "pw", "userpass", "cred"];
/// Values of such names tell where the secret is, and are none.
const NOT_SECRET: [&str; 7] = ["file", "path", "dir", "url", "stdin", "prompt", "fd"];
/// Secrets that begin like this are known without a name.
const KNOWN: [&str; 15] = [
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
            if std::mem::take(&mut is_value) {
                // It may be a flag all the same, with a secret behind it.
                is_value = word.starts_with("--") && takes_secret(&programs, word, words.get(at + 1).copied());
                return HIDDEN.to_owned();
            }
            programs.extend(known_program(word));
            if at > 0 {
                is_value = takes_secret(&programs, word, words.get(at + 1).copied());
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
        if let Some(quote) = open {
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
                || is_assigned && ends_as_scheme(word);
            open = word.split_once(['=', ':']).filter(|_| is_assigned).and_then(|(_, value)| left_open(value));
            out.push_str(&hidden);
        }
        before = word.trim_matches(['"', '\'']);
        out.push_str(space);
    }
    out
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
    match flag {
        "-p" => !programs.iter().any(|program| OTHER_P.contains(program)) && !next.is_some_and(is_path_or_number),
        "--user" => programs.contains(&"curl"),
        _ => flag.strip_prefix('-').is_some_and(|rest| {
            let name = rest.trim_start_matches('-');
            !name.contains('=') && !name.starts_with("no-") && name.len() > 1 && is_secret(name)
        }),
    }
}

/// `root:secret`, and not `1000:1000`.
fn is_user_and_password(value: &str) -> bool {
    value.contains(':') && !is_path_or_number(value)
}

/// The flags of these programs that have a secret as their value.
fn short_flags(programs: &[&str]) -> impl Iterator<Item = &'static str> {
    SHORT.iter().filter(|(known, _)| programs.iter().any(|program| program.starts_with(known))).map(|&(_, flag)| flag)
}

/// A file, a folder, a pid or a port: `/run/x.pid`, `22`, `127.0.0.1:80:80/tcp`.
fn is_path_or_number(value: &str) -> bool {
    let is_path = value == "." || ["/", "./", "../", "~/"].iter().any(|begin| value.starts_with(begin));
    let number = value.trim_end_matches("/tcp").trim_end_matches("/udp");
    is_path || !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || ".:,-".contains(c))
}

/// One word: assignments in it, the userinfo and the query of a URL, and what looks like a token.
fn hide_in_word(programs: &[&str], word: &str) -> String {
    if KNOWN.iter().any(|known| word.starts_with(known) && word.len() >= known.len() + 8) {
        return HIDDEN.to_owned();
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
    hide_assignments(&hide_userinfo(&hide_in_url(word)))
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
