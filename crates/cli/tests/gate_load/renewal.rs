//! Configuration, certificates and the program itself are renewed while ten thousand requests run through: none fails, no
//! stream is cut, no descriptor stays behind.

use std::{
    fs::{self, Permissions},
    io::{BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::UnixDatagram,
        },
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;

use crate::bed::{
    Gate, Load, PATIENCE, REQUESTS, Setup, call, connect, is_gone, plain, read_head, server, stream, until,
};

/// What it had before there was any client is what it has when they are gone.
fn gives_back(gate: &Gate, before: usize) {
    until("no descriptor is left behind", || (gate.descriptors() <= before).then_some(()));
}

#[test]
fn the_configuration() {
    let setup = Setup::new(&[server()]);
    let gate = Gate::start(&setup);
    let before = gate.descriptors();
    let load = Load::start(plain(gate.front), 1);
    let streams: Vec<_> = (0..4).map(|_| stream(gate.front)).collect();
    // Another server every time, other limits, and now and then a file that is wrong.
    let other = Setup { servers: vec![server()], limits: "wait = \"7s\"".to_owned(), ..setup.clone() };
    let wrong = Setup { limits: "wait = \"7\"".to_owned(), ..setup.clone() };
    let mut reloads = 0;
    while load.served() < REQUESTS || reloads < 100 {
        for (setup, status) in [(&other, 200), (&wrong, 422), (&setup, 200)] {
            gate.rewrite(setup);
            let (got, text) = gate.ask("POST", "/reload");
            assert_eq!(got, status, "{text}");
            reloads += 1;
            thread::sleep(Duration::from_millis(5));
        }
    }
    load.whole();
    for stream in streams {
        stream.join().unwrap().unwrap();
    }
    gives_back(&gate, before);
}

/// As Kubernetes does it: a link that leads to another folder from one moment to the next.
fn swap(folder: &Path, number: usize) {
    let link = folder.join("link");
    symlink(folder.join(number.to_string()), &link).unwrap();
    fs::rename(link, folder.join("now")).unwrap();
}

#[test]
fn certificates() {
    const PAIRS: usize = 6;
    let folder = TempDir::new().unwrap();
    let mut roots = RootCertStore::empty();
    let pairs: Vec<_> = (0..PAIRS)
        .map(|number| {
            let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
            let own = folder.path().join(number.to_string());
            fs::create_dir(&own).unwrap();
            fs::write(own.join("chain.pem"), made.cert.pem()).unwrap();
            fs::write(own.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
            let certificate = CertificateDer::from(made.cert.der().to_vec());
            roots.add(certificate.clone()).unwrap();
            certificate
        })
        .collect();
    swap(folder.path(), 0);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A session that is resumed has the certificate of the one before.
    let mut anew = config.clone();
    anew.resumption = Resumption::disabled();
    let (config, anew) = (Arc::new(config), Arc::new(anew));
    let now = folder.path().join("now");
    let (chain, key) = (now.join("chain.pem"), now.join("key.pem"));
    let listener = format!("tls = {{ certificates = [{{ chain = {chain:?}, key = {key:?} }}] }}");
    let setup = Setup { listener, ..Setup::new(&[server()]) };
    let mut gate = Gate::start(&setup);
    let before = gate.descriptors();

    let front = gate.front;
    let open = |config: &Arc<ClientConfig>| {
        let (config, open) = (Arc::clone(config), plain(front));
        move || secure(open()?, &config)
    };
    let load = Load::start(open(&config), 20);
    let shown = || open(&anew)().unwrap().conn.peer_certificates().unwrap()[0].clone();
    let mut number = 0;
    while load.served() < REQUESTS || number < 2 * PAIRS {
        number += 1;
        swap(folder.path(), number % PAIRS);
        let (status, text) = gate.ask("POST", "/reload");
        assert_eq!(status, 200, "{text}");
        assert!(shown() == pairs[number % PAIRS], "a handshake after the reload gets the new one");
        thread::sleep(Duration::from_millis(20));
    }
    // Nobody says so: the change is seen.
    swap(folder.path(), (number + 1) % PAIRS);
    until("a changed file is read", || (shown() == pairs[(number + 1) % PAIRS]).then_some(()));
    let old = gate.hand_over();
    until("the first process has ended", || is_gone(old).then_some(()));
    load.whole();
    gives_back(&gate, before);

    // A handshake that has begun is finished by who began it, though that has nothing else to do any more.
    let accepted = gate.metric("overdue_gate_accepted_total");
    let half = connect(gate.front);
    until("it is accepted", || (gate.metric("overdue_gate_accepted_total") > accepted).then_some(()));
    let old = gate.hand_over();
    call(&mut BufReader::new(secure(half, &config).unwrap())).unwrap();
    until("the second process has ended", || is_gone(old).then_some(()));
}

/// A handshake, and nothing more.
fn secure(mut io: TcpStream, config: &Arc<ClientConfig>) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let name = ServerName::try_from("a.test").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(|err| err.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut io).map_err(|err| format!("handshake: {err}"))?;
    }
    Ok(StreamOwned::new(connection, io))
}

#[test]
fn the_program() {
    let setup = Setup::new(&[server()]);
    let mut gate = Gate::start(&setup);
    let before = gate.descriptors();
    let load = Load::start(plain(gate.front), 1);
    let mut streams = Vec::new();
    let mut old = Vec::new();
    // More workers, as many as at first, and fewer: what waits in the socket of a worker that is no more is another's.
    for workers in [3, 2, 2, 1] {
        gate.rewrite(&Setup { workers, ..setup.clone() });
        streams.push(stream(gate.front));
        let so_far = load.served();
        old.push(gate.hand_over());
        until("the new process serves", || (load.served() > so_far + 200).then_some(()));
    }
    // Each of them began in a process that has nothing else to do any more.
    for stream in streams {
        stream.join().unwrap().unwrap();
    }
    load.whole();
    assert_eq!(gate.first_ends().code(), Some(0));
    for pid in old {
        until("an old process ends", || is_gone(pid).then_some(()));
        assert!(gate.says(&format!("process {pid}: ")).contains("every request was served"));
    }
    gives_back(&gate, before);
    // Every request is told of, by one process or another.
    let lines = gate.lines();
    assert!(lines.len() as u64 >= REQUESTS, "{}", lines.len());
    assert!(
        lines.iter().all(|line| line["outcome"] == "ok"),
        "{:#?}",
        lines.iter().find(|line| line["outcome"] != "ok")
    );
}

/// Who cannot be taken over from by what is there now goes on, and says why.
#[test]
fn a_program_that_does_not_start() {
    let setup = Setup::new(&[server()]);
    let mut gate = Gate::start(&setup);
    let pid = gate.pid();
    let load = Load::start(plain(gate.front), 1);
    gate.rewrite(&Setup { limits: "wiat = \"1s\"".to_owned(), ..setup.clone() });
    gate.signal(Signal::USR2);
    assert!(gate.says("not handed over").contains("everything goes on as before"));
    assert!(gate.said().iter().any(|line| line.contains("wiat")), "{:#?}", gate.said());
    assert_eq!(gate.ask("GET", "/readyz").0, 200);
    gate.rewrite(&setup);
    assert_eq!(gate.hand_over(), pid);
    assert_eq!(gate.ask("GET", "/readyz").0, 200);
    load.whole();
    assert_eq!(gate.first_ends().code(), Some(0));
}

/// As a service of systemd: with a socket that was there before it, and with a word on who is who.
#[test]
fn a_service() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let hears = |what: &str| {
        let mut text = [0; 256];
        let bytes = notified.recv(&mut text).unwrap();
        let text = str::from_utf8(&text[..bytes]).unwrap();
        assert!(text.lines().any(|line| line == what), "{text:?} and not {what}");
    };

    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = socket.local_addr().unwrap().to_string();
    // Who connects before there is a gateway waits for it.
    let mut early = BufReader::new(connect(socket.local_addr().unwrap()));
    let activate = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", activate, "sh", env!("CARGO_BIN_EXE_overdue")]).env("NOTIFY_SOCKET", &path);
    command.stdin(OwnedFd::from(socket));
    let mut gate = Gate::start_by(command, &Setup { listen, ..Setup::new(&[server()]) });
    hears("READY=1");
    call(&mut early).unwrap();
    for _ in 0..20 {
        call(&mut BufReader::new(connect(gate.front))).unwrap();
    }
    let old = gate.hand_over();
    hears(&format!("MAINPID={}", gate.pid()));
    call(&mut BufReader::new(connect(gate.front))).unwrap();
    drop(early);
    until("the first process ends", || is_gone(old).then_some(()));
    gate.signal(Signal::TERM);
    hears("STOPPING=1");
}

/// What is started in its place may be anything. It is waited for, but not by those who want something else meanwhile.
#[test]
fn a_new_process_that_hangs() {
    let folder = TempDir::new().unwrap();
    let (program, pid) = (folder.path().join("overdue"), folder.path().join("pid"));
    symlink(env!("CARGO_BIN_EXE_overdue"), &program).unwrap();
    let mut command = Command::new(&program);
    command.stdin(Stdio::null());
    let mut gate = Gate::start_by(command, &Setup::new(&[server()]));
    // As an upgrade does it: another file by the same name.
    let other = folder.path().join("new");
    fs::write(&other, format!("#!/bin/sh\necho $$ >{pid:?}\nexec sleep 600\n")).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o755)).unwrap();
    fs::rename(&other, &program).unwrap();
    gate.signal(Signal::USR2);
    let hangs = until("the other program runs", || Pid::from_raw(fs::read_to_string(&pid).ok()?.trim().parse().ok()?));
    gate.signal(Signal::USR2);
    gate.says("a hand-over is under way");
    call(&mut BufReader::new(connect(gate.front))).unwrap();
    gate.signal(Signal::TERM);
    assert_eq!(gate.first_ends().code(), Some(0));
    until("nothing is left behind", || is_gone(hangs).then_some(()));
}

/// Those who are connected and have asked, but whom nobody has accepted yet, are clients like any other.
#[test]
fn who_waits_at_the_end_is_served() {
    let gate = Gate::start(&Setup::new(&[server()]));
    gate.signal(Signal::STOP);
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = BufReader::new(connect(gate.front));
            stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
            stream
        })
        .collect();
    gate.signal(Signal::TERM);
    gate.signal(Signal::CONT);
    for mut stream in waiting {
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    gate.says("every request was served");
}
