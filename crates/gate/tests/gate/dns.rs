//! Names of servers: what the DNS says of them is followed, and what it fails to say changes nothing.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    bed::{Bed, GET, OK, Peer, Server, until},
    upstream::told,
};

/// What a DNS server says to every question for addresses of a family.
#[derive(Clone)]
enum Says {
    Addresses(Vec<IpAddr>),
    /// The same, so much later.
    Late(Duration, Vec<IpAddr>),
    /// An error code: 2 is SERVFAIL, 3 is NXDOMAIN.
    Code(u8),
    Nothing,
}

/// A DNS server.
struct Dns {
    address: SocketAddr,
    /// Of IPv4 and of IPv6.
    says: Arc<Mutex<[Says; 2]>>,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    /// With no IPv6 address, unless it does not even say that.
    fn new(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let dns = Self { address, says: Arc::new(Mutex::new(of_both(says))), asked: Arc::default() };
        let (said, count) = (Arc::clone(&dns.says), Arc::clone(&dns.asked));
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                count.fetch_add(1, Relaxed);
                // The one question: a name, its type and its class.
                let end = 12 + query[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
                let is_v6 = query[end - 3] == 28;
                let (addresses, code, late) = match said.lock().unwrap()[usize::from(is_v6)].clone() {
                    Says::Nothing => continue,
                    Says::Addresses(addresses) => (addresses, 0, Duration::ZERO),
                    Says::Late(late, addresses) => (addresses, 0, late),
                    Says::Code(code) => (Vec::new(), code, Duration::ZERO),
                };
                let mut answer = query[..2].to_vec();
                answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
                answer.extend(&query[12..end]);
                for address in addresses {
                    let octets = match address {
                        IpAddr::V4(address) => address.octets().to_vec(),
                        IpAddr::V6(address) => address.octets().to_vec(),
                    };
                    // The name above, A or AAAA, IN, a TTL of 0.
                    answer.extend([
                        0xc0,
                        12,
                        0,
                        query[end - 3],
                        0,
                        1,
                        0,
                        0,
                        0,
                        0,
                        0,
                        u8::try_from(octets.len()).unwrap(),
                    ]);
                    answer.extend(octets);
                }
                let socket = socket.try_clone().unwrap();
                let send = move || {
                    thread::park_timeout(late);
                    socket.send_to(&answer, from).unwrap();
                };
                if late.is_zero() { send() } else { drop(thread::spawn(send)) }
            }
        });
        dns
    }

    /// How many questions there were.
    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = of_both(says);
    }

    /// Each family by itself.
    fn say_each(&self, v4: Says, v6: Says) {
        *self.says.lock().unwrap() = [v4, v6];
    }

    /// The table that has the gateway ask it, often.
    fn table(&self) -> String {
        let address = self.address;
        format!("[dns]\nservers = [\"{address}\"]\nlimit = \"500ms\"\nrefresh_min = \"100ms\"\nrefresh_max = \"200ms\"")
    }
}

fn of_both(says: Says) -> [Says; 2] {
    let of_v6 = match &says {
        Says::Addresses(_) | Says::Late(..) => Says::Addresses(Vec::new()),
        same => same.clone(),
    };
    [says, of_v6]
}

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SIX: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn tells_its_place(place: &'static str) -> impl Fn(&mut Peer) + Clone + Send + 'static {
    tells_its_place_after(Duration::ZERO, place)
}

fn tells_its_place_after(pause: Duration, place: &'static str) -> impl Fn(&mut Peer) + Clone + Send + 'static {
    move |peer| {
        while peer.request().is_some() {
            thread::park_timeout(pause);
            let length = place.len();
            peer.client.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{place}"));
        }
    }
}

#[test]
fn the_addresses_of_a_name_are_followed() {
    let one = Server::new(tells_its_place("one"));
    let port = one.address.port();
    let _other = Server::at((OTHER, port).into(), tells_its_place("other"));
    let dns = Dns::new(Says::Addresses(vec![ONE]));
    let bed = Bed::new(&[format!("api.test:{port}")], &[("route", &dns.table())]);
    let mut client = bed.connect();
    let mut asked = || {
        let answer = client.call(GET);
        assert_eq!(answer.status, 200, "{answer:?}");
        String::from_utf8(answer.body).unwrap()
    };
    assert_eq!(asked(), "one");
    dns.say(Says::Addresses(vec![OTHER]));
    until("the new address is used", || asked() == "other");
    // It stays as it is, whatever becomes of the DNS.
    for says in [Says::Code(2), Says::Code(3), Says::Nothing, Says::Addresses(vec![OTHER])] {
        dns.say(says);
        let before = dns.asked();
        until("it was looked up twice", || {
            assert_eq!(asked(), "other");
            dns.asked() > before + 4
        });
    }
    let log = bed.log();
    until("it is well again", || fs::read_to_string(&log).unwrap().contains("name-resolves"));
    dns.say(Says::Addresses(vec![ONE, OTHER]));
    until("the first is back", || asked() == "one");
    let lines = bed.lines();
    assert!(lines.iter().filter(|line| line["gate"]["status"].is_u64()).all(|line| line["outcome"] == "ok"));
    let events: Vec<&str> = lines.iter().filter_map(|line| line["gate"]["event"].as_str()).collect();
    // Once for each change, and not for each lookup.
    assert_eq!(events, ["name-changed", "name-fails", "name-resolves", "name-changed"]);
    let failing = lines.iter().find(|line| line["gate"]["event"] == "name-fails").unwrap();
    assert_eq!((&failing["cause"], &failing["gate"]["of"]), (&"dns-failed".into(), &"api.test".into()), "{failing:#}");
}

/// The gateway starts without it, says why, and serves as soon as there is an address.
#[test]
fn a_name_that_does_not_resolve_is_told_and_does_not_stay_so() {
    let server = Server::answering(OK);
    for (says, cause) in [(Says::Code(3), "dns-failed"), (Says::Nothing, "dns-no-answer")] {
        let dns = Dns::new(says);
        let name = format!("api.test:{}", server.address.port());
        let bed = Bed::new(&[name], &[("route", &dns.table()), ("listener", "trusted = [\"127.0.0.0/8\"]")]);
        let mut client = bed.connect();
        let answer = client.call(GET);
        assert_eq!((answer.status, answer.problem()["cause"].as_str()), (503, Some(cause)), "{answer:?}");
        assert!(answer.problem()["detail"].as_str().unwrap().contains("api.test"), "{answer:?}");
        dns.say(Says::Addresses(vec![ONE]));
        // On the connection that was told so.
        until("it resolves", || client.call(GET).status == 200);
        let lines = bed.lines();
        let refused = lines.iter().find(|line| line["gate"]["status"] == 503).unwrap();
        assert_eq!(told(refused), ["resolve", cause, "SC", "UH"], "{refused:#}");
        let stages: Vec<_> = refused["timeline"].as_array().unwrap().iter().map(|span| &span["stage"]).collect();
        assert_eq!(stages, ["head", "resolve"]);
        let events: Vec<&str> = lines.iter().filter_map(|line| line["gate"]["event"].as_str()).collect();
        assert_eq!(events, ["name-fails", "name-resolves"]);
    }
}

/// What is in flight to an address that goes ends whole.
#[test]
fn a_request_outlives_the_address_that_it_went_to() {
    let (answer, answers) = std::sync::mpsc::channel::<()>();
    let answers = Arc::new(Mutex::new(Some(answers)));
    let others = tells_its_place("one");
    let one = Server::new(move |peer| {
        let Some(answers) = answers.lock().unwrap().take() else { return others(peer) };
        peer.request().unwrap();
        peer.say("asked");
        answers.recv().unwrap();
        peer.client.send(OK);
    });
    let port = one.address.port();
    let _other = Server::at((OTHER, port).into(), tells_its_place("other"));
    let dns = Dns::new(Says::Addresses(vec![ONE]));
    let bed = Bed::new(&[format!("api.test:{port}")], &[("route", &dns.table())]);
    let mut slow = bed.connect();
    slow.send(GET);
    assert_eq!(one.saw(), "asked");
    dns.say(Says::Addresses(vec![OTHER]));
    until("the change is followed", || bed.connect().call(GET).body == b"other");
    answer.send(()).unwrap();
    assert_eq!(slow.answer().body, b"hello");
}

/// Names that a reload brings are looked up before it is followed.
#[test]
fn a_reload_that_brings_a_name_refuses_nobody() {
    let server = Server::answering(OK);
    let mut bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    let dns = Dns::new(Says::Addresses(vec![ONE]));
    let name = format!("api.test:{}", server.address.port());
    assert!(bed.follow(&[name], &[("route", &dns.table())]).is_empty());
    assert_eq!(client.call(GET).status, 200);
    let hosts = "[dns]\nhosts = { \"api.test\" = [\"127.0.0.1\"] }";
    assert!(bed.follow(&[format!("api.test:{}", server.address.port())], &[("route", hosts)]).is_empty());
    assert_eq!(client.call(GET).status, 200);
}

/// Servers at one port of both families, and a name that the DNS is to give addresses; none without IPv6 on this machine.
fn of_both_families() -> Option<([Server; 2], String)> {
    // Each takes a while, so that who has less to do is asked.
    let slowly = |place| tells_its_place_after(Duration::from_millis(20), place);
    let four = Server::new(slowly("four"));
    let at = SocketAddr::new(SIX, four.address.port());
    if let Err(why) = TcpListener::bind(at) {
        eprintln!("not tried: nothing can listen at {at}: {why}");
        return None;
    }
    let six = Server::at(at, slowly("six"));
    let name = format!("api.test:{}", at.port());
    Some(([four, six], name))
}

/// The servers that answer now, of requests that are in flight together.
fn places(bed: &Bed) -> Vec<String> {
    let mut clients: Vec<_> = (0..6).map(|_| bed.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    let answered = clients.iter_mut().map(|client| {
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
        String::from_utf8(answer.body).unwrap()
    });
    let mut places: Vec<String> = answered.collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// The events of a log, each with its text.
fn events(bed: &Bed) -> Vec<(String, String)> {
    let text = fs::read_to_string(bed.log()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let word = |value: &Value| value.as_str().map(str::to_owned);
    lines.filter_map(|line| Some((word(&line["gate"]["event"])?, word(&line["gate"]["text"])?))).collect()
}

/// Until what is said now was asked for twice, so that once it was used.
fn looked_up_again(dns: &Dns) {
    let before = dns.asked();
    until("it is looked up again", || dns.asked() > before + 5);
}

#[test]
fn a_family_whose_answer_comes_late_is_waited_for() {
    let Some((_servers, name)) = of_both_families() else { return };
    let dns = Dns::new(Says::Nothing);
    dns.say_each(Says::Addresses(vec![ONE]), Says::Late(Duration::from_millis(150), vec![SIX]));
    let table = format!("{}\nfamily = \"both\"", dns.table());
    let bed = Bed::new(&[name], &[("route", &table)]);
    assert_eq!(places(&bed), ["four", "six"]);
    looked_up_again(&dns);
    assert_eq!(places(&bed), ["four", "six"]);
    assert_eq!(events(&bed), []);
}

/// Its last addresses are used until a lookup says that it has none.
#[test]
fn a_family_that_fails_stays_as_it_was() {
    let Some((_servers, name)) = of_both_families() else { return };
    let six = || Says::Addresses(vec![SIX]);
    for (family, places_before) in [("v4-first", vec!["four"]), ("both", vec!["four", "six"])] {
        let dns = Dns::new(Says::Nothing);
        dns.say_each(Says::Addresses(vec![ONE]), six());
        let table = format!("{}\nfamily = \"{family}\"", dns.table());
        let bed = Bed::new(&[&name], &[("route", &table)]);
        assert_eq!(places(&bed), places_before);
        for says in [Says::Code(2), Says::Nothing] {
            dns.say_each(says, six());
            looked_up_again(&dns);
            assert_eq!(places(&bed), places_before);
        }
        dns.say_each(Says::Addresses(vec![ONE]), six());
        until("it is well again", || events(&bed).len() > 1);
        dns.say_each(Says::Addresses(Vec::new()), six());
        until("there is none of IPv4 any more", || places(&bed) == ["six"]);
        let (was, kept) =
            (if family == "both" { "127.0.0.1, ::1" } else { "127.0.0.1" }, "the last 1 of them are used");
        let fails = format!("api.test: SERVFAIL ({}), for its IPv4 addresses; {kept}", dns.address);
        let expected = [
            ("name-fails", fails),
            ("name-resolves", format!("api.test is {was}")),
            ("name-changed", format!("api.test is ::1, no longer {was}")),
        ];
        assert_eq!(events(&bed), expected.map(|(event, text)| (event.to_owned(), text)));
    }
}

/// There is something to use, and nothing to keep.
#[test]
fn a_first_lookup_in_which_a_family_fails_is_of_use() {
    let Some((_servers, name)) = of_both_families() else { return };
    for (says, cause, why) in
        [(Says::Code(2), "dns-failed", "SERVFAIL"), (Says::Nothing, "dns-slow", "no answer within")]
    {
        let dns = Dns::new(Says::Nothing);
        dns.say_each(says, Says::Addresses(vec![SIX]));
        let bed = Bed::new(&[&name], &[("route", &dns.table())]);
        assert_eq!(places(&bed), ["six"]);
        dns.say_each(Says::Addresses(vec![ONE]), Says::Addresses(vec![SIX]));
        until("the other family is used", || places(&bed) == ["four"]);
        let events = events(&bed);
        let [(fails, text), (resolves, _)] = &*events else { panic!("{events:?}") };
        assert_eq!((&**fails, &**resolves), ("name-fails", "name-resolves"));
        assert!(text.contains(why) && text.ends_with(", for its IPv4 addresses; only the others are used"), "{text}");
        assert_eq!(bed.lines().iter().find(|line| line["cause"].is_string()).unwrap()["cause"], cause);
    }
}

/// What becomes of IPv6 is of no interest while there is IPv4, which was asked for first.
#[test]
fn a_family_that_is_not_used_may_fail() {
    let server = Server::answering(OK);
    let dns = Dns::new(Says::Nothing);
    dns.say_each(Says::Addresses(vec![ONE]), Says::Code(2));
    let bed = Bed::new(&[format!("api.test:{}", server.address.port())], &[("route", &dns.table())]);
    looked_up_again(&dns);
    assert_eq!(bed.connect().call(GET).status, 200);
    assert_eq!(events(&bed), []);
}

#[test]
fn a_check_tells_of_a_family_that_fails() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gate.toml");
    let dns = Dns::new(Says::Nothing);
    let unresolved = |family: &str| {
        let text = format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\n[cluster.back]\nservers = [\"api.test:80\"]\n[[route]]\nname = \"all\"\n\
             cluster = \"back\"\n{}\nfamily = \"{family}\"\n",
            dns.table()
        );
        fs::write(&path, text).unwrap();
        overdue_gate::check(&path).unwrap().unresolved
    };
    dns.say_each(Says::Addresses(vec![ONE]), Says::Code(2));
    let fails = format!("api.test resolves only in part: api.test: SERVFAIL ({}), for its IPv6 addresses", dns.address);
    assert_eq!((unresolved("both"), unresolved("v4-first")), (vec![fails], vec![]));
    dns.say(Says::Code(2));
    let fails = format!("api.test does not resolve: api.test: SERVFAIL ({})", dns.address);
    assert_eq!(unresolved("both"), [fails]);
}
