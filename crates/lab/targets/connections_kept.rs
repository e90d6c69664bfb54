//! A client that keeps every connection, all of them alive, and tries ten times a second for one more when it gets none.
//! The first argument is its limit of descriptors.

use std::{env, net::TcpStream, thread, time::Duration};

#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

extern "C" {
    fn setrlimit(resource: i32, limit: *const Limit) -> i32;
}

const RLIMIT_NOFILE: i32 = 7;

fn connect(port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port))
}

fn main() {
    let arguments: Vec<u16> = env::args().skip(1).map(|argument| argument.parse().unwrap()).collect();
    let (descriptors, port) = (arguments[0].into(), arguments[1]);
    // SAFETY: the kernel reads the limit during the call.
    assert_eq!(unsafe { setrlimit(RLIMIT_NOFILE, &Limit { soft: descriptors, hard: descriptors }) }, 0);
    let (mut kept, mut failed) = (Vec::new(), 0);
    loop {
        match connect(port) {
            Ok(connection) => kept.push(connection),
            Err(error) => {
                failed += 1;
                if failed == 3 {
                    eprintln!("{error}");
                    println!("ready");
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}
