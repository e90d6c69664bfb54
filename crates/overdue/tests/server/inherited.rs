//! Sockets that were opened by another process. Who takes them is this test binary, started again by a shell, which alone
//! can know its process id before it becomes the program.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Output, Stdio},
};

use overdue::server::{ListenOptions, inherited_listeners};

const TAKES: &str = "OVERDUE_TEST_TAKES_SOCKETS";

#[test]
fn the_process_that_takes_sockets() {
    if std::env::var_os(TAKES).is_none() {
        return;
    }
    match inherited_listeners() {
        Err(err) => println!("error {err}"),
        Ok(mut taken) => {
            println!("took {}", taken.len());
            let Some(first) = taken.pop() else { return };
            println!("name {:?}", first.name);
            assert!(inherited_listeners().unwrap().is_empty(), "they are taken once");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut listener = ListenOptions::new().from_std(first.listener).unwrap();
                let mut accepted = listener.accept().await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut accepted.stream, b"from the new one").await.unwrap();
            });
        }
    }
}

/// Runs that process with this as its descriptor 3, and these variables.
fn takes(third: OwnedFd, pid: &str, variables: &[(&str, &str)]) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new("sh")
        .arg("-c")
        .arg(format!("exec env LISTEN_PID={pid} \"$0\" \"$@\" 3<&0"))
        .arg(program)
        .args(["--exact", "inherited::the_process_that_takes_sockets", "--nocapture"])
        .env(TAKES, "1")
        .envs(variables.iter().copied())
        .stdin(Stdio::from(third))
        .stderr(Stdio::inherit())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_connection_that_waits_is_served_by_the_next_process() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // It comes before the new process is there, and after nobody accepts here any more.
    let mut waits = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    waits.write_all(b"hello").unwrap();
    let output = takes(listener.into(), "$$", &[("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")]);
    let said = said(&output);
    assert!(said.contains("took 1\nname Some(\"http\")\n"), "{said}");
    let mut text = [0; 16];
    waits.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"from the new one");
}

#[test]
fn sockets_of_another_process_are_left_alone_and_what_is_none_is_refused() {
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let one = [("LISTEN_FDS", "1")];
    assert!(said(&takes(listener().into(), "1", &one)).contains("took 0\n"));
    let output = said(&takes(File::open("/dev/null").unwrap().into(), "$$", &one));
    assert!(output.contains("error descriptor 3 of LISTEN_FDS is no listening TCP socket"), "{output}");
    let peer = listener();
    let connected = TcpStream::connect(peer.local_addr().unwrap()).unwrap();
    let output = said(&takes(connected.into(), "$$", &one));
    assert!(output.contains("error descriptor 3 of LISTEN_FDS is no listening TCP socket"), "{output}");
    let output = said(&takes(listener().into(), "$$", &[("LISTEN_FDS", "900")]));
    assert!(output.contains("of LISTEN_FDS is not open"), "{output}");
}
