use super::*;

const GOOD: &str = "\
[limits]
total = \"30s\"

[[listener]]
listen = \"127.0.0.1:8080\"
trusted = [\"10.0.0.0/8\"]

[cluster.api]
servers = [\"127.0.0.1:9001\"]

[[route]]
host = \"api.test\"
path = \"/v1\"
cluster = \"api\"
[route.limits]
wait = \"2s\"
gap = \"none\"
";

#[test]
fn limits_remember_their_lines() {
    let config = Config::parse(GOOD, "g.toml").unwrap();
    let limits = &config.routes[0].limits;
    assert_eq!(limits.wait.as_ref().unwrap().to_string(), "wait 2s (g.toml:16)");
    assert_eq!(limits.total.as_ref().unwrap().to_string(), "total 30s (g.toml:2)");
    assert_eq!(limits.gap, None);
    assert_eq!(limits.connect.as_ref().unwrap().to_string(), "connect 10s (default)");
    assert_eq!(config.listeners[0].head.as_ref().unwrap().to_string(), "head 10s (default)");
    assert_eq!(&*config.routes[0].name, "api.test/v1");
    assert_eq!(config.routes[0].reserve, Duration::from_millis(5));
    let reserves = |all: &str, one: &str| {
        let text = GOOD.replace("total =", &format!("reserve = \"{all}\"\ntotal =")) + one;
        Config::parse(&text, "g.toml").map(|config| config.routes[0].reserve)
    };
    assert_eq!(reserves("20ms", "").unwrap(), Duration::from_millis(20));
    assert_eq!(reserves("20ms", "reserve = \"none\"").unwrap(), Duration::ZERO);
    assert!(reserves("20", "").unwrap_err().to_string().starts_with("g.toml:2: reserve: "));
    assert!(config.conflicts().is_empty());
    for (written, meant) in [("api.test.", "api.test"), ("*.Api.test.", "*.api.test"), ("[::1]", "[::1]")] {
        let config = Config::parse(&GOOD.replace("api.test", written), "g.toml").unwrap();
        assert_eq!(config.routes[0].matches.host.as_deref(), Some(meant));
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (from, to, line, why) in [
        ("wait = \"2s\"", "wait = \"2\"", 16, "such as 250ms"),
        ("wait = \"2s\"", "wiat = \"2s\"", 16, "wiat"),
        ("wait = \"2s\"", "wait = \"0s\"", 16, "no time"),
        ("wait = \"2s\"", "wait = 2", 16, "a duration with its unit, such as \"30s\""),
        // By the key that is wrong.
        ("[limits]", "drain = \"0s\"\n[limits]", 1, "drain: nothing can be done in no time"),
        ("[limits]", "drain = \"none\"\n[limits]", 1, "drain: there has to be a limit"),
        ("[limits]", "[dns]\nrefresh_max = \"0s\"\n[limits]", 2, "refresh_max: nothing"),
        ("[limits]", "[log]\nfile = \"\"\n[limits]", 2, "without a name"),
        ("cluster = \"api\"", "cluster = \"apii\"", 14, "did you mean \"api\"?"),
        ("cluster = \"api\"", "cluster = \"x\"", 14, "there are \"api\""),
        ("127.0.0.1:9001", "localhost", 9, "no address with a port"),
        ("[\"127.0.0.1:9001\"]", "[]", 8, "no servers"),
        ("127.0.0.1:9001", "127.0.0.300:80", 9, "no address with a port"),
        ("127.0.0.1:9001", "api.internal", 9, "api.internal:9000"),
        ("[\"127.0.0.1:9001\"]", "[\"127.0.0.1:9001\"]\nproxy_protocol = \"v3\"", 10, "v1 or v2"),
        ("[\"127.0.0.1:9001\"]", "[\"a.test:1\", \"A.test:1\"]", 9, "there twice"),
        ("10.0.0.0/8", "10.0.0.0/33", 6, "10.0.0.0/33"),
        ("[\"10.0.0.0/8\"]", "[]\nforwarded = \"y\"", 7, "\"rfc7239\""),
        ("host = \"api.test\"", "host = \"api.test:80\"", 12, "without a port"),
        ("path = \"/v1\"", "path = \"v1\"", 13, "no path"),
        // What no request has.
        ("host = \"api.test\"", "host = \"api..test\"", 12, "without a port"),
        ("host = \"api.test\"", "host = \"*.\"", 12, "without a port"),
        ("host = \"api.test\"", "host = \"a\\nb\"", 12, "without a port"),
        ("host = \"api.test\"", "host = \"a\\\"b\"", 12, "without a port"),
        ("host = \"api.test\"", "host = \"[zz]\"", 12, "without a port"),
        ("host = \"api.test\"", "host = \"bücher.test\"", 12, "xn--"),
        ("path = \"/v1\"", "path = \"/v1\\n\"", 13, "no path"),
        ("path = \"/v1\"", "path = \"/ü\"", 13, "/%C3%BC"),
        ("path = \"/v1\"", "path = \"/v1\"\nmethods = [\"CONNECT\"]", 14, "refused"),
        ("path = \"/v1\"", "path = \"/v1\"\nheader = { name = \"x\", value = \"a\\nb\" }", 14, "no field"),
        ("path = \"/v1\"", "path = \"/v1\"\nheader = { name = \"x\", value = \" a\" }", 14, "no field"),
        ("127.0.0.1:8080", "127.0.0.1", 5, "no address with a port"),
        ("[[route]]", "[[rout]]", 11, "rout"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = Config::parse(&GOOD.replace(from, to), "g.toml").unwrap_err();
        assert!(error.line == line && error.message.contains(why), "{to}: {error}");
        assert!(error.to_string().starts_with(&format!("g.toml:{line}: ")));
    }
    assert!(Config::parse("", "g.toml").unwrap_err().to_string().contains("no [[listener]]"));
    let no_route = "[[listener]]\nlisten = \"127.0.0.1:0\"\n";
    assert!(Config::parse(no_route, "g.toml").unwrap_err().to_string().contains("no [[route]]"));
}

#[test]
fn tls_towards_servers_is_read_with_the_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (chain, key) = (path("chain.pem", &made.cert.pem()), path("key.pem", &made.signing_key.serialize_pem()));
    let other = path("other.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    let empty = path("empty.pem", "");
    let with = |table: String| {
        Config::parse(&GOOD.replace("[[route]]", &format!("[cluster.api.tls]\n{table}\n\n[[route]]")), "g.toml")
    };
    let good = |table: String| with(table).unwrap().routes[0].cluster.tls.clone().unwrap();
    let one = good(format!("ca = {chain:?}\nchain = {chain:?}\nkey = {key:?}\nname = \"b.test\"\noldest = \"1.3\""));
    assert!(!format!("{one:?}").contains("PRIVATE") && one != good(String::new()));
    assert_eq!(good(format!("ca = {chain:?}")), good(format!("ca = {chain:?}")));
    for (table, line, why) in [
        ("ca = \"/nowhere.pem\"".to_owned(), 12, "/nowhere.pem cannot be read"),
        ("ca = \"/dev/zero\"".to_owned(), 12, "longer than"),
        (format!("ca = {empty:?}"), 12, "no certificate"),
        (format!("chain = {chain:?}"), 12, "takes both"),
        (format!("chain = {chain:?}\nkey = {other:?}"), 12, "key"),
        ("oldest = \"1.3\"\nname = \"a b\"".to_owned(), 13, "neither a host name nor"),
        ("oldest = \"1.1\"".to_owned(), 12, "no version"),
    ] {
        let error = with(table.clone()).unwrap_err();
        assert!(error.line == line && error.message.contains(why), "{table}: {error}");
    }
}

#[test]
fn a_proxy_header_needs_somebody_to_send_it_and_a_limit() {
    let with = |more: &str| Config::parse(&GOOD.replace("trusted = [\"10.0.0.0/8\"]", more), "g.toml");
    let taken = with("trusted = [\"10.0.0.0/8\"]\nproxy_protocol = true").unwrap();
    assert!(taken.listeners[0].proxy_protocol);
    for (more, line, why) in [
        ("proxy_protocol = true", 6, "name the proxies in `trusted`"),
        ("trusted = [\"10.0.0.0/8\"]\nhead = \"none\"\nproxy_protocol = true", 8, "`head` has to be a limit"),
    ] {
        let error = with(more).unwrap_err();
        assert!(error.line == line && error.message.contains(why), "{more}: {error}");
    }
    assert!(!with("head = \"none\"\nproxy_protocol = false").unwrap().listeners[0].proxy_protocol);
}

#[test]
fn a_rate_has_a_time() {
    let with = |rate: &str| Config::parse(&format!("[log]\nrate = \"{rate}\"\n{GOOD}"), "g.toml");
    for (rate, per) in [("1000/s", 1), ("1000/1s", 1), ("1000 / 10s", 10), ("1000/m", 60)] {
        assert_eq!(with(rate).unwrap().log.rate, Some((1000, Duration::from_secs(per))), "{rate}");
    }
    for rate in ["1000", "1000/", "0/s", "/s", "1000/0s", "-1/s", "1000/parsec"] {
        let error = with(rate).unwrap_err();
        assert!(error.line == 2 && error.message.contains("such as 20/s"), "{rate}: {error}");
    }
    assert_eq!(Config::parse(GOOD, "g.toml").unwrap().log.rate, None);
}

#[test]
fn what_traces_may_be() {
    let with = |trace: &str| Config::parse(&format!("[trace]\n{trace}\n{GOOD}"), "g.toml");
    for (trace, start, from_anyone) in [
        ("", None, false),
        ("start = \"none\"\nfrom = \"trusted\"", None, false),
        ("start = \"always\"\nfrom = \"anyone\"", Some(1.0), true),
        ("start = 0.01", Some(0.01), false),
        ("start = 0", Some(0.0), false),
    ] {
        assert_eq!(with(trace).unwrap().trace, Trace { start, from_anyone }, "{trace}");
    }
    for (trace, why) in [
        ("start = \"often\"", "nor a share"),
        ("start = 1.5", "nor a share"),
        ("start = -0.1", "nor a share"),
        ("start = nan", "nor a share"),
        ("start = 2", "nor a share"),
        ("from = \"all\"", "\"anyone\""),
    ] {
        let error = with(trace).unwrap_err();
        assert!(error.line == 2 && error.message.contains(why), "{trace}: {error}");
    }
}

#[test]
fn a_route_that_nothing_reaches_is_an_error() {
    let error =
        Config::parse(&format!("{GOOD}[[route]]\nhost = \"api.test\"\npath = \"/v1/x\"\ncluster = \"api\"\n"), "g")
            .unwrap_err();
    assert!(error.line == 18 && error.message.contains("\"api.test/v1\" above"), "{error}");
}

/// Of two addresses of which one takes in the other, only one can be listened on.
#[test]
fn addresses_that_overlap_are_refused() {
    let with = |more: &str| Config::parse(&GOOD.replace("[cluster.api]", &format!("{more}\n[cluster.api]")), "g.toml");
    for listen in ["127.0.0.1:8080", "0.0.0.0:8080", "[::ffff:127.0.0.1]:8080", "[::ffff:0.0.0.0]:8080"] {
        let second = with(&format!("[[listener]]\nlisten = {listen:?}")).unwrap_err();
        assert!(second.line == 8 && second.message.contains("127.0.0.1:8080"), "{listen}: {second}");
        let admin = with(&format!("[admin]\nlisten = {listen:?}")).unwrap_err();
        assert!(admin.line == 9 && admin.message.contains("127.0.0.1:8080"), "{listen}: {admin}");
    }
    // Listeners are of one family.
    assert!(with("[[listener]]\nlisten = \"[::]:8080\"").is_ok());
    assert!(with("[admin]\nlisten = \"[::]:8080\"").is_err());
    for listen in ["0.0.0.0:8081", "127.0.0.2:8080", "[::1]:8080", "0.0.0.0:0"] {
        assert!(with(&format!("[[listener]]\nlisten = {listen:?}")).is_ok(), "{listen}");
        assert!(with(&format!("[admin]\nlisten = {listen:?}")).is_ok(), "{listen}");
    }
    let twice = GOOD.replace("[\"127.0.0.1:9001\"]", "[\"127.0.0.1:9001\", \"[::ffff:127.0.0.1]:9001\"]");
    assert!(Config::parse(&twice, "g.toml").unwrap_err().message.contains("there twice"));
}

#[test]
fn connections_that_the_workers_cannot_share_are_refused() {
    let with = |text: &str| Config::parse(&GOOD.replace("[[route]]", &format!("{text}\n[[route]]")), "g.toml");
    let of = |workers: &str| format!("workers = {workers}\n{GOOD}");
    let error = Config::parse(&of("4").replace("[[route]]", "connections = 3\n[[route]]"), "g.toml").unwrap_err();
    assert!(error.line == 12 && error.message.contains("write 4 or more"), "{error}");
    assert!(with("connections = 1").is_ok() || std::thread::available_parallelism().unwrap().get() > 1);
    assert!(Config::parse(&of("4").replace("[[route]]", "connections = 4\n[[route]]"), "g.toml").is_ok());
}

#[test]
fn how_names_are_looked_up() {
    let with = |text: &str| Config::parse(&format!("{GOOD}[dns]\n{text}\n"), "g.toml");
    let dns = with("servers = [\"127.0.0.1:53\"]\nfamily = \"v6-first\"").unwrap().dns;
    let pause = |ttl: Option<u64>| dns.pause(ttl.map(Duration::from_secs)).as_secs();
    assert_eq!((pause(Some(0)), pause(Some(30)), pause(Some(3600)), pause(None)), (5, 30, 60, 60));
    let ips = |text: &[&str]| text.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<std::net::IpAddr>>();
    let answer = ips(&["10.0.0.2", "::1", "10.0.0.1"]);
    assert_eq!(dns.family.used(answer.clone()), ips(&["::1"]));
    assert_eq!(with("").unwrap().dns.family.used(answer.clone()), ips(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(with("family = \"both\"").unwrap().dns.family.used(answer), ips(&["10.0.0.1", "10.0.0.2", "::1"]));
    assert_eq!(with("").unwrap().dns.family.used(ips(&["::1"])), ips(&["::1"]));
    for (text, why) in [
        ("family = \"v5\"", "v4-first"),
        ("refresh_min = \"2m\"", "longer than"),
        ("limit = \"none\"", "limit: there has to be a limit"),
        ("refresh_min = \"1ns\"", "refresh_min: 1ns is too often; the shortest is 100ms"),
        ("refresh_max = \"99ms\"", "refresh_max: 99ms is too often"),
        ("servers = [\"dns.test\"]", "no address"),
    ] {
        let error = with(text).unwrap_err();
        assert!(error.line == 19 && error.message.contains(why), "{text}: {error}");
    }
}

#[test]
fn health_is_read_strictly() {
    let with = |text: &str| {
        Config::parse(&GOOD.replace("[[route]]", &format!("[cluster.api.health]\n{text}\n\n[[route]]")), "g.toml")
    };
    let of = |text: &str| with(text).unwrap().routes[0].cluster.health.clone().unwrap();
    let all = of("path = \"/up?x\"\nstatus = [\"200-299\", \"304\"]\nhealthy = 1\nlimit = \"1s\"");
    assert_eq!((all.statuses, all.healthy, all.unhealthy), (vec![200..=299, 304..=304], 1, 3));
    assert_eq!(all.limit.to_string(), "total 1s (g.toml:15)");
    assert_eq!(of("").statuses, [200..=399]);
    for host in ["a.test", "a.test:80", "[::1]", "[::1]:80", "10.0.0.1:80"] {
        assert_eq!(of(&format!("path = \"/\"\nhost = {host:?}")).host.as_deref(), Some(host));
    }
    for (text, why) in [
        ("path = \"up\"", "no path"),
        ("path = \"/up\\r\\nx: y\"", "no path"),
        ("host = \"a.test\"", "without a path"),
        ("path = \"/up#x\"", "no path"),
        ("path = \"/\"\nhost = \"a\\nb\"", "no host"),
        ("path = \"/\"\nhost = \"a/b@c\"", "no host"),
        ("path = \"/\"\nhost = \"a:x\"", "no host"),
        ("every = \"1ns\"", "every: 1ns is too often"),
        ("path = \"/\"\nstatus = [200]", "write it in quotes"),
        ("path = \"/\"\nstatus = [\"100\"]", "no status"),
        ("path = \"/\"\nstatus = [\"300-200\"]", "no status"),
        ("limit = \"none\"", "has to be a limit"),
        ("healthy = 0", "not between"),
    ] {
        let error = with(text).unwrap_err();
        assert!((12..=13).contains(&error.line) && error.message.contains(why), "{text}: {error}");
    }
}

#[test]
fn limits_that_fight_each_other_are_found() {
    let config = Config::parse(&GOOD.replace("wait = \"2s\"", "wait = \"40s\""), "g.toml").unwrap();
    let conflicts = config.conflicts();
    assert_eq!(conflicts[0].1[0].cause, overdue_core::Cause::LimitShadowed);
    assert!(conflicts[0].1[0].evidence[0].text.contains("g.toml:16"), "{:?}", conflicts[0].1[0].evidence);
}

/// What is followed as it is written, and is hardly what was meant.
#[test]
fn what_is_hardly_meant_is_told_with_its_line() {
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        Config::parse(&GOOD.replace(from, to), "g.toml").unwrap().doubts()
    };
    assert_eq!(with("", ""), []);
    let admin = "servers = [\n\"127.0.0.1:9901\"]\n[admin]\nlisten = \"127.0.0.1:9901\"";
    let servers = "servers = [\"127.0.0.1:9001\"]";
    for (from, to, line, why) in [
        (
            "[[route]]",
            "[cluster.spare]\nservers = [\"127.0.0.1:1\"]\n[[route]]",
            11,
            "no route leads to cluster \"spare\"",
        ),
        ("127.0.0.1:9001", "127.0.0.1:8080", 9, "in a circle"),
        ("\"127.0.0.1:8080\"", "\"0.0.0.0:9001\"", 9, "listens itself (0.0.0.0:9001)"),
        ("127.0.0.1:9001", "0.0.0.0:8080", 9, "in a circle"),
        ("127.0.0.1:9001", "[::ffff:127.0.0.1]:8080", 9, "in a circle"),
        (servers, admin, 10, "the operator's address"),
        (
            "[[route]]",
            "[cluster.api.health]\nevery = \"1s\"\nlimit = \"3s\"\n[[route]]",
            13,
            "probed every 4s and not every 1s",
        ),
        ("[[route]]", "[cluster.api.health]\nevery = \"1s\"\n[[route]]", 12, "may take 2s"),
        ("path = \"/v1\"", "path = \"/v1/../x\"", 13, "climbs"),
        ("path = \"/v1\"", "path = \"/v1/**\"", 13, "no pattern"),
        ("[[listener]]", "[[listener]]\nbody_rate = \"10/40s\"", 5, "rate 40s can never fire: send 30s (default)"),
    ] {
        let found = with(from, to);
        assert!(
            found.len() == 1 && found[0].place == format!("g.toml:{line}") && found[0].text.contains(why),
            "{to}: {found:?}"
        );
    }
    for (from, to) in [
        ("127.0.0.1:9001", "[::1]:8080"),
        ("127.0.0.1:9001", "127.0.0.2:8080"),
        ("[[listener]]", "[[listener]]\nhead = \"40s\"\nbody_rate = \"10/20s\""),
    ] {
        assert_eq!(with(from, to), [], "{to}");
    }
    let rate = Config::parse(&GOOD.replace("[[listener]]", "[[listener]]\nbody_rate = \"10/20s\""), "g.toml").unwrap();
    assert_eq!(rate.listeners[0].body_rate.as_ref().unwrap().to_string(), "rate 10 bytes in 20s (g.toml:5)");
    assert!(Config::parse(&GOOD.replace("[[listener]]", "[[listener]]\nbody_rate = \"20s\""), "g.toml").is_err());
}

#[test]
fn a_file_that_is_not_there() {
    let error = Config::read(Path::new("/nowhere/gate.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/gate.toml: cannot be read"), "{error}");
}

/// Lines would be added to what is read as something else: with the next start, or reload, nothing would go on.
#[test]
fn the_log_has_a_file_of_its_own() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    std::fs::write(path("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("log"), "").unwrap();
    std::fs::create_dir(path("logs")).unwrap();
    let file = path("gate.toml");
    std::os::unix::fs::symlink("gate.toml", path("link")).unwrap();
    std::fs::hard_link(path("key.pem"), path("other.pem")).unwrap();
    let pair = format!("chain = {:?}, key = {:?}", path("chain.pem"), path("key.pem"));
    let tls = format!("[listener.tls]\ncertificates = [{{ {pair} }}]\n[cluster.api]");
    let ca = format!("[cluster.api.tls]\nca = {:?}\n[[route]]", path("chain.pem"));
    let read = |log: &Path, from: &str, to: &str| {
        std::fs::write(&file, format!("{}[log]\n\nfile = {log:?}\n", GOOD.replace(from, to))).unwrap();
        Config::read(&file)
    };
    for (log, (from, to), line, why) in [
        ("gate.toml", ("", ""), 20, "into this configuration: name a file of its own"),
        ("logs/../gate.toml", ("", ""), 20, "this configuration"),
        ("link", ("", ""), 20, "this configuration"),
        ("key.pem", ("[cluster.api]", &*tls), 22, "key.pem, which line 9 names: name a file of its own"),
        ("other.pem", ("[cluster.api]", &*tls), 22, "key.pem, which line 9 names"),
        ("chain.pem", ("[[route]]", &*ca), 22, "chain.pem, which line 12 names"),
    ] {
        let log = path(log);
        let error = read(&log, from, to).unwrap_err();
        assert!(error.line == line && error.message.contains(why), "{log:?}: {error}");
    }
    for log in [path("log"), path("new"), "/dev/null".into()] {
        assert!(read(&log, "[cluster.api]", &tls).is_ok(), "{log:?}");
    }
    // Nothing is written then.
    std::fs::write(&file, format!("{GOOD}[log]\noff = true\nfile = {file:?}\n")).unwrap();
    assert_eq!(Config::read(&file).unwrap().log.to, To::Off);
}
