//! The lives of connections, seen from outside: real sockets on loopback, used by programs that know nothing of it.
//!
//! It takes BPF. Where that is not allowed these tests say so and pass; where `CI` is set they fail.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

mod need;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use overdue_why::{
    collect::{Connections, Kernel, Target},
    observation::{Connection, Connections as Seen, Moment, Side},
    timeline::stages,
};

/// What all scripts begin with: they wait until they are watched, and in the end until they have been.
const BEGIN: &str = r"
import ctypes, os, select, signal, socket, ssl, struct, sys, threading, time
def watched():
    print('ready', flush=True); sys.stdin.readline()
def done():
    print('done', flush=True); sys.stdin.readline()
def listener(backlog=64):
    l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(backlog); return l
def child(act, *args):
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: it dies with this process
        try: act(*args)
        finally: os._exit(0)
    return pid
def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()
";

/// What the kernel tells of its types takes a while to read: once for all tests.
fn kernel() -> Option<&'static Kernel> {
    static KERNEL: OnceLock<Option<Kernel>> = OnceLock::new();
    let open = || {
        let kernel = Kernel::new().and_then(|kernel| {
            let target = Target::new(std::process::id()).unwrap();
            Connections::attach(&kernel, &target).map(|_| kernel)
        });
        if let Err(hidden) = &kernel {
            need::skip(format_args!("BPF is not allowed: {hidden:?}"));
        }
        kernel.ok()
    };
    KERNEL.get_or_init(open).as_ref()
}

struct Script {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Script {
    fn new(command: &mut Command, script: &str) -> Self {
        let mut child = command
            .arg("-c")
            .arg(format!("{BEGIN}{script}\ndone()\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while line.trim() != word {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the script ended before {word:?}");
        }
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a script and watches it from `watched()` to its end.
fn watch(script: &str) -> Option<Seen> {
    watch_command(Command::new("python3").arg("-u"), script)
}

fn watch_command(command: &mut Command, script: &str) -> Option<Seen> {
    let kernel = kernel()?;
    let mut script = Script::new(command, script);
    script.wait_for("ready");
    let mut watch = Connections::attach(kernel, &Target::new(script.child.id()).unwrap()).unwrap();
    assert_eq!(watch.hidden(), []);
    script.go_on();
    script.wait_for("done");
    watch.look(0);
    let seen = watch.observed(0);
    script.go_on();
    Some(seen)
}

fn only(seen: &Seen) -> &Connection {
    assert_eq!(seen.connections.len(), 1, "{:#?}", seen.connections);
    &seen.connections[0]
}

fn at(moment: Option<Moment>) -> u64 {
    match moment {
        Some(Moment::At(at) | Moment::Inferred(at)) => at,
        other => panic!("{other:?}"),
    }
}

fn names(connection: &Connection) -> Vec<&'static str> {
    stages(connection, u64::MAX >> 1).iter().map(|phase| phase.stage.as_str()).collect()
}

#[test]
fn refused() {
    let script = "
l = listener(); port = l.getsockname()[1]; l.close()
watched()
s = socket.socket(); print(s.connect_ex(('127.0.0.1', port)))";
    let Some(seen) = watch(script) else { return };
    let connection = only(&seen);
    assert_eq!((connection.side, connection.errno, connection.established), (Side::Client, Some(111), None));
    assert!(connection.reset_received && !connection.closed_by_us, "{connection:#?}");
    assert_eq!((seen.opened, seen.closed, seen.reset_by_peer), (1, 1, 1));
    assert_eq!(names(connection), ["connect"]);
}

#[test]
fn a_syn_that_nobody_answers() {
    let script = "
l = listener(0)
first = [socket.create_connection(l.getsockname())]
for _ in range(3):
    s = socket.socket(); s.setblocking(False); s.connect_ex(l.getsockname()); first.append(s)
watched()
s = socket.socket(); s.setblocking(False); s.connect_ex(l.getsockname())
gone = socket.socket(); gone.setblocking(False); gone.connect_ex(l.getsockname())
select.select([], [], [], 1.3)
gone.close()";
    let Some(seen) = watch(script) else { return };
    assert_eq!(seen.opened, 2);
    let opened = |c: &&Connection| matches!(c.opened, Some(Moment::At(_))) && c.side == Side::Client;
    let new: Vec<&Connection> = seen.connections.iter().filter(opened).collect();
    assert_eq!(new.len(), 2, "{:#?}", seen.connections);
    for connection in new {
        assert!(connection.established.is_none() && connection.errno.is_none(), "{connection:#?}");
        assert!(connection.syn_retransmits >= 1, "{connection:#?}");
        // One is still waiting, the other was given up.
        assert_eq!(connection.closed.is_some(), connection.closed_by_us);
        assert_eq!(connection.fd.is_some(), connection.closed.is_none());
    }
}

#[test]
fn a_request_and_an_answer_that_takes_a_while() {
    let script = r"
l = listener()
def serve():
    s, _ = l.accept(); s.recv(1000); time.sleep(0.25)
    s.sendall(b'HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nSet-Cookie: secret=1\r\n\r\n'); s.recv(1)
child(serve)
watched()
s = socket.create_connection(l.getsockname())
s.sendall(b'GET /path?token=secret HTTP/1.1\r\nHost: host.example\r\nx-envoy-expected-rq-timeout-ms: 250\r\n'
          b'Authorization: secret\r\n\r\n')
s.recv(1000); s.close()";
    let Some(seen) = watch(script) else { return };
    let connection = only(&seen);
    let http = connection.http.as_ref().unwrap();
    assert_eq!((http.request.as_str(), http.host.as_deref()), ("GET /path", Some("host.example")));
    assert_eq!(http.status, Some(503));
    assert_eq!(http.deadline_us, Some(("x-envoy-expected-rq-timeout-ms".to_owned(), 250_000)));
    assert!(!serde_json::to_string(&seen).unwrap().contains("secret"));
    assert!(at(connection.first_read) - at(connection.last_write) >= 250_000, "{connection:#?}");
    assert!(connection.read_gaps.longest_us >= 250_000 && connection.turns == 1);
    assert!(connection.closed_by_us && connection.tid.is_some());
    assert_eq!(names(connection), ["connect", "send", "wait", "receive"]);
    // The child that accepted it is another process.
    assert_eq!((seen.opened, seen.accepted, seen.closed), (1, 0, 1));
}

#[test]
fn accepted_ones_are_claimed_by_who_uses_them() {
    let script = "
l = listener(); address = l.getsockname()
def peer():
    waiting = [socket.create_connection(address) for _ in range(3)]
    a = socket.create_connection(address); a.sendall(b'x' * 2000); a.recv(4000); a.close()
    b = socket.create_connection(address); b.recv(1); reset(b)
    c = socket.create_connection(address); c.sendall(b'a line of a log'); c.close()
    d = socket.create_connection(address); d.recv(1); d.close()
    e = socket.create_connection(address); e.close()
    time.sleep(60)
watched()
p = child(peer)
held = [l.accept()[0] for _ in range(3)]
a, _ = l.accept(); a.recv(3000); a.sendall(b'y' * 3000); a.recv(1); a.close()
b, _ = l.accept(); b.send(b'1')
try: b.recv(1)
except ConnectionResetError: pass
b.close()
c, _ = l.accept(); c.recv(100); c.recv(1); c.close()
d, _ = l.accept(); d.send(b'1'); d.recv(1); d.close()
e, _ = l.accept(); e.recv(1); e.close()
os.kill(p, signal.SIGSTOP)";
    let Some(seen) = watch(script) else { return };
    // The three that were never used are known by the descriptors that the process holds.
    assert_eq!((seen.opened, seen.accepted, seen.closed), (0, 8, 5), "{seen:#?}");
    // The one that was reset after a banner, and the one on which nothing passed. A log and a banner are work.
    assert_eq!((seen.reset_by_peer, seen.reset_by_us, seen.little_work), (1, 0, 2));
    assert!(seen.life_median_us.is_some());
    assert!(seen.connections.iter().all(|connection| connection.side == Side::Server));
    assert_eq!(seen.connections.iter().filter(|connection| connection.fd.is_some()).count(), 3);
    let reset = seen.connections.iter().find(|connection| connection.reset_received).unwrap();
    assert_eq!(reset.errno, Some(104));
    let done = seen.connections.iter().find(|connection| connection.read_bytes == 2000).unwrap();
    assert!(done.fin_received.is_some() && done.written_bytes == 3000, "{done:#?}");
    assert_eq!(names(done), ["receive", "handle", "send"]);
}

#[test]
fn a_close_with_unread_bytes_is_a_reset_from_here() {
    let script = "
l = listener(); address = l.getsockname()
def peer():
    s = socket.create_connection(address); s.sendall(b'x' * 100); time.sleep(60)
watched()
p = child(peer)
s, _ = l.accept(); s.recv(1); s.close()
os.kill(p, signal.SIGKILL)";
    let Some(seen) = watch(script) else { return };
    assert_eq!((seen.accepted, seen.closed, seen.reset_by_us, seen.reset_by_peer), (1, 1, 1, 0));
    assert!(only(&seen).reset_sent && only(&seen).closed_by_us);
}

#[test]
fn what_was_there_before_is_told_apart() {
    let script = r"
l = listener()
s = socket.create_connection(l.getsockname()); a, _ = l.accept()
watched()
s.sendall(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'); a.recv(1000)";
    let Some(seen) = watch(script) else { return };
    assert_eq!((seen.opened, seen.accepted, seen.connections.len()), (0, 0, 2));
    let of = |side| seen.connections.iter().find(|connection| connection.side == side).unwrap();
    let server = of(Side::Server);
    assert_eq!((server.opened, server.established), (Some(Moment::Before), Some(Moment::Before)));
    assert_eq!(server.http.as_ref().unwrap().request, "GET /");
    assert_eq!(names(of(Side::Unknown)), ["send", "wait"]);
}

/// Makes a key and a certificate for `host.example`.
fn certificate(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("overdue-connections-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let made = Command::new("openssl")
        .current_dir(&folder)
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2"
                .split(' '),
        )
        .args(["-subj", "/CN=host.example", "-addext", "subjectAltName=DNS:host.example"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    folder
}

const TLS: &str = "
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); server.load_cert_chain('cert.pem', 'key.pem')
trusting = ssl.create_default_context(cafile='cert.pem'); trusting.set_alpn_protocols(['h2', 'http/1.1'])
doubting = ssl.create_default_context()
for c in (server, trusting, doubting): c.maximum_version = c.minimum_version = VERSION
l = listener(); address = l.getsockname()
def connect(context):
    try:
        s = context.wrap_socket(socket.create_connection(address), server_hostname='host.example')
        s.sendall(b'x'); s.recv(1); s.close()
    except ssl.SSLError as e: pass
def serve(times):
    for _ in range(times):
        s, _ = l.accept()
        try:
            s = server.wrap_socket(s, server_side=True); s.recv(1); s.sendall(b'y'); s.recv(1)
        except (ssl.SSLError, OSError): pass
        s.close()
";

fn tls(name: &str, version: &str, script: &str) -> Option<Seen> {
    let folder = certificate(name);
    let script = format!("{}{script}", TLS.replace("VERSION", &format!("ssl.TLSVersion.{version}")));
    let seen = watch_command(Command::new("python3").arg("-u").current_dir(&folder), &script);
    fs::remove_dir_all(folder).ok();
    seen
}

#[test]
fn a_client_hello_that_nobody_answers() {
    let script = "
watched()
s = socket.create_connection(address); s.setblocking(False)
s = trusting.wrap_socket(s, server_hostname='host.example', do_handshake_on_connect=False)
try: s.do_handshake()
except ssl.SSLWantReadError: pass";
    let Some(seen) = tls("silent", "TLSv1_3", script) else { return };
    let connection = seen.connections.iter().find(|connection| connection.side == Side::Client).unwrap();
    let tls = connection.tls.as_ref().unwrap();
    assert_eq!((tls.client, tls.sni.as_deref(), tls.version), (true, Some("host.example"), Some(0x0304)));
    assert_eq!(tls.alpn, ["h2", "http/1.1"]);
    assert!(tls.hello.is_some() && tls.answered.is_none() && tls.done.is_none(), "{tls:#?}");
    assert_eq!(names(connection), ["connect", "tls"]);
}

#[test]
fn handshakes_are_followed_to_their_end() {
    for (version, number) in [("TLSv1_2", 0x0303), ("TLSv1_3", 0x0304)] {
        let Some(seen) = tls("end", version, "child(serve, 1)\nwatched()\nconnect(trusting)") else { return };
        let connection = only(&seen);
        let tls = connection.tls.as_ref().unwrap();
        assert_eq!((tls.version, tls.alert, tls.alert_hidden), (Some(number), None, false), "{connection:#?}");
        assert!(at(tls.hello) <= at(tls.answered) && at(tls.answered) <= at(tls.done));
        assert_eq!(matches!(tls.done, Some(Moment::Inferred(_))), number == 0x0304, "{tls:#?}");
        assert_eq!(names(connection).get(..2), Some(&["connect", "tls"][..]));
    }
}

#[test]
fn an_alert_is_read() {
    // OpenSSL sends this one in the clear, over TLS 1.3 too.
    for version in ["TLSv1_2", "TLSv1_3"] {
        let Some(seen) = tls("alert", version, "child(serve, 1)\nwatched()\nconnect(doubting)") else { return };
        let tls = only(&seen).tls.as_ref().unwrap();
        assert_eq!((tls.alert, tls.alert_hidden, tls.done), (Some((48, false)), false, None), "{version} {tls:#?}");
    }
}

#[test]
fn inbound_handshakes_are_counted_by_source() {
    let script = "
def clients():
    for context in (trusting, doubting, doubting): connect(context)
    s = socket.create_connection(address); s.sendall(bytes([22, 3, 1])); s.close()
watched()
child(clients)
serve(4)";
    for version in ["TLSv1_2", "TLSv1_3"] {
        let Some(seen) = tls("inbound", version, script) else { return };
        assert_eq!(seen.accepted, 4);
        let [source] = seen.handshakes.as_slice() else { panic!("{:#?}", seen.handshakes) };
        // The last one never sent a whole ClientHello.
        assert_eq!((source.begun, source.completed, source.failed), (3, 1, 2), "{version} {source:#?}");
        assert_eq!((source.source.as_str(), source.sni.as_deref()), ("127.0.0.1", Some("host.example")));
        // Its reset, for what the client had not read, may overtake the alert.
        assert!(source.alert.is_none_or(|alert| alert == 48), "{source:#?}");
    }
}

/// A request whose answer does not come, and one whose answer does: inside of TLS only lengths tell.
#[test]
fn a_request_inside_of_tls_that_nobody_answers() {
    // Tickets that come long after the request look like an answer.
    for (version, tickets) in [("TLSv1_2", ""), ("TLSv1_3", "import select; select.select([s], [], [], 5)")] {
        let script = |answer: &str| {
            format!(
                r"
def answer():
    s, _ = l.accept(); s = server.wrap_socket(s, server_side=True); s.recv(99)
    {answer}
    s.recv(99)
child(answer)
watched()
s = trusting.wrap_socket(socket.create_connection(address), server_hostname='host.example')
{tickets}
s.sendall(b'GET / HTTP/1.1\r\n\r\n'); s.settimeout(0.4)
try: s.recv(99)
except TimeoutError: pass
s.close()"
            )
        };
        let Some(silent) = tls("asked", version, &script("pass")) else { return };
        let connection = only(&silent);
        let tls_seen = connection.tls.as_ref().unwrap();
        assert!(tls_seen.asked_bytes >= 18 && connection.closed_by_us, "{version} {connection:#?}");
        assert!(at(connection.closed) - at(tls_seen.unanswered) >= 400_000, "{version} {connection:#?}");
        let answered = tls("answered", version, &script(r"s.sendall(b'HTTP/1.1 200 OK\r\n\r\n')")).unwrap();
        assert_eq!(only(&answered).tls.as_ref().unwrap().unanswered, None, "{version}");
    }
}

#[test]
fn an_answer_that_is_no_tls() {
    let script = r"
def plain():
    s, _ = l.accept(); s.recv(4000); s.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n'); s.recv(1)
child(plain)
watched()
connect(trusting)";
    let Some(seen) = tls("plain", "TLSv1_3", script) else { return };
    let tls = only(&seen).tls.as_ref().unwrap();
    assert!(tls.not_tls.as_deref().unwrap().starts_with("HTTP/"), "{tls:#?}");
    assert!(tls.answered.is_none() && tls.done.is_none());
}

/// Lookups by the C library, which sends both questions in one system call, in a mount namespace with its own
/// `resolv.conf`.
#[test]
fn lookups_and_what_they_were_for() {
    let script = r"
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.77', 53))
l = listener()
def serve():
    while True:
        query, peer = u.recvfrom(600)
        end = query.index(b'\0', 12) + 5
        if query[13:19] == b'silent': continue
        time.sleep(0.1)
        a = query[end - 4:end - 2] == b'\0\1'
        head = query[:2] + b'\x81\x80\0\1' + (b'\0\1' if a else b'\0\0') + b'\0\0\0\0' + query[12:end]
        record = b'\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1' if a else b''
        u.sendto(head + record, peer)
p = child(serve)
watched()
s = socket.create_connection(('host.example', l.getsockname()[1]))
try: socket.getaddrinfo('silent.example', 80)
except socket.gaierror: pass
os.kill(p, signal.SIGKILL); os.waitpid(p, 0); u.close()
try: socket.getaddrinfo('refused.example', 80)
except socket.gaierror: pass";
    let file = std::env::temp_dir().join(format!("overdue-connections-resolv-{}", std::process::id()));
    fs::write(&file, "nameserver 127.0.0.77\noptions timeout:1 attempts:2\n").unwrap();
    let enter = format!("mount --bind {} /etc/resolv.conf && exec python3 -u \"$@\"", file.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &enter, "sh"]);
    let seen = watch_command(&mut command, script);
    fs::remove_file(file).ok();
    let Some(seen) = seen else { return };
    let of = |name: &str, kind| {
        let found: Vec<_> = seen.dns.iter().filter(|dns| dns.name == name && dns.kind == kind).collect();
        assert_eq!(found.len(), 1, "{:#?}", seen.dns);
        found[0]
    };
    let (a, aaaa) = (of("host.example", 1), of("host.example", 28));
    assert_eq!((a.rcode, a.answers, a.server.as_str()), (Some(0), Some(1), "127.0.0.77"));
    assert!(a.answered_us.unwrap() >= 100_000 && aaaa.answered_us.unwrap() >= 200_000, "{:#?}", seen.dns);
    assert_eq!(aaaa.answers, Some(0));
    let silent = of("silent.example", 1);
    assert_eq!((silent.sent, silent.answered_us, silent.refused), (2, None, false), "{silent:#?}");
    // Then nobody listens there. Which of the two queries meets the error is the library's matter.
    let mut refused = seen.dns.iter().filter(|dns| dns.name == "refused.example");
    assert!(refused.any(|dns| dns.refused && dns.answered_us.is_none()), "{:#?}", seen.dns);
    let connection = seen.connections.iter().find(|connection| connection.side == Side::Client).unwrap();
    assert_eq!(connection.resolved.as_ref().unwrap().name, "host.example");
    assert!(connection.resolved.as_ref().unwrap().duration_us >= 200_000);
    assert_eq!(names(connection).first(), Some(&"resolve"));
}

/// The end of an answer in chunks, however the reads cut it.
#[test]
fn the_last_bytes_may_lie_in_several_spans() {
    let ended = |length: usize, reads: &str| {
        let script = format!(
            r"
l = listener()
answer = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n'
answer = answer[:{length}]
total = len(answer)
def serve():
    s, _ = l.accept(); s.recv(1000); s.sendall(answer); s.close()
child(serve)
watched()
s = socket.create_connection(l.getsockname())
s.sendall(b'GET / HTTP/1.1\r\n\r\n')
s.recv(total, socket.MSG_PEEK | socket.MSG_WAITALL)
def into(*lengths):
    return os.readv(s.fileno(), [bytearray(length) for length in lengths])
{reads}
assert os.read(s.fileno(), 1) == b''
s.close()"
        );
        Some(only(&watch(&script)?).http.as_ref().unwrap().chunks_ended)
    };
    for reads in [
        "into(total)",
        "into(total - 2, 65536)",
        "into(total - 3, 1, 0, 65536)",
        "into(total - 3, 1); into(1, 65536)",
        "into(total - 1); os.read(s.fileno(), 9)",
        "into(50, total)",
        "s.recvmsg_into([bytearray(total - 1), bytearray(9)])",
    ] {
        let Some(whole) = ended(100, reads) else { return };
        assert_eq!(whole, Some(true), "{reads}");
        assert_eq!(ended(59, reads).unwrap(), Some(false), "{reads}");
    }
}

/// A head that comes in several reads or lies in several spans says what it says all the same.
#[test]
fn a_head_may_come_in_pieces() {
    let seen = |head: &str, rest: &str, reads: &str| {
        let script = format!(
            r"
l = listener()
head = {head}
def serve():
    s, _ = l.accept(); s.recv(1000)
    s.sendall(head + {rest}); s.close()
child(serve)
watched()
s = socket.create_connection(l.getsockname())
s.sendall(b'GET / HTTP/1.1\r\n\r\n')
s.recv(len(head) + len({rest}), socket.MSG_PEEK | socket.MSG_WAITALL)
{reads}
while os.read(s.fileno(), 999): pass
s.close()"
        );
        Some(only(&watch(&script)?).http.clone().unwrap())
    };
    let chunked = r"b'HTTP/1.1 200 OK\r\nserver: x\r\nTransfer-Encoding: chunked\r\n\r\n'";
    let counted = r"b'HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 9\r\n\r\n'";
    for reads in [
        "os.read(s.fileno(), 5); os.read(s.fileno(), 20)",
        "os.read(s.fileno(), 48)",
        "os.read(s.fileno(), len(head) - 1)",
        "os.read(s.fileno(), len(head))",
        "os.readv(s.fileno(), [bytearray(21), bytearray(30), bytearray(5)])",
    ] {
        let Some(cut) = seen(chunked, r"b'3\r\nabc\r\n'", reads) else { return };
        assert_eq!((cut.status, cut.chunks_ended, cut.half_head), (Some(200), Some(false), false), "{reads}");
        assert_eq!((cut.head_bytes, cut.body_bytes), (Some(58), Some(8)), "{reads}");
        let missing = seen(counted, "b'abc'", reads).unwrap();
        assert_eq!((missing.missing_bytes, missing.chunks_ended), (Some(6), None), "{reads}");
        assert_eq!((missing.head_bytes, missing.body_bytes), (Some(49), Some(3)), "{reads}");
    }
    let reads = "os.read(s.fileno(), 48)";
    let whole = seen(chunked, r"b'3\r\nabc\r\n0\r\n\r\n'", reads).unwrap();
    assert_eq!(whole.chunks_ended, Some(true));
    // Of an answer that ends behind its head, nothing of the body came.
    let empty = seen(chunked, "b''", reads).unwrap();
    assert_eq!((empty.chunks_ended, empty.body_bytes), (Some(false), Some(0)));
}

#[test]
fn a_process_that_reads_and_writes_all_the_time_is_watched_in_windows() {
    let Some(kernel) = kernel() else { return };
    let mut script = Script::new(
        Command::new("python3").arg("-u"),
        "
l = listener()
s = socket.create_connection(l.getsockname()); a, _ = l.accept()
def spin():
    while True: s.send(b'x'); a.recv(1)
threading.Thread(target=spin, daemon=True).start()
watched()",
    );
    script.wait_for("ready");
    let mut watch = Connections::attach(kernel, &Target::new(script.child.id()).unwrap()).unwrap();
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let timeout = |milliseconds| nothing.recv_timeout(std::time::Duration::from_millis(milliseconds)).unwrap_err();
    timeout(200);
    watch.look(200_000);
    timeout(500);
    watch.window(true);
    timeout(40);
    watch.window(false);
    watch.look(750_000);
    let seen = watch.observed(0);
    let watched = seen.transfers_us.unwrap();
    assert!((200_000..600_000).contains(&watched), "{watched}");
    // Bytes are complete all the same, and nothing that was missed is taken for silence.
    let client = seen.connections.iter().find(|connection| connection.side == Side::Unknown).unwrap();
    assert!(client.written_bytes > 1000 && client.read_gaps.longest_us < 400_000, "{client:#?}");
}

#[test]
fn nothing_is_left_behind() {
    let Some(kernel) = kernel() else { return };
    let target = Target::new(std::process::id()).unwrap();
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let begun = used();
    for _ in 0..20 {
        drop(Connections::attach(kernel, &target).unwrap());
    }
    // The kernel's verifier may need a second for one program whose functions it goes through again on each path.
    let took = used() - begun;
    assert!(took.tv_sec < 8, "20 times attached in {} s of processor time", took.tv_sec);
    assert!(files() < before + 10, "{before} before, {} after", files());
}

#[test]
fn connections_stay_known_where_the_kernel_does_not_tell_of_them() {
    let Some(kernel) = kernel() else { return };
    let mut script = Script::new(
        Command::new("python3").arg("-u"),
        "l = listener(); c = socket.create_connection(l.getsockname()); s = l.accept()[0]; watched()",
    );
    script.wait_for("ready");
    let target = Target::new(script.child.id()).unwrap();
    let watched = std::thread::spawn(move || {
        #[expect(unsafe_code, reason = "descriptors of this thread alone, for it will use them up")]
        // SAFETY: what is opened from here on is used and closed by this thread.
        unsafe {
            rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES).unwrap();
        }
        let mut watch = Connections::attach(kernel, &target).unwrap();
        let before = watch.observed(0);
        assert_eq!(watch.hidden(), []);
        let some = fs::File::open("/dev/null").unwrap();
        let all: Vec<_> = std::iter::from_fn(|| rustix::io::dup(&some).ok()).collect();
        let after = watch.observed(0);
        let hidden = watch.hidden().to_vec();
        drop(all);
        let again = watch.observed(0);
        assert_eq!(watch.hidden(), []);
        ([before, after, again].map(|seen| seen.connections.len()), hidden)
    });
    let (connections, hidden) = watched.join().unwrap();
    assert_eq!(connections, [2; 3]);
    let [hidden] = &hidden[..] else { panic!("{hidden:?}") };
    assert_eq!(hidden.what, "open connections, as they are now");
}
